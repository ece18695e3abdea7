"""How fast tasks go in: many in a request, and one a request at several concurrencies.

A created task counts when the contender has acknowledged it, which all of them
do after COMMIT.
"""

from __future__ import annotations

from benchmarks.cell import Cell


async def bulk(cell: Cell) -> None:
    """Create in chunks of the size that suits the contender."""
    count = cell.scale.bulk
    await cell.warm_up()
    async with cell.watched():
        done = await cell.order("create_bulk", count, count=count)
    cell.note("rate", count / done["seconds"], "tasks/s", "higher")
    cell.note_cpu(count)


async def single(cell: Cell) -> None:
    """Create one at a time on each of `concurrency` callers."""
    concurrency = int(cell.options["concurrency"])
    count = cell.scale.singles[concurrency]
    await cell.warm_up()
    async with cell.watched():
        done = await cell.order("create_single", count, count=count, concurrency=concurrency)
    cell.note("rate", count / done["seconds"], "tasks/s", "higher")
    cell.note_cpu(count)

"""How fast tasks that are there already get done, with handlers that do nothing.

The clock runs from the first fetch to the last committed completion. WAL is
counted from the creation to the end of the drain, whoever wrote it: what
autovacuum and full page images add is part of the price.
"""

from __future__ import annotations

from benchmarks.cell import Cell


async def drain(cell: Cell) -> None:
    """Create in bulk, then drain."""
    count = _count(cell)
    await cell.warm_up()
    database = cell.session.database
    wal_bytes = await database.wal_bytes() if database else 0
    await cell.order("create_bulk", count, count=count)
    async with cell.watched():
        done = await cell.order("drain", count, count=count, **cell.options)
    cell.note("rate", count / done["seconds"], "tasks/s", "higher")
    cell.note_cpu(count)
    if database:
        wal_bytes = await database.wal_bytes() - wal_bytes
        cell.note("WAL of a lifecycle", wal_bytes / 1024 / count, "KiB/task")


def _count(cell: Cell) -> int:
    if "per_request" in cell.options:
        return cell.scale.drains[cell.options["per_request"]]
    return cell.scale.slow_drain if cell.is_slow else cell.scale.drain


async def scaling(cell: Cell) -> None:
    """Create one by one on 64 connections, then drain by 100: much for the broker's processes."""
    count, singles = cell.scale.drains[100], cell.scale.singles[64]
    await cell.warm_up()
    async with cell.watched():
        done = await cell.order("create_single", singles, count=singles, concurrency=64)
    cell.note("single creates", singles / done["seconds"], "tasks/s", "higher")
    await cell.order("create_bulk", count - singles, count=count - singles)
    await cell.checkpoint()
    async with cell.watched():
        done = await cell.order("drain", count, count=count, per_request=100)
    cell.note("drain", count / done["seconds"], "tasks/s", "higher")
    cell.note_cpu(count)

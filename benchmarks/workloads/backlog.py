"""Whether a fetch gets slower when a million tasks wait.

Two lanes of one broker, one with the backlog and one with nothing, take turns:
one task is created at the end of the lane, then one is fetched from its head.
"""

from __future__ import annotations

from benchmarks.cell import Cell, percentile

_ROUNDS = 3


async def backlog(cell: Cell) -> None:
    """Fill once, then three rounds on either lane."""
    size, fetches = cell.scale.backlog, cell.scale.fetches
    await cell.warm_up()
    async with cell.watched():
        done = await cell.order("create_bulk", size, count=size)
    cell.note("filling", size / done["seconds"], "tasks/s", "higher")
    await cell.checkpoint()
    for _ in range(_ROUNDS):
        p99_ms = {}
        for is_empty, lane in ((True, "empty lane"), (False, "backlog")):
            async with cell.watched():
                done = await cell.order("fetch", fetches, count=fetches, is_empty=is_empty)
            latencies_ms = done["latencies_ms"]
            p99_ms[is_empty] = percentile(latencies_ms, 99)
            cell.note(f"fetch p50, {lane}", percentile(latencies_ms, 50), "ms")
            cell.note(f"fetch p99, {lane}", p99_ms[is_empty], "ms")
        cell.note("fetch p99, backlog over empty", p99_ms[False] / p99_ms[True], "×")

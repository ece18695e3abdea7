"""How long it takes: from a create call to a handler, and to a committed completion."""

from __future__ import annotations

from benchmarks.cell import Cell, note_latencies, percentile


async def pickup(cell: Cell) -> None:
    """An idle worker, one task at a time: create committed → handler running."""
    count = cell.scale.pickups
    await cell.warm_up()
    async with cell.watched():
        done = await cell.order("pickup", count, count=count)
    note_latencies(cell, done["latencies_ms"])


async def steady(cell: Cell) -> None:
    """Tasks at a rate that nothing slows down: begin of the create call → completion committed.

    A contender that cannot keep up is not spared: its tasks wait, and that is their latency.
    """
    rate, seconds = cell.options["rate"], cell.scale.steady_s
    total = int(rate * seconds)
    await cell.warm_up()
    async with cell.watched():
        done = await cell.order("steady", total, rate=rate, seconds=seconds)
    settled = [ms for at_s, ms in done["samples"] if at_s >= cell.scale.steady_settle_s]
    cell.note("p50", percentile(settled, 50), "ms")
    cell.note("p99", percentile(settled, 99), "ms")
    cell.note_cpu(done["created"])

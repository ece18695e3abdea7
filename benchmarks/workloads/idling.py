"""What thousands of workers cost that wait for nothing: SQL, memory, and the others' latency.

Transactions are PostgreSQL's own count for the database, which nobody but the
broker uses; behind somebody's URL it is the broker's metric. Memory is the
broker's resident size with the polls less its size with one.
"""

from __future__ import annotations

import anyio

from benchmarks.cell import Cell, note_latencies
from benchmarks.stand import BROKER


async def idle_polls(cell: Cell) -> None:
    """One poll and its pickup latency, then all of them."""
    polls, pickups = cell.scale.polls, cell.scale.pickups
    await cell.order("prepare")
    await cell.order("park", count=1)
    await cell.order("pickup", pickups, count=pickups)
    async with cell.watched():
        done = await cell.order("pickup", pickups, count=pickups)
    note_latencies(cell, done["latencies_ms"], "create to poll {}, 1 poll")
    before_bytes = _memory_bytes(cell)
    await cell.order("park", polls, count=polls)
    await anyio.sleep(cell.scale.settle_s)
    if before_bytes:
        added_bytes = _memory_bytes(cell) - before_bytes
        cell.note("memory of a poll", added_bytes / 1024 / polls, "KiB")
    async with cell.watched():
        before = await _statements(cell)
        await anyio.sleep(cell.scale.idle_s)
        sent = await _statements(cell) - before
    cell.note("statements while idle", sent / cell.scale.idle_s, "per s")
    async with cell.watched():
        done = await cell.order("pickup", pickups, count=pickups)
    note_latencies(cell, done["latencies_ms"], "create to poll {}, all polls")
    await cell.order("unpark")


def _memory_bytes(cell: Cell) -> int:
    return cell.session.meter.memory_bytes(BROKER) if cell.session.database else 0


async def _statements(cell: Cell) -> float:
    if (database := cell.session.database) is not None:
        return await database.transactions(cell.session.database_name)
    return float((await cell.order("statements"))["statements"])

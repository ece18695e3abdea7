"""A report that runs for long must not make fetching slow.

A snapshot that is held keeps every dead index entry in its place. Tasks pass
through one lane by the hundred thousand meanwhile, and a fetch that started
at the head of the lane would read all that they have left behind. Buffers
are counted, not seconds: on any machine they are the same.
"""

from __future__ import annotations

from typing import Final

import asyncpg
import pytest

from broker.core import Core
from broker.dispatcher.floors import Floor
from tests.broker.conftest import Statements
from tests.factories import creation, decoded, held, poll, request

Connection = asyncpg.Connection

_GROWTH_MAX: Final = 1.5


async def buffers_per_task(core: Core, statements: Statements, tasks: int, at_once: int) -> float:
    """What the fetches of so many tasks read, each, on their way through one lane."""
    before = await statements.buffers("fetch_and_lock")
    for _ in range(tasks // at_once):
        await core.create(creation(*[{}] * at_once))
        locked = decoded((await poll(core.dispatcher, at_once, timeout_ms=0)).body)
        assert len(locked) == at_once
        completed = await core.complete(request("w1", *map(held, locked)))
        assert completed.refused == 0
    return (await statements.buffers("fetch_and_lock") - before) / tasks


async def growth(
    core: Core, statements: Statements, snapshot: Connection, tasks: int, at_once: int
) -> float:
    """How much more the last tenth reads than the first, while a snapshot is held."""
    await core.create(creation({"delayMs": 3_600_000}))
    async with snapshot.transaction(isolation="repeatable_read"):
        await snapshot.fetchval("SELECT count(*) FROM fetchlock.open_task")
        first = await buffers_per_task(core, statements, tasks // 10, at_once)
        await buffers_per_task(core, statements, tasks * 8 // 10, at_once)
        last = await buffers_per_task(core, statements, tasks // 10, at_once)
    return last / first


async def test_a_held_snapshot_does_not_make_fetching_slow(
    core: Core, statements: Statements, connection: Connection
) -> None:
    assert await growth(core, statements, connection, 200_000, 1_000) <= _GROWTH_MAX


async def test_it_is_the_floors_that_keep_it_fast(
    core: Core, statements: Statements, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small fetches feel it sooner: what lies dead at the head is read for fewer tasks."""
    assert await growth(core, statements, connection, 20_000, 50) <= _GROWTH_MAX
    monkeypatch.setattr(Floor, "look_from", lambda self, now_s: 0)
    assert await growth(core, statements, connection, 20_000, 50) > _GROWTH_MAX

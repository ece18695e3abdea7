"""Keeping a lock: counted from now, longer or shorter."""

from __future__ import annotations

from datetime import datetime

import asyncpg
import msgspec
import pytest

from broker.store import Store
from tests.factories import TaskJson, answers, ask, create, held, lock, request, row_of

Connection = asyncpg.Connection


@pytest.fixture
async def task(store: Store) -> TaskJson:
    """A task that is locked by the worker w1 for a minute."""
    await create(store, {})
    return (await lock(store))[0]


@pytest.mark.parametrize("duration_ms", [1_000, 30_000, 600_000])
async def test_a_lock_lasts_from_now(
    store: Store, task: TaskJson, connection: Connection, duration_ms: int
) -> None:
    before = await connection.fetchval("SELECT clock_timestamp()")
    batch = await store.extend_lock([request("w1", held(task, lockDurationMs=duration_ms))])
    after = await connection.fetchval("SELECT clock_timestamp()")
    [answer] = answers(batch)
    row = await row_of(connection, task["id"])
    assert datetime.fromisoformat(answer["lockExpiresAt"]) == row["lock_expires_at"]
    assert row["lock_expires_at"].timestamp() * 1000 - duration_ms == pytest.approx(
        (before.timestamp() + after.timestamp()) * 500,
        abs=(after.timestamp() - before.timestamp()) * 1000,
    )
    assert batch.due_in_ms == duration_ms
    assert batch.wakes == []


async def test_nothing_else_changes(store: Store, task: TaskJson, connection: Connection) -> None:
    before = await row_of(connection, task["id"])
    await ask(store.extend_lock, "w1", held(task, lockDurationMs=1_000))
    after = await row_of(connection, task["id"])
    assert {name for name in before if before[name] != after[name]} == {"lock_expires_at"}


async def test_one_duration_may_stand_for_all(store: Store, connection: Connection) -> None:
    await create(store, {}, {}, {})
    tasks = await lock(store, 3)
    batch = await store.extend_lock(
        [
            request(
                "w1", held(tasks[0]), held(tasks[1], lockDurationMs=2_000), lockDurationMs=9_000
            ),
            request("w1", held(tasks[2]), lockDurationMs=4_000),
        ]
    )
    assert batch.due_in_ms == 2_000
    ends = [(await row_of(connection, task["id"]))["lock_expires_at"] for task in tasks]
    assert [(end - ends[1]).total_seconds() for end in ends] == [7, 0, 2]


async def test_twice_in_one_batch_the_last_word_holds(
    store: Store, task: TaskJson, connection: Connection
) -> None:
    """Heartbeats that happen to meet in a batch are all from the holder of the lock."""
    batch = await store.extend_lock(
        [
            request("w1", held(task, lockDurationMs=9_000), held(task, lockDurationMs=3_000)),
            request("w1", held(task, lockDurationMs=5_000)),
        ]
    )
    assert [result.refused for result in batch.results] == [0, 0]
    [last] = msgspec.json.decode(batch.results[1].body)
    row = await row_of(connection, task["id"])
    assert datetime.fromisoformat(last["lockExpiresAt"]) == row["lock_expires_at"]

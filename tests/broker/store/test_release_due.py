"""The sweep: expired locks come back, delays end, and poison is stopped."""

from __future__ import annotations

import asyncpg
import pytest

from broker.settings import Settings
from broker.store import Store, queries
from broker.store.database import SHARD
from broker.task import State
from tests.broker.conftest import Statements
from tests.factories import (
    ask,
    create,
    expire_lock,
    held,
    lock,
    make_due,
    request,
    row_of,
    state_of,
    subscribe,
)

Connection = asyncpg.Connection


async def test_an_expired_lock_is_taken_back(store: Store, connection: Connection) -> None:
    [task_id] = await create(store, {})
    [task] = await lock(store)
    await expire_lock(connection, task_id)
    swept = await store.release_due(None, 0)
    row = await row_of(connection, task_id)
    assert row["state"] == State.READY
    assert (row["expiries"], row["failures"], row["retries"]) == (1, 0, task["retries"])
    assert row["worker_id"] is row["lock_token"] is row["lock_expires_at"] is None
    assert [tuple(wake) for wake in swept.wakes] == [(row["lane_id"], row["position"], True)]
    assert not swept.has_more


async def test_a_delay_that_is_over_makes_ready(store: Store, connection: Connection) -> None:
    due, waiting = await create(store, {"delayMs": 60_000}, {"delayMs": 60_000})
    await make_due(connection, due)
    swept = await store.release_due(None, 0)
    assert await state_of(connection, due) == State.READY
    assert await state_of(connection, waiting) == State.DELAYED
    position = (await row_of(connection, due))["position"]
    assert [(wake.position, wake.returned) for wake in swept.wakes] == [(position, True)]


async def test_what_is_not_due_is_left(store: Store, connection: Connection) -> None:
    locked, delayed, failed, _ = await create(store, {}, {"delayMs": 60_000}, {}, {})
    tasks = await lock(store, 2)
    await ask(store.fail, "w1", held(tasks[1], errorMessage="e", retries=0))
    swept = await store.release_due(None, 0)
    assert (swept.wakes, swept.has_more, swept.next_in_ms) == ([], False, None)
    assert await state_of(connection, locked) == State.LOCKED
    assert await state_of(connection, delayed) == State.DELAYED
    assert await state_of(connection, failed) == State.FAILED


async def test_it_is_one_statement(
    store: Store, connection: Connection, statements: Statements
) -> None:
    created = await create(store, {}, {"topic": "u"}, {"delayMs": 60_000})
    await lock(store, 2, subscriptions=subscribe("t", "u"))
    await expire_lock(connection, *created[:2])
    await make_due(connection, created[2])
    await statements.forget()
    await store.release_due(None, 1_000)
    assert await statements.calls() == {"release_due": 1}
    assert {await state_of(connection, task_id) for task_id in created} == {State.READY}


async def test_the_first_place_of_each_lane_is_told(store: Store, connection: Connection) -> None:
    created = await create(store, {}, {}, {"priority": 3}, {"priority": 3}, {"delayMs": 60_000})
    await lock(store, 4)
    await expire_lock(connection, *created[:4])
    await make_due(connection, created[4])
    swept = await store.release_due(None, 0)
    firsts = [await row_of(connection, created[place]) for place in (0, 2)]
    assert {tuple(wake) for wake in swept.wakes} == {
        (row["lane_id"], row["position"], True) for row in firsts
    }


# Poison -----------------------------------------------------------------------


async def test_too_many_expiries_make_an_incident(
    store: Store, settings: Settings, connection: Connection
) -> None:
    poison, healthy = await create(store, {}, {})
    for expiries in range(1, settings.max_expiries + 1):
        tasks = await lock(store, 2, worker_id=f"w{expiries}")
        assert poison in {task["id"] for task in tasks}
        for task in tasks:
            if task["id"] == healthy:
                await ask(store.unlock, f"w{expiries}", held(task))
        await expire_lock(connection, poison)
        swept = await store.release_due(None, 0)
        row = await row_of(connection, poison)
        assert row["expiries"] == expiries
        is_poison = expiries == settings.max_expiries
        assert row["state"] == (State.FAILED if is_poison else State.READY)
        assert bool(swept.wakes) != is_poison
    row = await row_of(connection, poison)
    assert row["error_code"] == "poison"
    assert f"w{settings.max_expiries}" in row["error_message"]
    assert [task["id"] for task in await lock(store, 2)] == [healthy]


async def test_a_lock_of_under_a_second_is_no_expiry(store: Store, connection: Connection) -> None:
    created = await create(store, {}, {})
    await lock(store, 1, subscriptions=subscribe(lock_duration_ms=999))
    await lock(store, 1, subscriptions=subscribe(lock_duration_ms=1_000))
    await expire_lock(connection, *created)
    await store.release_due(None, 0)
    rows = [await row_of(connection, task_id) for task_id in created]
    assert [(row["state"], row["expiries"]) for row in rows] == [("ready", 0), ("ready", 1)]


async def test_a_failure_before_it_does_not_count(
    store: Store, settings: Settings, connection: Connection
) -> None:
    [task_id] = await create(store, {"retries": 100})
    for _ in range(settings.max_expiries + 1):
        [task] = await lock(store)
        await ask(store.fail, "w1", held(task, errorMessage="e", retryTimeoutMs=0))
    await lock(store)
    await expire_lock(connection, task_id)
    await store.release_due(None, 0)
    row = await row_of(connection, task_id)
    assert (row["state"], row["expiries"]) == (State.READY, 1)


async def test_what_has_no_retries_left_fails_without_being_poison(
    store: Store, connection: Connection
) -> None:
    """An operator took them while it was locked."""
    [task_id] = await create(store, {})
    await lock(store)
    await store.retries([task_id], 0)
    await expire_lock(connection, task_id)
    swept = await store.release_due(None, 0)
    row = await row_of(connection, task_id)
    assert (row["state"], row["expiries"], swept.wakes) == (State.FAILED, 1, [])
    assert row["error_code"] is row["error_message"] is None


@pytest.mark.parametrize("is_fetched", [True, False])
async def test_it_is_known_whose_lock_it_was_until_somebody_takes_the_task(
    store: Store, connection: Connection, is_fetched: bool
) -> None:
    expired, delayed = await create(store, {}, {"delayMs": 60_000})
    [task] = await lock(store)
    await expire_lock(connection, expired)
    await make_due(connection, delayed)
    await store.release_due(None, 0)
    rows = [await row_of(connection, task_id) for task_id in (expired, delayed)]
    assert (rows[0]["lost_by"], str(rows[0]["lost_token"])) == ("w1", task["lockToken"])
    assert rows[1]["lost_by"] is rows[1]["lost_token"] is None
    if is_fetched:
        await lock(store, worker_id="w2")
    else:
        await store.lock(expired, "w2", 60_000)
    row = await row_of(connection, expired)
    assert row["lost_by"] is row["lost_token"] is None


# Looking back and ahead -------------------------------------------------------


async def test_it_looks_back_only_as_far_as_it_is_told(
    store: Store, connection: Connection
) -> None:
    expired, delayed = await create(store, {}, {"delayMs": 60_000})
    await lock(store)
    await expire_lock(connection, expired)
    await make_due(connection, delayed)
    await connection.execute(
        """
        UPDATE fetchlock.open_task SET available_at = available_at - interval '10 s',
            lock_expires_at = lock_expires_at - interval '10 s',
            locked_at = locked_at - interval '10 s'
        """
    )
    assert (await store.release_due(5_000, 0)).wakes == []
    assert len((await store.release_due(15_000, 0)).wakes) == 1
    assert await state_of(connection, expired) == State.READY
    assert await state_of(connection, delayed) == State.READY


@pytest.mark.parametrize("ahead_ms", [500, 10_000, 100_000])
async def test_the_next_deadline_is_told_if_it_is_near(store: Store, ahead_ms: int) -> None:
    await create(store, {}, {"delayMs": 90_000}, {"delayMs": 9_000})
    await lock(store, subscriptions=subscribe(lock_duration_ms=50_000))
    swept = await store.release_due(None, ahead_ms)
    if ahead_ms == 500:
        assert swept.next_in_ms is None
    else:
        assert swept.next_in_ms is not None
        assert 0 < swept.next_in_ms <= 9_000


async def test_the_next_deadline_may_be_a_lock(store: Store) -> None:
    await create(store, {}, {"delayMs": 90_000})
    await lock(store, subscriptions=subscribe(lock_duration_ms=50_000))
    swept = await store.release_due(None, 100_000)
    assert swept.next_in_ms is not None
    assert 0 < swept.next_in_ms <= 50_000


async def test_a_storm_is_dealt_with_in_parts(store: Store, connection: Connection) -> None:
    created = await create(store, *({} for _ in range(5)), {"delayMs": 60_000})
    await lock(store, 5)
    await expire_lock(connection, *created[:5])
    left = []
    for _ in range(3):
        rows = await connection.fetch(queries.RELEASE_DUE, SHARD, None, 2, 5, 0.0)
        count = "SELECT count(*) FROM fetchlock.open_task WHERE state = 'locked'"
        left.append((rows[0]["more"], await connection.fetchval(count)))
    assert left == [(True, 3), (True, 1), (False, 0)]


# Races ------------------------------------------------------------------------


async def test_a_row_that_is_being_changed_is_passed_over(
    store: Store, connection: Connection, watcher: Connection
) -> None:
    expired, other, due = await create(store, {}, {}, {"delayMs": 60_000})
    await lock(store, 2)
    await expire_lock(watcher, expired, other)
    await make_due(watcher, due)
    async with connection.transaction():
        await connection.execute(
            "SELECT FROM fetchlock.open_task WHERE id = ANY ($1::uuid[]) FOR UPDATE",
            [expired, due],
        )
        await store.release_due(None, 0)
    states = [await state_of(connection, task_id) for task_id in (expired, other, due)]
    assert states == [State.LOCKED, State.READY, State.DELAYED]
    await store.release_due(None, 0)
    states = [await state_of(connection, task_id) for task_id in (expired, other, due)]
    assert states == [State.READY] * 3


async def test_two_sweeps_at_once_count_an_expiry_once(
    store: Store, connection: Connection
) -> None:
    [task_id] = await create(store, {})
    await lock(store)
    await expire_lock(connection, task_id)
    await connection.execute("BEGIN")
    await connection.fetch(queries.RELEASE_DUE, SHARD, None, 10, 5, 0.0)
    assert (await store.release_due(None, 0)).wakes == []
    await connection.execute("COMMIT")
    assert (await store.release_due(None, 0)).wakes == []
    assert (await row_of(connection, task_id))["expiries"] == 1


async def test_an_extension_in_flight_saves_the_lock(store: Store, connection: Connection) -> None:
    """It was sent in time; that the sweep comes while it commits does not matter."""
    [task_id] = await create(store, {})
    [task] = await lock(store)
    await connection.execute("BEGIN")
    said = request("w1", held(task, lockDurationMs=60_000))
    await connection.fetch(queries.EXTEND_LOCK, SHARD, [said])
    await store.release_due(None, 0)
    await connection.execute("COMMIT")
    await store.release_due(None, 0)
    assert await state_of(connection, task_id) == State.LOCKED

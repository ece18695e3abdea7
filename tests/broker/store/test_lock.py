"""Locking one task by its id: what is ready, and what one holds already."""

from __future__ import annotations

from functools import partial

import asyncpg
import msgspec
import pytest

from broker.errors import Conflict, LockLost, TaskNotFound
from broker.settings import Settings
from broker.store import Store, queries
from broker.store.database import SHARD
from broker.task import API_STATES, TRANSITIONS, State
from tests.broker.conftest import Statements
from tests.broker.store.test_operator_verbs import answer_of, in_state
from tests.eventually import eventually
from tests.factories import (
    ask,
    beat,
    behind,
    called_back,
    create,
    everything,
    expire_lock,
    held,
    lock,
    request,
    row_of,
    shown,
    state_of,
)

Connection = asyncpg.Connection

REFUSED = set(State) - set(TRANSITIONS["lock"])


async def test_a_ready_task_is_locked(
    store: Store, connection: Connection, statements: Statements
) -> None:
    [task_id] = await create(store, {"executionTimeoutMs": 90_000})
    await statements.forget()
    batch = await store.lock(task_id, "w2", 50_000)
    assert await statements.calls() == {"lock": 1}
    assert (batch.wakes, batch.due_in_ms) == ([], 50_000)
    row = await row_of(connection, task_id)
    assert (row["state"], row["worker_id"], row["attempt"]) == (State.LOCKED, "w2", 1)
    assert (row["lock_expires_at"] - row["locked_at"]).total_seconds() == 50
    assert (row["deadline_at"] - row["locked_at"]).total_seconds() == 90
    task = await shown(store, task_id)
    assert answer_of(batch) == {
        "lockToken": str(row["lock_token"]),
        "lockExpiresAt": task["lockExpiresAt"],
        "attempt": 1,
        "startedAt": task["startedAt"],
    }
    assert await lock(store) == []


async def test_what_one_holds_is_renewed(store: Store, connection: Connection) -> None:
    [task_id] = await create(store, {"executionTimeoutMs": 90_000})
    [task] = await lock(store)
    before = await row_of(connection, task_id)
    for lock_duration_ms in (120_000, 5_000):
        answer = answer_of(await store.lock(task_id, "w1", lock_duration_ms))
        after = await row_of(connection, task_id)
        assert answer["lockToken"] == task["lockToken"]
        changed = {name for name in before if before[name] != after[name]}
        assert changed == {"lock_expires_at"}
        now = await connection.fetchval("SELECT clock_timestamp()")
        left_s = (after["lock_expires_at"] - now).total_seconds()
        assert 0 < left_s <= lock_duration_ms / 1000


async def test_what_another_holds_is_its_own(store: Store, connection: Connection) -> None:
    [task_id] = await create(store, {})
    [task] = await lock(store)
    before = await everything(connection)
    with pytest.raises(LockLost) as refusal:
        await store.lock(task_id, "w2", 60_000)
    assert refusal.value.facts == {
        "taskId": task_id,
        "state": "LOCKED",
        "holder": "w1",
        "lockExpiresAt": task["lockExpiresAt"],
    }
    assert await everything(connection) == before


@pytest.mark.parametrize("state", sorted(REFUSED))
async def test_nothing_else_is_locked(store: Store, connection: Connection, state: State) -> None:
    task_id = await in_state(store, state)
    before = await everything(connection)
    with pytest.raises(Conflict) as refusal:
        await store.lock(task_id, "w1", 60_000)
    assert refusal.value.facts == {"taskId": task_id, "state": API_STATES[state]}
    assert await everything(connection) == before


async def test_an_id_that_no_task_has_is_not_found(store: Store) -> None:
    for task_id in ("019aa5f0-7c1e-7b44-9d2a-3f5c8e1b6a01", "", "é"):
        with pytest.raises(TaskNotFound):
            await store.lock(task_id, "w1", 60_000)


# Locks that have run out --------------------------------------------------------


@pytest.mark.parametrize("worker_id", ["w1", "w2"])
async def test_a_lock_that_has_run_out_is_none(
    store: Store, connection: Connection, worker_id: str
) -> None:
    [task_id] = await create(store, {})
    [task] = await lock(store)
    await expire_lock(connection, task_id)
    answer = answer_of(await store.lock(task_id, worker_id, 60_000))
    assert answer["lockToken"] != task["lockToken"]
    row = await row_of(connection, task_id)
    assert (row["worker_id"], row["attempt"], row["expiries"]) == (worker_id, 2, 1)
    [refused] = await ask(store.complete, "w1", held(task, acceptsLate=True))
    assert refused["code"] == "lock_lost"


async def test_looks_are_no_expiries(
    store: Store, connection: Connection, settings: Settings
) -> None:
    """A lock of less than a second is counted neither by who locks next nor by the sweep."""
    [task_id] = await create(store, {})
    expiries = settings.max_expiries - 1
    await connection.execute("UPDATE fetchlock.open_task SET expiries = $1", expiries)

    async def has_run_out() -> bool:
        ended: bool = await connection.fetchval(
            "SELECT lock_expires_at <= clock_timestamp() FROM fetchlock.open_task"
        )
        return ended

    for attempt in range(1, 8):
        await store.lock(task_id, "w1", 1)
        await eventually(has_run_out)
        if attempt > 6:
            await store.release_due(None, 0)
    row = await row_of(connection, task_id)
    assert (row["state"], row["attempt"], row["expiries"]) == (State.READY, 7, expiries)


async def test_what_expired_too_often_is_left_to_the_sweep(
    store: Store, connection: Connection, settings: Settings
) -> None:
    [task_id] = await create(store, {})
    for _ in range(settings.max_expiries):
        await store.lock(task_id, "w1", 60_000)
        await expire_lock(connection, task_id)
    with pytest.raises(LockLost, match="expired"):
        await store.lock(task_id, "w1", 60_000)
    await store.release_due(None, 0)
    row = await row_of(connection, task_id)
    assert (row["state"], row["error_code"]) == (State.FAILED, "poison")
    assert (row["attempt"], row["expiries"]) == (settings.max_expiries, settings.max_expiries)


async def test_what_has_no_retries_is_left_to_the_sweep(
    store: Store, connection: Connection
) -> None:
    [task_id] = await create(store, {})
    await lock(store)
    await store.retries([task_id], 0)
    await store.lock(task_id, "w1", 60_000)  # It may still be renewed.
    await expire_lock(connection, task_id)
    with pytest.raises(LockLost):
        await store.lock(task_id, "w1", 60_000)


@pytest.mark.parametrize("is_over", [False, True])
async def test_a_task_whose_callback_has_come_is_only_handed_over(
    store: Store, connection: Connection, is_over: bool
) -> None:
    [task_id] = await create(store, {})
    [task] = await lock(store)
    await ask(store.callback_url, "w1", held(task))
    await store.callback([called_back(task)])
    if is_over:
        await expire_lock(connection, task_id)
    with pytest.raises(LockLost):
        await store.lock(task_id, "w1", 60_000)


async def test_cancellation_wins_over_a_lock_that_begins(
    store: Store, connection: Connection
) -> None:
    [task_id] = await create(store, {})
    await lock(store)
    await store.cancel(task_id, None)
    await store.lock(task_id, "w1", 60_000)  # To clean up.
    await expire_lock(connection, task_id)
    with pytest.raises(LockLost):
        await store.lock(task_id, "w1", 60_000)
    await store.settle_due(None)
    assert await state_of(connection, task_id) == State.CANCELLED


# Races --------------------------------------------------------------------------


FETCHED = """
    UPDATE fetchlock.open_task
    SET state = 'locked', worker_id = 'w2', lock_token = gen_random_uuid(), locked_at = now(),
        lock_expires_at = now() + interval '1 minute'
"""


@pytest.mark.parametrize("first", [queries.LOCK, FETCHED])
async def test_behind_another_lock_it_is_refused(
    store: Store, connection: Connection, watcher: Connection, first: str
) -> None:
    [task_id] = await create(store, {})

    async def lock_it() -> LockLost:
        with pytest.raises(LockLost) as refusal:
            await store.lock(task_id, "w1", 60_000)
        return refusal.value

    await connection.execute("BEGIN")
    args = () if first == FETCHED else (SHARD, task_id, "w2", 60_000, 5)
    await connection.fetch(first, *args)
    assert (await behind(connection, watcher, lock_it)).facts["holder"] == "w2"
    assert (await row_of(connection, task_id))["worker_id"] == "w2"


async def test_a_renewal_behind_an_unlock_is_a_new_lock(
    store: Store, connection: Connection, watcher: Connection
) -> None:
    [task_id] = await create(store, {})
    [task] = await lock(store)
    await connection.execute("BEGIN")
    await connection.fetch(queries.UNLOCK, SHARD, [request("w1", held(task))])
    batch = await behind(connection, watcher, partial(store.lock, task_id, "w1", 60_000))
    assert answer_of(batch)["lockToken"] != task["lockToken"]
    assert (await row_of(connection, task_id))["attempt"] == 2


async def test_a_renewal_behind_a_completion_is_too_late(
    store: Store, connection: Connection, watcher: Connection
) -> None:
    [task_id] = await create(store, {})
    [task] = await lock(store)

    async def lock_it() -> Conflict:
        with pytest.raises(Conflict) as refusal:
            await store.lock(task_id, "w1", 60_000)
        return refusal.value

    await connection.execute("BEGIN")
    await connection.fetch(queries.COMPLETE, SHARD, [request("w1", held(task))])
    assert (await behind(connection, watcher, lock_it)).facts["state"] == "COMPLETED"


async def test_a_fetch_passes_over_what_is_just_being_locked(
    store: Store, connection: Connection
) -> None:
    first, second = await create(store, {}, {})
    await connection.execute("BEGIN")
    await connection.fetch(queries.LOCK, SHARD, first, "w2", 60_000, 5)
    assert [task["id"] for task in await lock(store, 2)] == [second]
    await connection.execute("COMMIT")


async def test_what_it_locked_is_worked_on_like_any_other(store: Store) -> None:
    [task_id] = await create(store, {})
    answer = answer_of(await store.lock(task_id, "w1", 60_000))
    told = await ask(store.complete, "w1", {"id": task_id, "lockToken": answer["lockToken"]})
    assert told == [{"id": task_id, "outcome": "done"}]


@pytest.mark.parametrize("verb", ["lock", "extend_lock", "heartbeat", "hand_over"])
async def test_who_waits_for_the_lock_that_it_then_has_is_served(
    store: Store, connection: Connection, watcher: Connection, verb: str
) -> None:
    """PostgreSQL checks what would become of the version before, too, which nobody held."""
    [task_id] = await create(store, {})
    await connection.execute("BEGIN")
    [locked] = await connection.fetch(queries.LOCK, SHARD, task_id, "w1", 60_000, 5)
    token = msgspec.json.decode(locked["answer"])["lockToken"]
    said = {"id": task_id, "lockToken": token, "lockDurationMs": 50_000}

    async def say() -> object:
        if verb == "lock":
            return (await store.lock(task_id, "w1", 50_000)).results
        if verb == "heartbeat":
            return await beat(store, {"id": task_id, "lockToken": token})
        return await ask(getattr(store, verb), "w1", said)

    await behind(connection, watcher, say)
    state = await state_of(connection, task_id)
    assert state == (State.AWAITING if verb == "hand_over" else State.LOCKED)


async def test_who_waits_for_a_failure_moves_its_retry(
    store: Store, connection: Connection, watcher: Connection
) -> None:
    """The same where the version before was held."""
    await create(store, {})
    [task] = await lock(store)
    await connection.execute("BEGIN")
    failure = held(task, errorMessage="m", retries=1, retryTimeoutMs=60_000)
    await connection.fetch(queries.FAIL, SHARD, [request("w1", failure)], 1.0, 1.0, 1.0, 1_000_000)
    await behind(connection, watcher, partial(store.retry_timeout, task["id"], 0))
    assert await state_of(connection, task["id"]) == State.READY

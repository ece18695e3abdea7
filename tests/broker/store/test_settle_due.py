"""What runs out otherwise than by an expired lock, and what was recorded to be applied then."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest

from broker.settings import Settings
from broker.store import Store, queries
from broker.store.database import SHARD
from broker.task import State
from tests.broker.conftest import Statements
from tests.factories import (
    TaskJson,
    ask,
    behind,
    called_back,
    create,
    everything,
    expire_lock,
    held,
    lock,
    make_due,
    overrun,
    request,
    row_of,
    run_out,
    state_of,
)

Connection = asyncpg.Connection

POLICY = (1_000.0, 2.0, 300_000.0)
"""Of the waits for a retry, as the statement takes it."""


async def locked(store: Store, **members: Any) -> TaskJson:
    await create(store, members)
    return (await lock(store))[0]


async def awaiting(store: Store, **members: Any) -> TaskJson:
    task = await locked(store, **members)
    [answer] = await ask(store.hand_over, "w1", held(task))
    assert answer["state"] == "AWAITING"
    return task


# One reason, or several -------------------------------------------------------


@pytest.mark.parametrize("is_overdue", [False, True], ids=["in time", "overdue"])
@pytest.mark.parametrize("is_cancelled", [False, True], ids=["wanted", "cancelled"])
@pytest.mark.parametrize("callback", [None, False, True], ids=["no callback", "failure", "success"])
async def test_of_several_reasons_the_strongest_counts(
    store: Store,
    connection: Connection,
    callback: bool | None,
    is_cancelled: bool,
    is_overdue: bool,
) -> None:
    task = await locked(store, totalTimeoutMs=60_000, retries=1)
    task_id = task["id"]
    await ask(store.callback_url, "w1", held(task))
    if callback is not None:
        said = called_back(task, isSuccess=callback, output={"a": 1}, errorCode="E")
        assert (await store.callback([said])).results[0].refused == 0
    if is_cancelled:
        await store.cancel(task_id, "not wanted")
    if is_overdue:
        await overrun(connection, task_id)
    await expire_lock(connection, task_id)
    is_due = callback is not None or is_cancelled or is_overdue
    assert (await store.release_due(None, 0)).has_to_settle == is_due
    if not is_due:
        assert await state_of(connection, task_id) == State.READY
        return
    [(settled_id, settled)] = (await store.settle_due(None)).by_id.items()
    row = await row_of(connection, task_id)
    assert settled_id == task_id
    assert row["expiries"] == (0 if callback is not None or is_cancelled else row["expiries"])
    if callback:
        assert (row["state"], row["result"]) == (State.COMPLETED, '{"a":1}')
        assert settled == {"state": "COMPLETED", "retries": 1, "availableAt": None}
    elif is_cancelled:
        assert (row["state"], row["error_message"]) == (State.CANCELLED, "not wanted")
    elif is_overdue:
        assert (row["state"], row["error_code"]) == (State.FAILED, "total_timeout")
        assert (row["retries"], row["failures"]) == (1, 0)
    else:
        assert (row["state"], row["error_code"]) == (State.FAILED, "E")
        assert (row["retries"], row["failures"]) == (0, 1)


async def test_a_hand_over_that_nobody_called_back_for_is_a_failure(
    store: Store, settings: Settings, connection: Connection
) -> None:
    task = await awaiting(store)
    await run_out(connection, task["id"])
    assert (await store.release_due(None, 0)).has_to_settle
    settled = await store.settle_due(None)
    row = await row_of(connection, task["id"])
    assert row["error_code"] == "callback_timeout"
    assert row["error_message"] == "nobody called back in time"
    assert (row["retries"], row["failures"], row["expiries"]) == (task["retries"] - 1, 1, 0)
    assert row["worker_id"] is row["lock_token"] is row["lock_expires_at"] is None
    assert (row["called_back"], row["returned"]) == (False, True)
    [told] = settled.by_id.values()
    assert (told["state"], told["retries"]) == ("CREATED", task["retries"] - 1)
    assert told["availableAt"] == row["available_at"]
    if row["state"] == State.DELAYED:
        assert settled.due_in_ms is not None
        assert 0 < settled.due_in_ms <= settings.retry_base_ms
        assert settled.wakes == []
    else:
        assert [wake.position for wake in settled.wakes] == [row["position"]]


async def test_the_waits_for_a_retry_grow_as_after_a_workers_failure(
    store: Store, settings: Settings, connection: Connection
) -> None:
    created = await create(store, *({"retries": 9} for _ in range(60)))
    await connection.execute("UPDATE fetchlock.open_task SET failures = 3")
    tasks = await lock(store, 60)
    await ask(store.hand_over, "w1", *map(held, tasks))
    await run_out(connection, *created)
    now = await connection.fetchval("SELECT clock_timestamp()")
    settled = await store.settle_due(None)
    waits = [(told["availableAt"] - now).total_seconds() for told in settled.by_id.values()]
    bound_s = settings.retry_base_ms / 1000 * settings.retry_factor**3
    assert bound_s / 2 < max(waits) <= bound_s + 1
    assert max(waits) - min(waits) > bound_s / 2


async def test_what_is_ready_again_wakes_its_lane_and_what_waits_is_due(
    store: Store, connection: Connection
) -> None:
    task = await awaiting(store)
    await run_out(connection, task["id"])
    # No wait at all, then one of which hardly any draw is nothing.
    rows = await connection.fetch(queries.SETTLE_DUE, SHARD, None, None, 10, 0.0, 1.0, 0.0)
    row = await row_of(connection, task["id"])
    assert [(r["state"], r["position"], r["due_ms"]) for r in rows] == [
        ("ready", row["position"], None)
    ]
    [again] = await lock(store)
    await ask(store.hand_over, "w1", held(again))
    await run_out(connection, task["id"])
    [delayed] = await connection.fetch(queries.SETTLE_DUE, SHARD, None, None, 10, 1e9, 1.0, 1e9)
    assert (delayed["state"], delayed["position"]) == ("delayed", None)
    assert 0 < delayed["due_ms"] <= 1e9
    await make_due(connection, task["id"])
    await store.release_due(None, 0)
    [third] = await lock(store)
    assert (third["attempt"], third["errorCode"]) == (3, "callback_timeout")


# What it leaves alone ---------------------------------------------------------


async def test_what_is_not_due_is_left(store: Store, connection: Connection) -> None:
    await awaiting(store, totalTimeoutMs=60_000)
    cancelled = await locked(store)
    await store.cancel(cancelled["id"], None)
    asked = await locked(store)
    await ask(store.callback_url, "w1", held(asked))
    await store.callback([called_back(asked)])
    expired = await locked(store)
    await expire_lock(connection, expired["id"])
    before = await everything(connection)
    settled = await store.settle_due(None)
    assert (settled.wakes, settled.due_in_ms, settled.has_more, settled.by_id) == (
        [],
        None,
        False,
        {},
    )
    ids = [task["id"] for task in (cancelled, asked, expired)]
    assert (await store.settle_due(None, ids)).by_id == {}
    assert await everything(connection) == before
    assert not (await store.release_due(None, 0)).has_to_settle


async def test_with_ids_it_looks_at_no_other(store: Store, connection: Connection) -> None:
    one, other, overdue = [await awaiting(store, totalTimeoutMs=60_000) for _ in range(3)]
    await run_out(connection, one["id"], other["id"])
    await overrun(connection, overdue["id"])
    unwanted = await locked(store)
    await store.cancel(unwanted["id"], None)
    await expire_lock(connection, unwanted["id"])
    settled = await store.settle_due(None, [one["id"], overdue["id"]])
    assert list(settled.by_id) == [one["id"]]
    assert await state_of(connection, other["id"]) == State.AWAITING
    assert await state_of(connection, overdue["id"]) == State.AWAITING
    assert await state_of(connection, unwanted["id"]) == State.LOCKED


async def test_the_sweep_of_the_locks_leaves_to_it_what_is_its(
    store: Store, connection: Connection
) -> None:
    tasks = [await locked(store) for _ in range(2)]
    await store.cancel(tasks[0]["id"], None)
    await ask(store.callback_url, "w1", held(tasks[1]))
    await store.callback([called_back(tasks[1])])
    for task in tasks:
        await expire_lock(connection, task["id"])
    before = await everything(connection)
    swept = await store.release_due(None, 0)
    assert (swept.wakes, swept.has_to_settle) == ([], True)
    assert await everything(connection) == before


# Looking back and ahead -------------------------------------------------------


@pytest.mark.parametrize("what", ["a lock", "a hand-over", "a timeout"])
async def test_it_looks_back_only_as_far_as_it_is_told(
    store: Store, connection: Connection, what: str
) -> None:
    """What an older snapshot keeps in the index is not read again by each sweep."""
    if what == "a lock":
        task = await locked(store)
        await store.cancel(task["id"], None)
        await expire_lock(connection, task["id"])
    elif what == "a hand-over":
        task = await awaiting(store)
        await run_out(connection, task["id"])
    else:
        task = await awaiting(store, totalTimeoutMs=60_000)
        await overrun(connection, task["id"])
    await connection.execute(
        """
        UPDATE fetchlock.open_task SET deadline_at = deadline_at - interval '10 s',
            lock_expires_at = CASE WHEN lock_expires_at < clock_timestamp()
                                   THEN lock_expires_at - interval '10 s' ELSE lock_expires_at END
        """
    )
    assert not (await store.release_due(5_000, 0)).has_to_settle
    assert (await store.settle_due(5_000)).by_id == {}
    assert (await store.release_due(15_000, 0)).has_to_settle
    assert list((await store.settle_due(15_000)).by_id) == [task["id"]]


@pytest.mark.parametrize("what", ["a hand-over", "a timeout"])
async def test_the_next_one_is_told_if_it_is_near(store: Store, what: str) -> None:
    task = await locked(store, **({"totalTimeoutMs": 9_000} if what == "a timeout" else {}))
    if what == "a hand-over":
        await ask(store.hand_over, "w1", held(task, timeoutMs=9_000))
    assert (await store.release_due(None, 500)).next_in_ms is None
    for ahead_ms in (10_000, 50_000):
        next_in_ms = (await store.release_due(None, ahead_ms)).next_in_ms
        assert next_in_ms is not None
        assert 0 < next_in_ms <= 9_000


async def test_a_storm_is_dealt_with_in_parts(
    store: Store, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.store.long_work._SETTLED_MAX", 2)
    tasks = [await awaiting(store) for _ in range(5)]
    await run_out(connection, *(task["id"] for task in tasks))
    parts = []
    for _ in range(3):
        settled = await store.settle_due(None)
        parts.append((len(settled.by_id), settled.has_more))
    assert parts == [(2, True), (2, True), (1, False)]


async def test_it_is_one_statement(
    store: Store, connection: Connection, statements: Statements
) -> None:
    tasks = [await awaiting(store) for _ in range(3)]
    await run_out(connection, *(task["id"] for task in tasks))
    await statements.forget()
    assert len((await store.settle_due(None)).by_id) == 3
    assert await statements.calls() == {"settle_due": 1}


# Races ------------------------------------------------------------------------


async def test_a_row_that_is_being_changed_is_passed_over(
    store: Store, connection: Connection, watcher: Connection
) -> None:
    tasks = [await awaiting(store, totalTimeoutMs=60_000) for _ in range(2)]
    cancelled = await locked(store)
    await store.cancel(cancelled["id"], None)
    await expire_lock(watcher, cancelled["id"])
    await run_out(watcher, tasks[0]["id"])
    await overrun(watcher, tasks[1]["id"])
    async with connection.transaction():
        await connection.execute("SELECT FROM fetchlock.open_task FOR UPDATE")
        assert (await store.settle_due(None)).by_id == {}
    assert len((await store.settle_due(None)).by_id) == 3


async def test_two_at_once_settle_a_task_once(
    store: Store, connection: Connection, watcher: Connection
) -> None:
    task = await awaiting(store)
    await run_out(connection, task["id"])
    await connection.execute("BEGIN")
    assert len(await connection.fetch(queries.SETTLE_DUE, SHARD, None, None, 10, *POLICY)) == 1
    settled = await behind(connection, watcher, lambda: store.settle_due(None, [task["id"]]))
    assert settled.by_id == {}
    assert (await row_of(connection, task["id"]))["failures"] == 1


async def test_a_callback_in_flight_is_not_overlooked(
    store: Store, connection: Connection, watcher: Connection
) -> None:
    """It was in time. The sweep began before it was committed, and must not judge without it."""
    task = await awaiting(store)
    await connection.execute("BEGIN")
    await connection.execute("SELECT now()")
    await run_out(watcher, task["id"])
    [row] = await connection.fetch(queries.CALLBACK, SHARD, [called_back(task, output={"a": 1})])
    assert row["refused"] == 0
    settled = await behind(connection, watcher, lambda: store.settle_due(None, [task["id"]]))
    assert settled.by_id == {}
    [(_, told)] = (await store.settle_due(None)).by_id.items()
    assert told["state"] == "COMPLETED"
    assert (await row_of(connection, task["id"]))["result"] == '{"a":1}'


async def test_a_heartbeat_in_flight_does_not_save_an_overdue_task(
    store: Store, connection: Connection
) -> None:
    task = await locked(store, executionTimeoutMs=60_000)
    await overrun(connection, task["id"])
    await connection.execute("BEGIN")
    said = request("w1", held(task, percent=1), lockDurationMs=60_000)
    await connection.fetch(queries.HEARTBEAT, SHARD, [said], 100, 100, 100)
    assert (await store.settle_due(None)).by_id == {}
    await connection.execute("COMMIT")
    [(_, told)] = (await store.settle_due(None)).by_id.items()
    assert told["state"] == "FAILED"

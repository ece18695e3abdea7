"""A locked task is not cancelled over its worker's head: however its lock ends, it is then."""

from __future__ import annotations

import asyncpg
import msgspec
import pytest

from broker.errors import Conflict
from broker.store import Store, queries
from broker.store.database import SHARD
from broker.task import State
from tests.broker.conftest import Statements
from tests.factories import (
    TaskJson,
    ask,
    beat,
    behind,
    called_back,
    create,
    expire_lock,
    held,
    lock,
    overrun,
    request,
    row_of,
    shown,
    state_of,
)

Connection = asyncpg.Connection


@pytest.fixture
async def task(store: Store) -> TaskJson:
    """A task that is locked by the worker w1."""
    await create(store, {"totalTimeoutMs": 60_000})
    return (await lock(store))[0]


@pytest.fixture
async def unwanted(store: Store, task: TaskJson) -> TaskJson:
    """One whose cancellation was requested."""
    await store.cancel(task["id"], "not wanted")
    return task


async def test_its_worker_is_asked_and_keeps_the_lock(
    store: Store, task: TaskJson, connection: Connection, statements: Statements
) -> None:
    before = await row_of(connection, task["id"])
    await statements.forget()
    batch = await store.cancel(task["id"], "not wanted")
    assert await statements.calls() == {"cancel": 1}
    assert batch.results[0].body == b'{"state":"LOCKED","cancelRequested":true}'
    assert (batch.wakes, batch.due_in_ms) == ([], None)
    after = await row_of(connection, task["id"])
    assert {name for name in after if after[name] != before[name]} == {
        "cancel_requested", "cancel_reason",
    }  # fmt: skip
    seen = await shown(store, task["id"])
    assert (seen["state"], seen["cancelRequested"], seen["finishedAt"]) == ("LOCKED", True, None)


async def test_asked_again_the_last_reason_that_was_given_counts(
    store: Store, unwanted: TaskJson, connection: Connection
) -> None:
    for reason, kept in ((None, "not wanted"), ("another", "another")):
        await store.cancel(unwanted["id"], reason)
        assert (await row_of(connection, unwanted["id"]))["cancel_reason"] == kept


# Every way in which a lock can end --------------------------------------------


async def cancelled(store: Store, connection: Connection, task: TaskJson) -> bool:
    """Whether it was cancelled, for the reason that was given, with what is known of its lock."""
    row = await row_of(connection, task["id"])
    seen = await shown(store, task["id"])
    assert seen["cancelRequested"] is False
    assert seen["startedAt"] is not None
    return (row["state"], row["error_message"], row["attempt"], str(row["lock_token"])) == (
        State.CANCELLED, "not wanted", 1, task["lockToken"],
    )  # fmt: skip


async def test_unlock_acknowledges(
    store: Store, unwanted: TaskJson, connection: Connection, statements: Statements
) -> None:
    await statements.forget()
    batch = await store.unlock([request("w1", held(unwanted))])
    assert await statements.calls() == {"unlock": 1}
    assert msgspec.json.decode(batch.results[0].body) == [
        {"id": unwanted["id"], "outcome": "done"},
    ]  # fmt: skip
    assert batch.wakes == []
    assert await cancelled(store, connection, unwanted)
    assert await lock(store) == []


async def test_a_failure_acknowledges(
    store: Store, unwanted: TaskJson, connection: Connection, statements: Statements
) -> None:
    await statements.forget()
    said = held(unwanted, errorMessage="m", errorDetails="d", retries=5, retryTimeoutMs=0)
    batch = await store.fail([request("w1", said)])
    assert await statements.calls() == {"fail": 1}
    [answer] = msgspec.json.decode(batch.results[0].body)
    assert (answer["state"], answer["availableAt"]) == ("CANCELLED", None)
    assert (batch.wakes, batch.due_in_ms) == ([], None)
    assert await cancelled(store, connection, unwanted)


async def test_a_failure_says_why_where_the_canceller_did_not(
    store: Store, task: TaskJson, connection: Connection
) -> None:
    await store.cancel(task["id"], None)
    await ask(store.fail, "w1", held(task, errorMessage="m", errorDetails="d"))
    row = await row_of(connection, task["id"])
    assert (row["state"], row["error_message"], row["error_details"]) == (
        State.CANCELLED, "m", "d",
    )  # fmt: skip


async def test_so_does_the_end_of_the_lock(
    store: Store, unwanted: TaskJson, connection: Connection
) -> None:
    assert not (await store.release_due(None, 0)).has_to_settle
    await expire_lock(connection, unwanted["id"])
    swept = await store.release_due(None, 0)
    assert (swept.wakes, swept.has_to_settle) == ([], True)
    await store.settle_due(None)
    assert await cancelled(store, connection, unwanted)
    row = await row_of(connection, unwanted["id"])
    assert (row["worker_id"], row["expiries"]) == ("w1", 0)


async def test_so_do_a_hand_over_and_a_timeout(store: Store, connection: Connection) -> None:
    await create(store, {}, {"totalTimeoutMs": 60_000})
    handed, late = await lock(store, 2)
    for task in (handed, late):
        await store.cancel(task["id"], "not wanted")
    [answer] = await ask(store.hand_over, "w1", held(handed))
    assert answer["state"] == "CANCELLED"
    await overrun(connection, late["id"])
    await store.settle_due(None)
    for task in (handed, late):
        assert await cancelled(store, connection, task)


@pytest.mark.parametrize("verb", ["complete", "bpmn_error"])
async def test_an_end_that_comes_first_wins(
    store: Store, unwanted: TaskJson, connection: Connection, verb: str
) -> None:
    said = held(unwanted, errorCode="E")
    [answer] = await ask(getattr(store, verb), "w1", said)
    assert answer["outcome"] == "done"
    state = State.COMPLETED if verb == "complete" else State.BPMN_ERROR
    assert await state_of(connection, unwanted["id"]) == state


async def test_a_recorded_success_wins(
    store: Store, task: TaskJson, connection: Connection
) -> None:
    await ask(store.callback_url, "w1", held(task))
    await store.cancel(task["id"], "not wanted")
    await store.callback([called_back(task, output={"a": 1})])
    [answer] = await ask(store.hand_over, "w1", held(task))
    assert answer["state"] == "COMPLETED"


async def test_a_recorded_failure_does_not(
    store: Store, task: TaskJson, connection: Connection
) -> None:
    await ask(store.callback_url, "w1", held(task))
    await store.callback([called_back(task, isSuccess=False)])
    await store.cancel(task["id"], "not wanted")
    [answer] = await ask(store.hand_over, "w1", held(task))
    assert answer["state"] == "CANCELLED"


async def test_the_worker_may_take_its_time_to_clean_up(
    store: Store, unwanted: TaskJson, connection: Connection
) -> None:
    [answer] = await ask(store.extend_lock, "w1", held(unwanted, lockDurationMs=500_000))
    assert answer["outcome"] == "done"
    [told] = await beat(store, held(unwanted))
    assert (told["lockExpiresAt"], told["cancelRequested"]) == (answer["lockExpiresAt"], True)


# Not held ---------------------------------------------------------------------


async def test_what_nobody_holds_is_cancelled_at_once(store: Store, connection: Connection) -> None:
    ids = await create(store, {}, {}, {"delayMs": 60_000}, {})
    expired, away = await lock(store, 2)
    await expire_lock(connection, expired["id"])
    await ask(store.hand_over, "w1", held(away))
    for task_id in ids:
        batch = await store.cancel(task_id, "not wanted")
        assert batch.results[0].body == b'{"state":"CANCELLED"}'
        assert (await row_of(connection, task_id))["error_message"] == "not wanted"
    answer = (await ask(store.callback, None, held(away, isSuccess=True)))[0]
    assert (answer["code"], answer["state"]) == ("callback_expired", "CANCELLED")


# Races ------------------------------------------------------------------------


async def test_an_unlock_behind_the_request_acknowledges_it(
    store: Store, task: TaskJson, connection: Connection, watcher: Connection
) -> None:
    await connection.execute("BEGIN")
    await connection.fetch(queries.CANCEL, SHARD, task["id"], "not wanted")
    said = held(task)
    await behind(connection, watcher, lambda: ask(store.unlock, "w1", said))
    assert await cancelled(store, connection, task)


async def test_a_heartbeat_behind_the_request_tells_of_it(
    store: Store, task: TaskJson, connection: Connection, watcher: Connection
) -> None:
    await connection.execute("BEGIN")
    await connection.fetch(queries.CANCEL, SHARD, task["id"], "not wanted")
    [answer] = await behind(connection, watcher, lambda: beat(store, held(task)))
    assert answer["cancelRequested"] is True
    row = await row_of(connection, task["id"])
    assert (row["cancel_requested"], row["cancel_reason"]) == (True, "not wanted")


async def test_the_request_behind_a_hand_over_cancels_it(
    store: Store, task: TaskJson, connection: Connection, watcher: Connection
) -> None:
    await connection.execute("BEGIN")
    await connection.fetch(queries.HAND_OVER, SHARD, [request("w1", held(task))], 60_000)
    batch = await behind(connection, watcher, lambda: store.cancel(task["id"], "not wanted"))
    assert batch.results[0].body == b'{"state":"CANCELLED"}'
    assert await cancelled(store, connection, task)


async def test_the_request_behind_an_unlock_cancels_at_once(
    store: Store, task: TaskJson, connection: Connection, watcher: Connection
) -> None:
    await connection.execute("BEGIN")
    await connection.fetch(queries.UNLOCK, SHARD, [request("w1", held(task))])
    batch = await behind(connection, watcher, lambda: store.cancel(task["id"], "r"))
    assert batch.results[0].body == b'{"state":"CANCELLED"}'
    assert await state_of(connection, task["id"]) == State.CANCELLED


@pytest.mark.parametrize("is_success", [True, False])
@pytest.mark.parametrize("was_handed_over", [True, False])
async def test_a_callback_that_is_recorded_came_first(
    store: Store, task: TaskJson, connection: Connection, was_handed_over: bool, is_success: bool
) -> None:
    """Who called back was told so: that it is not applied yet must not cost its result."""
    await ask(store.callback_url, "w1", held(task))
    if was_handed_over:
        await ask(store.hand_over, "w1", held(task))
    said = called_back(task, isSuccess=is_success, output={"a": 1}, errorMessage="m")
    await connection.fetch(queries.CALLBACK, SHARD, [said])
    if not was_handed_over:
        await expire_lock(connection, task["id"])
    if is_success:
        with pytest.raises(Conflict):
            await store.cancel(task["id"], "not wanted")
        row = await row_of(connection, task["id"])
        assert (row["state"], row["result"]) == (State.COMPLETED, '{"a":1}')
    else:
        batch = await store.cancel(task["id"], "not wanted")
        assert batch.results[0].body == b'{"state":"CANCELLED"}'
        row = await row_of(connection, task["id"])
        assert (row["state"], row["failures"]) == (State.CANCELLED, 1)

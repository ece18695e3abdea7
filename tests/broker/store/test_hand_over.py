"""Hand-overs: the task leaves its worker and waits for a callback, said once or twice."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import asyncpg
import msgspec
import pytest

from broker.settings import Settings
from broker.store import Store, queries
from broker.store.database import SHARD
from broker.task import State
from tests.broker.conftest import Statements
from tests.factories import (
    TaskJson,
    answers,
    ask,
    behind,
    called_back,
    create,
    everything,
    expire_lock,
    held,
    lock,
    request,
    row_of,
    run_out,
    shown,
    state_of,
)

Connection = asyncpg.Connection


@pytest.fixture
async def task(store: Store) -> TaskJson:
    """A task that is locked by the worker w1."""
    await create(store, {})
    return (await lock(store))[0]


async def hand_over(store: Store, task: TaskJson, **members: Any) -> TaskJson:
    [answer] = await ask(store.hand_over, "w1", held(task, **members))
    return answer


async def callback_row(connection: Connection) -> dict[str, Any]:
    [row] = await connection.fetch("SELECT * FROM fetchlock.callback")
    return dict(row)


# Asking for the URL -----------------------------------------------------------


async def test_the_task_stays_locked_while_its_url_is_out(
    store: Store, task: TaskJson, connection: Connection
) -> None:
    before = await row_of(connection, task["id"])
    [answer] = await ask(store.callback_url, "w1", held(task, timeoutMs=5_000))
    row = await callback_row(connection)
    assert datetime.fromisoformat(answer.pop("expiresAt")) == row["expires_at"]
    assert answer.pop("expiresMs") == int(row["expires_at"].timestamp() * 1_000)
    assert answer == {
        "id": task["id"], "outcome": "done", "state": "LOCKED", "lockToken": task["lockToken"],
    }  # fmt: skip
    assert str(row["lock_token"]) == task["lockToken"]
    assert row["own_result"] is row["received_at"] is None
    assert await row_of(connection, task["id"]) == before


async def test_asked_again_the_later_answer_counts(
    store: Store, task: TaskJson, connection: Connection
) -> None:
    for order in ((5_000, 50_000), (50_000, 5_000)):
        said = [request("w1", held(task, timeoutMs=timeout_ms)) for timeout_ms in order]
        batch = await store.callback_url(said)
        told = [msgspec.json.decode(result.body)[0]["expiresMs"] for result in batch.results]
        assert told[1] - told[0] == order[1] - order[0]
        row = await callback_row(connection)
        assert int(row["expires_at"].timestamp() * 1_000) == told[1]


@pytest.mark.parametrize("verb", ["callback_url", "hand_over"])
async def test_what_the_worker_leaves_open_the_settings_decide(
    store: Store, settings: Settings, task: TaskJson, connection: Connection, verb: str
) -> None:
    now = await connection.fetchval("SELECT clock_timestamp()")
    [answer] = await ask(getattr(store, verb), "w1", held(task))
    left_s = (datetime.fromisoformat(answer["expiresAt"]) - now).total_seconds()
    assert 0 <= left_s - settings.hand_over_timeout_ms / 1_000 < 5


# Handing over -----------------------------------------------------------------


async def test_it_waits_without_a_worker_under_the_token_of_its_lock(
    store: Store, task: TaskJson, connection: Connection
) -> None:
    before = await row_of(connection, task["id"])
    batch = await store.hand_over([request("w1", held(task, timeoutMs=5_000))])
    [answer] = answers(batch)
    row = await row_of(connection, task["id"])
    assert (batch.due_in_ms, batch.wakes) == (5_000, [])
    assert datetime.fromisoformat(answer.pop("expiresAt")) == row["lock_expires_at"]
    assert answer.pop("expiresMs") == int(row["lock_expires_at"].timestamp() * 1_000)
    assert answer == {
        "id": task["id"], "outcome": "done", "state": "AWAITING", "lockToken": task["lockToken"],
    }  # fmt: skip
    changed = {name for name in row if row[name] != before[name]}
    assert changed == {"state", "worker_id", "lock_expires_at"}
    assert (row["state"], row["worker_id"]) == (State.AWAITING, None)
    seen = await shown(store, task["id"])
    assert (seen["state"], seen["lockExpiresAt"], seen["workerId"]) == ("AWAITING", None, None)
    assert datetime.fromisoformat(seen["callbackExpiresAt"]) == row["lock_expires_at"]
    assert await lock(store) == []


async def test_nobody_works_on_what_was_handed_over(
    store: Store, task: TaskJson, connection: Connection
) -> None:
    await hand_over(store, task)
    before = await everything(connection)
    for verb, members in (
        ("complete", {}), ("bpmn_error", {"errorCode": "E"}), ("fail", {"errorMessage": "m"}),
        ("extend_lock", {"lockDurationMs": 5_000}), ("unlock", {}), ("callback_url", {}),
    ):  # fmt: skip
        [answer] = await ask(getattr(store, verb), "w1", held(task, **members))
        assert (answer["code"], answer["state"]) == ("lock_lost", "AWAITING"), verb
    assert await everything(connection) == before


async def test_the_time_of_the_url_holds_unless_another_is_said(
    store: Store, connection: Connection
) -> None:
    await create(store, {}, {})
    for task, said, lasts_ms in zip(
        await lock(store, 2), ({}, {"timeoutMs": 9_000}), (5_000, 9_000), strict=True
    ):
        [url] = await ask(store.callback_url, "w1", held(task, timeoutMs=5_000))
        answer = await hand_over(store, task, **said)
        assert (answer["expiresMs"] == url["expiresMs"]) == (lasts_ms == 5_000)
        row = await row_of(connection, task["id"])
        assert datetime.fromisoformat(answer["expiresAt"]) == row["lock_expires_at"]


# Said again -------------------------------------------------------------------


async def test_said_again_it_is_answered_as_the_first_time(
    store: Store, task: TaskJson, connection: Connection
) -> None:
    first = await hand_over(store, task, timeoutMs=5_000, variables={"a": 1})
    before = await everything(connection)
    assert await hand_over(store, task, timeoutMs=9_000, variables={"a": 2}) == first
    assert await everything(connection) == before
    without = {"id": task["id"]}
    [answer] = await ask(store.hand_over, "w1", without)
    assert (answer["code"], answer["state"]) == ("lock_lost", "AWAITING")


@pytest.mark.parametrize("is_one_request", [True, False])
async def test_in_one_batch_too(
    store: Store, task: TaskJson, connection: Connection, is_one_request: bool
) -> None:
    mentions = [
        held(task, timeoutMs=5_000, variables={"a": 1}),
        held(task, timeoutMs=9_000, variables={"a": 2}),
        {"id": task["id"]},
    ]
    if is_one_request:
        told = await ask(store.hand_over, "w1", *mentions)
    else:
        batch = await store.hand_over([request("w1", mention) for mention in mentions])
        told = [msgspec.json.decode(result.body)[0] for result in batch.results]
    assert told[0] == told[1]
    assert (told[2]["code"], told[2]["state"]) == ("lock_lost", "AWAITING")
    assert (await callback_row(connection))["own_result"] == '{"a":1}'


async def test_said_again_after_its_end_it_says_how_it_ended(store: Store, task: TaskJson) -> None:
    first = await hand_over(store, task)
    await store.callback([called_back(task)])
    assert await hand_over(store, task) == first | {"state": "COMPLETED"}
    [answer] = await ask(store.hand_over, "w1", {"id": task["id"]})
    assert (answer["code"], answer["state"]) == ("lock_lost", "COMPLETED")


async def test_what_its_worker_completed_was_never_handed_over(
    store: Store, task: TaskJson
) -> None:
    await ask(store.callback_url, "w1", held(task))
    await ask(store.complete, "w1", held(task))
    answer = await hand_over(store, task)
    assert (answer["code"], answer["state"]) == ("lock_lost", "COMPLETED")


async def test_an_attempt_that_is_over_is_not_handed_over_again(
    store: Store, task: TaskJson, connection: Connection
) -> None:
    await hand_over(store, task)
    await run_out(connection, task["id"])
    await store.settle_due(None)
    answer = await hand_over(store, task)
    assert (answer["code"], answer["state"]) == ("lock_lost", "CREATED")


# What came before it ----------------------------------------------------------


async def test_an_early_callback_ends_it_at_once(
    store: Store, task: TaskJson, connection: Connection, statements: Statements
) -> None:
    await ask(store.callback_url, "w1", held(task))
    await store.callback([called_back(task, output={"b": 2, "a": 1.0})])
    await statements.forget()
    answer = await hand_over(store, task, variables={"a": 5, "c": 12345678901234567890})
    assert await statements.calls() == {"hand_over": 1, "settle_due": 1}
    assert (answer["state"], answer["lockToken"]) == ("COMPLETED", task["lockToken"])
    result = (await row_of(connection, task["id"]))["result"]
    assert msgspec.json.decode(result) == {"a": 1.0, "b": 2, "c": 12345678901234567890}
    assert '"a" : 1.0' in result
    assert "12345678901234567890" in result


async def test_an_early_failure_is_one_at_once(
    store: Store, task: TaskJson, connection: Connection
) -> None:
    await ask(store.callback_url, "w1", held(task))
    await store.callback([called_back(task, isSuccess=False, errorCode="E", errorMessage="m")])
    answer = await hand_over(store, task)
    assert (answer["state"], answer["retries"]) == ("CREATED", task["retries"] - 1)
    row = await row_of(connection, task["id"])
    assert (row["error_code"], row["error_message"], row["failures"]) == ("E", "m", 1)


async def test_a_cancellation_that_was_requested_is_one_at_once(
    store: Store, task: TaskJson, connection: Connection
) -> None:
    await store.cancel(task["id"], "not wanted")
    answer = await hand_over(store, task)
    assert answer["state"] == "CANCELLED"
    row = await row_of(connection, task["id"])
    assert (row["state"], row["error_message"]) == (State.CANCELLED, "not wanted")


async def test_in_a_batch_only_what_is_recorded_is_settled(
    store: Store, connection: Connection
) -> None:
    await create(store, {}, {}, {})
    tasks = await lock(store, 3)
    await ask(store.callback_url, "w1", held(tasks[1]))
    await store.callback([called_back(tasks[1])])
    batch = await store.hand_over(
        [
            request("w1", held(tasks[0]), held(tasks[1], timeoutMs=5_000)),
            request("w1", held(tasks[2])),
        ]
    )
    told = [
        [answer["state"] for answer in msgspec.json.decode(result.body)] for result in batch.results
    ]
    assert told == [["AWAITING", "COMPLETED"], ["AWAITING"]]


async def test_where_it_cannot_be_settled_the_next_sweep_does_so(
    store: Store, task: TaskJson, connection: Connection
) -> None:
    """The statement alone, as where the broker dies after it."""
    await ask(store.callback_url, "w1", held(task))
    await store.callback([called_back(task, output={"a": 1})])
    await connection.fetch(queries.HAND_OVER, SHARD, [request("w1", held(task))], 60_000)
    assert await state_of(connection, task["id"]) == State.AWAITING
    assert (await store.release_due(5_000, 0)).has_to_settle
    await store.settle_due(5_000)
    row = await row_of(connection, task["id"])
    assert (row["state"], row["result"]) == (State.COMPLETED, '{"a":1}')


# Races ------------------------------------------------------------------------


async def test_behind_a_callback_it_finds_it(
    store: Store, task: TaskJson, connection: Connection, watcher: Connection
) -> None:
    await ask(store.callback_url, "w1", held(task))
    await connection.execute("BEGIN")
    await connection.fetch(queries.CALLBACK, SHARD, [called_back(task, output={"a": 1})])
    said = held(task, variables={"b": 2})
    [answer] = await behind(connection, watcher, lambda: ask(store.hand_over, "w1", said))
    assert answer["state"] == "COMPLETED"
    assert msgspec.json.decode((await row_of(connection, task["id"]))["result"]) == {"a": 1, "b": 2}


async def test_behind_a_completion_it_is_refused(
    store: Store, task: TaskJson, connection: Connection, watcher: Connection
) -> None:
    await connection.execute("BEGIN")
    await connection.fetch(queries.COMPLETE, SHARD, [request("w1", held(task))])
    answer = await behind(connection, watcher, lambda: hand_over(store, task))
    assert (answer["code"], answer["state"]) == ("lock_lost", "COMPLETED")


@pytest.mark.parametrize("had_url", [True, False])
async def test_behind_itself_it_is_answered_as_the_first_time(
    store: Store, task: TaskJson, connection: Connection, watcher: Connection, had_url: bool
) -> None:
    """A worker that gave up waiting for the answer says it again."""
    if had_url:
        await ask(store.callback_url, "w1", held(task, timeoutMs=9_000))
    await connection.execute("BEGIN")
    said = request("w1", held(task, timeoutMs=5_000))
    [row] = await connection.fetch(queries.HAND_OVER, SHARD, [said], 60_000)
    answer = await behind(connection, watcher, lambda: hand_over(store, task))
    assert [answer] == msgspec.json.decode(row["results"])


async def test_behind_a_sweep_it_is_refused(
    store: Store, task: TaskJson, connection: Connection, watcher: Connection
) -> None:
    await expire_lock(connection, task["id"])
    await connection.execute("BEGIN")
    await connection.fetch(queries.RELEASE_DUE, SHARD, None, 10, 5, 0.0)
    answer = await behind(connection, watcher, lambda: hand_over(store, task))
    assert (answer["code"], answer["state"]) == ("lock_lost", "CREATED")
    assert await connection.fetchval("SELECT count(*) FROM fetchlock.callback") == 0

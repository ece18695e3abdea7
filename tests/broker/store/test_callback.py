"""Callbacks: of one attempt the first counts, whenever it comes, and is never lost."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import uuid4

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
    beat,
    called_back,
    create,
    everything,
    expire_lock,
    held,
    lock,
    request,
    row_of,
    run_out,
    state_of,
)

Connection = asyncpg.Connection


@pytest.fixture
async def locked(store: Store) -> TaskJson:
    """A task that is locked by the worker w1, who has asked for its callback URL."""
    await create(store, {})
    [task] = await lock(store)
    await ask(store.callback_url, "w1", held(task))
    return task


@pytest.fixture
async def task(store: Store) -> TaskJson:
    """A task that its worker has handed over."""
    await create(store, {})
    [task] = await lock(store)
    await ask(store.hand_over, "w1", held(task, variables={"own": 1.0, "both": 1}))
    return task


async def call_back(store: Store, task: TaskJson, **members: Any) -> TaskJson:
    return answers(await store.callback([called_back(task, **members)]))[0]


async def lines_of(store: Store, task: TaskJson) -> list[str]:
    told = msgspec.json.decode(await store.log_lines(task["id"], 0, 1_000))
    return [line["line"] for line in told["lines"]]


# After the hand-over ----------------------------------------------------------


async def test_a_success_completes_the_task(
    store: Store, task: TaskJson, connection: Connection, statements: Statements
) -> None:
    await statements.forget()
    batch = await store.callback([called_back(task, output={"both": 2, "n": 12345678901234567890})])
    assert await statements.calls() == {"callback": 1, "settle_due": 1}
    assert answers(batch) == [
        {"id": task["id"], "outcome": "done", "state": "COMPLETED",
         "retries": task["retries"], "availableAt": None},
    ]  # fmt: skip
    assert (batch.wakes, batch.due_in_ms) == ([], None)
    row = await row_of(connection, task["id"])
    assert row["state"] == State.COMPLETED
    assert str(row["lock_token"]) == task["lockToken"]
    assert msgspec.json.decode(row["result"]) == {"own": 1.0, "both": 2, "n": 12345678901234567890}
    assert '"own" : 1.0' in row["result"]
    assert "12345678901234567890" in row["result"]


@pytest.mark.parametrize(
    ("own", "output", "merged"),
    [
        ({}, '{"a":1.0,"a":2}', '{"a":1.0,"a":2}'),
        ({"a": 1}, '{"a":null}', '{ "a" : null }'),
        ({"a": 1}, "{}", '{ "a" : 1 }'),
        ({"a": {"b": 1}}, '{"a":{"c":2}}', '{ "a" : {"c":2} }'),
    ],
)
async def test_of_equal_keys_the_callbacks_count(
    store: Store, connection: Connection, own: TaskJson, output: str, merged: str
) -> None:
    await create(store, {})
    [task] = await lock(store)
    await ask(store.hand_over, "w1", held(task, variables=own))
    said = '{"tasks":[{"id":"%s","isSuccess":true,"output":%s}]}' % (task["id"], output)  # noqa: UP031
    await store.callback([said])
    assert (await row_of(connection, task["id"]))["result"] == merged


async def test_a_failure_uses_a_retry_as_a_workers_does(
    store: Store, settings: Settings, task: TaskJson, connection: Connection
) -> None:
    batch = await store.callback(
        [called_back(task, isSuccess=False, errorCode="E", errorMessage="m")]
    )
    [answer] = answers(batch)
    row = await row_of(connection, task["id"])
    assert (answer["state"], answer["retries"]) == ("CREATED", task["retries"] - 1)
    assert datetime.fromisoformat(answer["availableAt"]) == row["available_at"]
    assert (row["error_code"], row["error_message"], row["failures"]) == ("E", "m", 1)
    assert (row["expiries"], row["called_back"]) == (0, False)
    if row["state"] == State.DELAYED:
        assert batch.due_in_ms is not None
        assert 0 < batch.due_in_ms <= settings.retry_base_ms
    else:
        assert [wake.position for wake in batch.wakes] == [row["position"]]


async def test_without_a_retry_left_it_is_an_incident(
    store: Store, task: TaskJson, connection: Connection
) -> None:
    await store.retries([task["id"]], 1)
    answer = await call_back(store, task, isSuccess=False)
    assert (answer["state"], answer["retries"]) == ("FAILED", 0)
    assert await state_of(connection, task["id"]) == State.FAILED


async def test_what_it_tells_besides_is_kept(store: Store, task: TaskJson) -> None:
    said = {"logs": ["a", "b"], "subtext": "done"}
    await call_back(store, task, **said)
    await call_back(store, task, **said)
    await call_back(store, task, **said, isSuccess=False)
    assert await lines_of(store, task) == ["a", "b"]
    [(body, _)] = (await store.get_tasks([task["id"]])).values()
    assert msgspec.json.decode(body)["progress"]["subtext"] == "done"


async def test_what_it_tells_of_a_failure_the_next_worker_hears(
    store: Store, task: TaskJson, connection: Connection
) -> None:
    await call_back(store, task, isSuccess=False, subtext="s", errorMessage="m")
    await connection.execute("UPDATE fetchlock.open_task SET state = 'ready'")
    [again] = await lock(store)
    assert (again["progress"]["subtext"], again["errorMessage"]) == ("s", "m")
    await beat(store, held(again, checkpoint=1))
    await ask(store.hand_over, "w1", held(again))
    await call_back(store, again, isSuccess=False)
    await connection.execute("UPDATE fetchlock.open_task SET state = 'ready'")
    assert (await lock(store))[0]["checkpoint"] == 1


async def test_without_a_retry_at_all_there_is_none_to_lose(store: Store, task: TaskJson) -> None:
    await store.retries([task["id"]], 0)
    answer = await call_back(store, task, isSuccess=False)
    assert (answer["state"], answer["retries"]) == ("FAILED", 0)


async def test_without_a_token_the_last_attempt_is_meant(
    store: Store, task: TaskJson, connection: Connection
) -> None:
    said = {"id": task["id"], "isSuccess": False}
    for code in ("E", "F"):
        [answer] = await ask(store.callback, None, said | {"errorCode": code})
        assert answer["state"] == "CREATED"
        if code == "E":
            await connection.execute("UPDATE fetchlock.open_task SET state = 'ready'")
            [again] = await lock(store)
            await ask(store.hand_over, "w1", held(again))
    [answer] = await ask(store.callback, None, said | {"errorCode": "F"})
    assert answer["replayed"] is True
    [answer] = await ask(store.callback, None, said | {"errorCode": "E"})
    assert answer["code"] == "conflict"


async def test_without_a_token_it_is_not_taken_for_one_of_an_earlier_attempt(
    store: Store, task: TaskJson, connection: Connection
) -> None:
    """What comes too early for the next attempt may well be the same words: it must come again."""
    said = {"id": task["id"], "isSuccess": False}
    await ask(store.callback, None, said)
    await connection.execute("UPDATE fetchlock.open_task SET state = 'ready'")
    [again] = await lock(store)
    [answer] = await ask(store.callback, None, said)
    assert (answer["code"], answer["state"]) == ("conflict", "LOCKED")
    await ask(store.hand_over, "w1", held(again))
    [answer] = await ask(store.callback, None, said)
    assert (answer["outcome"], answer["retries"]) == ("done", 1)


# Before it --------------------------------------------------------------------


async def test_an_early_one_is_recorded(
    store: Store, locked: TaskJson, connection: Connection, statements: Statements
) -> None:
    before = await row_of(connection, locked["id"])
    await statements.forget()
    answer = await call_back(store, locked)
    assert await statements.calls() == {"callback": 1}
    assert answer == {"id": locked["id"], "outcome": "done", "state": "LOCKED"}
    after = await row_of(connection, locked["id"])
    assert {name for name in after if after[name] != before[name]} == {"called_back"}
    answer = await call_back(store, locked)
    assert (answer["replayed"], answer["state"]) == (True, "LOCKED")
    answer = await call_back(store, locked, isSuccess=False, logs=["l"])
    assert (answer["code"], answer["state"]) == ("conflict", "LOCKED")
    assert await lines_of(store, locked) == []


async def test_from_then_on_the_lock_can_only_be_handed_over(
    store: Store, locked: TaskJson, connection: Connection
) -> None:
    await call_back(store, locked)
    before = await everything(connection)
    for verb, members in (
        ("complete", {}), ("bpmn_error", {"errorCode": "E"}),
        ("fail", {"errorMessage": "m"}), ("unlock", {}),
    ):  # fmt: skip
        [answer] = await ask(getattr(store, verb), "w1", held(locked, **members))
        assert (answer["code"], answer["state"]) == ("lock_lost", "LOCKED"), verb
        assert answer["detail"] == "its callback has come: it can only be handed over"
    assert await everything(connection) == before
    assert (await beat(store, held(locked)))[0]["lockLost"] is False
    [answer] = await ask(store.hand_over, "w1", held(locked))
    assert answer["state"] == "COMPLETED"


@pytest.mark.parametrize("is_success", [True, False])
async def test_it_is_applied_when_the_lock_runs_out(
    store: Store, locked: TaskJson, connection: Connection, is_success: bool
) -> None:
    await call_back(store, locked, isSuccess=is_success, output={"a": 1}, errorCode="E")
    await expire_lock(connection, locked["id"])
    swept = await store.release_due(None, 0)
    assert (swept.wakes, swept.has_to_settle) == ([], True)
    await store.settle_due(None)
    row = await row_of(connection, locked["id"])
    assert row["expiries"] == 0
    if is_success:
        assert (row["state"], row["result"]) == (State.COMPLETED, '{"a":1}')
    else:
        assert (row["error_code"], row["failures"]) == ("E", 1)


async def test_a_broker_that_dies_before_it_settles_loses_nothing(
    store: Store, task: TaskJson, connection: Connection
) -> None:
    await connection.fetch(queries.CALLBACK, SHARD, [called_back(task, output={"both": 2})])
    assert await state_of(connection, task["id"]) == State.AWAITING
    assert (await store.release_due(5_000, 0)).has_to_settle
    [told] = (await store.settle_due(5_000)).by_id.values()
    assert told["state"] == "COMPLETED"
    answer = await call_back(store, task, output={"both": 2})
    assert (answer["state"], answer["replayed"]) == ("COMPLETED", True)


# Too early, too late, and twice -----------------------------------------------


@pytest.mark.parametrize(("has_token", "code"), [(True, "callback_expired"), (False, "conflict")])
async def test_who_was_not_asked_is_refused(
    store: Store, connection: Connection, has_token: bool, code: str
) -> None:
    ids = await create(store, *({} for _ in range(4)))
    locked, ended, failed = await lock(store, 3)
    await ask(store.complete, "w1", held(ended))
    await ask(store.fail, "w1", held(failed, errorMessage="m", retries=0))
    ready = {"id": ids[3], "lockToken": str(uuid4())}
    before = await everything(connection)
    for task, state in (
        (locked, "LOCKED"), (ended, "COMPLETED"), (failed, "FAILED"), (ready, "CREATED"),
    ):  # fmt: skip
        token = {"lockToken": task["lockToken"]} if has_token else {}
        said = {"id": task["id"], "isSuccess": True, "logs": ["l"], "subtext": "s"}
        [answer] = await ask(store.callback, None, said | token)
        assert answer.pop("detail")
        assert answer == {"id": task["id"], "code": code, "state": state}
    assert await everything(connection) == before


@pytest.mark.parametrize("what", ["its own time", "the hand-over", "another attempt"])
async def test_whose_time_is_over_is_told_so(
    store: Store, task: TaskJson, connection: Connection, what: str
) -> None:
    said: TaskJson = {"output": {"a": 1}}
    if what == "its own time":
        now = await connection.fetchval("SELECT extract(epoch FROM clock_timestamp()) * 1000")
        said["expiresMs"] = int(now) - 1
    elif what == "the hand-over":
        await run_out(connection, task["id"])
    else:
        said["lockToken"] = str(uuid4())
    before = await everything(connection)
    answer = await call_back(store, task, **said)
    assert (answer["code"], answer["state"]) == ("callback_expired", "AWAITING")
    assert await everything(connection) == before


async def test_an_earlier_attempt_does_not_answer_for_a_later_one(
    store: Store, task: TaskJson, connection: Connection
) -> None:
    await call_back(store, task, isSuccess=False)
    await connection.execute("UPDATE fetchlock.open_task SET state = 'ready'")
    [again] = await lock(store)
    await ask(store.hand_over, "w1", held(again))
    answer = await call_back(store, task)
    assert (answer["code"], answer["state"]) == ("conflict", "AWAITING")
    answer = await call_back(store, task, isSuccess=False)
    assert (answer["replayed"], answer["state"]) == (True, "AWAITING")
    answer = await call_back(store, task | {"lockToken": str(uuid4())}, isSuccess=False)
    assert (answer["code"], answer["state"]) == ("callback_expired", "AWAITING")
    assert (await call_back(store, again))["state"] == "COMPLETED"


@pytest.mark.parametrize("has_token", [True, False])
async def test_said_twice_it_is_one_callback(
    store: Store, task: TaskJson, connection: Connection, has_token: bool
) -> None:
    token = {"lockToken": task["lockToken"]} if has_token else {}
    said = {"id": task["id"], "isSuccess": False, "output": {"a": 1}, "errorCode": "E"} | token
    [first] = await ask(store.callback, None, said)
    before = await everything(connection)
    [again] = await ask(store.callback, None, said)
    assert datetime.fromisoformat(again.pop("availableAt")) == datetime.fromisoformat(
        first.pop("availableAt")
    )
    assert again == first | {"replayed": True}
    others: list[TaskJson] = [
        {"isSuccess": True},
        {"output": {}},
        {"errorCode": "F"},
        {"errorMessage": "m"},
    ]
    for other in others:
        [answer] = await ask(store.callback, None, said | other)
        assert answer["code"] == "conflict"
    assert await everything(connection) == before


async def test_an_id_that_no_task_has_is_not_found(store: Store) -> None:
    for task_id in (str(uuid4()), "", "é"):
        [answer] = await ask(store.callback, None, {"id": task_id, "isSuccess": True})
        assert (answer["id"], answer["code"]) == (task_id, "task_not_found")


async def test_of_two_in_a_batch_the_first_counts(store: Store, task: TaskJson) -> None:
    said = [called_back(task, output={"a": number}, logs=["l"]) for number in (1, 1, 2)]
    batch = await store.callback([said[0], request(None), *said[1:]])
    told = [msgspec.json.decode(result.body) for result in batch.results]
    assert [[(each.get("code"), each["state"]) for each in of] for of in told] == [
        [(None, "COMPLETED")], [], [(None, "COMPLETED")], [("conflict", "COMPLETED")],
    ]  # fmt: skip
    assert [result.refused for result in batch.results] == [0, 0, 0, 1]
    assert told[2][0]["replayed"] is True
    assert await lines_of(store, task) == ["l"]

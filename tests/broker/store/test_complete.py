"""Finishing: once, with the result kept to the letter, and said again it is the same answer."""

from __future__ import annotations

import anyio
import asyncpg
import msgspec
import pytest

from broker.store import Store, queries
from broker.store.database import SHARD
from broker.task import State
from tests.broker.conftest import Statements
from tests.eventually import eventually
from tests.factories import (
    TaskJson,
    ask,
    create,
    everything,
    expire_lock,
    held,
    is_blocked,
    lock,
    request,
    row_of,
    state_of,
)

Connection = asyncpg.Connection


@pytest.fixture
async def task(store: Store) -> TaskJson:
    """A task that is locked by the worker w1."""
    await create(store, {})
    return (await lock(store))[0]


async def test_a_completed_task_is_an_outcome(
    store: Store, task: TaskJson, connection: Connection
) -> None:
    [answer] = await ask(store.complete, "w1", held(task, variables={"sum": 3}))
    assert answer == {"id": task["id"], "outcome": "done"}
    row = await row_of(connection, task["id"])
    assert row["state"] == State.COMPLETED
    assert (row["worker_id"], row["attempt"]) == ("w1", 1)
    assert str(row["lock_token"]) == task["lockToken"]
    assert row["result"] == '{"sum":3}'
    assert (await store.get_tasks([task["id"]]))[task["id"]][1]


async def test_without_variables_the_result_is_empty(
    store: Store, task: TaskJson, connection: Connection
) -> None:
    await ask(store.complete, "w1", held(task))
    assert (await row_of(connection, task["id"]))["result"] == "{}"


async def test_the_result_is_kept_to_the_letter(
    store: Store, task: TaskJson, connection: Connection
) -> None:
    result = '{"b":123456789012345678901234567890,"a":1.0,"e":"\\ud83d\\ude00"}'
    await store.complete(
        [f'{{"workerId":"w1","tasks":[{{"id":"{task["id"]}","variables":{result}}}]}}']
    )
    assert (await row_of(connection, task["id"]))["result"] == result


# Replays ----------------------------------------------------------------------


async def test_a_completion_said_again_is_a_replay(
    store: Store, task: TaskJson, connection: Connection, statements: Statements
) -> None:
    same = held(task, variables={"a": 1})
    await ask(store.complete, "w1", same)
    before = await everything(connection)
    await statements.forget()
    told = await ask(store.complete, "w1", same)
    assert await statements.calls() == {"complete": 1, "refusals": 1}
    assert told == [{"id": task["id"], "outcome": "done", "replayed": True}]
    assert await everything(connection) == before


@pytest.mark.parametrize(
    ("worker_id", "changed"),
    [
        ("w1", {"variables": {"a": 2}}),
        ("w1", {"variables": {}}),
        ("w2", {}),
        ("w1", {"lockToken": "00000000-0000-4000-8000-000000000000"}),
    ],
)
async def test_what_differs_is_no_replay(
    store: Store, task: TaskJson, worker_id: str, changed: TaskJson
) -> None:
    same = held(task, variables={"a": 1})
    await ask(store.complete, "w1", same)
    [answer] = await ask(store.complete, worker_id, same | changed)
    assert (answer["code"], answer["state"]) == ("lock_lost", "COMPLETED")


async def test_another_verb_is_no_replay(store: Store, task: TaskJson) -> None:
    await ask(store.complete, "w1", held(task))
    [answer] = await ask(store.bpmn_error, "w1", held(task, errorCode="E"))
    assert (answer["code"], answer["state"]) == ("lock_lost", "COMPLETED")


async def test_twice_in_one_request_it_is_done_once(
    store: Store, task: TaskJson, connection: Connection
) -> None:
    told = await ask(
        store.complete, "w1", held(task, variables={"a": 1}), held(task, variables={"a": 1}),
        held(task, variables={"a": 2}),
    )  # fmt: skip
    assert [answer.get("replayed", False) for answer in told] == [False, True, False]
    assert [answer.get("code") for answer in told] == [None, None, "lock_lost"]
    assert (await row_of(connection, task["id"]))["result"] == '{"a":1}'


async def test_twice_in_one_batch_it_is_done_once(
    store: Store, task: TaskJson, connection: Connection
) -> None:
    batch = await store.complete([request("w1", held(task, variables={"n": n})) for n in (1, 1, 2)])
    told = [msgspec.json.decode(result.body)[0] for result in batch.results]
    assert told[0] == {"id": task["id"], "outcome": "done"}
    assert told[1] == {"id": task["id"], "outcome": "done", "replayed": True}
    assert told[2]["code"] == "lock_lost"
    assert (await row_of(connection, task["id"]))["result"] == '{"n":1}'


# Races ------------------------------------------------------------------------


@pytest.mark.parametrize(("second", "expected"), [({"a": 1}, "replayed"), ({"a": 2}, "code")])
async def test_a_completion_behind_a_concurrent_one(
    store: Store,
    task: TaskJson,
    connection: Connection,
    watcher: Connection,
    second: TaskJson,
    expected: str,
) -> None:
    told: list[TaskJson] = []

    async def complete() -> None:
        told.extend(await ask(store.complete, "w1", held(task, variables=second)))

    await connection.execute("BEGIN")
    rows = await connection.fetch(
        queries.COMPLETE, SHARD, [request("w1", held(task, variables={"a": 1}))]
    )
    assert rows[0]["refused"] == 0
    async with anyio.create_task_group() as group:
        group.start_soon(complete)
        await eventually(lambda: is_blocked(watcher))
        await connection.execute("COMMIT")
    assert expected in told[0]
    assert await connection.fetchval("SELECT count(*) FROM fetchlock.outcome") == 1
    assert (await row_of(connection, task["id"]))["result"] == '{"a":1}'


async def test_a_completion_behind_one_that_is_rolled_back(
    store: Store, task: TaskJson, connection: Connection, watcher: Connection
) -> None:
    told: list[TaskJson] = []

    async def complete() -> None:
        told.extend(await ask(store.complete, "w1", held(task)))

    await connection.execute("BEGIN")
    await connection.fetch(queries.COMPLETE, SHARD, [request("w1", held(task))])
    async with anyio.create_task_group() as group:
        group.start_soon(complete)
        await eventually(lambda: is_blocked(watcher))
        await connection.execute("ROLLBACK")
    assert told == [{"id": task["id"], "outcome": "done"}]


async def test_a_sweep_passes_over_a_completion_in_flight(
    store: Store, task: TaskJson, connection: Connection
) -> None:
    await connection.execute("BEGIN")
    await connection.fetch(queries.COMPLETE, SHARD, [request("w1", held(task))])
    await connection.execute("SAVEPOINT swept")
    swept = await store.release_due(None, 0)
    assert swept.wakes == []
    await connection.execute("COMMIT")
    assert await state_of(connection, task["id"]) == State.COMPLETED


async def test_a_completion_after_the_expiry_of_a_swept_lock(
    store: Store, task: TaskJson, connection: Connection
) -> None:
    await expire_lock(connection, task["id"])
    await store.release_due(None, 0)
    [answer] = await ask(store.complete, "w1", held(task))
    assert (answer["code"], answer["state"]) == ("lock_lost", "CREATED")
    assert await state_of(connection, task["id"]) == State.READY


@pytest.mark.parametrize("verb", ["complete", "bpmn_error", "fail", "unlock"])
async def test_a_stale_lock_named_in_the_same_batch_does_not_cost_the_holder_its_own(
    store: Store, task: TaskJson, verb: str
) -> None:
    said = {"errorCode": "C", "errorMessage": "e"}
    stale = held(task, **said) | {"lockToken": "00000000-0000-0000-0000-000000000000"}
    first, second = await ask(getattr(store, verb), "w1", stale, held(task, **said))
    assert first["code"] == "lock_lost"
    assert second["outcome"] == "done"

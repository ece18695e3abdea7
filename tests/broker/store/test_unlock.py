"""Giving back: at once, for nothing, to its old place."""

from __future__ import annotations

from functools import partial

import asyncpg
import msgspec
import pytest

from broker.store import Store, queries
from broker.store.database import SHARD
from broker.task import API_STATES, FINISHED, State
from tests.broker.conftest import Statements
from tests.broker.store.test_operator_verbs import in_state
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
    state_of,
)

Connection = asyncpg.Connection


@pytest.fixture
async def task(store: Store) -> TaskJson:
    """A task that is locked by the worker w1."""
    await create(store, {})
    return (await lock(store))[0]


async def test_it_counts_nothing(store: Store, task: TaskJson, connection: Connection) -> None:
    batch = await store.unlock([request("w1", held(task))])
    assert answers(batch) == [{"id": task["id"], "outcome": "done"}]
    row = await row_of(connection, task["id"])
    assert row["state"] == State.READY
    assert (row["retries"], row["failures"], row["expiries"]) == (task["retries"], 0, 0)
    assert row["worker_id"] is row["lock_token"] is row["lock_expires_at"] is None
    assert row["returned"]
    assert [(wake.position, wake.returned) for wake in batch.wakes] == [(row["position"], True)]


async def test_the_first_place_of_each_lane_is_told(store: Store, connection: Connection) -> None:
    created = await create(store, {}, {}, {"priority": 1}, {"priority": 1})
    tasks = await lock(store, 4)
    batch = await store.unlock([request("w1", *map(held, tasks[::-1]))])
    firsts = {
        (row["lane_id"], row["position"])
        for row in [await row_of(connection, task_id) for task_id in (created[0], created[2])]
    }
    assert {(wake.lane_id, wake.position) for wake in batch.wakes} == firsts


async def test_locked_again_it_is_a_new_lock(store: Store, task: TaskJson) -> None:
    await ask(store.unlock, "w1", held(task))
    [again] = await lock(store)
    assert again["id"] == task["id"]
    assert again["attempt"] == task["attempt"] + 1
    assert again["lockToken"] != task["lockToken"]


async def test_twice_in_one_request_it_is_done_once(store: Store, task: TaskJson) -> None:
    told = await ask(store.unlock, "w1", held(task), held(task))
    assert [answer.get("code") for answer in told] == [None, "lock_lost"]
    assert told[1]["state"] == "CREATED"


async def test_what_has_no_retries_left_fails(
    store: Store, task: TaskJson, connection: Connection
) -> None:
    """An operator took them while it was locked."""
    await store.retries([task["id"]], 0)
    batch = await store.unlock([request("w1", held(task))])
    assert answers(batch)[0]["outcome"] == "done"
    assert batch.wakes == []
    assert await state_of(connection, task["id"]) == State.FAILED


# Whoever holds it ---------------------------------------------------------------


def whoever(task: TaskJson) -> TaskJson:
    return {"id": task["id"], "whoever": True}


@pytest.mark.parametrize("is_over", [False, True])
async def test_nobody_is_asked_who_holds_it(
    store: Store, task: TaskJson, connection: Connection, statements: Statements, is_over: bool
) -> None:
    if is_over:
        await expire_lock(connection, task["id"])
    await statements.forget()
    batch = await store.unlock([request(None, whoever(task))])
    assert await statements.calls() == {"unlock": 1}
    assert answers(batch) == [{"id": task["id"], "outcome": "done"}]
    row = await row_of(connection, task["id"])
    assert (row["state"], row["retries"], row["expiries"]) == (State.READY, task["retries"], 0)
    assert [(wake.position, wake.returned) for wake in batch.wakes] == [(row["position"], True)]
    [refused] = await ask(store.complete, "w1", held(task))
    assert refused["code"] == "lock_lost"


@pytest.mark.parametrize("state", [State.READY, State.DELAYED, State.FAILED, State.AWAITING])
async def test_what_nobody_holds_stays_what_it_is(
    store: Store, connection: Connection, statements: Statements, state: State
) -> None:
    task_id = await in_state(store, state)
    before = await row_of(connection, task_id)
    await statements.forget()
    told = await ask(store.unlock, None, {"id": task_id, "whoever": True})
    assert await statements.calls() == {"unlock": 1}
    assert told == [{"id": task_id, "outcome": "done"}]
    assert await row_of(connection, task_id) == before
    [refused] = await ask(store.unlock, "w1", {"id": task_id, "whoever": False})
    assert (refused["code"], refused["state"]) == ("lock_lost", API_STATES[state])


@pytest.mark.parametrize("state", sorted(FINISHED))
async def test_what_cannot_be_unlocked_is_not(
    store: Store, connection: Connection, state: State
) -> None:
    task_id = await in_state(store, state)
    before = await everything(connection)
    [refused] = await ask(store.unlock, None, {"id": task_id, "whoever": True})
    assert (refused["code"], refused["state"]) == ("lock_lost", API_STATES[state])
    assert await everything(connection) == before


async def test_nor_what_has_its_callback(
    store: Store, task: TaskJson, connection: Connection
) -> None:
    await ask(store.callback_url, "w1", held(task))
    await store.callback([called_back(task)])
    [refused] = await ask(store.unlock, None, whoever(task))
    assert refused["code"] == "lock_lost"
    assert await state_of(connection, task["id"]) == State.LOCKED


async def test_an_unknown_id_is_not_found(store: Store) -> None:
    [refused] = await ask(store.unlock, None, {"id": "unknown", "whoever": True})
    assert refused["code"] == "task_not_found"


async def test_a_wish_to_cancel_comes_true(
    store: Store, task: TaskJson, connection: Connection
) -> None:
    await store.cancel(task["id"], "not wanted")
    first, again = await ask(store.unlock, None, whoever(task), whoever(task))
    assert first["outcome"] == "done"
    assert (again["code"], again["state"]) == ("lock_lost", "CANCELLED")
    assert (await row_of(connection, task["id"]))["error_message"] == "not wanted"


@pytest.mark.parametrize("is_one_request", [False, True])
async def test_in_one_batch_it_is_as_one_after_the_other(
    store: Store, task: TaskJson, is_one_request: bool
) -> None:
    said = [whoever(task), held(task), whoever(task)]
    texts = [request("w1", *said)] if is_one_request else [request("w1", one) for one in said]
    batch = await store.unlock(texts)
    told = [answer for result in batch.results for answer in msgspec.json.decode(result.body)]
    assert [answer.get("code") for answer in told] == [None, "lock_lost", None]


async def test_behind_a_failure_it_leaves_the_task_failed(
    store: Store, task: TaskJson, connection: Connection, watcher: Connection
) -> None:
    failed = request("w1", held(task, errorMessage="m", retries=0))
    await connection.execute("BEGIN")
    await connection.fetch(queries.FAIL, SHARD, [failed], 0.0, 1.0, 0.0, 1_000)
    told = await behind(connection, watcher, partial(ask, store.unlock, None, whoever(task)))
    assert told == [{"id": task["id"], "outcome": "done"}]
    assert await state_of(connection, task["id"]) == State.FAILED


async def test_a_completion_behind_it_is_refused(
    store: Store, task: TaskJson, connection: Connection, watcher: Connection
) -> None:
    await connection.execute("BEGIN")
    await connection.fetch(queries.UNLOCK, SHARD, [request(None, whoever(task))])
    said = held(task, acceptsLate=True)
    [answer] = await behind(connection, watcher, partial(ask, store.complete, "w1", said))
    assert (answer["code"], answer["state"]) == ("lock_lost", "CREATED")

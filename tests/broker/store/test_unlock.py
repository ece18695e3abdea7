"""Giving back: at once, for nothing, to its old place."""

from __future__ import annotations

import asyncpg
import pytest

from broker.store import Store
from broker.task import State
from tests.factories import TaskJson, answers, ask, create, held, lock, request, row_of

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

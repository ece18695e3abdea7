"""Callbacks that meet other callbacks, their hand-over, and its end: none is lost or counts twice."""

from __future__ import annotations

from functools import partial

import anyio
import asyncpg
import msgspec
import pytest

from broker.store import Store, queries
from broker.store.database import SHARD
from tests.broker.store.test_callback import call_back, lines_of, locked, task
from tests.eventually import eventually
from tests.factories import (
    TaskJson,
    are_blocked,
    ask,
    behind,
    called_back,
    create,
    held,
    lock,
    request,
    row_of,
    run_out,
)

__all__ = ["locked", "task"]

Connection = asyncpg.Connection


@pytest.mark.parametrize(("second", "code"), [({"a": 1}, None), ({"a": 2}, "conflict")])
async def test_of_two_at_once_the_first_counts(
    store: Store,
    task: TaskJson,
    connection: Connection,
    watcher: Connection,
    second: TaskJson,
    code: str | None,
) -> None:
    await connection.execute("BEGIN")
    first = called_back(task, output={"a": 1}, logs=["l"])
    await connection.fetch(queries.CALLBACK, SHARD, [first])
    said = partial(call_back, store, task, output=second, logs=["m"])
    answer = await behind(connection, watcher, said)
    assert (answer.get("code"), answer.get("replayed")) == (code, None if code else True)
    await store.settle_due(None)
    assert msgspec.json.decode((await row_of(connection, task["id"]))["result"])["a"] == 1
    assert await lines_of(store, task) == ["l"]


@pytest.mark.parametrize("had_url", [True, False])
async def test_behind_a_hand_over_it_completes_the_task(
    store: Store, connection: Connection, watcher: Connection, had_url: bool
) -> None:
    """Without a URL of its own it may come as soon as the outside party knows the task's id."""
    await create(store, {})
    [task] = await lock(store)
    if had_url:
        await ask(store.callback_url, "w1", held(task))
    await connection.execute("BEGIN")
    handed_over = request("w1", held(task, variables={"own": 1}))
    await connection.fetch(queries.HAND_OVER, SHARD, [handed_over], 60_000)
    said = partial(call_back, store, task, output={"a": 1})
    assert (await behind(connection, watcher, said))["state"] == "COMPLETED"
    result = msgspec.json.decode((await row_of(connection, task["id"]))["result"])
    assert result == {"own": 1, "a": 1}


async def test_behind_a_sweep_of_its_hand_over_it_is_too_late(
    store: Store, task: TaskJson, connection: Connection, watcher: Connection
) -> None:
    await run_out(connection, task["id"])
    await connection.execute("BEGIN")
    rows = await connection.fetch(queries.SETTLE_DUE, SHARD, None, None, 10, 0.0, 1.0, 0.0)
    assert len(rows) == 1
    answer = await behind(connection, watcher, partial(call_back, store, task))
    assert (answer["code"], answer["state"]) == ("callback_expired", "CREATED")
    assert (await row_of(connection, task["id"]))["error_code"] == "callback_timeout"


async def test_behind_a_completion_it_is_too_late(
    store: Store, locked: TaskJson, connection: Connection, watcher: Connection
) -> None:
    await connection.execute("BEGIN")
    await connection.fetch(queries.COMPLETE, SHARD, [request("w1", held(locked))])
    answer = await behind(connection, watcher, partial(call_back, store, locked))
    assert (answer["code"], answer["state"]) == ("callback_expired", "COMPLETED")


async def test_a_completion_behind_it_is_refused(
    store: Store, locked: TaskJson, connection: Connection, watcher: Connection
) -> None:
    await connection.execute("BEGIN")
    await connection.fetch(queries.CALLBACK, SHARD, [called_back(locked)])
    said = partial(ask, store.complete, "w1", held(locked))
    [answer] = await behind(connection, watcher, said)
    assert (answer["code"], answer["state"]) == ("lock_lost", "LOCKED")


async def test_batches_that_name_the_same_tasks_do_not_deadlock(
    store: Store, connection: Connection, watcher: Connection
) -> None:
    await create(store, {}, {})
    tasks = sorted(await lock(store, 2), key=lambda task: str(task["id"]))
    await ask(store.hand_over, "w1", *map(held, tasks))
    told: list[TaskJson] = []

    async def call_back_for(order: list[TaskJson]) -> None:
        said = [held(task, isSuccess=True, logs=["l"], subtext="s") for task in order]
        told.extend(await ask(store.callback, None, *said))

    async with anyio.create_task_group() as group:
        await connection.execute("BEGIN")
        last = "SELECT FROM fetchlock.open_task WHERE id = $1 FOR UPDATE"
        await connection.fetch(last, tasks[1]["id"])
        for wanted, order in ((1, tasks[::-1]), (2, tasks)):
            group.start_soon(call_back_for, order)
            await eventually(partial(are_blocked, watcher, wanted))
        await connection.execute("COMMIT")
    assert [answer["outcome"] for answer in told] == ["done"] * 4

"""A task's own time: from its creation, and from its first lock."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import anyio
import asyncpg
import pytest

from broker.core import Core
from broker.store import Store
from broker.task import State
from tests.eventually import eventually
from tests.factories import (
    TaskJson,
    answers,
    ask,
    create,
    creation,
    decoded,
    expire_lock,
    held,
    is_at_rest,
    lock,
    overrun,
    poll,
    row_of,
    shown,
    state_of,
)

Connection = asyncpg.Connection


def after(instant: str, milliseconds: int) -> datetime:
    return datetime.fromisoformat(instant) + timedelta(milliseconds=milliseconds)


def times_out_at(task: TaskJson) -> datetime | None:
    return task["timesOutAt"] and datetime.fromisoformat(task["timesOutAt"])


# From when on -----------------------------------------------------------------


async def test_without_timeouts_there_is_none(store: Store, connection: Connection) -> None:
    [answer] = answers(await store.create([creation({})]))
    assert answer["task"]["timesOutAt"] is None
    [task] = await lock(store)
    assert task["timesOutAt"] is None
    assert (await row_of(connection, task["id"]))["deadline_at"] is None


async def test_the_total_timeout_counts_from_the_creation(store: Store) -> None:
    for delay in ({}, {"delayMs": 3_600_000}):
        said = creation({"totalTimeoutMs": 5_000, "executionTimeoutMs": 9_000} | delay)
        [answer] = answers(await store.create([said]))
        expected = after(answer["task"]["createdAt"], 5_000)
        assert times_out_at(answer["task"]) == expected
        assert times_out_at(await shown(store, answer["id"])) == expected


async def test_the_execution_timeout_counts_from_the_first_lock(
    store: Store, connection: Connection
) -> None:
    [answer] = answers(await store.create([creation({"executionTimeoutMs": 5_000})]))
    assert answer["task"]["timesOutAt"] is None
    assert (await shown(store, answer["id"]))["timesOutAt"] is None
    [first] = await lock(store)
    expected = after(first["startedAt"], 5_000)
    assert times_out_at(first) == times_out_at(await shown(store, first["id"])) == expected
    await ask(store.unlock, "w1", held(first))
    [second] = await lock(store)
    assert second["startedAt"] > first["startedAt"]
    assert times_out_at(second) == expected
    assert (await row_of(connection, first["id"]))["deadline_at"] == expected


@pytest.mark.parametrize(("execution_ms", "total_ms"), [(5_000, 600_000), (600_000, 5_000)])
async def test_of_both_the_earlier_counts(store: Store, execution_ms: int, total_ms: int) -> None:
    await create(store, {"executionTimeoutMs": execution_ms, "totalTimeoutMs": total_ms})
    [task] = await lock(store)
    expected = min(after(task["startedAt"], execution_ms), after(task["createdAt"], total_ms))
    assert times_out_at(task) == times_out_at(await shown(store, task["id"])) == expected


@pytest.mark.parametrize(
    ("timeouts", "from_now_ms"),
    [
        ({}, None),
        ({"executionTimeoutMs": 5_000}, 5_000),
        ({"totalTimeoutMs": 5_000}, 5_000),
        ({"executionTimeoutMs": 5_000, "totalTimeoutMs": 9_000}, 5_000),
        ({"executionTimeoutMs": 9_000, "totalTimeoutMs": 5_000}, 5_000),
    ],
)
async def test_what_is_born_locked_has_begun(
    core: Core, connection: Connection, timeouts: TaskJson, from_now_ms: int | None
) -> None:
    await core.create(creation({}))
    await poll(core.dispatcher)
    brought: list[TaskJson] = []

    async def wait() -> None:
        brought.extend(decoded((await poll(core.dispatcher)).body))

    async def is_waited_for() -> bool:
        return len(core.dispatcher._waiters) == 1 and is_at_rest(core.dispatcher)

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await eventually(is_waited_for)
        await core.create(creation(timeouts))
    [task] = brought
    assert task["createdAt"] == task["startedAt"]
    expected = None if from_now_ms is None else after(task["createdAt"], from_now_ms)
    assert times_out_at(task) == expected
    row = await row_of(connection, task["id"])
    assert (row["deadline_at"], row["execution_timeout_ms"]) == (
        expected, timeouts.get("executionTimeoutMs"),
    )  # fmt: skip


# In each state ----------------------------------------------------------------


async def in_state(store: Store, state: State, **timeouts: int) -> str:
    delay = {"delayMs": 60_000} if state is State.DELAYED else {}
    [task_id] = await create(store, timeouts | delay)
    if state in (State.LOCKED, State.AWAITING, State.FAILED):
        [task] = await lock(store)
        if state is State.AWAITING:
            await ask(store.hand_over, "w1", held(task))
        if state is State.FAILED:
            await ask(store.fail, "w1", held(task, errorMessage="m", retries=0))
    return task_id


@pytest.mark.parametrize("state", [State.DELAYED, State.READY, State.LOCKED, State.AWAITING])
async def test_whose_time_is_over_is_an_incident(
    store: Store, connection: Connection, state: State
) -> None:
    task_id = await in_state(store, state, totalTimeoutMs=60_000)
    before = await row_of(connection, task_id)
    await overrun(connection, task_id)
    assert (await store.release_due(5_000, 0)).has_to_settle
    settled = await store.settle_due(5_000)
    row = await row_of(connection, task_id)
    assert (row["state"], row["error_code"]) == (State.FAILED, "total_timeout")
    assert row["error_message"] == "the task was not finished within its total timeout"
    for name in ("retries", "failures", "expiries", "attempt", "available_at"):
        assert row[name] == before[name], name
    assert row["returned"]  # Fetches have gone past it, also where it was never delivered.
    assert row["worker_id"] is row["lock_token"] is row["lock_expires_at"] is None
    assert (settled.wakes, settled.due_in_ms) == ([], None)
    assert settled.by_id[task_id]["state"] == "FAILED"
    assert (await shown(store, task_id))["timesOutAt"] is None
    assert await lock(store) == []
    # Over is over.
    assert not (await store.release_due(5_000, 0)).has_to_settle
    assert (await store.settle_due(None)).by_id == {}


@pytest.mark.parametrize("state", [State.READY, State.LOCKED, State.AWAITING])
async def test_the_execution_timeout_has_a_name_of_its_own(
    store: Store, connection: Connection, state: State
) -> None:
    task_id = await in_state(
        store, State.LOCKED if state is State.READY else state,
        executionTimeoutMs=60_000, totalTimeoutMs=600_000,
    )  # fmt: skip
    if state is State.READY:
        await expire_lock(connection, task_id)
        await store.release_due(None, 0)
    assert await state_of(connection, task_id) == state
    await overrun(connection, task_id)
    await store.settle_due(None)
    row = await row_of(connection, task_id)
    assert (row["state"], row["error_code"]) == (State.FAILED, "execution_timeout")
    assert row["error_message"] == "the task was not finished within its execution timeout"


async def test_an_incident_has_no_more_time_to_lose(store: Store, connection: Connection) -> None:
    task_id = await in_state(store, State.FAILED, totalTimeoutMs=60_000)
    await overrun(connection, task_id)
    assert not (await store.release_due(None, 0)).has_to_settle
    assert (await store.settle_due(None)).by_id == {}
    assert (await row_of(connection, task_id))["error_message"] == "m"


async def test_its_worker_has_lost_the_lock(store: Store, connection: Connection) -> None:
    await create(store, {"executionTimeoutMs": 60_000})
    [task] = await lock(store)
    await overrun(connection, task["id"])
    await store.settle_due(None)
    [answer] = await ask(store.complete, "w1", held(task))
    assert (answer["code"], answer["state"]) == ("lock_lost", "FAILED")


async def test_an_end_that_comes_before_the_sweep_counts(
    store: Store, connection: Connection
) -> None:
    await create(store, {"executionTimeoutMs": 60_000})
    [task] = await lock(store)
    await overrun(connection, task["id"])
    [answer] = await ask(store.complete, "w1", held(task))
    assert answer["outcome"] == "done"
    assert (await store.settle_due(None)).by_id == {}


# Sent again by a person -------------------------------------------------------


@pytest.mark.parametrize("timeout", ["executionTimeoutMs", "totalTimeoutMs"])
async def test_a_redriven_task_has_its_time_again(
    store: Store, connection: Connection, timeout: str
) -> None:
    [task_id] = await create(store, {timeout: 5_000})
    await lock(store)
    await overrun(connection, task_id)
    await store.settle_due(None)
    await store.retries([task_id], 1)
    row = await row_of(connection, task_id)
    assert row["deadline_at"] is row["total_expires_at"] is None
    assert (await store.settle_due(None)).by_id == {}
    [task] = await lock(store)
    assert times_out_at(task) == (
        None if timeout == "totalTimeoutMs" else after(task["startedAt"], 5_000)
    )


async def test_another_number_of_retries_is_no_more_time(
    store: Store, connection: Connection
) -> None:
    for state in (State.DELAYED, State.READY, State.LOCKED, State.AWAITING):
        task_id = await in_state(store, state, totalTimeoutMs=60_000, executionTimeoutMs=90_000)
        before: dict[str, Any] = await row_of(connection, task_id)
        await store.retries([task_id], 9)
        row = await row_of(connection, task_id)
        assert row["deadline_at"] == before["deadline_at"] is not None
        assert row["total_expires_at"] == before["total_expires_at"]
        await connection.execute("DELETE FROM fetchlock.open_task")


async def test_a_key_stands_for_the_timeouts_too(store: Store) -> None:
    """Asked for again with another one, it is another request."""
    said = {"uniqueKey": "k", "totalTimeoutMs": 5_000}
    [task_id] = await create(store, said)
    [answer] = answers(await store.create([creation(said)]))
    assert (answer["id"], answer["replayed"]) == (task_id, True)
    [answer] = answers(await store.create([creation(said | {"totalTimeoutMs": 6_000})]))
    assert answer["code"] == "conflict"

"""cancel, retries, retry-timeout and priority: from whatever state allows it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from uuid import uuid4

import anyio
import asyncpg
import msgspec
import pytest

from broker.errors import Conflict, Invalid, TaskNotFound
from broker.store import Batch, Store, queries
from broker.store.database import SHARD
from broker.task import API_STATES, FINISHED, TRANSITIONS, State
from tests.broker.conftest import Statements
from tests.eventually import eventually
from tests.factories import (
    TaskJson,
    are_blocked,
    ask,
    behind,
    create,
    everything,
    expire_lock,
    held,
    is_blocked,
    lock,
    request,
    row_of,
    shown,
    state_of,
)

Connection = asyncpg.Connection

VERBS: dict[str, Callable[[Store, str], Awaitable[Batch]]] = {
    "cancel": lambda store, task_id: store.cancel(task_id, "reason"),
    "retries": lambda store, task_id: store.retries([task_id], 2),
    "retry_timeout": lambda store, task_id: store.retry_timeout(task_id, 60_000),
    # Of the priority that it has: another one may need a lane first.
    "priority": lambda store, task_id: store.priority(task_id, 0),
}


def answer_of(batch: Batch) -> TaskJson:
    [result] = batch.results
    answer: TaskJson = msgspec.json.decode(result.body)
    return answer


async def in_state(store: Store, state: State) -> str:
    """The id of a task that was brought into a state."""
    [task_id] = await create(store, {"delayMs": 60_000} if state is State.DELAYED else {})
    if state in (State.DELAYED, State.READY):
        return task_id
    [task] = await lock(store)
    match state:
        case State.AWAITING:
            await ask(store.hand_over, "w1", held(task))
        case State.FAILED:
            await ask(store.fail, "w1", held(task, errorMessage="e", retries=0))
        case State.COMPLETED:
            await ask(store.complete, "w1", held(task))
        case State.BPMN_ERROR:
            await ask(store.bpmn_error, "w1", held(task, errorCode="E"))
        case State.CANCELLED:
            await ask(store.unlock, "w1", held(task))
            await store.cancel(task_id, None)
    return task_id


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("name", list(VERBS))
async def test_a_verb_starts_from_the_states_that_allow_it(
    store: Store, connection: Connection, statements: Statements, name: str, state: State
) -> None:
    task_id = await in_state(store, state)
    assert await state_of(connection, task_id) == state
    allowed = TRANSITIONS[name].get(state)
    before = await everything(connection)
    await statements.forget()
    if allowed is None:
        with pytest.raises(Conflict) as refusal:
            await VERBS[name](store, task_id)
        assert refusal.value.facts == {"taskId": task_id, "state": API_STATES[state]}
        assert await everything(connection) == before
    else:
        await VERBS[name](store, task_id)
        is_repeated = state is State.CANCELLED
        assert await statements.calls() == {name: 1} | ({"refusals": 1} if is_repeated else {})
        assert await state_of(connection, task_id) in allowed


@pytest.mark.parametrize("name", list(VERBS))
async def test_an_id_that_no_task_has_is_not_found(store: Store, name: str) -> None:
    for task_id in (str(uuid4()), "", "é", "1" * 36):
        with pytest.raises(TaskNotFound) as refusal:
            await VERBS[name](store, task_id)
        assert refusal.value.facts == {"taskId": task_id}


# cancel -----------------------------------------------------------------------


async def test_a_cancelled_task_says_why_and_whose_it_was(
    store: Store, connection: Connection
) -> None:
    [task_id] = await create(store, {})
    [task] = await lock(store)
    await expire_lock(connection, task_id)
    assert answer_of(await store.cancel(task_id, "not wanted")) == {"state": "CANCELLED"}
    row = await row_of(connection, task_id)
    assert (row["error_message"], row["worker_id"], row["attempt"]) == ("not wanted", "w1", 1)
    assert str(row["lock_token"]) == task["lockToken"]


async def test_said_twice_the_first_reason_holds(store: Store, connection: Connection) -> None:
    [task_id] = await create(store, {})
    await store.cancel(task_id, "first")
    assert answer_of(await store.cancel(task_id, "second")) == {"state": "CANCELLED"}
    assert (await row_of(connection, task_id))["error_message"] == "first"


async def test_a_cancel_behind_a_completion_is_a_conflict(
    store: Store, connection: Connection, watcher: Connection
) -> None:
    [task_id] = await create(store, {})
    [task] = await lock(store)
    told: list[Conflict] = []

    async def cancel() -> None:
        with pytest.raises(Conflict) as refusal:
            await store.cancel(task_id, None)
        told.append(refusal.value)

    await connection.execute("BEGIN")
    await connection.fetch(queries.COMPLETE, SHARD, [request("w1", held(task))])
    async with anyio.create_task_group() as group:
        group.start_soon(cancel)
        await eventually(lambda: is_blocked(watcher))
        await connection.execute("COMMIT")
    assert told[0].facts["state"] == "COMPLETED"
    assert await state_of(connection, task_id) == State.COMPLETED


# retries ----------------------------------------------------------------------


async def test_a_failed_task_is_redriven_to_its_old_place(
    store: Store, connection: Connection
) -> None:
    task_id = await in_state(store, State.FAILED)
    await create(store, {})
    await connection.execute("UPDATE fetchlock.open_task SET expiries = 4")
    batch = await store.retries([task_id], 3)
    row = await row_of(connection, task_id)
    answer = answer_of(batch)
    assert (answer["state"], answer["retries"]) == ("CREATED", 3)
    assert [tuple(wake) for wake in batch.wakes] == [(row["lane_id"], row["position"], True)]
    assert (row["retries"], row["expiries"], row["failures"]) == (3, 0, 1)
    first, _ = await lock(store, 2)
    assert first["id"] == task_id


async def test_elsewhere_the_number_alone_changes(store: Store, connection: Connection) -> None:
    for state in (State.READY, State.DELAYED, State.LOCKED, State.AWAITING):
        task_id = await in_state(store, state)
        before = await row_of(connection, task_id)
        answer = answer_of(await store.retries([task_id], 77))
        after = await row_of(connection, task_id)
        changed = {name for name in before if before[name] != after[name]}
        assert changed == {"retries", "retries_set"}
        assert (answer["state"], answer["retries"]) == (API_STATES[state], 77)
        await connection.execute("DELETE FROM fetchlock.open_task")


@pytest.mark.parametrize("state", [State.READY, State.DELAYED])
async def test_with_none_left_what_nobody_holds_fails(
    store: Store, connection: Connection, state: State
) -> None:
    task_id = await in_state(store, state)
    batch = await store.retries([task_id], 0)
    answer = answer_of(batch)
    assert (answer["state"], answer["retries"], batch.wakes) == ("FAILED", 0, [])
    assert await state_of(connection, task_id) == State.FAILED
    assert await lock(store) == []


async def test_with_none_a_failed_one_stays_failed(store: Store, connection: Connection) -> None:
    task_id = await in_state(store, State.FAILED)
    await connection.execute("UPDATE fetchlock.open_task SET expiries = 4")
    before = await row_of(connection, task_id)
    assert answer_of(await store.retries([task_id], 0))["state"] == "FAILED"
    after = await row_of(connection, task_id)
    assert {name for name in before if before[name] != after[name]} <= {"retries_set"}


async def test_what_somebody_holds_goes_on_with_none(store: Store, connection: Connection) -> None:
    task_id = await in_state(store, State.LOCKED)
    assert answer_of(await store.retries([task_id], 0))["state"] == "LOCKED"
    assert (await ask(store.complete, "w1", {"id": task_id}))[0]["outcome"] == "done"


async def test_it_shows_that_somebody_said_so(store: Store) -> None:
    [task_id] = await create(store, {})
    assert "retriesSet" not in await shown(store, task_id)
    await store.retries([task_id], 3)
    assert (await shown(store, task_id))["retriesSet"] is True
    [task] = await lock(store)
    assert task["retriesSet"] is True


async def test_of_several_all_are_set(
    store: Store, connection: Connection, statements: Statements
) -> None:
    ids = [await in_state(store, state) for state in (State.FAILED, State.LOCKED, State.READY)]
    await statements.forget()
    batch = await store.retries([*ids, ids[0]], 7)
    assert await statements.calls() == {"retries": 1}
    assert len(batch.results) == 3
    rows = [await row_of(connection, task_id) for task_id in ids]
    assert [row["retries"] for row in rows] == [7, 7, 7]
    ready = {(rows[place]["lane_id"], rows[place]["position"], True) for place in (0, 2)}
    assert {tuple(wake) for wake in batch.wakes} == ready


@pytest.mark.parametrize("state", [None, *sorted(FINISHED)])
async def test_where_one_is_finished_or_unknown_none_is_set(
    store: Store, connection: Connection, state: State | None
) -> None:
    other = str(uuid4()) if state is None else await in_state(store, state)
    ids = [await in_state(store, State.FAILED), other]
    before = await everything(connection)
    with pytest.raises(TaskNotFound if state is None else Conflict) as refusal:
        await store.retries(ids, 7)
    assert refusal.value.facts["taskId"] == other
    assert await everything(connection) == before


async def test_what_was_found_and_is_finished_is_passed_over(
    store: Store, connection: Connection
) -> None:
    finished = await in_state(store, State.COMPLETED)
    named, found = [await in_state(store, State.FAILED) for _ in range(2)]
    batch = await store.retries([named], 7, [finished, found, str(uuid4()), ""])
    assert len(batch.results) == len(batch.wakes) == 2
    assert [(await shown(store, each))["retries"] for each in (named, found)] == [7, 7]
    before = await everything(connection)
    # Nothing is left of those found; one that was named stands in the way; it is both.
    for ids, others in (([], [finished]), ([finished], [found]), ([finished, named], [finished])):
        with pytest.raises(Conflict) as refusal:
            await store.retries(ids, 8, others)
        assert refusal.value.facts["taskId"] == finished
    assert await everything(connection) == before


async def test_statements_about_the_same_tasks_do_not_deadlock(
    store: Store, connection: Connection, watcher: Connection
) -> None:
    ids = sorted(await create(store, {}, {}))
    async with anyio.create_task_group() as group:
        await connection.execute("BEGIN")
        await connection.fetch("SELECT FROM fetchlock.open_task WHERE id = $1 FOR UPDATE", ids[1])
        for wanted, order in ((1, ids[::-1]), (2, ids)):
            group.start_soon(store.retries, order, wanted)
            await eventually(partial(are_blocked, watcher, wanted))
        await connection.execute("COMMIT")
    assert [(await row_of(connection, task_id))["retries"] for task_id in ids] == [2, 2]


async def test_behind_a_completion_none_is_set(
    store: Store, connection: Connection, watcher: Connection
) -> None:
    other = await in_state(store, State.FAILED)
    [task_id] = await create(store, {})
    [task] = await lock(store)

    async def redrive() -> Conflict:
        with pytest.raises(Conflict) as refusal:
            await store.retries([other, task_id], 7)
        return refusal.value

    await connection.execute("BEGIN")
    await connection.fetch(queries.COMPLETE, SHARD, [request("w1", held(task))])
    assert (await behind(connection, watcher, redrive)).facts["taskId"] == task_id
    assert await state_of(connection, other) == State.FAILED


async def test_behind_a_completion_what_was_found_is_passed_over(
    store: Store, connection: Connection, watcher: Connection
) -> None:
    other = await in_state(store, State.FAILED)
    [task_id] = await create(store, {})
    [task] = await lock(store)
    await connection.execute("BEGIN")
    await connection.fetch(queries.COMPLETE, SHARD, [request("w1", held(task))])
    await behind(connection, watcher, partial(store.retries, [], 7, [task_id, other]))
    assert await state_of(connection, other) == State.READY
    assert await state_of(connection, task_id) == State.COMPLETED


async def test_a_number_too_large_for_postgresql_is_invalid(store: Store) -> None:
    task_id = await in_state(store, State.READY)
    with pytest.raises(Invalid):
        await store.retries([task_id], 2**31)


# retry-timeout ----------------------------------------------------------------


async def test_a_wait_is_moved(store: Store, connection: Connection) -> None:
    task_id = await in_state(store, State.DELAYED)
    for retry_timeout_ms in (5_000, 500_000):
        batch = await store.retry_timeout(task_id, retry_timeout_ms)
        row = await row_of(connection, task_id)
        now = await connection.fetchval("SELECT clock_timestamp()")
        assert batch.due_in_ms == retry_timeout_ms
        assert batch.wakes == []
        assert 0 < (row["available_at"] - now).total_seconds() <= retry_timeout_ms / 1000
        assert set(answer_of(batch)) == {"availableAt"}


async def test_a_wait_of_nothing_is_over(store: Store, connection: Connection) -> None:
    task_id = await in_state(store, State.DELAYED)
    batch = await store.retry_timeout(task_id, 0)
    row = await row_of(connection, task_id)
    assert row["state"] == State.READY
    assert [tuple(wake) for wake in batch.wakes] == [(row["lane_id"], row["position"], True)]
    assert [task["id"] for task in await lock(store)] == [task_id]

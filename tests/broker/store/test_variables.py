"""Variables that are set and removed while a task is open: of all tasks that are named, or of none."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import anyio
import asyncpg
import msgspec
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from broker.errors import Conflict, TaskNotFound, TooLarge
from broker.settings import Settings
from broker.store import Batch, NewVariables, Store, queries
from broker.store.database import SHARD
from broker.task import API_STATES, FINISHED, State
from tests.broker.conftest import Statements
from tests.broker.store.test_operator_verbs import in_state
from tests.eventually import eventually
from tests.factories import (
    answers,
    are_blocked,
    ask,
    beat,
    behind,
    create,
    everything,
    held,
    lock,
    request,
    row_of,
    shown,
    state_of,
    subscribe,
)

Connection = asyncpg.Connection

NOBODY = "019aa5f0-7c1e-7b44-9d2a-3f5c8e1b6a01"


async def set_on(
    store: Store,
    *task_ids: str,
    deletions: tuple[str, ...] = (),
    types: dict[str, Any] | None = None,
    **variables: Any,
) -> Batch:
    wish = NewVariables(
        msgspec.json.encode(variables).decode(),
        None if types is None else msgspec.json.encode(types).decode(),
        deletions,
    )
    return await store.variables(task_ids, wish)


async def test_they_are_set_and_removed(
    store: Store, connection: Connection, statements: Statements
) -> None:
    [task_id] = await create(store, {"variables": {"kept": 1, "changed": 1, "gone": 1}})
    await statements.forget()
    batch = await set_on(store, task_id, changed=2, new=[3], deletions=("gone", "never there"))
    assert await statements.calls() == {"variables": 1}
    row = await row_of(connection, task_id)
    assert [tuple(wake) for wake in batch.wakes] == [(row["lane_id"], row["position"], False)]
    expected = {"kept": 1, "changed": 2, "new": [3]}
    assert (await shown(store, task_id))["variables"] == expected
    [task] = await lock(store)
    assert task["variables"] == expected


async def test_a_name_that_is_removed_and_set_is_set(store: Store) -> None:
    [task_id] = await create(store, {"variables": {"a": 1}})
    for _ in range(2):  # The first time there is no row in progress yet.
        await set_on(store, task_id, a=2, deletions=("a",))
        assert (await shown(store, task_id))["variables"] == {"a": 2}


async def test_a_subscription_may_want_some_of_them(store: Store) -> None:
    [task_id] = await create(store, {"variables": {"a": 1, "b": 1}})
    await set_on(store, task_id, b=2, c=2)
    [task] = await lock(store, subscriptions=subscribe(variables=("b", "c", "d")))
    assert task["variables"] == {"b": 2, "c": 2}


_names = st.sampled_from(["a", "b", "c", "", "é", 'with "quotes"'])
_objects = st.dictionaries(_names, st.none() | st.integers() | st.text("ab\\"), max_size=4)
_types = st.dictionaries(_names, st.just({"type": "Short"}), max_size=2)
_wishes = st.lists(st.tuples(_objects, _types, st.lists(_names, max_size=3)), max_size=4)


@hypothesis_settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(first=_objects, wishes=_wishes)
async def test_they_are_as_a_map_would_be(
    store: Store,
    connection: Connection,
    first: dict[str, Any],
    wishes: list[tuple[dict[str, Any], dict[str, Any], list[str]]],
) -> None:
    """Of typed ones also the notes: those of a name go with its value."""
    [task_id] = await create(store, {"variables": first})
    known, notes = dict(first), dict[str, Any]()
    for variables, types, deletions in wishes:
        types = {name: note for name, note in types.items() if name in variables}
        given, noted = (msgspec.json.encode(each).decode() for each in (variables, types))
        await store.variables([task_id], NewVariables(given, noted, deletions))
        for name in (*deletions, *variables):
            known.pop(name, None)
            notes.pop(name, None)
        known |= variables
        notes |= types
    task = await shown(store, task_id)
    assert (task["variables"], task.get("variableTypes", {})) == (known, notes)
    size_bytes = (await row_of(connection, task_id))["size_bytes"]
    stored = await connection.fetchval(
        "SELECT octet_length(fetchlock.variables_of(id, variables, shard)::text)"
        " + coalesce(octet_length(fetchlock.variable_types_of(id, NULL, shard)::text), 0) "
        "FROM fetchlock.task WHERE id = $1",
        task_id,
    )
    assert size_bytes == stored


async def test_numbers_are_kept_to_the_letter(store: Store) -> None:
    written = '{"n":123456789012345678901234567890,"f":1.0,"e":1e300}'
    [task_id] = await create(store, {"variables": {"g": 1}})
    await store.variables([task_id], NewVariables(written))
    text = (await store.get_tasks([task_id]))[task_id][0]
    for number in (b"123456789012345678901234567890", b"1.0", b"1e300"):
        assert number in text


@pytest.mark.parametrize("state", sorted(set(State) - FINISHED))
async def test_its_state_is_as_before(store: Store, connection: Connection, state: State) -> None:
    task_id = await in_state(store, state)
    before = await row_of(connection, task_id)
    batch = await set_on(store, task_id, a=1)
    after = await row_of(connection, task_id)
    changed = {name for name in before if before[name] != after[name]}
    assert changed <= {"reported", "size_bytes"}
    task = await shown(store, task_id)
    assert (task["state"], task["variables"]) == (API_STATES[state], {"a": 1})
    assert bool(batch.wakes) == (state is State.READY)


async def test_progress_and_variables_share_a_row(store: Store) -> None:
    [task_id] = await create(store, {"variables": {"a": 1}})
    [task] = await lock(store)
    await beat(store, held(task, percent=5, checkpoint={"n": 1}))
    assert (await shown(store, task_id))["variables"] == {"a": 1}
    await set_on(store, task_id, b=2)
    await beat(store, held(task, percent=6))
    told = await shown(store, task_id)
    assert told["variables"] == {"a": 1, "b": 2}
    assert (told["progress"]["percent"], told["checkpoint"]) == (6, {"n": 1})


# Refusals -----------------------------------------------------------------------


@pytest.mark.parametrize("state", sorted(FINISHED))
async def test_of_a_finished_task_nothing_is_set(
    store: Store, connection: Connection, state: State
) -> None:
    finished = await in_state(store, state)
    [task_id] = await create(store, {})
    before = await everything(connection)
    with pytest.raises(Conflict) as refusal:
        await set_on(store, task_id, finished, a=1)
    assert refusal.value.facts == {"taskId": finished, "state": API_STATES[state]}
    assert await everything(connection) == before


@pytest.mark.parametrize("unknown", [NOBODY, "", "é"])
async def test_an_unknown_one_among_them_is_not_found(
    store: Store, connection: Connection, unknown: str
) -> None:
    [task_id] = await create(store, {})
    before = await everything(connection)
    with pytest.raises(TaskNotFound) as refusal:
        await set_on(store, task_id, unknown, a=1)
    assert refusal.value.facts == {"taskId": unknown}
    assert await everything(connection) == before


async def test_of_several_all_are_set(store: Store) -> None:
    ids = await create(store, {}, {"variables": {"b": 1}}, {"topic": "other"})
    batch = await set_on(store, *ids, ids[0], a=1)
    assert len(batch.wakes) == 3
    told = [(await shown(store, task_id))["variables"] for task_id in ids]
    assert told == [{"a": 1}, {"b": 1, "a": 1}, {"a": 1}]


async def test_what_was_found_and_is_finished_is_passed_over(
    store: Store, connection: Connection
) -> None:
    finished = await in_state(store, State.COMPLETED)
    named, found = await create(store, {}, {})
    batch = await store.variables([named], NewVariables('{"a":1}'), [finished, found, NOBODY, ""])
    assert len(batch.wakes) == 2
    told = [(await shown(store, task_id))["variables"] for task_id in (named, found, finished)]
    assert told == [{"a": 1}, {"a": 1}, {}]
    before = await everything(connection)
    # Nothing is left of those found; one that was named stands in the way; it is both.
    for ids, others in (([], [finished]), ([finished], [found]), ([finished, named], [finished])):
        with pytest.raises(Conflict) as refusal:
            await store.variables(ids, NewVariables('{"a":2}'), others)
        assert refusal.value.facts["taskId"] == finished
    assert await everything(connection) == before


async def test_removing_many_of_many_takes_no_longer_than_removing_one(store: Store) -> None:
    names = [f"variable number {n}" for n in range(20_000)]
    ids = await create(store, *({"variables": dict.fromkeys(names, 0)} for _ in range(4)))

    async def took(task_id: str, gone: list[str]) -> float:
        began = time.perf_counter()
        await store.variables([task_id], NewVariables("{}", None, gone))
        lasted = time.perf_counter() - began
        kept = dict.fromkeys(set(names) - set(gone), 0)
        assert (await shown(store, task_id))["variables"] == kept
        return lasted

    many = min([await took(task_id, names[-4_000:]) for task_id in ids[:2]])
    assert many < 4 * min([await took(task_id, names[-1:]) for task_id in ids[2:]])


async def test_they_have_only_so_many_bytes(
    store: Store, connection: Connection, settings: Settings
) -> None:
    bytes_max = settings.variables_bytes_max
    small, large = await create(store, {}, {"variables": {"a": "x" * (bytes_max // 2)}})
    before = await everything(connection)
    with pytest.raises(TooLarge) as refusal:
        await set_on(store, small, large, a="x" * (bytes_max // 2))
    assert refusal.value.facts == {"bytesMax": bytes_max}
    assert await everything(connection) == before
    await set_on(store, small, a="x" * (bytes_max // 2))


# Races --------------------------------------------------------------------------


async def test_behind_another_both_are_set(
    store: Store, connection: Connection, watcher: Connection
) -> None:
    [task_id] = await create(store, {"variables": {"first": 0}})
    await connection.execute("BEGIN")
    await connection.fetch(
        queries.VARIABLES, SHARD, [task_id], '{"a":1,"b":1}', '{"a":{"type":"Short"}}', [], 1_000, [],
    )  # fmt: skip
    await behind(connection, watcher, partial(set_on, store, task_id, b=2))
    task = await shown(store, task_id)
    assert task["variables"] == {"first": 0, "a": 1, "b": 2}
    assert task["variableTypes"] == {"a": {"type": "Short"}}


async def test_behind_a_completion_it_is_a_conflict(
    store: Store, connection: Connection, watcher: Connection
) -> None:
    [task_id] = await create(store, {})
    [task] = await lock(store)

    async def set_them() -> Conflict:
        with pytest.raises(Conflict) as refusal:
            await set_on(store, task_id, a=1)
        return refusal.value

    await connection.execute("BEGIN")
    await connection.fetch(queries.COMPLETE, SHARD, [request("w1", held(task))])
    assert (await behind(connection, watcher, set_them)).facts["state"] == "COMPLETED"


async def test_behind_a_completion_what_was_found_is_passed_over(
    store: Store, connection: Connection, watcher: Connection
) -> None:
    task_id, other = await create(store, {}, {})
    [task] = await lock(store)
    assert task["id"] == task_id
    await connection.execute("BEGIN")
    await connection.fetch(queries.COMPLETE, SHARD, [request("w1", held(task))])
    said = partial(store.variables, [], NewVariables('{"a":1}'), [task_id, other])
    await behind(connection, watcher, said)
    told = [(await shown(store, each))["variables"] for each in (task_id, other)]
    assert told == [{}, {"a": 1}]


async def test_a_failure_behind_it_adds_to_what_was_set(
    store: Store, connection: Connection, watcher: Connection
) -> None:
    [task_id] = await create(store, {})
    [task] = await lock(store)
    await connection.execute("BEGIN")
    await connection.fetch(queries.VARIABLES, SHARD, [task_id], '{"a":1}', None, [], 1_000, [])
    said = request("w1", held(task, errorMessage="m", retryTimeoutMs=0, variables={"b": 2}))
    batch = await behind(connection, watcher, partial(store.fail, [said]))
    assert answers(batch)[0]["outcome"] == "done"
    assert (await shown(store, task_id))["variables"] == {"a": 1, "b": 2}


async def test_a_fetch_finds_what_was_set_just_before(
    store: Store, connection: Connection, watcher: Connection
) -> None:
    """Also when the fetch began before that was committed: it passes over the task, or sees it."""
    [task_id] = await create(store, {})
    await connection.execute("BEGIN")
    await connection.fetch(queries.VARIABLES, SHARD, [task_id], '{"a":1}', None, [], 1_000, [])
    assert await lock(store) == []
    await connection.execute("COMMIT")
    [task] = await lock(store)
    assert task["variables"] == {"a": 1}
    assert await state_of(connection, task_id) == State.LOCKED


async def test_statements_about_the_same_tasks_do_not_deadlock(
    store: Store, connection: Connection, watcher: Connection
) -> None:
    ids = sorted(await create(store, {}, {}))
    async with anyio.create_task_group() as group:
        await connection.execute("BEGIN")
        await connection.fetch("SELECT FROM fetchlock.open_task WHERE id = $1 FOR UPDATE", ids[1])
        for wanted, order in ((1, ids[::-1]), (2, ids)):
            group.start_soon(partial(set_on, store, *order, a=wanted))
            await eventually(partial(are_blocked, watcher, wanted))
        await connection.execute("COMMIT")
    assert (await shown(store, ids[0]))["variables"] == {"a": 2}


async def test_an_unlock_gives_the_next_worker_what_was_set_meanwhile(store: Store) -> None:
    [task_id] = await create(store, {})
    [task] = await lock(store)
    await set_on(store, task_id, a=1)
    await ask(store.unlock, "w1", held(task))
    [again] = await lock(store)
    assert again["variables"] == {"a": 1}

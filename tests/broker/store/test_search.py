"""Searching the open tasks: what is found, shown and refused. See test_search_model.py for the rest."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final

import anyio
import asyncpg
import msgspec
import pytest
from msgspec import Raw

from broker.errors import Invalid, Unavailable
from broker.store import Store, searching
from broker.store.searching import Condition, Filters, Operator, Search, Sort
from broker.task import FINISHED, State
from tests.broker.conftest import Statements
from tests.broker.store.test_operator_verbs import in_state
from tests.eventually import eventually
from tests.factories import are_blocked, ask, create, expire_lock, held, lock, shown, subscribe

Connection = asyncpg.Connection

_ALL: Final = Filters()


async def found(store: Store, filters: Filters = _ALL, *sorts: Sort) -> list[str]:
    tasks = await store.search(Search(filters, sorts))
    assert await store.count(filters) == len(tasks)
    return [task.task_id for task in tasks]


def condition(
    name: str, operator: Operator, value: Any, instant: datetime | None = None
) -> Filters:
    encoded = Raw(msgspec.json.encode(value))
    return Filters(conditions=(Condition(name, operator, encoded, instant),))


# What a search shows ----------------------------------------------------------


async def test_only_open_tasks_are_found_and_in_the_order_of_creation(store: Store) -> None:
    by_state: dict[State, str] = {
        state: await in_state(store, state) for state in State if state is not State.READY
    }
    by_state[State.READY] = await in_state(store, State.READY)
    opened = [by_state[state] for state in State if state not in FINISHED]
    assert await found(store) == sorted(opened)


async def test_a_task_is_shown_as_everywhere_but_for_its_variables(store: Store) -> None:
    await create(
        store,
        {
            "topic": "t", "variables": {"a": 1}, "businessKey": "b", "processInstanceId": "p",
            "processDefinitionId": "d:1", "processDefinitionKey": "d", "activityId": "a",
            "processDefinitionVersionTag": "v", "tenantId": "x", "priority": 7,
        },
        {},
    )  # fmt: skip
    for state in State:
        if state not in FINISHED:
            await in_state(store, state)
    tasks = await store.search(Search())
    assert len(tasks) == 7
    for task_id, body in tasks:
        told = msgspec.json.decode(body)
        whole = await shown(store, task_id)
        assert told == {name: whole[name] for name in told}
        assert whole.keys() - told.keys() <= {
            "variables", "result", "variableTypes", "resultTypes", "progress", "traceparent",
            "callbackExpiresAt", "startedAt", "finishedAt", "timesOutAt", "cancelRequested",
            "errorCode", "errorDetails", "retriesSet", "attempt", "availableAt",
        }  # fmt: skip
        assert ("retriesSet" in told) == ("retriesSet" in whole)


async def test_retries_that_were_set_are_marked_and_long_errors_cut(store: Store) -> None:
    [task_id] = await create(store, {})
    [task] = await lock(store)
    await ask(store.fail, "w1", held(task, errorMessage="e" * 4_000, retries=0))
    await store.retries([task_id], 3)
    [(_, body)] = await store.search(Search())
    told = msgspec.json.decode(body)
    assert told["retriesSet"] is True
    assert told["errorMessage"] == "e" * 666


# Filters ----------------------------------------------------------------------


async def test_each_name_filters(store: Store) -> None:
    wanted, other = await create(
        store,
        {
            "topic": "a", "activityId": "b", "processInstanceId": "c", "processDefinitionId": "d",
            "processDefinitionKey": "e", "tenantId": "f", "priority": 5,
        },
        {
            "topic": "a2", "activityId": "b2", "processInstanceId": "c2", "priority": 4,
            "processDefinitionId": "d2", "processDefinitionKey": "e2", "tenantId": "f2",
        },
    )  # fmt: skip
    [bare] = await create(store, {"topic": "bare", "priority": -1})
    await lock(store, subscriptions=subscribe("a"))
    for filters in (
        Filters(ids=(wanted, "no id at all")),
        Filters(ids=(wanted, wanted.upper(), wanted)),
        Filters(topic="a"),
        Filters(worker_id="w1"),
        Filters(activity_ids=("b", "x")),
        Filters(process_instance_ids=("c", "c")),
        Filters(process_definition_ids=("d",)),
        Filters(process_definition_keys=("e", "x")),
        Filters(tenant_ids=("f",)),
        Filters(priority_min=5, priority_max=2**62),
    ):
        assert await found(store, filters) == [wanted], filters
    for filters in (
        Filters(ids=()),
        Filters(ids=("", "x")),
        Filters(topic="A"),
        Filters(worker_id="w2"),
        Filters(activity_ids=()),
        Filters(process_instance_ids=()),
        # What the one without any is stored with stands for no name.
        Filters(process_definition_ids=("",)),
        Filters(process_definition_keys=("",)),
        Filters(tenant_ids=("",)),
        Filters(priority_min=6),
        Filters(priority_max=-(2**62)),
        Filters(topic="a", tenant_ids=("f2",)),
    ):
        assert await found(store, filters) == [], filters
    assert await found(store, Filters(priority_max=4)) == sorted([other, bare])


async def test_a_task_without_process_instance_is_its_own(store: Store) -> None:
    [own] = await create(store, {})
    [part] = await create(store, {"processInstanceId": own})
    [other] = await create(store, {"processInstanceId": "p"})
    assert await found(store, Filters(process_instance_ids=(own,))) == [own, part]
    assert await found(store, Filters(process_instance_ids=(other,))) == []
    assert await found(store, Filters(process_instance_ids=("p", own))) == sorted(
        [own, part, other]
    )


async def test_a_lock_that_ran_out_is_none(store: Store, connection: Connection) -> None:
    held_id, lost_id = await create(store, {}, {})
    await lock(store, tasks_max=2)
    await expire_lock(connection, lost_id)
    assert await found(store, Filters(locked=True)) == [held_id]
    assert await found(store, Filters(not_locked=True)) == [lost_id]
    assert await found(store, Filters(locked=True, not_locked=True)) == []
    # Until it is swept, it still has its worker.
    assert await found(store, Filters(worker_id="w1")) == [held_id, lost_id]


async def test_times_of_locks(store: Store) -> None:
    awaiting = await in_state(store, State.AWAITING)
    [task_id] = await create(store, {})
    [task] = await lock(store)
    assert task["id"] == task_id
    ends = datetime.fromisoformat(task["lockExpiresAt"])
    second = timedelta(seconds=1)
    for filters, is_found in (
        (Filters(lock_expires_after=ends - second), True),
        (Filters(lock_expires_after=ends), False),
        (Filters(lock_expires_before=ends), False),
        (Filters(lock_expires_before=ends + second), True),
        (Filters(lock_expires_after=ends - second, lock_expires_before=ends + second), True),
        (Filters(ids=(task_id, awaiting), lock_expires_after=ends - second), True),
        (Filters(ids=(task_id, awaiting), lock_expires_before=ends + second), True),
        (Filters(ids=(task_id,), lock_expires_after=ends), False),
        (Filters(ids=(task_id,), lock_expires_before=ends), False),
    ):
        assert await found(store, filters) == ([task_id] if is_found else []), filters


async def test_retries_left(store: Store, connection: Connection) -> None:
    failed = await in_state(store, State.FAILED)
    # As after a timeout, or too many expiries: what has failed has none left, whatever is stored.
    await connection.execute("UPDATE fetchlock.open_task SET retries = 2")
    ready = await in_state(store, State.READY)
    assert await found(store, Filters(with_retries_left=True)) == [ready]
    assert await found(store, Filters(no_retries_left=True)) == [failed]
    # Whose retries are taken while it is held has none, though it has not failed yet.
    [task] = await lock(store)
    await store.retries([task["id"]], 0)
    assert await found(store, Filters(no_retries_left=True)) == sorted([failed, ready])


async def test_variables_are_those_of_now(store: Store) -> None:
    [task_id] = await create(store, {"variables": {"a": 1, "b": 1}})
    [task] = await lock(store)
    await ask(store.fail, "w1", held(task, errorMessage="e", variables={"a": 2}))
    assert await found(store, condition("a", "eq", 1)) == []
    assert await found(store, condition("a", "eq", 2)) == [task_id]
    assert await found(store, condition("b", "eq", 1)) == [task_id]


async def test_only_texts_are_like_a_pattern(store: Store) -> None:
    text, number, null = await create(store, *({"variables": {"a": a}} for a in ("5", 5, None)))
    await create(store, {})
    assert await found(store, condition("a", "like", "%")) == [text]
    assert await found(store, condition("a", "notLike", "%")) == [number, null]
    assert await found(store, condition("a", "eq", None)) == [null]
    assert await found(store, condition("a", "neq", None)) == [text, number]


async def test_numbers_are_compared_to_the_last_digit(store: Store) -> None:
    [task_id] = await create(store, {"variables": {"a": Raw(b"10000000000000000000000.5")}})
    for text, is_found in ((b"10000000000000000000000.5", True), (b"1.00000000000000000000005e22", True),
                           (b"10000000000000000000000.4", False)):  # fmt: skip
        filters = Filters(conditions=(Condition("a", "eq", Raw(text)),))
        assert await found(store, filters) == ([task_id] if is_found else []), text


async def test_a_number_no_double_can_tell_from_zero_spoils_no_search(store: Store) -> None:
    near_zero = (b"1e-99999", b"-1E-20000", b"0e99999", b"0." + b"0" * 20_000 + b"1", b"1e-400")
    near_one = (b"1", b"1e-0000", b"1." + b"0" * 20_000, b"1e0000", b"0.1E+00001")
    ids = await create(store, *({"variables": {"a": Raw(text)}} for text in near_zero + near_one))
    assert await found(store, condition("a", "lt", 0.5)) == ids[: len(near_zero)]
    assert await found(store, condition("a", "eq", 1)) == ids[len(near_zero) :]


async def test_dates_are_compared_in_time(store: Store, connection: Connection) -> None:
    text = "2026-01-31T10:00:00.123+0200"
    date, plain, unreadable = await create(
        store,
        {"variables": {"a": text}},
        {"variables": {"a": text}},
        {"variables": {"a": "2026-01-31T10:00:00.123+1900"}},
    )
    await connection.execute(
        "UPDATE fetchlock.task SET variable_types = $1 WHERE id = ANY ($2::uuid[])",
        '{"a": {"type": "Date"}}',
        [date, unreadable],
    )
    same = "2026-01-31T08:00:00.123+0000"
    instant = datetime(2026, 1, 31, 8, 0, 0, 123_000, UTC)
    assert await found(store, condition("a", "eq", same, instant)) == [date]
    later = condition(
        "a", "lt", "2026-01-31T08:00:00.124+0000", instant + timedelta(milliseconds=1)
    )
    assert await found(store, later) == [date]
    # Without a note it is a text like any other.
    assert await found(store, condition("a", "eq", text, instant)) == [date, plain]
    assert await found(store, condition("a", "eq", same)) == []


async def test_of_a_name_that_is_written_twice_the_last_counts(store: Store) -> None:
    body = b'{"tasks":[{"topic":"t","variables":{"a":1,"a":2}}]}'
    await store.create([body.decode()])
    assert len(await found(store, condition("a", "eq", 2))) == 1
    assert await found(store, condition("a", "eq", 1)) == []
    # It has one variable `a`, which is no other one.
    assert await found(store, condition("a", "neq", 2)) == []


async def test_many_conditions_take_the_variables_apart_once(store: Store) -> None:
    variables = {f"variable number {n}": n for n in range(20_000)}
    await create(store, {"variables": variables})

    async def took(count: int) -> float:
        conditions = tuple(
            Condition(f"variable number {n}", "eq", Raw(b"%d" % n)) for n in range(count)
        )
        filters = Filters(conditions=conditions)
        times = []
        for _ in range(3):
            began = time.perf_counter()
            assert await store.count(filters) == 1
            times.append(time.perf_counter() - began)
        return min(times)

    assert await took(100) < 10 * await took(1)


# Taking turns -----------------------------------------------------------------

_ASKED: Final[dict[str, Callable[[Store], Awaitable[object]]]] = {
    "search": lambda store: store.search(Search()),
    "count": lambda store: store.count(_ALL),
    "topics": lambda store: store.topics(_ALL),
}


async def test_searches_leave_connections_to_workers(
    store: Store, connection: Connection, watcher: Connection
) -> None:
    await create(store, {})
    told: list[object] = []

    async def ask_for(name: str) -> None:
        told.append(await _ASKED[name](store))

    async with anyio.create_task_group() as group:
        await connection.execute("BEGIN; LOCK TABLE fetchlock.open_task IN ACCESS EXCLUSIVE MODE")
        for name in [*_ASKED] * 4:
            group.start_soon(ask_for, name)
        await eventually(partial(are_blocked, watcher, 1))
        # Twelve of them would hold all connections, and this would wait for one.
        with anyio.fail_after(2):
            await store.ping()
        assert await are_blocked(watcher, 1)
        await connection.execute("COMMIT")
    assert len(told) == 12


@pytest.mark.parametrize("name", list(_ASKED))
async def test_a_search_whose_turn_does_not_come_is_sent_away(
    store: Store,
    connection: Connection,
    watcher: Connection,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    async with anyio.create_task_group() as group:
        await connection.execute("BEGIN; LOCK TABLE fetchlock.open_task IN ACCESS EXCLUSIVE MODE")
        group.start_soon(store.count, _ALL)
        await eventually(partial(are_blocked, watcher, 1))
        monkeypatch.setattr(searching, "TURN_MS", 20)
        with pytest.raises(Unavailable, match="too many searches"):
            await _ASKED[name](store)
        await connection.execute("COMMIT")
    # The next ones have their turns again.
    assert await store.count(_ALL) == 0
    await _ASKED[name](store)


# The answer's size ------------------------------------------------------------


async def test_no_task_is_left_out_in_silence(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searching, "FOUND_MAX", 10)
    created = sorted(await create(store, *({} for _ in range(10))))
    assert await found(store) == created
    assert len(await store.search(Search(max_results=2**31 - 1))) == 10
    created += await create(store, {})
    for max_results in (None, 11, 2**31 - 1):
        with pytest.raises(Invalid, match="more than 10 tasks match"):
            await store.search(Search(max_results=max_results))
    pages = [await store.search(Search(first_result=n, max_results=10)) for n in (0, 10, 20)]
    assert [[task.task_id for task in page] for page in pages] == [created[:10], created[10:], []]
    assert await store.search(Search(max_results=0)) == []
    assert await store.search(Search(first_result=searching.FIRST_RESULT_MAX)) == []


async def test_a_search_is_one_statement(store: Store, statements: Statements) -> None:
    await create(store, {})
    await statements.forget()
    await store.search(Search())
    await store.count(Filters())
    await store.topics(Filters())
    assert await statements.calls() == {"search": 1, "count": 1, "topics": 1}

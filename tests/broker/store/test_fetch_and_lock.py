"""Locking: in which order, for whom, and no more than is handed out."""

from __future__ import annotations

import time
from typing import cast

import anyio
import asyncpg
import pytest

from broker.dispatcher.waiter import Waiter
from broker.dispatcher.waiters import Waiters
from broker.store import Claim, Granted, Scan, Store, verbs
from broker.task import State
from tests.broker.conftest import Statements
from tests.factories import (
    Client,
    ask,
    create,
    decoded,
    expire_lock,
    held,
    lock,
    make_due,
    row_of,
    state_of,
    subscribe,
)

Connection = asyncpg.Connection


def claim(store: Store, *tasks_max: int, floor: int = 0) -> Claim:
    """A claim over all lanes of the topic `t`, in one rank, for workers w0, w1, …"""
    scans = [
        Scan(lane.lane_id, 0, returned, floor, 60_000, None, lane.members_json())
        for lane in store.lanes.of_topic("t")
        for returned in (True, False)
    ]
    return Claim(scans, [f"w{place}" for place in range(len(tasks_max))], tasks_max)


def ids(granted: Granted) -> list[list[str]]:
    """The ids that each waiter got, in the order of the waiters."""
    return [
        [task["id"] for task in decoded(granted.bodies[place][0])]
        for place in sorted(granted.bodies)
    ]


async def test_a_locked_task_is_the_workers(store: Store, connection: Connection) -> None:
    [task_id] = await create(store, {"variables": {"a": 1}, "businessKey": "b"})
    [task] = await lock(store, subscriptions=subscribe(lock_duration_ms=7_000))
    row = await row_of(connection, task_id)
    assert (row["state"], row["worker_id"]) == (State.LOCKED, "w1")
    assert str(row["lock_token"]) == task["lockToken"]
    assert (row["lock_expires_at"] - row["locked_at"]).total_seconds() == 7
    assert row["returned"]
    assert task["id"] == task_id
    assert task["attempt"] == row["attempt"] == 1
    assert task["variables"] == {"a": 1}
    assert task["businessKey"] == "b"
    assert task["state"] == "LOCKED"


async def test_it_is_one_statement(store: Store, statements: Statements) -> None:
    await create(store, {}, {}, {"priority": 3})
    await statements.forget()
    assert len(await lock(store, 10)) == 3
    assert await statements.calls() == {"fetch_and_lock": 1}


async def test_nothing_is_locked_where_nothing_is_ready(
    store: Store, connection: Connection
) -> None:
    locked, failed, delayed, finished = await create(store, {}, {}, {}, {})
    tasks = await lock(store, 4)
    await ask(store.fail, "w1", held(tasks[1], errorMessage="e", retries=0))
    await ask(store.fail, "w1", held(tasks[2], errorMessage="e", retryTimeoutMs=60_000))
    await ask(store.complete, "w1", held(tasks[3]))
    before = [await row_of(connection, task) for task in (locked, failed, delayed, finished)]
    granted = await store.fetch_and_lock(claim(store, 10))
    assert granted == Granted({}, 0, 0, [])
    after = [await row_of(connection, task) for task in (locked, failed, delayed, finished)]
    assert before == after


# Order ------------------------------------------------------------------------


async def test_the_oldest_is_first(store: Store) -> None:
    created = await create(store, *({} for _ in range(10)))
    created += await create(store, *({} for _ in range(10)))
    fetched = [task["id"] for _ in range(5) for task in await lock(store, 4)]
    assert fetched == created


async def test_priority_goes_before_age(store: Store) -> None:
    low, middle, high = await create(store, {"priority": -1}, {}, {"priority": 9})
    later = await create(store, {"priority": 9}, {})
    fetched = [task["id"] for task in await lock(store, 10)]
    assert fetched == [high, later[0], middle, later[1], low]


async def test_priority_goes_before_age_over_several_topics(store: Store) -> None:
    created = await create(
        store,
        *({"topic": topic, "priority": priority} for priority in (1, 3, 2) for topic in "abc"),
    )
    fetched = [
        task["id"]
        for _ in range(9)
        for task in await lock(store, subscriptions=subscribe("c", "a", "b"))
    ]
    assert fetched == created[3:6] + created[6:9] + created[0:3]


async def test_lanes_of_one_priority_merge_by_age(store: Store) -> None:
    definitions = ["x", "y", "x", "x", "z", "y", "z", "x"]
    created = await create(store, *({"processDefinitionId": name} for name in definitions))
    fetched = [task["id"] for count in (3, 1, 4) for task in await lock(store, count)]
    assert fetched == created


async def test_a_definition_that_is_not_wished_for_is_left(store: Store) -> None:
    created = await create(store, *({"processDefinitionId": name} for name in "xyxz"), {})
    wish = subscribe(process_definition_ids=("x", "z"))
    assert [task["id"] for task in await lock(store, 10, subscriptions=wish)] == [
        created[0], created[2], created[3],
    ]  # fmt: skip


async def test_a_task_that_comes_back_keeps_its_place(store: Store, connection: Connection) -> None:
    created = await create(store, *({} for _ in range(6)))
    tasks = await lock(store, 4)
    await ask(store.unlock, "w1", held(tasks[2]))
    await ask(store.fail, "w1", held(tasks[0], errorMessage="e", retryTimeoutMs=0))
    await expire_lock(connection, tasks[3]["id"])
    await store.release_due(None, 0)
    fetched = [task["id"] for task in await lock(store, 10)]
    assert fetched == [created[0], created[2], created[3], created[4], created[5]]


async def test_a_delayed_task_keeps_its_place(store: Store, connection: Connection) -> None:
    created = await create(store, {}, {"delayMs": 60_000}, {}, {"delayMs": 60_000})
    await make_due(connection, created[3], created[1])
    await store.release_due(None, 0)
    assert [task["id"] for task in await lock(store, 10)] == created


# Shares -----------------------------------------------------------------------


async def test_the_waiters_are_served_in_turn(store: Store, connection: Connection) -> None:
    created = await create(store, *({} for _ in range(6)))
    granted = await store.fetch_and_lock(claim(store, 2, 1, 5))
    assert ids(granted) == [created[:2], created[2:3], created[3:6]]
    assert [granted.bodies[place][1] for place in range(3)] == [2, 1, 3]
    workers = [(await row_of(connection, task_id))["worker_id"] for task_id in created]
    assert workers == ["w0", "w0", "w1", "w2", "w2", "w2"]
    for place in range(3):
        assert {task["workerId"] for task in decoded(granted.bodies[place][0])} == {f"w{place}"}


async def test_whom_it_does_not_reach_gets_nothing(store: Store) -> None:
    created = await create(store, {}, {})
    granted = await store.fetch_and_lock(claim(store, 2, 1, 1))
    assert ids(granted) == [created]
    assert granted.seen == granted.locked == 2


async def test_each_claim_has_a_token_of_its_own(store: Store) -> None:
    await create(store, {}, {})
    tokens = set()
    for _ in range(3):
        tasks = [task for _ in range(2) for task in await lock(store)]
        tokens |= {task["lockToken"] for task in tasks}
        await ask(store.unlock, "w1", *map(held, tasks))
    assert len(tokens) == 6


async def test_a_lock_lasts_as_long_as_its_subscription_says(
    store: Store, connection: Connection
) -> None:
    short, long = await create(store, {"topic": "short"}, {"topic": "long"})
    wishes = subscribe("short", lock_duration_ms=2_000) + subscribe("long", lock_duration_ms=9_000)
    await lock(store, 2, subscriptions=wishes)
    for task_id, duration_s in ((short, 2), (long, 9)):
        row = await row_of(connection, task_id)
        assert (row["lock_expires_at"] - row["locked_at"]).total_seconds() == duration_s


async def test_only_the_wanted_variables_are_delivered(store: Store) -> None:
    await create(store, {"variables": {"a": 1, "b": None, "c": {"d": 2}}})
    wish = subscribe(variables=("c", "b", "nowhere"))
    [task] = await lock(store, subscriptions=wish)
    assert task["variables"] == {"b": None, "c": {"d": 2}}
    await ask(store.unlock, "w1", held(task))
    [task] = await lock(store, subscriptions=subscribe(variables=()))
    assert task["variables"] == {}


async def test_a_reply_that_grows_too_large_stops_the_claim(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verbs, "_REPLY_BYTES_MAX", 250)
    created = await create(store, *({"variables": {"text": "x" * 100}} for _ in range(5)))
    granted = await store.fetch_and_lock(claim(store, 5))
    assert ids(granted) == [created[:3]]
    assert granted.seen > granted.locked
    monkeypatch.setattr(verbs, "_REPLY_BYTES_MAX", 1)
    assert ids(await store.fetch_and_lock(claim(store, 5))) == [created[3:4]]


# Floors and rows --------------------------------------------------------------


async def test_a_scan_starts_above_its_floor_and_tells_how_far_it_came(
    store: Store, connection: Connection
) -> None:
    created = await create(store, *({} for _ in range(5)))
    positions = [(await row_of(connection, task_id))["position"] for task_id in created]
    granted = await store.fetch_and_lock(claim(store, 2, floor=positions[1]))
    assert ids(granted) == [created[2:4]]
    [(lane_id, returned, position)] = granted.tips
    assert (returned, position) == (False, positions[3])
    assert store.lanes.of_topic("t")[0].lane_id == lane_id


async def test_no_more_rows_are_locked_than_are_handed_out(
    store: Store, connection: Connection, watcher: Connection
) -> None:
    definitions = ["x", "y", "z"] * 20
    await create(store, *({"processDefinitionId": name} for name in definitions))
    await create(store, *({"priority": 4} for _ in range(5)))
    waiters = Waiters(store.lanes)
    waiters.add(Waiter("w1", 12, Client(), is_impatient=True), subscribe(), time.monotonic())
    running = waiters.next_claim(time.monotonic())
    assert running is not None
    # In a transaction that stays open, so that what it locked can be seen from beside.
    unfinished = Store(cast("asyncpg.Pool", connection), store._settings)
    await connection.execute("BEGIN")
    granted = await unfinished.fetch_and_lock(running.claim)
    free = await watcher.fetch("SELECT id FROM fetchlock.open_task FOR UPDATE SKIP LOCKED")
    await connection.execute("COMMIT")
    assert granted.locked == 12
    assert len(free) == 65 - 12


async def test_rows_of_another_claim_are_skipped_not_waited_for(
    store: Store, connection: Connection
) -> None:
    created = await create(store, *({} for _ in range(5)))
    async with connection.transaction():
        await connection.execute(
            "SELECT FROM fetchlock.open_task WHERE id = ANY ($1::uuid[]) FOR UPDATE", created[:2]
        )
        with anyio.fail_after(5):
            granted = await store.fetch_and_lock(claim(store, 2))
    assert ids(granted) == [created[2:4]]


async def test_claims_at_once_lock_each_task_once(store: Store, connection: Connection) -> None:
    created = await create(store, *({} for _ in range(400)))
    fetched: list[str] = []

    async def fetch() -> None:
        while tasks := await lock(store, 7):
            fetched.extend(task["id"] for task in tasks)

    async with anyio.create_task_group() as group:
        for _ in range(4):
            group.start_soon(fetch)
    # A claim that sees only what the others have just locked comes back empty.
    fetched += [task["id"] for task in await lock(store, 400)]
    assert sorted(fetched) == sorted(created)
    attempts = await connection.fetchval("SELECT max(attempt) FROM fetchlock.open_task")
    assert attempts == 1
    assert await state_of(connection, created[0]) == State.LOCKED

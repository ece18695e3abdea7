"""Moving a task to another priority, whatever state it is in, until it is finished."""

from __future__ import annotations

from functools import partial

import anyio
import asyncpg
import pytest

from broker.errors import Conflict, Invalid
from broker.store import Store, operating, queries
from broker.store.database import SHARD
from broker.store.lanes import LANES_MAX, PRIORITIES_MAX
from broker.task import API_STATES, FINISHED, State
from tests.broker.conftest import Statements
from tests.broker.store.test_operator_verbs import answer_of, in_state
from tests.eventually import eventually
from tests.factories import (
    are_blocked,
    ask,
    behind,
    create,
    expire_lock,
    held,
    lock,
    request,
    row_of,
    shown,
    subscribe,
)

Connection = asyncpg.Connection

UNFINISHED = sorted(set(State) - FINISHED)


async def test_it_is_handed_out_by_the_new_one(
    store: Store, connection: Connection, statements: Statements
) -> None:
    low, _, high = await create(store, {"priority": 1}, {"priority": 5}, {"priority": 9})
    await statements.forget()
    batch = await store.priority(low, 9)
    assert await statements.calls() == {"priority": 1}
    assert answer_of(batch) == {"priority": 9}
    row = await row_of(connection, low)
    lane = store.lanes.get(row["lane_id"])
    assert lane is not None
    assert (lane.priority, row["returned"]) == (9, True)
    assert [tuple(wake) for wake in batch.wakes] == [(row["lane_id"], row["position"], True)]
    # It was created first, so it is the first of those of its priority.
    assert [task["id"] for task in await lock(store, 2)] == [low, high]
    assert (await shown(store, low))["priority"] == 9


async def test_a_lane_that_is_not_there_is_made(store: Store, statements: Statements) -> None:
    wanted = {
        "topic": "päyment",
        "tenantId": "t1",
        "processDefinitionId": "p:1",
        "processDefinitionKey": "p",
        "processDefinitionVersionTag": "v1",
    }
    task_id, other = await create(store, wanted, wanted)
    await statements.forget()
    assert answer_of(await store.priority(task_id, -7)) == {"priority": -7}
    assert await statements.calls() == {"priority": 2, "lane_beside": 1, "load_lanes": 1}
    task = await shown(store, task_id)
    assert task["priority"] == -7
    assert {name: task[name] for name in wanted} == wanted
    found = await lock(store, 9, subscriptions=subscribe("päyment"))
    assert [task["id"] for task in found] == [other, task_id]
    assert {name: found[1][name] for name in wanted} == wanted


@pytest.mark.parametrize("state", UNFINISHED)
async def test_its_state_is_as_before(store: Store, connection: Connection, state: State) -> None:
    task_id = await in_state(store, state)
    before = await row_of(connection, task_id)
    batch = await store.priority(task_id, 3)
    after = await row_of(connection, task_id)
    changed = {name for name in before if before[name] != after[name]}
    assert changed <= {"lane_id", "returned"}
    assert "lane_id" in changed
    assert (await shown(store, task_id))["state"] == API_STATES[state]
    assert bool(batch.wakes) == (state is State.READY)


async def test_the_same_one_again_changes_nothing(store: Store, connection: Connection) -> None:
    task_id, other = await create(store, {"priority": 4}, {"priority": 4})
    before = await row_of(connection, task_id)
    assert answer_of(await store.priority(task_id, 4)) == {"priority": 4}
    assert await row_of(connection, task_id) == before
    assert [task["id"] for task in await lock(store, 2)] == [task_id, other]


async def test_a_worker_completes_what_was_moved_under_its_hands(
    store: Store, connection: Connection
) -> None:
    [task_id] = await create(store, {})
    [task] = await lock(store)
    await store.priority(task_id, 8)
    assert (await ask(store.complete, "w1", held(task)))[0]["outcome"] == "done"
    assert (await shown(store, task_id))["priority"] == 8


async def test_it_costs_no_late_worker_its_work(store: Store, connection: Connection) -> None:
    [task_id] = await create(store, {})
    [task] = await lock(store)
    await expire_lock(connection, task_id)
    await store.release_due(None, 0)
    await store.priority(task_id, 8)
    [answer] = await ask(store.complete, "w1", held(task, acceptsLate=True))
    assert answer["outcome"] == "done"


async def test_a_topic_has_only_so_many(store: Store) -> None:
    created = await create(store, *({"priority": n} for n in range(PRIORITIES_MAX)))
    with pytest.raises(Invalid) as refusal:
        await store.priority(created[0], PRIORITIES_MAX)
    assert refusal.value.facts["errors"][0]["pointer"] == "/priority"
    assert (await shown(store, created[0]))["priority"] == 0
    # One that there is serves every variant of the topic.
    [other] = await create(store, {"tenantId": "x"})
    assert answer_of(await store.priority(other, 1)) == {"priority": 1}
    task = await shown(store, other)
    assert (task["priority"], task["tenantId"]) == (1, "x")


async def test_a_topic_has_only_so_many_lanes(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operating, "LANES_MAX", 3)
    first, second, _ = await create(store, {}, {"tenantId": "x"}, {"priority": 1})
    assert answer_of(await store.priority(first, 1)) == {"priority": 1}
    with pytest.raises(Invalid) as refusal:
        await store.priority(second, 1)
    assert refusal.value.facts["errors"][0]["pointer"] == "/priority"
    assert (await shown(store, second))["priority"] == 0


async def test_a_number_too_large_for_postgresql_is_invalid(store: Store) -> None:
    [task_id] = await create(store, {})
    with pytest.raises(Invalid):
        await store.priority(task_id, 2**31)


# Races --------------------------------------------------------------------------


async def test_behind_another_the_last_one_counts(
    store: Store, connection: Connection, watcher: Connection
) -> None:
    task_id, _, _ = await create(store, {}, {"priority": 1}, {"priority": 2})
    await connection.execute("BEGIN")
    await connection.fetch(queries.PRIORITY, SHARD, task_id, 1)
    batch = await behind(connection, watcher, partial(store.priority, task_id, 2))
    assert answer_of(batch) == {"priority": 2}
    assert (await shown(store, task_id))["priority"] == 2


async def test_behind_a_fetch_it_moves_the_locked_task(
    store: Store, connection: Connection, watcher: Connection
) -> None:
    task_id, _ = await create(store, {}, {"priority": 1})
    await connection.execute("BEGIN")
    await connection.fetch(queries.LOCK, SHARD, task_id, "w1", 60_000, 5)
    batch = await behind(connection, watcher, partial(store.priority, task_id, 1))
    assert batch.wakes == []
    task = await shown(store, task_id)
    assert (task["state"], task["priority"]) == ("LOCKED", 1)


async def test_two_that_make_the_same_lane_make_it_once(
    store: Store, connection: Connection, watcher: Connection
) -> None:
    ids = await create(store, {}, {})
    async with anyio.create_task_group() as group:
        await connection.execute("BEGIN")
        await connection.fetch(queries.LANE_BESIDE, SHARD, ids[0], 6, PRIORITIES_MAX, LANES_MAX)
        for task_id in ids:
            group.start_soon(store.priority, task_id, 6)
        await eventually(partial(are_blocked, watcher, 2))
        await connection.execute("COMMIT")
    assert await connection.fetchval("SELECT count(*) FROM fetchlock.lane") == 2
    assert [(await shown(store, task_id))["priority"] for task_id in ids] == [6, 6]


async def test_a_task_that_ends_meanwhile_is_a_conflict(
    store: Store, connection: Connection, watcher: Connection
) -> None:
    [task_id] = await create(store, {})
    [task] = await lock(store)

    async def move() -> Conflict:
        with pytest.raises(Conflict) as refusal:
            await store.priority(task_id, 1)
        return refusal.value

    await connection.execute("BEGIN")
    await connection.fetch(queries.COMPLETE, SHARD, [request("w1", held(task))])
    assert (await behind(connection, watcher, move)).facts["state"] == "COMPLETED"

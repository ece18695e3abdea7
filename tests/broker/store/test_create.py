"""Creating: what a task is at first, keys that were seen before, lanes that are not there yet."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import anyio
import asyncpg
import msgspec
import pytest

from broker.errors import Invalid
from broker.settings import Settings
from broker.store import Store, verbs
from broker.store.database import SHARD
from broker.task import State
from tests.broker.conftest import Statements
from tests.eventually import eventually
from tests.factories import (
    TaskJson,
    answers,
    create,
    creation,
    is_blocked,
    lock,
    request,
    row_of,
    state_of,
)

Connection = asyncpg.Connection


async def show(store: Store, task_id: str) -> TaskJson:
    tasks = await store.get_tasks([task_id])
    task: TaskJson = msgspec.json.decode(tasks[task_id][0])
    return task


async def test_a_task_is_ready_at_once(store: Store, connection: Connection) -> None:
    batch = await store.create([creation({"variables": {"a": 1}})])
    [answer] = answers(batch)
    row = await row_of(connection, answer["id"])
    assert row["state"] == State.READY
    assert not row["returned"]
    assert row["attempt"] == row["failures"] == row["expiries"] == 0
    assert answer["task"]["availableAt"] == answer["task"]["createdAt"]
    assert answer["task"] == await show(store, answer["id"])
    assert [(wake.lane_id, wake.position, wake.returned) for wake in batch.wakes] == [
        (row["lane_id"], row["position"], False)
    ]
    assert batch.due_in_ms is None


async def test_what_was_asked_is_what_is_kept(store: Store) -> None:
    asked = {
        "topic": "päyment ✓",
        "priority": -7,
        "businessKey": "order-1",
        "retries": 9,
        "processInstanceId": "pi",
        "processDefinitionId": "pd:1",
        "processDefinitionKey": "pd",
        "processDefinitionVersionTag": "v1",
        "activityId": "act",
        "tenantId": "te",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }
    [task_id] = await create(store, asked)
    shown = await show(store, task_id)
    assert {name: shown[name] for name in asked} == asked
    assert shown["state"] == "CREATED"
    assert shown["variables"] == {}


async def test_what_is_not_asked_has_defaults(store: Store, settings: Settings) -> None:
    [task_id] = await create(store, {})
    shown = await show(store, task_id)
    assert shown["retries"] == settings.retry_attempts
    assert shown["priority"] == 0
    assert shown["businessKey"] is shown["processDefinitionId"] is shown["workerId"] is None


@pytest.mark.parametrize(
    "variables",
    [
        '{"n":123456789012345678901234567890,"f":1.0,"e":1e300}',
        '{"text":"\\"\\u007f☃\\ud83d\\ude00","deep":[[[[{"a":[]}]]]]}',
        '{"b":1,"a":2}',
    ],
)
async def test_variables_are_kept_to_the_letter(store: Store, variables: str) -> None:
    batch = await store.create([f'{{"tasks":[{{"topic":"t","variables":{variables}}}]}}'])
    task_id = answers(batch)[0]["id"]
    tasks = await store.get_tasks([task_id])
    assert f'"variables" : {variables}'.encode() in tasks[task_id][0]


async def test_the_answers_are_in_the_order_of_the_requests(store: Store) -> None:
    requests = [creation({"topic": f"{place}-{n}"} | {}) for place in "ab" for n in "01"]
    requests.append(creation({"topic": "c-0"}, {"topic": "c-1"}))
    batch = await store.create(requests)
    told = [msgspec.json.decode(result.body) for result in batch.results]
    assert [len(of_request) for of_request in told] == [1, 1, 1, 1, 2]
    ids = [answer["id"] for of_request in told for answer in of_request]
    assert [(await show(store, task_id))["topic"] for task_id in ids] == [
        "a-0", "a-1", "b-0", "b-1", "c-0", "c-1",
    ]  # fmt: skip


async def test_a_request_without_tasks_has_no_answers(store: Store) -> None:
    batch = await store.create([creation(), creation({})])
    assert batch.results[0].body == b"[]"


async def test_an_id_tells_the_time_and_the_shard(store: Store) -> None:
    first, second = UUID((await create(store, {}))[0]), UUID((await create(store, {}))[0])
    assert first.version == 7
    assert (first.int >> 64) & 0xFFF == SHARD
    assert first.int >> 80 <= second.int >> 80
    created_at = datetime.fromisoformat((await show(store, str(first)))["createdAt"])
    assert abs((first.int >> 80) - created_at.timestamp() * 1000) <= 1


async def test_a_delayed_task_is_due_later(store: Store, connection: Connection) -> None:
    batch = await store.create([creation({"delayMs": 5_000}, {"delayMs": 60_000})])
    ids = [answer["id"] for answer in answers(batch)]
    assert [await state_of(connection, task_id) for task_id in ids] == [State.DELAYED] * 2
    assert batch.due_in_ms == 5_000
    assert batch.wakes == []


async def test_an_instant_may_be_named(store: Store, connection: Connection) -> None:
    now = datetime.now(UTC)
    ids = await create(
        store,
        {"availableAt": (now + timedelta(hours=1)).isoformat()},
        {"availableAt": (now - timedelta(hours=1)).isoformat()},
        {"delayMs": 0},
    )
    states = [await state_of(connection, task_id) for task_id in ids]
    assert states == [State.DELAYED, State.READY, State.READY]


async def test_a_bad_task_does_not_fail_its_neighbours(store: Store) -> None:
    both = {"delayMs": 1, "availableAt": "2030-01-01T00:00:00Z"}
    told = answers(await store.create([creation({}, both, {})]))
    assert ["code" in answer for answer in told] == [False, True, False]
    assert told[1]["code"] == "invalid"
    assert len(await lock(store, 10)) == 2


async def test_a_value_that_postgresql_refuses_fails_the_batch_and_leaves_nothing(
    store: Store, connection: Connection
) -> None:
    await create(store, {})
    with pytest.raises(Invalid):
        await store.create([creation({}), creation({"priority": 2**40})])
    assert await connection.fetchval("SELECT count(*) FROM fetchlock.task") == 1


# Lanes ------------------------------------------------------------------------


async def test_lanes_are_made_once_and_then_it_is_one_statement(
    store: Store, statements: Statements
) -> None:
    await create(store, {}, {"priority": 5})
    assert await statements.calls() == {"create": 2, "make_lanes": 1, "load_lanes": 1}
    await statements.forget()
    await create(store, {}, {"priority": 5})
    assert await statements.calls() == {"create": 1}


async def test_the_order_within_a_request_survives_the_making_of_lanes(store: Store) -> None:
    await create(store, {})
    ids = await create(store, {}, {"processDefinitionId": "new"}, {})
    locked = await lock(store, 10)
    assert [task["id"] for task in locked][1:] == ids


async def test_a_topic_that_is_too_long_gets_no_lane(store: Store, settings: Settings) -> None:
    limit = settings.topic_length_max
    told = answers(
        await store.create([creation({"topic": "é" * limit}, {"topic": "é" * (limit + 1)}, {})])
    )
    assert [answer.get("code") for answer in told] == [None, "invalid", None]


async def test_a_topic_has_256_priorities_at_most(store: Store, connection: Connection) -> None:
    ids = await create(store, *({"priority": priority} for priority in range(256)))
    told = answers(
        await store.create(
            [creation({"priority": 256}, {"priority": 7, "processDefinitionId": "other"}, {})]
        )
    )
    assert [answer.get("code") for answer in told] == ["invalid", None, None]
    assert len(await create(store, {"topic": "other", "priority": 256})) == 1
    priorities = "SELECT count(DISTINCT priority) FROM fetchlock.lane WHERE topic = 't'"
    assert await connection.fetchval(priorities) == 256
    assert len(set(ids)) == 256


async def test_a_topic_has_only_so_many_lanes(
    store: Store, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verbs, "LANES_MAX", 4)
    of_tenants = [{"tenantId": f"tenant-{number}"} for number in range(9)]
    await create(store, *of_tenants[:2])
    told = answers(
        await store.create([creation(*of_tenants[:5], {"topic": "other"}, {"priority": 1})])
    )
    # Those that there are take none of the room.
    assert [answer.get("code") for answer in told] == [None] * 3 + ["invalid"] * 2 + [None] * 2
    told = answers(await store.create([creation(of_tenants[5], of_tenants[2])]))
    assert [answer.get("code") for answer in told] == ["invalid", None]
    lanes = "SELECT count(*) FROM fetchlock.lane WHERE topic = 't'"
    assert await connection.fetchval(lanes) == 4


async def test_two_brokers_make_the_same_lane_at_once(
    store: Store, connection: Connection, watcher: Connection
) -> None:
    made: list[str] = []

    async def make() -> None:
        made.extend(await create(store, {}))

    await connection.execute("BEGIN")
    await connection.execute(
        "INSERT INTO fetchlock.lane (topic, priority, shard) VALUES ('t', 0, 0)"
    )
    async with anyio.create_task_group() as group:
        group.start_soon(make)
        await eventually(lambda: is_blocked(watcher))
        await connection.execute("COMMIT")
    assert len(made) == 1
    assert await connection.fetchval("SELECT count(*) FROM fetchlock.lane") == 1


async def test_tenants_and_definitions_have_lanes_of_their_own(
    store: Store, connection: Connection
) -> None:
    names = ("tenantId", "processDefinitionId", "processDefinitionKey")
    members = (*names, "processDefinitionVersionTag")
    asked: list[TaskJson] = [
        {name: "ab" for place, name in enumerate(members) if variant >> place & 1}
        for variant in range(16)
    ]
    # What would be the same if the names were put one behind the other.
    asked += [{"tenantId": "a", "processDefinitionId": "b"}, {"tenantId": "a" * 255}]
    ids = await create(store, *asked, *asked, dict.fromkeys(members, ""))
    lanes = [(await row_of(connection, task_id))["lane_id"] for task_id in ids]
    assert len(set(lanes)) == len(asked)
    assert lanes[: len(asked)] == lanes[len(asked) : -1]
    assert lanes[-1] == lanes[0]
    locked = await lock(store, 99)
    assert [task["id"] for task in locked] == ids
    for task, wanted in zip(locked, asked, strict=False):
        assert {name: task[name] for name in members} == dict.fromkeys(members) | wanted


async def test_a_key_is_of_a_request_with_all_its_names(store: Store) -> None:
    for member in ("tenantId", "processDefinitionVersionTag"):
        await create(store, {"uniqueKey": member, member: "a"})
        told = answers(await store.create([creation({"uniqueKey": member, member: "b"})]))
        assert told[0]["code"] == "conflict"


# Keys -------------------------------------------------------------------------


async def test_a_key_said_again_is_the_first_task_again(store: Store) -> None:
    [first] = answers(await store.create([creation({"uniqueKey": "k", "variables": {"a": 1}})]))
    [again] = answers(await store.create([creation({"uniqueKey": "k", "variables": {"a": 1}})]))
    assert again == {"id": first["id"], "replayed": True}
    assert len(await lock(store, 10)) == 1


async def test_a_key_outlives_its_task(store: Store) -> None:
    [task_id] = await create(store, {"uniqueKey": "k"})
    [task] = await lock(store)
    await store.complete([request("w1", {"id": task["id"]})])
    assert await create(store, {"uniqueKey": "k"}) == [task_id]
    assert await lock(store) == []


async def test_a_key_with_another_request_is_a_conflict(store: Store) -> None:
    await create(store, {"uniqueKey": "k"})
    told = answers(await store.create([creation({}, {"uniqueKey": "k", "priority": 1})]))
    assert [answer.get("code") for answer in told] == [None, "conflict"]
    assert "uniqueKey" not in told[1]
    assert "fingerprint" not in told[1]


async def test_a_key_twice_in_one_batch_is_one_task(store: Store) -> None:
    batch = await store.create(
        [creation({"uniqueKey": "k"}, {"uniqueKey": "k"}), creation({"uniqueKey": "k"}, {})]
    )
    first, second = (msgspec.json.decode(result.body) for result in batch.results)
    assert {first[0]["id"], first[1]["id"], second[0]["id"]} == {first[0]["id"]}
    assert [answer.get("replayed", False) for answer in first + second] == [
        False, True, True, False,
    ]  # fmt: skip
    assert len(await lock(store, 10)) == 2


async def test_a_key_that_another_broker_is_just_using_is_waited_for(
    store: Store, connection: Connection, watcher: Connection
) -> None:
    [first] = await create(store, {"uniqueKey": "k"})
    fingerprint = await connection.fetchval(
        "DELETE FROM fetchlock.unique_key WHERE key = 'k' RETURNING fingerprint"
    )
    told: list[TaskJson] = []

    async def create_again() -> None:
        told.extend(answers(await store.create([creation({"uniqueKey": "k"})])))

    async with anyio.create_task_group() as group:
        await connection.execute("BEGIN")
        await connection.execute(
            "INSERT INTO fetchlock.unique_key (key, shard, task_id, fingerprint) "
            "VALUES ('k', 0, $1, $2)",
            first,
            fingerprint,
        )
        group.start_soon(create_again)
        await eventually(lambda: is_blocked(watcher))
        await connection.execute("COMMIT")
    assert told == [{"id": first, "replayed": True}]


async def test_types_of_variables_go_with_the_task(store: Store) -> None:
    types = {"due": {"type": "Date"}, "letter": {"type": "File", "valueInfo": {"filename": "a"}}}
    [task_id] = await create(
        store, {"variables": {"due": "2026-01-31", "n": 1}, "variableTypes": types}
    )
    [(seen, _)] = (await store.get_tasks([task_id])).values()
    assert msgspec.json.decode(seen)["variableTypes"] == types
    [task] = await lock(store)
    assert task["variableTypes"] == types
    await create(store, {})
    [bare] = await lock(store)
    assert "variableTypes" not in bare

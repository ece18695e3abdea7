"""Retries and priorities as operators of Camunda's set them."""

from __future__ import annotations

from functools import partial
from typing import Any, Final
from uuid import UUID

import asyncpg
import pytest

from broker.store import queries
from broker.store.database import SHARD
from tests.broker.api.camunda7.scene import THEM, US, Scene, assert_done, assert_refused, topic
from tests.factories import behind, request

Connection = asyncpg.Connection

RETRIES: Final = "/external-task/retries"
ASYNC: Final = "/external-task/retries-async"


async def _failed(scene: Scene, count: int, **members: object) -> list[str]:
    """The ids of tasks that have failed."""
    ids = [await scene.created(**members) for _ in range(count)]
    for task in await scene.fetched():
        assert_done(await scene.say(task, "failure"))
    return ids


async def _retries(scene: Scene) -> dict[str, int | None]:
    """Of every open task."""
    found = (await scene.get("/external-task")).json()
    return {task["id"]: task["retries"] for task in found}


# One task ---------------------------------------------------------------------


async def test_retries_redrive_a_failed_task(scene: Scene) -> None:
    [task_id] = await _failed(scene, 1)
    assert_done(await scene.put(f"/external-task/{task_id}/retries", {"retries": 2}))
    [task] = await scene.fetched()
    assert (task["id"], task["retries"]) == (task_id, 2)
    # What an operator has set is shown before any failure, too.
    assert_done(await scene.say(task, "complete"))
    other = await scene.created()
    assert_done(await scene.put(f"/external-task/{other}/retries", {"retries": 9}))
    assert await _retries(scene) == {other: 9}


async def test_no_retries_are_an_incident(scene: Scene) -> None:
    waiting, held = await scene.created(), await scene.created(topic="u")
    [task] = await scene.fetched(topics=[topic("u")])
    for task_id in (waiting, held):
        assert_done(await scene.put(f"/external-task/{task_id}/retries", {"retries": 0}))
    assert await scene.fetched() == []
    assert (await scene.native(waiting))["state"] == "FAILED"
    # Who works on it may still end it; if not, it is not given to anybody else.
    assert (await scene.native(held))["state"] == "LOCKED"
    assert_done(await scene.say(task, "unlock"))
    assert (await scene.native(held))["state"] == "FAILED"


async def test_a_finished_task_has_no_retries_and_no_priority(scene: Scene) -> None:
    task = await scene.locked()
    assert_done(await scene.say(task, "complete"))
    for name in ("retries", "priority"):
        answer = await scene.put(f"/external-task/{task['id']}/{name}", {name: 1})
        assert_refused(answer, 404)


async def test_a_task_moves_to_another_priority(scene: Scene) -> None:
    ids = [await scene.created(priority=priority) for priority in (3, 2, 1)]
    last = ids[2]
    assert_done(await scene.put(f"/external-task/{last}/priority", {"priority": 77}))
    first, *_ = await scene.fetched(usePriority=True)
    assert (first["id"], first["priority"]) == (last, 77)
    # Whoever has it keeps it.
    assert_done(await scene.put(f"/external-task/{last}/priority", {"priority": -(2**31)}))
    seen = await scene.seen(last)
    assert seen is not None
    assert (seen["priority"], seen["workerId"]) == (-(2**31), "worker-1")
    assert_done(await scene.say(first, "complete"))


@pytest.mark.parametrize("priority", [None, 2**31, "high", 1.5])
async def test_a_priority_that_cannot_be_kept_is_refused(priority: object, scene: Scene) -> None:
    task_id = await scene.created()
    answer = await scene.put(f"/external-task/{task_id}/priority", {"priority": priority})
    assert_refused(answer, 400, kind="InvalidRequestException")


# Many -------------------------------------------------------------------------


async def test_retries_of_many_are_set_by_ids(scene: Scene) -> None:
    ids = await _failed(scene, 3)
    assert_done(await scene.put(RETRIES, {"retries": 4, "externalTaskIds": [*ids[:2], ids[0]]}))
    assert await _retries(scene) == {ids[0]: 4, ids[1]: 4, ids[2]: 0}


@pytest.mark.parametrize("unknown", ["nope", "019aa5f0-7c1e-7b44-9d2a-3f5c8e1b6a01", "finished"])
async def test_retries_of_many_are_set_of_all_or_none(unknown: str, scene: Scene) -> None:
    if unknown == "finished":
        task = await scene.locked()
        assert_done(await scene.say(task, "complete"))
        unknown = task["id"]
    ids = await _failed(scene, 2)
    for said in (
        await scene.put(RETRIES, {"retries": 4, "externalTaskIds": [*ids, unknown]}),
        await scene.post(ASYNC, {"retries": 4, "externalTaskIds": [*ids, unknown]}),
    ):
        assert unknown in assert_refused(said, 404)
    assert await _retries(scene) == dict.fromkeys(ids, 0)


async def test_retries_of_many_are_set_by_process_instances(scene: Scene) -> None:
    of_one = await _failed(scene, 2, processInstanceId="one")
    [of_two] = await _failed(scene, 1, processInstanceId="two")
    [alone] = await _failed(scene, 1)
    # A finished task of an instance is nobody's concern.
    done = await scene.locked(processInstanceId="one")
    assert_done(await scene.say(done, "complete"))
    instances = {"processInstanceIds": ["one", alone]}
    assert_done(await scene.put(RETRIES, {"retries": 4, **instances}))
    assert await _retries(scene) == {**dict.fromkeys([*of_one, alone], 4), of_two: 0}
    unknown = {"retries": 5, "processInstanceIds": ["one", "none"]}
    assert_refused(await scene.put(RETRIES, unknown), 404)
    assert (await _retries(scene))[of_one[0]] == 4


@pytest.mark.parametrize("is_last", [False, True])
@pytest.mark.parametrize(
    "meant", [{"processInstanceIds": ["i"]}, {"externalTaskQuery": {"processInstanceId": "i"}}]
)
async def test_what_is_finished_while_it_is_looked_for_is_passed_over(
    meant: dict[str, Any],
    is_last: bool,
    scene: Scene,
    connection: Connection,
    watcher: Connection,
) -> None:
    ids = [] if is_last else await _failed(scene, 1, processInstanceId="i")
    task = await scene.locked(processInstanceId="i")
    await connection.execute("BEGIN")
    await connection.fetch(queries.COMPLETE, SHARD, [request(US, {"id": task["id"]})])
    said = partial(scene.put, RETRIES, {"retries": 4, **meant})
    answer = await behind(connection, watcher, said)
    if is_last:
        assert "externalTaskIds is empty" in assert_refused(answer, 400)
    else:
        assert_done(answer)
    assert await _retries(scene) == dict.fromkeys(ids, 4)


async def test_retries_of_many_are_set_by_a_query(scene: Scene) -> None:
    ids = await _failed(scene, 2)
    other = await scene.created()
    query: dict[str, Any] = {"topicName": "t", "noRetriesLeft": 1, "workerId": None}
    said = {"retries": 4, "externalTaskIds": None, "externalTaskQuery": query}
    assert_done(await scene.put(RETRIES, said))
    assert await _retries(scene) == {**dict.fromkeys(ids, 4), other: None}
    # All three ways together mean all that any of them means.
    both = {"externalTaskIds": [other], "externalTaskQuery": {"externalTaskIdIn": ids}}
    assert_done(await scene.put(RETRIES, {"retries": 2, **both}))
    assert await _retries(scene) == dict.fromkeys([*ids, other], 2)


@pytest.mark.parametrize(
    "meant",
    [
        {},
        {"externalTaskIds": []},
        {"externalTaskQuery": {"topicName": "nobody's"}},
        {"externalTaskQuery": {"sortBy": "id"}},
        {"externalTaskQuery": {}},
        {"externalTaskQuery": {"active": True, "locked": False}},
        # A typo leaves no filter out.
        {"externalTaskQuery": {"withRetriesLeft": None, "noRetriesleft": True}},
        {"externalTaskQuery": {"topicName": "t", "retries": 0}},
        {"externalTaskQuery": []},
        {"externalTaskIds": ["x"] * 1_001},
        {"processInstanceQuery": {}},
        {"historicProcessInstanceQuery": {"finished": True}},
    ],
)
async def test_nobody_is_meant_or_too_many(meant: dict[str, Any], scene: Scene) -> None:
    [task_id] = await _failed(scene, 1)
    others = ("Instance", "retries", "Retries", "active")
    with_ids = {"externalTaskIds": [task_id]} if any(n in str(meant) for n in others) else {}
    for answer in (
        await scene.put(RETRIES, {"retries": 4, **with_ids, **meant}),
        await scene.post(ASYNC, {"retries": 4, **with_ids, **meant}),
    ):
        assert_refused(answer, 400, kind="InvalidRequestException")
    assert await _retries(scene) == {task_id: 0}


async def test_the_asynchronous_form_is_done_at_once(scene: Scene) -> None:
    ids = await _failed(scene, 2)
    answer = await scene.post(ASYNC, {"retries": 4, "externalTaskIds": ids})
    assert answer.status_code == 200
    assert str(UUID(answer.json()["id"])) == answer.json()["id"]
    assert answer.json()["totalJobs"] == answer.json()["jobsCreated"] == 2
    assert await _retries(scene) == dict.fromkeys(ids, 4)
    assert len(await scene.fetched(workerId=THEM)) == 2

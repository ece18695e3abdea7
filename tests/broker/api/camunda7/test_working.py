"""What a worker of Camunda's may say of its tasks, and when."""

from __future__ import annotations

from typing import Any, Final

import asyncpg
import pytest

from broker.api.camunda7.routes import ROOT
from broker.settings import Settings
from tests.broker.api.camunda7.scene import THEM, US, Scene, assert_done, assert_refused, topic
from tests.eventually import eventually
from tests.factories import expire_lock, make_due, row_of, state_of

Connection = asyncpg.Connection

LATE: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "complete": ({}, "COMPLETED"),
    "failure": ({"errorMessage": "m", "retries": 1}, "CREATED"),
    "bpmnError": ({"errorCode": "E"}, "BPMN_ERROR"),
}
"""What is accepted of a worker whose lock has run out, and the state that it leads to."""


async def _swept(scene: Scene, task_id: str) -> None:
    async def is_swept() -> bool:
        return bool((await scene.native(task_id))["state"] == "CREATED")

    await eventually(is_swept)


@pytest.mark.parametrize("verb", LATE)
@pytest.mark.parametrize("is_swept", [False, True])
async def test_late_work_counts_while_nobody_else_has_the_task(
    verb: str, is_swept: bool, scene: Scene, connection: Connection
) -> None:
    members, state = LATE[verb]
    task = await scene.locked()
    await expire_lock(connection, task["id"])
    if is_swept:
        await _swept(scene, task["id"])
    assert_refused(await scene.say(task, verb, THEM, **members), 400)
    assert_done(await scene.say(task, verb, **members))
    assert (await scene.native(task["id"]))["state"] == state


@pytest.mark.parametrize("verb", LATE)
async def test_late_work_is_refused_once_somebody_else_has_the_task(
    verb: str, scene: Scene, connection: Connection
) -> None:
    task = await scene.locked()
    await expire_lock(connection, task["id"])
    [again] = await scene.fetched(workerId=THEM, asyncResponseTimeout=20_000)
    assert again["id"] == task["id"]
    words = assert_refused(await scene.say(task, verb, **LATE[verb][0]), 400, kind="RestException")
    assert words.endswith("It is locked by worker 'worker-2'.")
    # Nor once that worker has let go of it.
    assert_done(await scene.say(task, "unlock", THEM))
    assert_refused(await scene.say(task, verb, **LATE[verb][0]), 400)


async def test_a_lock_that_ran_out_is_not_extended(scene: Scene, connection: Connection) -> None:
    task = await scene.locked()
    await expire_lock(connection, task["id"])
    assert_refused(await scene.say(task, "extendLock", newDuration=60_000), 400)
    await _swept(scene, task["id"])
    assert_refused(await scene.say(task, "extendLock", newDuration=60_000), 400)


async def test_whether_late_work_counts_is_the_topics_to_say(
    scene: Scene, connection: Connection
) -> None:
    task = await scene.locked()
    await expire_lock(connection, task["id"])
    path = "/api/topics/t/late-work"
    assert (await scene.client.put(path, json={"isAccepted": False})).is_success
    assert_refused(await scene.say(task, "complete"), 400)
    assert (await scene.client.delete(path)).is_success
    assert_done(await scene.say(task, "complete"))


async def test_work_under_a_lock_is_the_workers_alone(scene: Scene) -> None:
    task = await scene.locked()
    for verb, (members, _) in LATE.items():
        assert_refused(await scene.say(task, verb, THEM, **members), 400)
    assert await scene.seen(task) is not None


async def test_a_completion_said_again_after_a_lost_answer(scene: Scene) -> None:
    task = await scene.locked()
    done = {"variables": {"ok": {"value": True}}}
    assert_done(await scene.say(task, "complete", **done))
    # The very same may have been meant: nobody loses by it.
    assert_done(await scene.say(task, "complete", **done))
    assert_refused(await scene.say(task, "complete"), 404)
    assert_refused(await scene.say(task, "complete", THEM, **done), 404)
    assert_refused(await scene.say(task, "failure"), 404)
    assert (await scene.native(task["id"]))["result"] == {"ok": True}


async def test_the_result_is_of_both_scopes_and_variables_win(scene: Scene) -> None:
    task = await scene.locked()
    global_ = {"a": {"value": 1}, "b": {"value": 5, "type": "Long"}}
    local = {"a": {"value": 2, "type": "Short"}, "c": {"value": "x"}}
    assert_done(await scene.say(task, "complete", variables=global_, localVariables=local))
    native = await scene.native(task["id"])
    assert native["result"] == {"a": 1, "b": 5, "c": "x"}
    assert native["resultTypes"] == {"b": {"type": "Long"}}


async def test_a_bpmn_error_ends_the_task(scene: Scene) -> None:
    task = await scene.locked()
    wrong = {"errorCode": "CARD_EXPIRED", "variables": {"month": {"value": 3, "type": "Short"}}}
    assert_done(await scene.say(task, "bpmnError", errorMessage="expired", **wrong))
    assert await scene.seen(task) is None
    native = await scene.native(task["id"])
    assert (native["state"], native["errorCode"]) == ("BPMN_ERROR", "CARD_EXPIRED")
    assert native["result"] == {"month": 3}


# Failures ---------------------------------------------------------------------


@pytest.mark.parametrize("members", [{}, {"retries": None}, {"retries": 0, "retryTimeout": 50}])
async def test_a_failure_without_retries_is_an_incident(
    members: dict[str, object], scene: Scene
) -> None:
    task = await scene.locked()
    assert_done(await scene.say(task, "failure", errorMessage="m", **members))
    assert (await scene.native(task["id"]))["state"] == "FAILED"
    seen = await scene.seen(task)
    assert seen is not None
    assert (seen["retries"], seen["errorMessage"], seen["workerId"]) == (0, "m", None)
    assert await scene.fetched() == []


async def test_a_failure_with_retries_is_tried_again(scene: Scene, connection: Connection) -> None:
    task = await scene.locked()
    assert task["retries"] is None
    said = {"errorMessage": "m", "errorDetails": "d", "retries": 7}
    given = {"seen": {"value": 1, "type": "Long"}}
    assert_done(await scene.say(task, "failure", **said, retryTimeout=60_000.7, variables=given))
    assert await scene.fetched() == []
    await make_due(connection, task["id"])
    [again] = await scene.fetched(workerId=THEM, asyncResponseTimeout=20_000)
    assert (again["retries"], again["errorMessage"], again["errorDetails"]) == (7, "m", "d")
    assert again["variables"] == {"seen": {"type": "Long", "value": 1, "valueInfo": {}}}


async def test_nobody_works_on_a_task_that_waits_for_its_retry(scene: Scene) -> None:
    task = await scene.locked()
    assert_done(await scene.say(task, "failure", retries=1, retryTimeout=600_000))
    for verb in ("complete", "failure", "extendLock", "lock"):
        members = {"newDuration": 1_000, "lockDuration": 1_000}
        assert_refused(await scene.say(task, verb, **members), 400, kind="RestException")
    # One client unlocks after each failure.
    assert_done(await scene.say(task, "unlock"))
    assert await scene.fetched() == []


async def test_long_texts_of_a_failure_are_cut(scene: Scene) -> None:
    task = await scene.locked()
    said = {"errorMessage": "é" * 667, "errorDetails": "é" * 65_537}
    assert_done(await scene.say(task, "failure", retries=1, **said))
    [again] = await scene.fetched()
    assert (again["errorMessage"], again["errorDetails"]) == ("é" * 666, "é" * 65_536)


# Locks ------------------------------------------------------------------------


async def test_anybody_may_unlock(scene: Scene) -> None:
    task = await scene.locked()
    assert_done(await scene.say(task, "unlock", "passer-by"))
    seen = await scene.seen(task)
    assert seen is not None
    assert (seen["workerId"], seen["lockExpirationTime"], seen["retries"]) == (None, None, None)
    # The attempt is over, also for who has unlocked it.
    assert_refused(await scene.say(task, "complete"), 400)
    [again] = await scene.fetched(workerId=THEM)
    assert again["id"] == task["id"]


async def test_unlocking_does_not_revive_a_failed_task(scene: Scene) -> None:
    task = await scene.locked()
    assert_done(await scene.say(task, "failure"))
    assert_done(await scene.say(task, "unlock"))
    assert (await scene.native(task["id"]))["state"] == "FAILED"
    assert await scene.fetched() == []


async def test_a_finished_task_is_unknown_to_unlock(scene: Scene) -> None:
    task = await scene.locked()
    assert_done(await scene.say(task, "complete"))
    assert_refused(await scene.say(task, "unlock"), 404)


async def test_a_lock_is_extended_from_now_and_may_become_shorter(
    scene: Scene, connection: Connection
) -> None:
    task = await scene.locked()
    for duration_ms in (600_000, 30_000.9):
        assert_done(await scene.say(task, "extendLock", newDuration=duration_ms))
        left_s = await connection.fetchval(
            "SELECT extract(epoch FROM lock_expires_at - now()) FROM fetchlock.open_task"
        )
        assert float(left_s) == pytest.approx(int(duration_ms) / 1_000, abs=20)


async def test_a_worker_may_lock_a_task_that_it_knows(scene: Scene) -> None:
    task_id = await scene.created()
    assert_done(await scene.say(task_id, "lock", lockDuration=60_000))
    assert_done(await scene.say(task_id, "lock", lockDuration=30_000))
    words = assert_refused(await scene.say(task_id, "lock", THEM, lockDuration=1_000), 400)
    assert words.endswith("It is locked by worker 'worker-1'.")
    assert await scene.fetched() == []
    assert_done(await scene.say(task_id, "complete"))


async def test_a_lock_that_ran_out_is_anybodys(scene: Scene, connection: Connection) -> None:
    task = await scene.locked()
    await expire_lock(connection, task["id"])
    assert_done(await scene.say(task, "lock", THEM, lockDuration=60_000))
    assert_refused(await scene.say(task, "complete"), 400)
    assert_done(await scene.say(task, "complete", THEM))


async def test_looking_at_tasks_by_shortest_locks_costs_them_nothing(
    scene: Scene, connection: Connection, settings: Settings
) -> None:
    tasks = [{"topic": "t", "retries": 3}] * 1_000
    answer = await scene.client.post("/api/external-tasks/batch", json={"tasks": tasks})
    assert answer.is_success

    async def all_are_ready() -> bool:
        ready = "SELECT count(*) = 1000 FROM fetchlock.open_task WHERE state = 'ready'"
        return bool(await connection.fetchval(ready))

    for _ in range(settings.max_expiries + 1):
        listed = await scene.fetched(maxTasks=1_000, topics=[topic(lockDuration=1)])
        assert len({task["id"] for task in listed}) == 1_000
        assert {task["retries"] for task in listed} == {None}
        await eventually(all_are_ready)
    [row] = await connection.fetch(
        "SELECT max(expiries), max(failures), min(retries) FROM fetchlock.open_task"
    )
    assert tuple(row) == (0, 0, 3)


async def test_a_lock_of_a_second_that_runs_out_is_counted(
    scene: Scene, connection: Connection
) -> None:
    task_id = await scene.created()
    assert_done(await scene.say(task_id, "lock", lockDuration=1_000))
    await expire_lock(connection, task_id)
    await _swept(scene, task_id)
    assert (await row_of(connection, task_id))["expiries"] == 1
    assert await state_of(connection, task_id) == "ready"


async def test_an_engine_may_be_named(scene: Scene) -> None:
    task = await scene.locked()
    named = f"{ROOT}/engine/default/external-task/{task['id']}"
    assert (await scene.client.get(named)).json() == await scene.seen(task)
    body = {"workerId": US}
    assert_done(await scene.client.post(f"{named}/complete", json=body))
    for engine in ("other", "Default", "%00", "💥"):
        path = f"{ROOT}/engine/{engine}/external-task"
        for answer in (
            await scene.client.post(f"{path}/fetchAndLock", json=body),
            await scene.client.get(path),
        ):
            assert_refused(answer, 404)

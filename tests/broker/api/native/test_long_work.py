"""Heartbeats, progress and logs over HTTP: what the golden files do not show."""

from __future__ import annotations

import uuid
from urllib.parse import quote

import pytest

from broker.api.native.routes import ROOT, WORKERS
from tests.broker.api.native.scene import JSON, Scene, held

# Heartbeats ---------------------------------------------------------------------


async def test_a_heartbeat_renews_and_tells(scene: Scene) -> None:
    task = await scene.locked()
    news = {"sequence": 1, "percent": 12.5, "subtext": "90/100 ✓", "logs": "one\nline"}
    told = await scene.beat(held(task, **news))
    [result] = told["results"]
    assert (result["lockLost"], result["cancelRequested"], told["drain"]) == (False, False, False)
    seen = await scene.task(task)
    assert result["lockExpiresAt"] == seen["lockExpiresAt"] != task["lockExpiresAt"]
    assert seen["progress"].items() >= {"percent": 12.5, "subtext": "90/100 ✓"}.items()
    log = (await scene.client.get(f"{ROOT}/{task['id']}/logs")).json()
    assert [line["line"] for line in log["lines"]] == ["one\nline"]


async def test_of_a_heartbeat_only_the_bad_items_are_refused(scene: Scene) -> None:
    good, bad = await scene.locked(), await scene.locked()
    unknown = {"id": str(uuid.uuid4()), "lockToken": "t"}
    items = [held(good), held(bad, percent=101), unknown, {"id": good["id"]}, 5]
    results = (await scene.beat(*items))["results"]
    assert [result.get("code") for result in results] == [
        *(None, "invalid", "task_not_found", "invalid", "invalid"),
    ]
    assert [result["errors"][0]["pointer"] for result in results if "errors" in result] == [
        *("/tasks/1/percent", "/tasks/3/lockToken", "/tasks/4"),
    ]
    assert results[1]["id"] == bad["id"]
    assert results[2]["lockLost"] is True
    # Its lock is as it was.
    assert (await scene.task(bad))["lockExpiresAt"] == bad["lockExpiresAt"]
    assert (await scene.task(good))["lockExpiresAt"] != good["lockExpiresAt"]


async def test_a_checkpoint_is_kept_to_the_letter(scene: Scene) -> None:
    task = await scene.locked()
    checkpoint = b'{"n":123456789012345678901234567890,"f":1.10,"e":1e300,"z":"\\u00e9"}'
    body = b'{"lockDurationMs":60000,"tasks":[{"id":"%b","lockToken":"%b","checkpoint":%b}]}' % (
        task["id"].encode(),
        task["lockToken"].encode(),
        checkpoint,
    )
    answer = await scene.client.post(f"{WORKERS}/w/heartbeat", content=body, headers=JSON)
    assert answer.json()["results"][0]["outcome"] == "done"
    assert checkpoint in (await scene.client.get(f"{ROOT}/{task['id']}")).content


async def test_a_heartbeat_that_is_none_is_refused_as_a_whole(scene: Scene) -> None:
    path = f"{WORKERS}/w/heartbeat"
    for body, pointer in (
        ({"tasks": []}, "/lockDurationMs"),
        ({"lockDurationMs": 1, "tasks": []}, "/lockDurationMs"),
        ({"lockDurationMs": 60_000}, "/tasks"),
        # Who it is stands in the path.
        ({"lockDurationMs": 60_000, "tasks": [], "workerId": "x"}, "/workerId"),
    ):
        answer = await scene.client.post(path, json=body)
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, pointer)


@pytest.mark.parametrize(
    "worker_id", ["host/1", "a b", "/", "ж" * 255, '"\\', "%2F", "heartbeat", "two\nlines"]
)
async def test_a_worker_may_be_named_anything(scene: Scene, worker_id: str) -> None:
    task = await scene.locked(worker_id)
    [result] = (await scene.beat(held(task), worker_id=worker_id))["results"]
    assert result["lockLost"] is False


@pytest.mark.parametrize("worker_id", ["", "%00", "a" * 256])
async def test_what_is_no_name_is_refused(scene: Scene, worker_id: str) -> None:
    answers = [
        await scene.client.post(f"{WORKERS}/{worker_id}/heartbeat", content=b"{}", headers=JSON),
        await scene.client.put(f"{WORKERS}/{worker_id}/drain"),
        await scene.client.delete(f"{WORKERS}/{worker_id}/drain"),
    ]
    for answer in answers:
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/workerId")


async def test_a_worker_is_told_to_drain_until_it_is_taken_back(scene: Scene) -> None:
    path = f"{WORKERS}/{quote('host/1', safe='')}/drain"
    for _ in range(2):
        assert (await scene.client.put(path)).status_code == 204
    assert (await scene.beat(worker_id="host/1"))["drain"] is True
    # However bad what it says.
    assert (await scene.beat(5, worker_id="host/1"))["drain"] is True
    assert (await scene.beat(worker_id="host/2"))["drain"] is False
    for _ in range(2):
        assert (await scene.client.delete(path)).status_code == 204
    assert (await scene.beat(worker_id="host/1"))["drain"] is False


async def test_a_worker_is_told_of_a_cancellation(scene: Scene) -> None:
    task = await scene.locked()
    asked = await scene.client.post(f"{ROOT}/{task['id']}/cancel", json={"reason": "twice"})
    assert asked.json() == {"state": "LOCKED", "cancelRequested": True}
    [result] = (await scene.beat(held(task)))["results"]
    assert (result["cancelRequested"], result["lockExpiresAt"]) == (True, task["lockExpiresAt"])
    failed = await scene.say(task, "fail", errorMessage="stopped")
    assert (failed.status_code, failed.json()["state"]) == (200, "CANCELLED")


# Progress --------------------------------------------------------------


async def test_anybody_may_say_how_a_task_stands(scene: Scene) -> None:
    task = await scene.locked()
    path = f"{ROOT}/{task['id']}/subtext"
    assert (await scene.client.put(path, json={"subtext": "90/100"})).status_code == 204
    assert (await scene.task(task))["progress"]["subtext"] == "90/100"
    for bad in ({}, {"subtext": None}, {"subtext": "a\nb"}):
        assert (await scene.client.put(path, json=bad)).status_code == 422
    await scene.say(task, "complete")
    late = await scene.client.put(path, json={"subtext": "done"})
    assert (late.status_code, late.json()["code"]) == (409, "conflict")

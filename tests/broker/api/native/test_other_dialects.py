"""What other dialects brought: one task to lock, priorities, variables, wishes about topics."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import httpx2
import pytest

from broker.api.native.routes import ROOT, TOPICS
from broker.settings import Settings
from tests.broker.api.native.scene import JSON, Scene
from tests.factories import expire_lock

HUGE = b"123456789012345678901234567890"


async def ask(scene: Scene, task: dict[str, Any], verb: str, **members: object) -> httpx2.Response:
    return await scene.client.post(f"{ROOT}/{task['id']}/{verb}", json=members)


async def wish(scene: Scene, topic: str, *, is_accepted: bool | None) -> httpx2.Response:
    path = f"{TOPICS}/{quote(topic, safe='')}/late-work"
    if is_accepted is None:
        return await scene.client.delete(path)
    return await scene.client.put(path, json={"isAccepted": is_accepted})


# One task to lock ---------------------------------------------------------------


async def test_a_task_that_was_locked_by_its_id_is_worked_on(scene: Scene) -> None:
    task = await scene.created()
    answer = await ask(scene, task, "lock", workerId="w", lockDurationMs=60_000)
    assert answer.status_code == 200
    locked = answer.json()
    shown = await scene.task(task)
    assert (shown["state"], shown["workerId"], shown["attempt"]) == ("LOCKED", "w", 1)
    assert shown["lockExpiresAt"] == locked["lockExpiresAt"]
    again = await ask(scene, task, "lock", workerId="w", lockDurationMs=5_000)
    assert again.json()["lockToken"] == locked["lockToken"]
    assert again.json()["lockExpiresAt"] < locked["lockExpiresAt"]
    done = await scene.say(task | locked | {"workerId": "w"}, "complete")
    assert done.status_code == 204
    late = await ask(scene, task, "lock", workerId="w", lockDurationMs=5_000)
    assert (late.status_code, late.json()["code"]) == (409, "conflict")
    assert (late.json()["taskId"], late.json()["state"]) == (task["id"], "COMPLETED")


async def test_another_workers_task_is_its_own(scene: Scene) -> None:
    task = await scene.locked("w")
    refused = await ask(scene, task, "lock", workerId="other", lockDurationMs=60_000)
    assert (refused.status_code, refused.json()["code"]) == (409, "lock_lost")
    facts = {name: refused.json()[name] for name in ("taskId", "state", "holder", "lockExpiresAt")}
    assert facts == {
        "taskId": task["id"],
        "state": "LOCKED",
        "holder": "w",
        "lockExpiresAt": task["lockExpiresAt"],
    }


# Priorities ---------------------------------------------------------------------


async def test_a_task_overtakes_the_others(scene: Scene) -> None:
    first, second = await scene.created(), await scene.created()
    answer = await ask(scene, second, "priority", priority=7)
    assert (answer.status_code, answer.json()) == (200, {"priority": 7})
    fetched = await scene.fetched()
    assert (fetched["id"], fetched["priority"]) == (second["id"], 7)
    assert (await scene.fetched())["id"] == first["id"]


# Variables ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"variables":{"n":%b},"deletions":["a","none"]}' % HUGE, {"n": int(HUGE), "b": 1}),
        (b'{"deletions":["a"]}', {"b": 1}),
        (b'{"variables":null,"deletions":["a"]}', {"b": 1}),
        (b'{"variables":{"a":2},"variables":null,"deletions":null}', {"a": 1, "b": 1}),
        (b'{"variables":{"b":null,"":[]},"deletions":["b"]}', {"a": 1, "b": None, "": []}),
        (b"{}", {"a": 1, "b": 1}),
        (b"", {"a": 1, "b": 1}),
    ],
)
async def test_variables_are_set_and_removed(
    scene: Scene, body: bytes, expected: dict[str, Any]
) -> None:
    created = await scene.client.post(ROOT, json={"topic": "t", "variables": {"a": 1, "b": 1}})
    task = created.json()
    path = f"{ROOT}/{task['id']}/variables"
    answer = await scene.client.post(path, content=body, headers=JSON)
    assert (answer.status_code, answer.content) == (204, b"")
    assert (await scene.task(task))["variables"] == expected
    assert (await scene.fetched())["variables"] == expected


async def test_names_that_cannot_be_stored_are_refused(scene: Scene) -> None:
    task = await scene.created()
    path = f"{ROOT}/{task['id']}/variables"
    for body in (b'{"deletions":["\\u0000"]}', b'{"variables":{"\\ud800":1}}'):
        answer = await scene.client.post(path, content=body, headers=JSON)
        assert answer.status_code == 422, answer.text


async def test_together_they_have_only_so_many_bytes(scene: Scene) -> None:
    bytes_max = Settings().variables_bytes_max
    task = await scene.created()
    third = {"variables": {"a": "x" * (bytes_max // 3)}}
    for _ in range(2):
        assert (await ask(scene, task, "variables", **third)).status_code == 204
    third = {"variables": {"b": "x" * (bytes_max // 3)}}
    assert (await ask(scene, task, "variables", **third)).status_code == 204
    refused = await ask(scene, task, "variables", **third)
    assert (refused.status_code, refused.json()["code"]) == (413, "too_large")
    assert refused.json()["bytesMax"] == bytes_max
    fetched = await scene.fetched()
    failed = await scene.say(fetched, "fail", errorMessage="m", **third)
    assert (failed.status_code, failed.json()["code"]) == (413, "too_large")
    assert failed.json()["bytesMax"] == bytes_max


async def test_a_failure_leaves_variables_for_the_next_attempt(scene: Scene) -> None:
    task = await scene.locked()
    answer = await scene.say(
        task, "fail", errorMessage="m", retryTimeoutMs=0, variables={"page": 7}
    )
    assert answer.status_code == 200
    assert (await scene.fetched())["variables"] == {"page": 7}
    bulk = {"id": task["id"], "errorMessage": "m", "retryTimeoutMs": 0, "variables": {"page": 8}}
    answer = await scene.client.post(f"{ROOT}/fail", json={"workerId": "w", "tasks": [bulk]})
    assert answer.json()["results"][0]["outcome"] == "done"
    assert (await scene.fetched())["variables"] == {"page": 8}


# Tenants and definitions ----------------------------------------------------------


async def test_a_task_has_the_names_it_was_created_with(scene: Scene) -> None:
    names = {"tenantId": "t1", "processDefinitionVersionTag": "v1", "processDefinitionKey": "k"}
    answer = await scene.client.post(ROOT, json={"topic": "t", **names})
    for task in (answer.json(), await scene.task(answer.json()), await scene.fetched()):
        assert {name: task[name] for name in names} == names
        assert task["failures"] == 0


# Late work ----------------------------------------------------------------------


async def test_late_work_is_refused_unless_the_topic_says_so(scene: Scene, connection: Any) -> None:
    await scene.client.post(ROOT, json={"topic": "t"})
    task = await scene.fetched()
    await expire_lock(connection, task["id"])
    for is_accepted in (None, False):
        assert (await wish(scene, "t", is_accepted=is_accepted)).status_code == 204
        refused = await scene.say(task, "complete")
        assert (refused.status_code, refused.json()["code"]) == (409, "lock_lost")
    assert (await wish(scene, "t", is_accepted=True)).status_code == 204
    done, again = await scene.say(task, "complete"), await scene.say(task, "complete")
    assert (done.status_code, "Idempotency-Replayed" in done.headers) == (204, False)
    assert (again.status_code, again.headers["Idempotency-Replayed"]) == (204, "true")


async def test_nobody_asks_for_it_in_a_request(scene: Scene) -> None:
    task = await scene.locked()
    refused = await scene.say(task, "complete", acceptsLate=True)
    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "/acceptsLate")
    refused = await scene.say(task, "unlock", whoever=True)
    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "/whoever")


@pytest.mark.parametrize("topic", ["a/b", "é ✓", "'%\"\\", "x" * 255])
async def test_a_topic_may_have_any_name(scene: Scene, topic: str) -> None:
    for is_accepted in (True, False, None, None):
        assert (await wish(scene, topic, is_accepted=is_accepted)).status_code == 204


@pytest.mark.parametrize("topic", ["\0", "x" * 256])
async def test_what_is_no_topic_is_invalid(scene: Scene, topic: str) -> None:
    for is_accepted in (True, None):
        refused = await wish(scene, topic, is_accepted=is_accepted)
        assert (refused.status_code, refused.json()["code"]) == (422, "invalid")

"""What is told of tasks, and how whatever cannot be told is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final
from urllib.parse import quote

import httpx2
import msgspec
import pytest

from broker.api.app import build_app
from broker.api.camunda7.routes import ROOT, ROUTES
from broker.core import Core, open_core
from broker.settings import Settings
from tests.broker.api.camunda7.scene import (
    DATE,
    LISTED_KEYS,
    THEM,
    US,
    Scene,
    assert_done,
    assert_refused,
    topic,
)
from tests.broker.api.conftest import Serve
from tests.broker.conftest import Outage

BYTES_MAX: Final = 1_024

BODIES: Final[dict[str, dict[str, Any]]] = {
    "fetch_and_lock": {"workerId": "w", "maxTasks": 1, "topics": [topic()]},
    "bpmn_error": {"workerId": "w", "errorCode": "E"},
    "extend_lock": {"workerId": "w", "newDuration": 1_000},
    "lock": {"workerId": "w", "lockDuration": 1_000},
    "retries": {"retries": 1},
    "priority": {"priority": 1},
    "bulk_retries": {"retries": 1, "externalTaskIds": ["x"]},
    "bulk_retries_async": {"retries": 1, "externalTaskIds": ["x"]},
}
"""The least that a verb takes, if it is more than a worker's name."""


def _requests(task_id: str = "x", name: str = "n") -> list[tuple[str, str, dict[str, Any] | None]]:
    """One right request of each route: method, path and body."""
    return [
        (
            method,
            path.format(id=task_id, name=name),
            BODIES.get(verb, {"workerId": "w"}) if method != "GET" else None,
        )
        for method, path, verb in ROUTES
    ]


@pytest.fixture
async def small(settings: Settings, serve: Serve) -> AsyncIterator[Scene]:
    """A broker that takes bodies of no more than BYTES_MAX."""
    async with (
        open_core(msgspec.structs.replace(settings, body_bytes_max=BYTES_MAX)) as core,
        serve(build_app(core)) as port,
        httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client,
    ):
        yield Scene(client)


# Telling ----------------------------------------------------------------------


async def test_every_key_is_always_there(scene: Scene) -> None:
    held, free = await scene.locked(), await scene.created()
    for found in (await scene.get("/external-task"), await scene.post("/external-task", {})):
        tasks = {task["id"]: task for task in found.json()}
        assert tasks.keys() == {held["id"], free}
        for task in tasks.values():
            assert task.keys() == LISTED_KEYS
            assert DATE.fullmatch(task["createTime"])
            assert await scene.seen(task) == task
        assert DATE.fullmatch(tasks[held["id"]]["lockExpirationTime"])
        assert tasks[free]["lockExpirationTime"] is tasks[free]["workerId"] is None


async def test_a_finished_task_is_no_more(scene: Scene) -> None:
    ends = {"complete": {}, "bpmnError": {"errorCode": "E"}}
    for verb, members in ends.items():
        task = await scene.locked()
        assert_done(await scene.say(task, verb, **members))
        assert await scene.seen(task) is None
        assert_refused(await scene.get(f"/external-task/{task['id']}/errorDetails"), 404)
    cancelled = await scene.created()
    assert (await scene.client.post(f"/api/external-tasks/{cancelled}/cancel")).is_success
    assert await scene.seen(cancelled) is None
    assert (await scene.get("/external-task")).json() == []
    assert (await scene.get("/external-task/count")).json() == {"count": 0}
    assert (await scene.get("/external-task/topic-names")).json() == []


async def test_the_words_in_the_paths_are_no_ids(scene: Scene) -> None:
    await scene.created()
    assert (await scene.get("/external-task/count")).json() == {"count": 1}
    assert (await scene.get("/external-task/topic-names")).json() == ["t"]


async def test_error_details_are_plain_text(scene: Scene) -> None:
    task = await scene.locked()
    assert_done(await scene.get(f"/external-task/{task['id']}/errorDetails"))
    details = 'line\n\t"é" </x>'
    assert_done(await scene.say(task, "failure", errorDetails=details))
    answer = await scene.get(f"/external-task/{task['id']}/errorDetails")
    assert (answer.status_code, answer.content.decode()) == (200, details)
    assert answer.headers["Content-Type"] == "text/plain"


async def test_a_search_and_its_count_agree(scene: Scene) -> None:
    for number in range(3):
        await scene.created(priority=number, businessKey=str(number))
    [held, *_] = await scene.fetched(maxTasks=1, usePriority=True, workerId=THEM)
    for query, count in (
        ({}, 3),
        ({"workerId": THEM}, 1),
        ({"workerId": US}, 0),
        ({"locked": "true"}, 1),
        ({"notLocked": "true"}, 2),
        ({"priorityHigherThanOrEquals": "1"}, 2),
        ({"externalTaskId": held["id"]}, 1),
        ({"executionId": "nope"}, 0),
        ({"processInstanceId": held["id"]}, 1),
        ({"suspended": "true"}, 0),
        ({"active": "true"}, 3),
        ({"topicName": "t", "withRetriesLeft": "true"}, 3),
    ):
        counted = {"count": count}
        assert len(await scene.ids(**query)) == count, query
        assert (await scene.get("/external-task/count", **query)).json() == counted, query
        # Jackson reads texts as flags and numbers, where those are wanted.
        assert len((await scene.post("/external-task", query)).json()) == count, query
        assert (await scene.post("/external-task/count", query)).json() == counted, query


async def test_pages_follow_each_other(scene: Scene) -> None:
    ids = [await scene.created() for _ in range(5)]
    order = {"sortBy": "createTime", "sortOrder": "asc", "maxResults": "2"}
    pages = [await scene.ids(**order, firstResult=str(first)) for first in (0, 2, 4, 6)]
    assert [*pages[0], *pages[1], *pages[2]] == ids
    assert pages[3] == []
    body = {"sorting": [{"sortBy": "createTime", "sortOrder": "desc"}]}
    answer = await scene.client.post(
        f"{ROOT}/external-task", params={"firstResult": 1, "maxResults": 1}, json=body
    )
    assert [task["id"] for task in answer.json()] == [ids[3]]


async def test_a_get_may_come_with_a_body_and_credentials(scene: Scene) -> None:
    task = await scene.locked()
    for path in ("", "/count", "/topic-names", f"/{task['id']}"):
        for content in (b"{}", b'{"workerId":"other"}', b"no JSON", b""):
            answer = await scene.client.request(
                "GET",
                f"{ROOT}/external-task{path}",
                content=content,
                headers={"Content-Type": "application/json", "Authorization": "Bearer x"},
            )
            assert answer.status_code == 200, answer.text
            assert answer.headers["Content-Type"] == "application/json"


# Refusing ---------------------------------------------------------------------


IDS: Final = (
    *("nope", "019aa5f0-7c1e-7b44-9d2a-3f5c8e1b6a01", "\0", "a/b", "..", "💥", "'\"\\", " ", "%"),
    *("{id}", "count;x=1", "a?b#c", "\u202e", "\n", "x" * 10_000, "é" * 2_000),
)


async def test_any_text_may_be_an_id(scene: Scene) -> None:
    by_id = [request for request in zip(_requests(), ROUTES, strict=True) if "{" in request[1][1]]
    for text in IDS:
        for (method, _, body), (_, path, _) in by_id:
            at = path.format(id=quote(text, safe=""), name=quote(text, safe=""))
            answer = await scene.client.request(method, f"{ROOT}{at}", json=body)
            assert_refused(answer, 404)
    for path in ("/external-task//complete", "/external-task/%FF/complete"):
        assert_refused(await scene.post(path, {"workerId": "w"}), 404)


@pytest.mark.parametrize(
    "path", ["", "/", "/external-task/", "/process-definition", "/history", "/a/b/c/d/e"]
)
async def test_there_is_nothing_at_other_paths(path: str, scene: Scene) -> None:
    for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
        for engine in ("", "/engine/default"):
            answer = await scene.client.request(method, f"{ROOT}{engine}{path}")
            if answer.status_code != 405:
                assert_refused(answer, 404)


async def test_a_path_tells_which_methods_it_takes(scene: Scene) -> None:
    paths: dict[str, set[str]] = {}
    for method, path, _ in ROUTES:
        paths.setdefault(path.format(id="x", name="n"), set()).add(method)
    del paths["/external-task/x"]
    for path, methods in paths.items():
        for method in {"GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"} - methods:
            answer = await scene.client.request(method, f"{ROOT}{path}")
            assert_refused(answer, 405, kind="NotAllowedException")
            allowed = set(answer.headers["Allow"].split(", ")) - {"HEAD"}
            assert allowed == methods


async def test_a_body_has_a_limit(small: Scene) -> None:
    for method, path, body in _requests(await small.created()):
        if body is None or path.endswith("/unlock"):
            continue
        padded = {**body, "workerId": "x" * BYTES_MAX}
        answer = await small.client.request(method, f"{ROOT}{path}", json=padded)
        assert_refused(answer, 413)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b'"x"', b"5", b"\xff", b'{"workerId":"\\ud800"}', b"{}{}",
     b'{"workerId":"w","variables":{"a":{"value":' + b"[" * 5_000 + b"]" * 5_000 + b"}}}"],
)  # fmt: skip
async def test_what_is_no_request_is_refused(content: bytes, scene: Scene) -> None:
    headers = {"Content-Type": "application/json"}
    for method, path, body in _requests():
        # These take anything that is an object, or no body at all.
        if body is None or path.endswith(("/unlock", "ariables", "external-task", "/count")):
            continue
        at = f"{ROOT}{path}"
        answer = await scene.client.request(method, at, content=content, headers=headers)
        assert_refused(answer, 400, kind="InvalidRequestException")


async def test_a_body_that_is_said_to_be_something_else_is_refused(scene: Scene) -> None:
    task = await scene.locked()
    for content_type in ("text/plain", "application/xml", "application/x-www-form-urlencoded"):
        answer = await scene.client.post(
            f"{ROOT}/external-task/{task['id']}/complete",
            content=b'{"workerId":"worker-1"}',
            headers={"Content-Type": content_type},
        )
        assert_refused(answer, 415)
    assert await scene.seen(task) is not None


async def test_without_its_database_the_broker_says_when_to_come_again(
    scene: Scene, outage: Outage
) -> None:
    task = await scene.locked()
    await outage.begin()
    for method, path, body in _requests(task["id"]):
        if path in ("/version", "/engine"):
            continue
        answer = await scene.client.request(method, f"{ROOT}{path}", json=body)
        assert_refused(answer, 503)
        assert answer.headers["Retry-After"] == "1"
    await outage.end()


async def test_a_stopping_broker_still_answers(scene: Scene, core: Core) -> None:
    task = await scene.locked()
    core.begin_shutdown()
    assert (await scene.seen(task)) is not None
    assert_done(await scene.say(task, "complete"))

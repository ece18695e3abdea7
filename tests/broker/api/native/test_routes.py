"""The verbs over HTTP: what the golden files do not show."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import httpx2
import msgspec
import pytest

from broker.api.app import build_app
from broker.api.native.routes import ROOT
from broker.core import Core
from tests.broker.api.conftest import Serve


@pytest.fixture
async def client(core: Core, serve: Serve) -> AsyncIterator[httpx2.AsyncClient]:
    async with (
        serve(build_app(core)) as port,
        httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as opened,
    ):
        yield opened


async def _create(client: httpx2.AsyncClient, **members: object) -> dict[str, Any]:
    answer = await client.post(ROOT, json={"topic": "t", **members})
    assert answer.status_code == 202, answer.text
    task: dict[str, Any] = answer.json()
    return task


def _wish(**members: object) -> dict[str, Any]:
    return {
        "workerId": "w",
        "maxTasks": 10,
        "lockDurationMs": 60_000,
        "requestTimeoutMs": 0,
        "subscriptions": [{"topic": "t"}],
        **members,
    }


async def _fetch(client: httpx2.AsyncClient, **members: object) -> list[dict[str, Any]]:
    answer = await client.post(f"{ROOT}/fetch-and-lock", json=_wish(**members))
    assert answer.status_code == 200, answer.text
    tasks: list[dict[str, Any]] = answer.json()
    return tasks


async def test_a_created_task_is_where_location_says(client: httpx2.AsyncClient) -> None:
    answer = await client.post(ROOT, json={"topic": "t"})
    found = await client.get(answer.headers["Location"])
    assert found.json() == answer.json()


async def test_variables_come_back_to_the_letter(client: httpx2.AsyncClient) -> None:
    variables = (
        b'{"n":123456789012345678901234567890,"f":1.10,"e":1e300,"z":"\\u00e9\\ud83d\\ude00"}'
    )
    answer = await client.post(
        ROOT,
        content=b'{"topic":"t","variables":%b}' % variables,
        headers={"Content-Type": "application/json"},
    )
    assert variables in answer.content
    locked = await client.post(f"{ROOT}/fetch-and-lock", json=_wish())
    assert variables in locked.content


async def test_who_prefers_to_wait_gets_the_finished_task(client: httpx2.AsyncClient) -> None:
    answers: list[httpx2.Response] = []

    async def ask() -> None:
        answers.append(await client.post(ROOT, json={"topic": "t"}, headers={"Prefer": "wait=60"}))

    async with anyio.create_task_group() as group:
        group.start_soon(ask)
        [task] = await _fetch(client, requestTimeoutMs=30_000)
        done = {"workerId": "w", "variables": {"ok": True}}
        assert (await client.post(f"{ROOT}/{task['id']}/complete", json=done)).status_code == 204
    [answer] = answers
    assert answer.status_code == 200
    assert answer.headers["Preference-Applied"] == "wait=60"
    assert (answer.json()["state"], answer.json()["result"]) == ("COMPLETED", {"ok": True})


async def test_who_waits_in_vain_gets_the_task_as_it_is(client: httpx2.AsyncClient) -> None:
    answer = await client.post(ROOT, json={"topic": "t"}, headers={"Prefer": "wait=1"})
    assert (answer.status_code, answer.json()["state"]) == (202, "CREATED")
    assert answer.headers["Preference-Applied"] == "wait=1"


async def test_a_key_said_again_is_a_replay(client: httpx2.AsyncClient) -> None:
    first = await client.post(ROOT, json={"topic": "t"}, headers={"Idempotency-Key": "k"})
    again = await client.post(ROOT, json={"topic": "t"}, headers={"Idempotency-Key": "k"})
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json() == again.json()
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    other = await client.post(ROOT, json={"topic": "u"}, headers={"Idempotency-Key": "k"})
    assert (other.status_code, other.json()["code"]) == (409, "conflict")
    contradiction = await client.post(
        ROOT, json={"topic": "t", "uniqueKey": "l"}, headers={"Idempotency-Key": "k"}
    )
    assert contradiction.json()["errors"][0]["pointer"] == "/uniqueKey"


async def test_a_completion_said_again_is_a_replay(client: httpx2.AsyncClient) -> None:
    await _create(client)
    [task] = await _fetch(client)
    done = {"workerId": "w", "lockToken": task["lockToken"]}
    first = await client.post(f"{ROOT}/{task['id']}/complete", json=done)
    again = await client.post(f"{ROOT}/{task['id']}/complete", json=done)
    assert (first.status_code, again.status_code) == (204, 204)
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"


async def test_a_lost_lock_says_who_holds_the_task(client: httpx2.AsyncClient) -> None:
    await _create(client)
    [task] = await _fetch(client)
    refused = await client.post(f"{ROOT}/{task['id']}/complete", json={"workerId": "other"})
    assert refused.status_code == 409
    problem = refused.json()
    assert (problem["code"], problem["taskId"], problem["holder"]) == ("lock_lost", task["id"], "w")
    assert problem["lockExpiresAt"] == task["lockExpiresAt"]


async def test_an_unknown_id_is_not_found(client: httpx2.AsyncClient) -> None:
    bodies: dict[str, dict[str, Any]] = {
        "complete": {"workerId": "w"},
        "fail": {"workerId": "w", "errorMessage": "m"},
        "bpmn-error": {"workerId": "w", "errorCode": "c"},
        "extend-lock": {"workerId": "w", "lockDurationMs": 1_000},
        "unlock": {"workerId": "w"},
        "retry-timeout": {"retryTimeoutMs": 0},
        "retries": {"retries": 1},
        "priority": {"priority": 1},
        "lock": {"workerId": "w", "lockDurationMs": 1_000},
        "variables": {"variables": {"a": 1}},
        "cancel": {},
        "callback-url": {"workerId": "w"},
        "hand-over": {"workerId": "w"},
    }
    uuid = "019aa5f0-7c1e-7b44-9d2a-3f5c8e1b6a01"
    for task_id in ("nope", uuid, "%00", "%FF", "'%22%5C", "💥"):
        answers = [
            await client.post(f"{ROOT}/{task_id}/{verb}", json=body)
            for verb, body in bodies.items()
        ]
        answers.append(await client.get(f"{ROOT}/{task_id}"))
        answers.append(await client.get(f"{ROOT}/{task_id}", headers={"Prefer": "wait=60"}))
        answers.append(await client.get(f"{ROOT}/{task_id}/logs"))
        answers.append(await client.put(f"{ROOT}/{task_id}/subtext", json={"subtext": "s"}))
        for answer in answers:
            assert (answer.status_code, answer.json()["code"]) == (404, "task_not_found")
            assert isinstance(answer.json()["taskId"], str)


async def test_a_subscription_names_its_lock_duration_and_variables(
    client: httpx2.AsyncClient,
) -> None:
    await _create(client, variables={"a": 1, "b": 2})
    wish = {"topic": "t", "variables": ["b", "none"], "lockDurationMs": 1_000}
    [task] = await _fetch(client, subscriptions=[wish])
    assert task["variables"] == {"b": 2}
    await _create(client, variables={"a": 1})
    [task] = await _fetch(client, subscriptions=[{"topic": "t", "variables": []}])
    assert task["variables"] == {}


async def test_of_a_batch_only_the_bad_ones_are_refused(client: httpx2.AsyncClient) -> None:
    tasks: list[Any] = [{"topic": "t"}, {"topic": ""}, 5, {"topic": "t", "webhookUrl": "http://x"}]
    tasks += [{"topic": "t", "variables": {"n": "\0"}}, {"topic": "t"}]
    answer = await client.post(f"{ROOT}/batch", json={"tasks": tasks})
    assert answer.status_code == 202
    results = answer.json()["results"]
    assert [result.get("code") for result in results] == [None, *["invalid"] * 4, None]
    assert [result["errors"][0]["pointer"] for result in results[1:5]] == [
        *("/tasks/1/topic", "/tasks/2", "/tasks/3/webhookUrl", "/tasks/4"),
    ]
    locked = await _fetch(client)
    assert [task["id"] for task in locked] == [results[0]["id"], results[5]["id"]]


async def test_of_a_batch_what_contradicts_itself_is_refused_alone(
    client: httpx2.AsyncClient,
) -> None:
    both = {"topic": "t", "delayMs": 1, "availableAt": "2030-01-01T00:00:00Z"}
    answer = await client.post(f"{ROOT}/batch", json={"tasks": [{"topic": "t"}, both]})
    assert [result.get("code") for result in answer.json()["results"]] == [None, "invalid"]
    alone = await client.post(ROOT, json=both)
    assert (alone.status_code, alone.json()["code"]) == (422, "invalid")


async def test_a_search_goes_on_page_by_page(client: httpx2.AsyncClient) -> None:
    ids = [(await _create(client))["id"] for _ in range(5)]
    found: list[str] = []
    page = (await client.get(ROOT, params={"topic": "t", "limit": 2})).json()
    while True:
        found += [task["id"] for task in page["tasks"]]
        if page["next"] is None:
            break
        after = {"topic": "t", "limit": 2, "after": page["next"]}
        page = (await client.get(ROOT, params=after)).json()
    assert found == ids[::-1]
    assert (await client.get(ROOT, params={"after": "é"})).json()["code"] == "invalid"


async def test_a_poll_whose_client_left_locks_nothing(core: Core, serve: Serve) -> None:
    body = msgspec.json.encode(_wish(requestTimeoutMs=60_000))
    head = f"POST {ROOT}/fetch-and-lock HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    async with serve(build_app(core)) as port:
        base_url = f"http://127.0.0.1:{port}"
        async with httpx2.AsyncClient(base_url=base_url, timeout=60) as client:
            for _ in range(3):
                async with await anyio.connect_tcp("127.0.0.1", port) as leaving:
                    await leaving.send(head.encode() + body)
                    await _parked(client, 1)
            await _parked(client, 0)
            task = await _create(client)
            assert (await client.get(f"{ROOT}/{task['id']}")).json()["attempt"] == 0
            [locked] = await _fetch(client)
            assert (locked["id"], locked["attempt"]) == (task["id"], 1)


async def _parked(client: httpx2.AsyncClient, polls: int) -> None:
    expected = f"fetchlock_http_longpolls {polls}.0"
    with anyio.fail_after(10):
        while expected not in (await client.get("/metrics")).text:
            await anyio.lowlevel.checkpoint()

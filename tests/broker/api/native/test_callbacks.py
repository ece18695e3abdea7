"""Hand-overs and callbacks over HTTP: what the golden files do not show."""

from __future__ import annotations

import logging
import uuid
from typing import Any

import anyio
import httpx2
import pytest
from structlog.testing import capture_logs

from broker.api.app import build_app
from broker.api.native.long_work import CALLBACKS
from broker.api.native.routes import ROOT
from broker.callbacks import Signer
from broker.core import Core, open_core
from broker.settings import Settings
from tests.broker.api.conftest import Serve
from tests.broker.api.native.scene import JSON, Scene, path_of

EXTERNAL_EVENT = "/api/external-events/callback/"

# Callbacks ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "result"),
    [
        (b'{"ok":true,"b":2}', {"a": 1, "b": 2, "ok": True}),
        (b"[1]", {"a": 1, "b": 1, "value": [1]}),
        (
            b'{"taskId":"<id>","status":"SUCCESS","output":{"b":2},"logs":"x","subtext":"s"}',
            {"a": 1, "b": 2},
        ),
        (
            b'{"command_response":{"body":"{\\"b\\":2}","mimetype":"application/json"}}',
            {"a": 1, "b": 2},
        ),
    ],
)
async def test_a_callback_ends_the_task(scene: Scene, body: bytes, result: Any) -> None:
    task, path = await scene.handed_over(variables={"a": 1, "b": 1})
    content = body.replace(b"<id>", task["id"].encode())
    first = await scene.client.put(path, content=content, headers=JSON)
    assert (first.status_code, first.json()["state"]) == (200, "COMPLETED")
    assert "Idempotency-Replayed" not in first.headers
    again = await scene.client.put(path, content=content, headers=JSON)
    assert (again.status_code, again.json()["state"]) == (200, "COMPLETED")
    assert again.headers["Idempotency-Replayed"] == "true"
    other = await scene.client.put(path, content=b'"other"', headers=JSON)
    assert (other.status_code, other.json()["code"]) == (409, "conflict")
    assert (await scene.task(task))["result"] == result


async def test_the_result_of_a_callback_is_kept_to_the_letter(scene: Scene) -> None:
    task, path = await scene.handed_over()
    result = b'{"n":123456789012345678901234567890,"f":1.10,"e":1e300,"z":"\\u00e9\\ud83d\\ude00"}'
    assert (await scene.client.put(path, content=result, headers=JSON)).status_code == 200
    assert result in (await scene.client.get(f"{ROOT}/{task['id']}")).content


async def test_a_failure_goes_by_the_retry_policy(scene: Scene) -> None:
    task, path = await scene.handed_over()
    error = {"error_code": "E1", "message": "no"}
    answer = await scene.client.put(path, json={"command_response": {"body": 1}, "error": error})
    told = answer.json()
    assert (told["state"], told["retries"]) == ("CREATED", task["retries"] - 1)
    seen = await scene.task(task)
    assert (seen["errorCode"], seen["errorMessage"]) == ("E1", "no")


async def test_a_callback_may_come_before_the_hand_over(scene: Scene) -> None:
    task = await scene.locked()
    address = (await scene.say(task, "callback-url")).json()
    early = await scene.client.put(path_of(address["callbackUrl"]), json={"b": 2})
    assert (early.status_code, early.json()["state"]) == (200, "LOCKED")
    lost = await scene.say(task, "complete")
    assert (lost.status_code, lost.json()["code"]) == (409, "lock_lost")
    handed = await scene.say(task, "hand-over", variables={"a": 1})
    assert handed.json() == {**address, "state": "COMPLETED"}
    assert (await scene.task(task))["result"] == {"a": 1, "b": 2}


async def test_a_hand_over_said_again_is_answered_the_same(scene: Scene) -> None:
    task = await scene.locked()
    first = await scene.say(task, "hand-over", timeoutMs=60_000)
    again = await scene.say(task, "hand-over", timeoutMs=60_000)
    assert (first.status_code, again.status_code) == (200, 200)
    assert first.json() == again.json()
    seen = await scene.task(task)
    assert (seen["state"], seen["callbackExpiresAt"]) == ("AWAITING", first.json()["expiresAt"])
    found = await scene.client.get(ROOT, params={"state": "AWAITING"})
    assert [each["id"] for each in found.json()["tasks"]] == [task["id"]]


async def test_what_no_key_has_signed_is_forbidden(scene: Scene) -> None:
    task, path = await scene.handed_over()
    token = path.rpartition("/")[2]
    foreign = Signer([b"foreign"]).token(task["id"], task["lockToken"], 2**40)
    for forged in ("x", "%00", "é", token[:-1], token[:-2] + "AA", f"{token}A", foreign):
        answer = await scene.client.put(f"{CALLBACKS}/{forged}", json={})
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
        assert answer.json().keys() == {"type", "title", "status", "code", "detail"}
    other = {"taskId": str(uuid.uuid4()), "status": "SUCCESS"}
    answer = await scene.client.put(path, json=other)
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    assert (await scene.task(task))["state"] == "AWAITING"


async def test_of_what_no_key_has_signed_the_body_is_not_waited_for(
    core: Core, serve: Serve
) -> None:
    head = f"PUT {CALLBACKS}/forged HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"
    async with (
        serve(build_app(core)) as port,
        await anyio.connect_tcp("127.0.0.1", port) as stream,
    ):
        await stream.send(head.encode())
        with anyio.fail_after(10):
            assert (await stream.receive()).startswith(b"HTTP/1.1 403 ")


async def test_a_callback_of_another_time_has_expired(scene: Scene, core: Core) -> None:
    task, path = await scene.handed_over()
    late = core.signer.token(task["id"], task["lockToken"], 1)
    earlier_attempt = core.signer.token(task["id"], str(uuid.uuid4()), 2**42)
    for token in (late, earlier_attempt):
        answer = await scene.client.put(f"{CALLBACKS}/{token}", json={})
        assert (answer.status_code, answer.json()["code"]) == (410, "callback_expired")
    gone = core.signer.token(str(uuid.uuid4()), task["lockToken"], 2**42)
    answer = await scene.client.put(f"{CALLBACKS}/{gone}", json={})
    assert (answer.status_code, answer.json()["code"]) == (404, "task_not_found")
    assert (await scene.client.put(path, json={})).status_code == 200


@pytest.mark.parametrize("body", [b"", b"{", b'{"a":1e400}', b'"\\u0000"', b"\xff"])
async def test_a_callback_that_cannot_be_kept_may_be_said_better(scene: Scene, body: bytes) -> None:
    _, path = await scene.handed_over()
    answer = await scene.client.put(path, content=body, headers=JSON)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid")
    assert (await scene.client.put(path, json={})).status_code == 200


async def test_a_callback_has_a_body_limit(scene: Scene, core: Core) -> None:
    _, path = await scene.handed_over()
    large = b'"%b"' % (b"x" * core.settings.body_bytes_max)
    answer = await scene.client.put(path, content=large, headers=JSON)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    answer = await scene.client.put(path, content=b"a=1", headers={"Content-Type": "text/plain"})
    assert answer.status_code == 415


async def test_an_external_event_ends_the_task_by_its_id(scene: Scene) -> None:
    task, _ = await scene.handed_over(variables={"a": 1})
    event = {"taskId": task["id"], "status": "SUCCESS", "output": {"b": 2}}
    event |= {"logs": ["one", "two"], "subtext": "90/100"}
    first = await scene.client.post(EXTERNAL_EVENT, json=event)
    assert (first.status_code, first.json()["state"]) == (200, "COMPLETED")
    again = await scene.client.post(EXTERNAL_EVENT, json=event)
    assert again.headers["Idempotency-Replayed"] == "true"
    seen = await scene.task(task)
    assert (seen["result"], seen["progress"]["subtext"]) == ({"a": 1, "b": 2}, "90/100")
    log = (await scene.client.get(f"{ROOT}/{task['id']}/logs")).json()
    assert [line["line"] for line in log["lines"]] == ["one", "two"]


async def test_an_external_event_is_for_a_task_that_waits_for_it(scene: Scene) -> None:
    task = await scene.locked()
    for task_id, status, code in (
        (task["id"], 409, "conflict"),
        (str(uuid.uuid4()), 404, "task_not_found"),
        ("12345678", 404, "task_not_found"),
    ):
        event = {"taskId": task_id, "status": "FAILURE"}
        answer = await scene.client.post(EXTERNAL_EVENT, json=event)
        assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_a_callback_comes_to_where_its_worker_reached_the_broker(scene: Scene) -> None:
    for host, base_url in (
        ("broker.example.com:8443", "http://broker.example.com:8443"),
        ("bad host/", str(scene.client.base_url).rstrip("/")),
    ):
        task = await scene.locked()
        answer = await scene.client.post(
            f"{ROOT}/{task['id']}/callback-url", json={"workerId": "w"}, headers={"Host": host}
        )
        assert answer.json()["callbackUrl"].startswith(f"{base_url}{CALLBACKS}/")


@pytest.mark.parametrize("public_url", ["https://x.org/broker", "https://x.org/broker/"])
async def test_a_callback_comes_to_the_public_url(
    settings: Settings, serve: Serve, public_url: str
) -> None:
    settings = Settings(database_url=settings.database_url, public_url=public_url)
    async with (
        open_core(settings) as core,
        serve(build_app(core)) as port,
        httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
    ):
        scene = Scene(client)
        address = (await scene.say(await scene.locked(), "callback-url")).json()
        assert address["callbackUrl"].startswith(f"https://x.org/broker{CALLBACKS}/")


async def test_a_token_is_told_to_nobody_else(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "broker.api.endpoint")
    told = ""
    with capture_logs() as lines:
        _, path = await scene.handed_over()
        token = path.rpartition("/")[2]
        for method, content in (
            *(("PUT", b"{"), ("PUT", b'{"taskId":"x","status":"SUCCESS"}'), ("PUT", b"{}")),
            *(("PUT", b'"other"'), ("GET", b""), ("POST", b"{}")),
        ):
            answer = await scene.client.request(method, path, content=content, headers=JSON)
            told += answer.text + str(answer.headers)
        told += (await scene.client.put(f"{path}A", json={})).text
        told += (await scene.client.put(f"{path}/more", json={})).text
    routes = [line["route"] for line in lines if line["event"] == "request"]
    assert f"{CALLBACKS}/{{token}}" in routes
    figures = (await scene.client.get("/metrics")).text
    assert f'route="{CALLBACKS}/{{token}}"' in figures
    assert token[:40] not in f"{lines}{figures}{told}{caplog.text}"

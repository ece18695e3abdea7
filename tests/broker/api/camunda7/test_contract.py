"""The golden exchanges of tests/contract/camunda7, played on a real core.

Each is what a client of Camunda's sends, to the letter, and what it relies on
in the answer: status, headers, every key and every value. Ids are those of the
tasks that a test makes; instants may be any in Camunda's form.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import httpx2
import msgspec
import pytest

from broker.api.camunda7.routes import ROUTES
from broker.api.native.routes import ROOT as NATIVE
from tests.broker.api.camunda7.scene import DATE, THEM, US, Scene, assert_done, topic

GOLDEN_DIR: Final = Path(__file__).parents[3] / "contract" / "camunda7"
GOLDENS: Final[dict[str, Any]] = {
    path.stem: msgspec.json.decode(path.read_bytes()) for path in sorted(GOLDEN_DIR.glob("*.json"))
}
IDS: Final = [f"019aa5f0-7c1e-7b44-9d2a-3f5c8e1b6a0{n}" for n in (1, 2)]
INSTANCE: Final = "instance-1"
BATCH_ID: Final = "f1f5b4c2-6f27-4b8d-9c15-7e2f4a8b0c22"
"""Of a batch that nobody can know before."""

INSTANTS: Final = {"createTime", "lockExpirationTime", "startTime", "endTime"}
TOLD_HEADERS: Final = ("Content-Type", "Content-Disposition", "X-Content-Type-Options", "Allow")

ORDER: Final = {
    "topic": "creditCheck",
    "priority": 5,
    "businessKey": "order-4711",
    "processDefinitionId": "order:2:77",
    "processDefinitionKey": "order",
    "processDefinitionVersionTag": "v2",
    "activityId": "checkCredit",
    "tenantId": "acme",
    "variables": {"amount": 12.5, "customer": {"name": "Jörg ✓"}},
}
FAILURE: Final = {"errorMessage": "gateway timeout", "errorDetails": "Traceback …"}
SET: Final = {
    "nothing": {"value": None, "type": "Null"},
    "isUrgent": {"value": True},
    "items": {"value": 3, "type": "Short"},
    "count": {"value": 42},
    "orderNumber": {"value": 4_294_967_296},
    "version": {"value": 2, "type": "Long"},
    "rate": {"value": 7, "type": "Double"},
    "name": {"value": "Jörg ✓"},
    "dueDate": {"value": "2026-01-31T10:00:00.123+0000", "type": "Date"},
    "seal": {"value": "AAEC/w==", "type": "Bytes"},
    "lines": {"value": "[1, 2.50]", "type": "Json"},
    "letter": {"value": "<a>1</a>", "type": "Xml"},
    "buyer": {
        "value": '{"name":"x"}',
        "type": "Object",
        "valueInfo": {
            "objectTypeName": "com.example.Customer",
            "serializationDataFormat": "application/json",
        },
    },
    "contract": {
        "value": "JVBERi0xLjc=",
        "type": "File",
        "valueInfo": {
            "filename": "contract.pdf",
            "mimetype": "application/pdf",
            "encoding": "UTF-8",
        },
    },
}
"""One variable of each type."""


async def _set_up(scene: Scene, given: str, instance: str) -> list[str]:
    """Two tasks, in the state that an exchange begins with; of each its id. The first is ours."""
    order = {**ORDER, "processInstanceId": instance}
    ids = [await scene.created(**order), await scene.created(topic="sendInvoice")]
    assert_done(await scene.post(f"/execution/{ids[0]}/localVariables", {"modifications": SET}))
    if given == "created":
        return ids
    for name, worker_id in (("creditCheck", US), ("sendInvoice", THEM)):
        if name == "creditCheck" or given == "locked":
            await scene.fetched(workerId=worker_id, topics=[topic(name)])
    if given == "failed":
        assert_done(await scene.say(ids[0], "failure", **FAILURE))
    elif given == "failedOnce":
        assert_done(await scene.say(ids[0], "failure", **FAILURE, retries=2))
    elif given == "completed":
        assert_done(await scene.say(ids[0], "complete"))
    else:
        assert given == "locked"
    return ids


async def _clear(scene: Scene, ids: list[str]) -> None:
    """Leave nothing open for the next exchange to find."""
    for task_id in ids:
        await scene.post(f"/external-task/{task_id}/unlock")
        await scene.client.post(f"{NATIVE}/{task_id}/cancel")
        assert await scene.seen(task_id) is None


async def _ask(scene: Scene, request: dict[str, Any]) -> httpx2.Response:
    content = request.get("text")
    if content is None and request["body"] is not None:
        content = msgspec.json.encode(request["body"])
    return await scene.client.request(
        request["method"], request["path"], headers=request["headers"], content=content
    )


def _assert_same(golden: Any, actual: Any, at: str = "") -> None:
    """Equal but for instants, whose form alone is the golden one. To JSON, 1 is not true."""
    assert type(golden) is type(actual), at
    if isinstance(golden, dict):
        assert golden.keys() == actual.keys(), at
        for name in golden:
            _assert_same(golden[name], actual[name], f"{at}/{name}")
    elif isinstance(golden, list):
        assert len(golden) == len(actual), at
        for place, (each, other) in enumerate(zip(golden, actual, strict=True)):
            _assert_same(each, other, f"{at}/{place}")
    elif at.rpartition("/")[2] in INSTANTS and golden is not None:
        assert DATE.fullmatch(golden), at
        assert DATE.fullmatch(actual), at
    elif golden != BATCH_ID and not at.endswith("/durationInMillis"):
        assert golden == actual, at


def test_every_route_has_a_golden_file() -> None:
    assert {verb for _, _, verb in ROUTES} | {"problems"} == GOLDENS.keys()


@pytest.mark.parametrize("verb", GOLDENS)
async def test_golden(verb: str, scene: Scene, subtests: pytest.Subtests) -> None:
    for number, exchange in enumerate(GOLDENS[verb]["exchanges"]):
        with subtests.test(number=number, client=exchange["client"]):
            instance = f"instance-{number}"
            ids = await _set_up(scene, exchange["given"], instance)
            try:
                await _play(
                    scene, exchange, {INSTANCE: instance, **dict(zip(IDS, ids, strict=True))}
                )
            finally:
                await _clear(scene, ids)


async def _play(scene: Scene, exchange: Any, names: dict[str, str]) -> None:
    text = msgspec.json.encode(exchange).decode()
    for sample, name in names.items():
        text = text.replace(sample, name)
    played = msgspec.json.decode(text)
    golden = played["response"]
    answer = await _ask(scene, played["request"])
    assert answer.status_code == golden["status"], answer.text
    told = {name: answer.headers[name] for name in TOLD_HEADERS if name in answer.headers}
    assert told == golden["headers"]
    if answer.status_code == 204:
        assert_done(answer)
        assert golden["body"] is None
    elif golden["headers"]["Content-Type"] == "application/json":
        _assert_same(golden["body"], msgspec.json.decode(answer.content))
    else:
        assert answer.text == golden["body"]

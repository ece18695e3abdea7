"""The golden requests of tests/contract, answered by a real core in the golden form.

Each file is played on tasks that are brought to where its request makes sense;
the samples of ids and tokens in it are replaced by those of these tasks.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest

from broker.api.app import build_app
from broker.api.native.routes import ROOT, ROUTES
from broker.api.problem import problem
from broker.core import Core
from broker.errors import BY_CODE, Invalid
from tests.broker.api.conftest import Serve

GOLDEN_DIR = Path(__file__).parents[3] / "contract"
VERBS = sorted(path.stem for path in GOLDEN_DIR.glob("*.json") if path.stem != "problems")
IDS = [f"019aa5f0-7c1e-7b44-9d2a-3f5c8e1b6a0{n}" for n in (1, 2)]
TOKENS = ["5b1f0c9e-3d52-4c0e-8a37-0c6c1f8e2d11", "a3d9e1b4-6f27-4b8d-9c15-7e2f4a8b0c22"]

US, THEM = "payment-worker-1", "payment-worker-2"


def _golden(name: str) -> Any:
    return msgspec.json.decode((GOLDEN_DIR / f"{name}.json").read_bytes())


SIGNED = _golden("callback")["request"]["path"].rpartition("/")[2]


class Scene:
    """Two locked tasks, ours first, that a golden request can be played on."""

    def __init__(self, client: httpx2.AsyncClient) -> None:
        self.client = client
        self.locked: list[dict[str, Any]] = []
        self.callback_url = ""

    async def post(self, path: str, **body: object) -> Any:
        answer = await self.client.post(f"{ROOT}{path}", json=body)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    async def set(self) -> None:
        asked = _golden("create")["request"]["body"]
        asked.pop("delayMs")
        asked.pop("uniqueKey")
        receipt = {"topic": "sendReceipt"}
        for worker_id, task in ((US, asked), (THEM, receipt)):
            await self.post("", **task)
            self.locked += await self.post(
                "/fetch-and-lock",
                workerId=worker_id,
                maxTasks=1,
                lockDurationMs=60_000,
                requestTimeoutMs=0,
                subscriptions=[{"topic": task["topic"]}],
            )

    async def fail(self, retries: int) -> None:
        ours = self.locked[0]
        await self.post(
            f"/{ours['id']}/fail",
            workerId=US,
            lockToken=ours["lockToken"],
            errorMessage="…",
            retries=retries,
            retryTimeoutMs=60_000,
        )

    async def complete(self) -> None:
        result = {"paymentValid": True, "chargeId": "ch_abc123"}
        await self.post(f"/{self.locked[0]['id']}/complete", workerId=US, variables=result)

    async def unlock(self) -> None:
        for worker_id, task in zip((US, THEM), self.locked, strict=True):
            await self.post(f"/{task['id']}/unlock", workerId=worker_id)

    async def cancel_theirs(self) -> None:
        await self.post(f"/{self.locked[1]['id']}/cancel")

    async def speak(self) -> None:
        ours = self.locked[0]
        said = {"percent": 90.5, "subtext": "Completed with 90/100 passing", "logs": ["1", "2"]}
        said |= {"id": ours["id"], "lockToken": ours["lockToken"]}
        said |= {"checkpoint": _golden("heartbeat")["request"]["body"]["tasks"][0]["checkpoint"]}
        answer = await self.client.post(
            f"/api/workers/{US}/heartbeat", json={"lockDurationMs": 60_000, "tasks": [said]}
        )
        assert answer.is_success, answer.text

    async def speak_and_unlock(self) -> None:
        await self.speak()
        await self.unlock()

    async def hand_over(self) -> None:
        handed = await self.post(f"/{self.locked[0]['id']}/hand-over", workerId=US)
        self.callback_url = handed["callbackUrl"]

    def cast(self, text: str) -> str:
        """The text with these tasks' ids and tokens."""
        text = text.replace(SIGNED, self.callback_url.rpartition("/")[2])
        for sample, task in zip(IDS, self.locked, strict=True):
            text = text.replace(sample, task["id"])
        for sample, task in zip(TOKENS, self.locked, strict=True):
            text = text.replace(sample, task["lockToken"])
        return text


BEFORE: dict[str, Callable[[Scene], Awaitable[None]]] = {
    "get_task": Scene.complete,
    "list_tasks": Scene.complete,
    "fetch_and_lock": Scene.speak_and_unlock,
    "log_lines": Scene.speak,
    "callback": Scene.hand_over,
    "external_event": Scene.hand_over,
    "retries": lambda scene: scene.fail(0),
    "retry_timeout": lambda scene: scene.fail(1),
    "extend_lock_batch": Scene.cancel_theirs,
}


def _request(scene: Scene, verb: str) -> dict[str, Any]:
    """What the golden file asks, on this scene."""
    golden = _golden(verb)["request"]
    text = msgspec.json.encode(golden).decode()
    if verb == "fail_batch":
        text = text.replace(IDS[1], "unknown")
    asked: dict[str, Any] = msgspec.json.decode(scene.cast(text))
    # A cursor is opaque, and the day of the samples is not that of the test; nor shall it wait.
    path = asked["path"].partition("&createdAfter")[0]
    headers = {**asked["headers"], "Prefer": "wait=0"}
    content = None if asked["body"] is None else msgspec.json.encode(asked["body"])
    return {"method": asked["method"], "url": path, "headers": headers, "content": content}


def _assert_form(golden: Any, actual: Any, at: str = "") -> None:
    """The same members of the same types. A null may stand for anything that may be absent."""
    if golden is None or actual is None:
        return
    if at.endswith(("/variables", "/result", "/checkpoint")):
        assert golden == actual, at
    elif isinstance(golden, dict):
        assert golden.keys() == actual.keys(), at
        for name in golden:
            _assert_form(golden[name], actual[name], f"{at}/{name}")
    elif isinstance(golden, list):
        assert len(golden) == len(actual), at
        for place, (each, other) in enumerate(zip(golden, actual, strict=True)):
            _assert_form(each, other, f"{at}/{place}")
    else:
        assert type(golden) is type(actual), at


def _assert_results(golden: list[dict[str, Any]], actual: list[dict[str, Any]]) -> None:
    """Bulk results may tell more of a task than the files do; what became of it is the same."""
    for each, other in zip(golden, actual, strict=True):
        assert each.get("code") == other.get("code")
        assert each.get("outcome") == other.get("outcome")
        assert "id" in other or "id" not in each
        assert "detail" in other or "code" not in other


def test_every_verb_has_a_golden_file() -> None:
    assert sorted(verb for _, _, verb in ROUTES) == VERBS


@pytest.mark.parametrize("verb", VERBS)
async def test_golden(verb: str, core: Core, serve: Serve) -> None:
    golden = _golden(verb)["response"]
    async with (
        serve(build_app(core)) as port,
        httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
    ):
        scene = Scene(client)
        await scene.set()
        if verb in BEFORE:
            await BEFORE[verb](scene)
        answer = await client.request(**_request(scene, verb))
    assert answer.status_code == golden["status"], answer.text
    assert answer.headers.get("Content-Type") == golden["headers"].get("Content-Type")
    assert ("Location" in answer.headers) == ("Location" in golden["headers"])
    body = msgspec.json.decode(answer.content) if answer.content else None
    if isinstance(body, dict) and "results" in body:
        _assert_results(golden["body"]["results"], body["results"])
    else:
        assert (body is None) == (golden["body"] is None)
        _assert_form(golden["body"], body)


@pytest.mark.parametrize(
    "golden", _golden("problems")["responses"], ids=lambda each: each["body"]["code"]
)
def test_golden_problem(golden: Any) -> None:
    kind = BY_CODE[golden["body"]["code"]]
    standard = {"type", "title", "status", "code", "detail"}
    error = kind(golden["body"]["detail"])
    error.facts = {name: golden["body"][name] for name in golden["body"].keys() - standard}
    reply = problem(error)
    headers = {"Content-Type": reply.content_type.decode()}
    headers |= {name.decode().title(): value.decode() for name, value in reply.headers}
    assert (reply.status, headers) == (golden["status"], golden["headers"])
    assert msgspec.json.decode(reply.body) == golden["body"]


def test_an_invalid_request_lists_its_errors() -> None:
    reply = problem(Invalid("Why it is invalid.", [("/maxTasks", "Expected `int` >= 1")]))
    [golden] = [g for g in _golden("problems")["responses"] if g["status"] == 422]
    assert msgspec.json.decode(reply.body) == golden["body"]

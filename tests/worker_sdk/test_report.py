"""When and in which company an outcome is told, seen from the other end of the wire."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import msgspec
import pytest
from aiohttp import web

from tests.worker_sdk.serving import DEADLINE_S
from worker_sdk import Answer, BpmnError, Client, Failure, HandOver, Task
from worker_sdk._lease import Lease
from worker_sdk._outcome import ACKNOWLEDGED, Outcome
from worker_sdk._report import BATCH_BYTES_MAX, Reporter
from worker_sdk._transport import AiohttpTransport

Verdict = Mapping[str, Any] | None


class Broker:
    """Hears of outcomes, keeps the requests, and answers them while its gate is open.

    `verdict` says what is wrong with an item, `status` what with a whole request of so many items.
    """

    def __init__(self) -> None:
        self.requests: list[tuple[str, list[dict[str, Any]]]] = []
        self.bytes: list[int] = []
        self.heard: list[str] = []
        self.gate = anyio.Event()
        self.verdict: Callable[[str], Verdict] = lambda task_id: None
        self.status: Callable[[int], int] = lambda items: 200

    async def answer(self, request: web.Request) -> web.Response:
        """Take an outcome, or a batch of them."""
        *_, verb = request.path.split("/")
        task_id = request.match_info.get("id")
        text = await request.read()
        body = msgspec.json.decode(text)
        items = body["tasks"] if task_id is None else [{"id": task_id, **body}]
        self.requests.append((verb, items))
        self.bytes.append(len(text))
        await self.gate.wait()
        if (status := self.status(len(items))) != 200:
            return web.Response(status=status, body=b"")
        verdicts = [self.verdict(item["id"]) for item in items]
        self.heard += [i["id"] for i, verdict in zip(items, verdicts, strict=True) if not verdict]
        if task_id is None:
            results = [
                {"id": item["id"], **(verdict or {"outcome": "done"})}
                for item, verdict in zip(items, verdicts, strict=True)
            ]
            return web.Response(body=msgspec.json.encode({"results": results}))
        if verb == "hand-over":
            return web.Response(
                body=b'{"callbackUrl":"u","expiresAt":"2026-11-22T10:00:00Z","state":"AWAITING"}'
            )
        return web.Response(body=b'{"state":"CREATED"}')

    def ids(self) -> list[list[str]]:
        """The tasks of each request."""
        return [[item["id"] for item in items] for _, items in self.requests]


class Noting(AiohttpTransport):
    """Notes what it is asked before it asks."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    async def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None,
        timeout_s: float,
    ) -> Answer:
        self.asked.append(url)
        return await super().request(method, url, headers, body, timeout_s)


class Scene:
    """A reporter, its broker, and what it has done with."""

    def __init__(self, broker: Broker, transport: Noting, client: Client) -> None:
        self.broker = broker
        self.transport = transport
        self.done: list[str] = []
        self._client = client
        self._changed = anyio.Event()

    @asynccontextmanager
    async def reporting(self) -> AsyncIterator[Reporter]:
        """A reporter. At the end of the block everything it was told has been dealt with."""
        async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
            yield Reporter(self._client, group, lambda lease: self.done.append(lease.task.id))

    async def until_requests(self, count: int) -> None:
        """Wait until the broker has got so many requests."""
        while len(self.broker.requests) < count:  # noqa: ASYNC110 - it is the end of a socket
            await anyio.sleep(0.005)


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    """A reporter's surroundings."""
    broker = Broker()
    app = web.Application(client_max_size=2**24)
    app.router.add_post("/api/external-tasks/{verb}", broker.answer)
    app.router.add_post("/api/external-tasks/{id}/{verb}", broker.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    transport = Noting()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    async with Client(url, timeout_s=DEADLINE_S, transport=transport) as client:
        yield Scene(broker, transport, client)
    await runner.cleanup()


def lease(name: object, *, age_s: float = 0.0) -> Lease:
    task = Task(id=str(name), topic="t", worker_id="w", lock_token="x")
    return Lease(task, 30_000, time.monotonic() - age_s)


def names(count: int) -> list[str]:
    return [str(number) for number in range(count)]


async def tell_together(scene: Scene, outcomes: Mapping[str, Outcome]) -> None:
    """Tell these while a request about `first` is under way, and see it all to its end."""
    async with scene.reporting() as reporter:
        reporter.tell(lease("first"), None)
        await scene.until_requests(1)
        for name, outcome in outcomes.items():
            reporter.tell(lease(name), outcome)
        scene.broker.gate.set()


async def test_outcome_with_nothing_under_way_is_sent_at_once_and_alone(scene: Scene) -> None:
    scene.broker.gate.set()
    for number in range(3):
        async with scene.reporting() as reporter:
            reporter.tell(lease(number), {"n": number})
            # One turn of the loop, in which no timer and no other event has its turn.
            await anyio.lowlevel.checkpoint()
            assert len(scene.transport.asked) == number + 1
    assert [verb for verb, _ in scene.broker.requests] == ["complete"] * 3
    assert [url.rsplit("/", 2)[-2] for url in scene.transport.asked] == names(3)
    assert scene.done == names(3)


async def test_outcomes_told_meanwhile_go_out_as_one(scene: Scene) -> None:
    await tell_together(scene, {name: {"n": int(name)} for name in names(5)})
    assert scene.broker.ids() == [["first"], names(5)]
    _, together = scene.broker.requests[1]
    assert together == [
        {"id": name, "lockToken": "x", "variables": {"n": int(name)}} for name in names(5)
    ]
    assert scene.done == ["first", *names(5)]


async def test_batch_has_no_more_tasks_than_the_broker_takes(scene: Scene) -> None:
    await tell_together(scene, dict.fromkeys(names(2_500)))
    assert [len(ids) for ids in scene.broker.ids()] == [1, 1000, 1000, 500]
    assert scene.broker.heard == ["first", *names(2_500)]


async def test_failures_go_out_together_and_do_not_wait_for_completions(scene: Scene) -> None:
    async with scene.reporting() as reporter:
        reporter.tell(lease("completed"), None)
        reporter.tell(lease("failed"), Failure("no"))
        await scene.until_requests(2)
        for name in names(3):
            reporter.tell(lease(name), Failure(f"no {name}", retries=0))
        scene.broker.gate.set()
    assert sorted(verb for verb, _ in scene.broker.requests) == ["complete", "fail", "fail"]
    _, together = scene.broker.requests[2]
    assert [(item["id"], item["errorMessage"]) for item in together] == [
        ("0", "no 0"),
        ("1", "no 1"),
        ("2", "no 2"),
    ]


async def test_bpmn_errors_are_told_side_by_side(scene: Scene) -> None:
    async with scene.reporting() as reporter:
        for name in names(3):
            reporter.tell(lease(name), BpmnError("NO"))
        await scene.until_requests(3)  # None of which has been answered.
        scene.broker.gate.set()
    assert sorted(scene.done) == names(3)


async def test_what_has_no_batch_is_told_side_by_side(scene: Scene) -> None:
    async with scene.reporting() as reporter:
        reporter.tell(lease("handed over"), HandOver({"a": 1}, timeout_s=60))
        reporter.tell(lease("cancelled"), ACKNOWLEDGED)
        reporter.tell(lease("error"), BpmnError("NO"))
        await scene.until_requests(3)
        scene.broker.gate.set()
    told = {verb: item for verb, [item] in scene.broker.requests}
    assert told["hand-over"]["variables"] == {"a": 1}
    assert told["hand-over"]["timeoutMs"] == 60_000
    assert told["unlock"]["id"] == "cancelled"
    assert len(scene.done) == 3


async def test_acknowledgement_that_comes_too_late_is_no_trouble(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.broker.gate.set()
    scene.broker.status = lambda items: 409
    async with scene.reporting() as reporter:
        reporter.tell(lease("refused"), ACKNOWLEDGED)
        reporter.tell(lease("late", age_s=40), ACKNOWLEDGED)
    assert sorted(scene.done) == ["late", "refused"]
    assert caplog.messages == []


@pytest.mark.parametrize("bad", [{"x": float("nan")}, {"x": object()}, {"x": "x" * 2**21}])
async def test_outcome_that_cannot_be_sent_hurts_no_other(
    bad: dict[str, Any], scene: Scene
) -> None:
    # Only one alone is as large as this: the broker's bound is that of one outcome.
    scene.broker.status = lambda items: 413 if scene.broker.bytes[-1] > 2**20 else 200
    await tell_together(scene, {name: bad if name == "7" else {"n": 1} for name in names(20)})
    failed = [items for verb, items in scene.broker.requests if verb == "fail"]
    assert [[item["id"] for item in items] for items in failed] == [["7"]]
    assert failed[0][0]["errorMessage"].startswith("the outcome was refused: ")
    completed = [name for name in scene.broker.heard if name != "7"]
    assert completed == ["first", *(name for name in names(20) if name != "7")]
    assert len(scene.done) == 21


async def test_refused_item_concerns_only_its_task(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    verdicts = {"1": {"code": "invalid", "detail": "NUL"}, "3": {"code": "lock_lost"}}
    scene.broker.verdict = lambda name: verdicts.pop(name, None)
    await tell_together(scene, dict.fromkeys(names(5)))
    assert scene.broker.ids() == [["first"], names(5), ["1"]]
    verb, [refused] = scene.broker.requests[2]
    assert (verb, refused["errorMessage"]) == (
        "fail",
        "the outcome was refused: 422 invalid: NUL",
    )
    assert sorted(scene.done) == sorted(["first", *names(5)])
    [record] = caplog.records
    assert (record.message, vars(record)["task_id"]) == ("outcome not accepted", "3")


async def test_failure_about_a_refusal_is_told_once(scene: Scene) -> None:
    scene.broker.verdict = lambda name: {"code": "invalid"} if name != "first" else None
    scene.broker.status = lambda items: 200 if len(scene.broker.requests) < 2 else 422
    await tell_together(scene, {"bad": None})
    assert [verb for verb, _ in scene.broker.requests] == ["complete", "complete", "fail"]
    assert scene.done == ["first", "bad"]


async def test_batch_that_is_too_many_bytes_is_split(scene: Scene) -> None:
    await tell_together(scene, {name: {"x": "x" * 300_000} for name in names(10)})
    assert max(scene.broker.bytes) <= BATCH_BYTES_MAX
    assert scene.broker.heard == ["first", *names(10)]
    # More than one at a time: three of them fit.
    assert max(len(ids) for ids in scene.broker.ids()) > 1


async def test_batch_that_a_broker_with_other_limits_refuses_is_split(scene: Scene) -> None:
    scene.broker.status = lambda items: 422 if items > 2 else 200
    await tell_together(scene, dict.fromkeys(names(9)))
    assert scene.broker.heard == ["first", *names(9)]
    assert not [verb for verb, _ in scene.broker.requests if verb == "fail"]


async def test_batches_grow_again_after_a_split(scene: Scene) -> None:
    # Too large are only those with the first of them.
    scene.broker.status = lambda items: 413 if items > 1 and "0" in scene.broker.ids()[-1] else 200
    await tell_together(scene, dict.fromkeys(names(100)))
    assert [len(ids) for ids in scene.broker.ids()[-7:]] == [1, 2, 4, 8, 16, 32, 37]


async def test_busy_broker_is_told_again_for_as_long_as_the_lease_lasts(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "fetchlock.worker")
    # It is busy for as long as the first lease lasts.
    scene.broker.status = lambda items: 503 if "short" in scene.broker.ids()[-1] else 200
    scene.broker.gate.set()
    async with scene.reporting() as reporter:
        for name in ("a", "b"):
            reporter.tell(lease(name), {"name": name})
        reporter.tell(lease("short", age_s=28.7), None)
    assert scene.broker.ids()[0] == ["a", "b", "short"]
    assert scene.broker.ids()[-1] == ["a", "b"]
    assert scene.broker.heard == ["a", "b"]
    assert scene.done == ["short", "a", "b"]
    assert caplog.messages == ["outcome not delivered before the lock ran out"]


async def test_item_that_could_not_be_dealt_with_is_told_again(scene: Scene) -> None:
    troubles = {"2": {"code": "unavailable"}}
    scene.broker.verdict = lambda name: troubles.pop(name, None)
    await tell_together(scene, dict.fromkeys(names(4)))
    assert scene.broker.ids() == [["first"], names(4), ["2"]]
    assert scene.done == ["first", "0", "1", "3", "2"]


async def test_outcome_of_a_lease_that_is_over_is_not_sent(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    async with scene.reporting() as reporter:
        reporter.tell(lease("late", age_s=40), None)
    assert (scene.broker.requests, scene.done) == ([], ["late"])
    assert caplog.messages == ["outcome thrown away, the lock had been lost"]


async def test_silent_broker_is_left_when_the_lease_is_over(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    async with scene.reporting() as reporter:
        reporter.tell(lease("short", age_s=28.9), None)
    assert scene.done == ["short"]
    assert caplog.messages == ["outcome not delivered before the lock ran out"]


async def test_stopped_reporter_breaks_off(scene: Scene) -> None:
    async with scene.reporting() as reporter:
        reporter.tell(lease("told"), None)
        reporter.tell(lease("failed"), Failure("no"))
        await scene.until_requests(2)
        reporter.stop()
    assert scene.done == []

"""A broker's ear: takes heartbeats and outcomes, and answers them as a test says."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
import msgspec
from aiohttp import web

from tests.worker_sdk.serving import DEADLINE_S

Beat = dict[str, Any]


class Hearing:
    """Keeps the heartbeats it got, in order, and the outcomes.

    `verdict` is what is added to the answer about an item, `status` that of a whole heartbeat. An
    answer is given when the gate is open.
    """

    def __init__(self) -> None:
        self.base_url = ""
        self.heartbeats: list[Beat] = []
        self.bytes: list[int] = []
        self.outcomes: list[str] = []
        self.gate = anyio.Event()
        self.gate.set()
        self.drain = False
        self.verdict: Callable[[Beat], Mapping[str, Any]] = lambda item: {}
        self.status: Callable[[list[Beat]], int] = lambda items: 200

    async def take_heartbeat(self, request: web.Request) -> web.Response:
        """Answer a heartbeat."""
        text = await request.read()
        body = msgspec.json.decode(text)
        self.heartbeats.append(body)
        self.bytes.append(len(text))
        await self.gate.wait()
        if (status := self.status(body["tasks"])) != 200:
            return web.Response(status=status, body=b"")
        answer = {"results": [self._result(item) for item in body["tasks"]], "drain": self.drain}
        return web.Response(body=msgspec.json.encode(answer))

    async def take_outcome(self, request: web.Request) -> web.Response:
        """Take note of an outcome."""
        self.outcomes.append("/".join(request.path.split("/")[3:]))
        return web.Response(body=b'{"state":"CREATED"}')

    def _result(self, item: Beat) -> dict[str, Any]:
        verdict = self.verdict(item)
        if "code" in verdict:
            return {"id": item["id"], **verdict}
        return {
            "id": item["id"],
            "outcome": "done",
            "lockLost": False,
            "cancelRequested": False,
            "lockExpiresAt": "2026-11-22T10:01:00+00:00",
            **verdict,
        }

    @property
    def items(self) -> list[Beat]:
        """All that was said of tasks."""
        return [item for beat in self.heartbeats for item in beat["tasks"]]

    @property
    def news(self) -> list[Beat]:
        """What was new in it."""
        return [item for item in self.items if "sequence" in item]

    @property
    def lines(self) -> list[str]:
        """The lines of the log in all of it."""
        return [line for item in self.news for line in item.get("logs", ())]

    async def until(self, holds: Callable[[Hearing], object]) -> None:
        """Wait until it has heard what it should."""
        with anyio.fail_after(DEADLINE_S):
            while not holds(self):  # noqa: ASYNC110 - it is the end of a socket
                await anyio.sleep(0.005)


@asynccontextmanager
async def listening() -> AsyncIterator[Hearing]:
    """Such a broker, while the block runs."""
    broker = Hearing()
    app = web.Application(client_max_size=2**24)
    app.router.add_post("/api/workers/w/heartbeat", broker.take_heartbeat)
    app.router.add_post("/api/external-tasks/{id}/{verb}", broker.take_outcome)
    app.router.add_post("/api/external-tasks/{verb}", broker.take_outcome)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    broker.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield broker
    await runner.cleanup()

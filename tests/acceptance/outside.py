"""The outside party of a hand-over: a little HTTP service, and how it calls back.

It knows nothing of Fetchlock but what a handler tells it. It answers every
request 202 (Accepted), as a service does whose work takes a while.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

import anyio
import msgspec
from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector, web

from tests.eventually import eventually

FAILURE: Final = {
    "command_response": {"body": None, "mimetype": "application/json", "http_status": 500},
    "error": {"error_code": "OutOfMemory", "message": "the service ran out of memory"},
}
"""In the form of Spiff's connectors."""

_ANSWER_S: Final = 60.0
"""Only so that an answer that never comes fails the test."""


class Call(NamedTuple):
    """What a handler asks of the service."""

    task_id: str
    attempt: int
    callback_url: str
    number: int


class Answer(NamedTuple):
    """What a broker says to a callback."""

    status: int
    said: dict[str, Any]
    is_replay: bool


class Outside:
    """The service. Before it answers a call it does what `before_202` says."""

    def __init__(self, http: ClientSession) -> None:
        self.url = ""
        self.before_202: Callable[[Call], Awaitable[None]] | None = None
        self._http = http
        self._send, self._calls = anyio.create_memory_object_stream[Call](math.inf)

    async def accept(self, request: web.Request) -> web.Response:
        """202: the work has been taken on."""
        call = msgspec.convert(await request.json(), Call)
        if self.before_202 is not None:
            await self.before_202(call)
        self._send.send_nowait(call)
        return web.Response(status=202)

    async def call(self) -> Call:
        """The next call that was taken on."""
        return await self._calls.receive()

    async def call_back(self, url: str, said: object) -> Answer:
        """Say through a callback URL how the work ended."""
        return await self._tell("PUT", url, said)

    async def tell_event(self, broker: str, said: object) -> Answer:
        """Say it to the address that is the same for all tasks, as VibeIQ's services do."""
        return await self._tell("POST", f"{broker}/api/external-events/callback/", said)

    async def call_back_until_answered(self, url: str, said: object) -> Answer:
        """Say it again as long as the broker cannot be reached, or cannot tell what came of it."""

        async def answer() -> Answer | None:
            try:
                answer = await self.call_back(url, said)
            except ClientError:
                return None
            return None if answer.status == 503 else answer

        answered = await eventually(answer, within_s=_ANSWER_S)
        assert answered is not None
        return answered

    def close(self) -> None:
        """Take no more calls."""
        self._send.close()
        self._calls.close()

    async def _tell(self, method: str, url: str, said: object) -> Answer:
        async with self._http.request(method, url, json=said) as answer:
            body = msgspec.json.decode(await answer.read())
            return Answer(answer.status, body, answer.headers.get("Idempotency-Replayed") == "true")


class Party:
    """Calls back for each call, some of them before they are answered, and until it is told.

    Of every third task it says first that it failed, until that is taken.
    """

    def __init__(self, outside: Outside) -> None:
        self.statuses = Counter[int]()
        self._outside = outside
        self._failed: set[str] = set()
        # The service knows how one attempt ended before it takes on the next.
        self._turns = defaultdict[str, anyio.Lock](anyio.Lock)
        self._at_work = 0
        outside.before_202 = self._maybe_at_once

    async def serve(self) -> None:
        async with anyio.create_task_group() as group:
            while True:
                call = await self._outside.call()
                if not _is_early(call):
                    self._at_work += 1
                    group.start_soon(self._later, call)

    async def is_idle(self) -> bool:
        """Whether nobody waits for an answer."""
        return self._at_work == 0

    async def _maybe_at_once(self, call: Call) -> None:
        if _is_early(call):
            await self._call_back(call)

    async def _later(self, call: Call) -> None:
        await self._call_back(call)
        self._at_work -= 1

    async def _call_back(self, call: Call) -> None:
        async with self._turns[call.task_id]:
            is_failure = fails_first(call.number) and call.task_id not in self._failed
            output = FAILURE if is_failure else {"by": "outside", "said": call.number}
            answer = await self._outside.call_back_until_answered(call.callback_url, output)
            self.statuses[answer.status] += 1
            if is_failure and answer.status == 200:
                self._failed.add(call.task_id)


def is_said_of(number: int, result: dict[str, Any]) -> bool:
    """Whether this is how the party says that this task ended.

    What the worker had is beside it, unless its lock ran out before it could hand the task over.
    """
    own = {"number": number, "by": "worker"}
    said = {"by": "outside", "said": number}
    return result in (said, own | said)


def fails_first(number: int) -> bool:
    """Whether the party says of this task that it failed, before it says how it ended."""
    return number % 3 == 0


def _is_early(call: Call) -> bool:
    return (call.number + call.attempt) % 2 == 0


@asynccontextmanager
async def serving() -> AsyncIterator[Outside]:
    """The service on a free port of its own, with as many connections as it likes."""
    timeout = ClientTimeout(total=_ANSWER_S)
    async with ClientSession(connector=TCPConnector(limit=0), timeout=timeout) as http:
        outside = Outside(http)
        app = web.Application()
        app.router.add_post("/", outside.accept)
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            host, port = runner.addresses[0]
            outside.url = f"http://{host}:{port}/"
            yield outside
        finally:
            await runner.cleanup()
            outside.close()

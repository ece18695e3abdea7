"""HTTP/1.1 for a load generator: as little Python per request as can be.

A general client spends more CPU on a request than the broker does on answering
it, and then it is the client that is measured. This one knows what it talks to:
plain HTTP, bodies of a known length, one request at a time on a connection that
is kept. The parser is httptools, in C.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, NamedTuple, Self, TypeVar, cast
from urllib.parse import urlsplit

import anyio
import httptools

T = TypeVar("T")

_BUSY_PAUSE_S: Final = 0.01
"""Before a request that was answered 503 is sent again. Its latency goes on counting."""


class Answer(NamedTuple):
    """A status and a body."""

    status: int
    body: bytes


class Refused(Exception):
    """The broker answered with something else than success."""


class Connection(asyncio.Protocol):
    """One connection. `ask` again only when the answer before is there."""

    def __init__(self, host: bytes) -> None:
        self._host = host
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._answer: asyncio.Future[Answer] | None = None
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def open(cls, base_url: str) -> Self:
        """Connect to the host and port of a base URL."""
        parts = urlsplit(base_url)
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            lambda: cls(parts.netloc.encode()), parts.hostname or "", parts.port or 80
        )
        return connection

    @property
    def is_open(self) -> bool:
        """Whether another request can be sent."""
        return self._transport is not None and not self._transport.is_closing()

    def ask(self, path: bytes, body: bytes) -> asyncio.Future[Answer]:
        """POST a JSON body. Raises ConnectionError if the connection ends first."""
        return self._send(
            b"POST %b HTTP/1.1\r\nHost: %b\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (path, self._host, len(body), body)
        )

    def get(self, path: bytes) -> asyncio.Future[Answer]:
        """GET. Raises ConnectionError if the connection ends first."""
        return self._send(b"GET %b HTTP/1.1\r\nHost: %b\r\n\r\n" % (path, self._host))

    def close(self) -> None:
        """Hang up. A request under way fails."""
        if self._transport is not None:
            self._transport.abort()

    def _send(self, request: bytes) -> asyncio.Future[Answer]:
        assert self._answer is None or self._answer.cancelled(), "one request at a time"
        self._answer = asyncio.get_running_loop().create_future()
        if self._transport is None or self._transport.is_closing():
            self.connection_lost(None)
        else:
            self._transport.write(request)
        return self._answer

    # What asyncio and httptools call.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's is one in all but name.
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, reason: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionError(str(reason or "the broker hung up")))

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.close()

    def on_body(self, part: bytes) -> None:
        self._body.append(part)

    def on_message_complete(self) -> None:
        answer, self._answer = self._answer, None
        body = b"".join(self._body)
        self._body.clear()
        if not self._parser.should_keep_alive():
            self.close()
        if answer is not None and not answer.done():
            answer.set_result(Answer(self._parser.get_status_code(), body))


class Connections:
    """So many connections, each lent to one caller at a time; the last used first."""

    def __init__(self, base_url: str, size: int) -> None:
        self._base_url = base_url
        self._free: asyncio.LifoQueue[Connection | None] = asyncio.LifoQueue()
        for _ in range(size):
            self._free.put_nowait(None)

    async def ask(self, path: bytes, body: bytes) -> bytes:
        """POST, waiting for a free connection. Raises `Refused` unless it succeeds."""
        return await self._send(lambda connection: connection.ask(path, body))

    async def get(self, path: bytes) -> bytes:
        """GET, likewise."""
        return await self._send(lambda connection: connection.get(path))

    async def _send(self, request: Callable[[Connection], asyncio.Future[Answer]]) -> bytes:
        while True:
            connection = await self._free.get()
            try:
                if connection is None or not connection.is_open:
                    # The broker may close what was idle for long.
                    connection = await Connection.open(self._base_url)
                answer = await request(connection)
            except BaseException:
                # Whoever takes it next must not read the answer to this request.
                if connection is not None:
                    connection.close()
                connection = None
                raise
            finally:
                self._free.put_nowait(connection)
            if answer.status < 300:
                return answer.body
            if answer.status != 503:
                raise Refused(f"{answer.status} {answer.body[:200].decode(errors='replace')}")
            await anyio.sleep(_BUSY_PAUSE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        while not self._free.empty():
            if (connection := self._free.get_nowait()) is not None:
                connection.close()


async def in_parallel(lanes: int, step: Callable[[T], Awaitable[None]], items: Iterable[T]) -> None:
    """Do `step` for each item, `lanes` at once. Returns when all are done."""
    left = iter(items)

    async def lane() -> None:
        for item in left:
            await step(item)

    async with anyio.create_task_group() as group:
        for _ in range(lanes):
            group.start_soon(lane)

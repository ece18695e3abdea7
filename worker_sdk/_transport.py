"""How a request reaches the broker: a small protocol, and aiohttp behind it.

A worker lives for months on long polls, so three things matter more than speed.
A broker that vanishes without a word must be noticed (every request has an end,
and TCP keep-alive ends a dead connection sooner). Connections are used again.
And a poll can be ended without losing an answer that is already on its way:
that is `hang_up`, see there.
"""

from __future__ import annotations

import io
import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple, Protocol
from weakref import WeakSet

import aiohttp
import yarl

from worker_sdk._errors import ConnectionFailed

CONNECT_TIMEOUT_S = 5.0
# Less than the 5 s after which uvicorn closes an idle connection: whoever waits longer will now
# and then send into a connection that is just being closed.
IDLE_CONNECTION_S = 4.0
# A larger body written at once would hold up the loop.
WRITE_BYTES_MAX = 2**20
# An idle connection is probed after 15 s and given up after three silent probes, 5 s apart.
KEEP_ALIVE = (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))


class Answer(NamedTuple):
    """What came back. Header names are looked up without regard to case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Transport(Protocol):
    """What a `Client` needs of an HTTP library. It is used from one event loop only."""

    async def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None,
        timeout_s: float,
    ) -> Answer:
        """Send and read it all, following no redirect. Raises ConnectionFailed within the time."""
        ...

    def hang_up(self) -> None:
        """Say on every connection that nothing more will be asked.

        Requests under way end soon: with their answer if it has been sent, else ConnectionFailed.
        """
        ...

    async def aclose(self) -> None:
        """Close every connection."""
        ...


class AiohttpTransport:
    """The transport everybody uses."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._sockets: WeakSet[socket.socket] = WeakSet()

    async def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None,
        timeout_s: float,
    ) -> Answer:
        """Send and read it all, following no redirect. Raises ConnectionFailed within the time."""
        try:
            async with self._open_session().request(
                method,
                yarl.URL(url, encoded=True),
                headers=headers,
                # aiohttp writes bytes in one go, and a stream by and by.
                data=io.BytesIO(body) if body and len(body) > WRITE_BYTES_MAX else body,
                # Followed, a redirected POST would become a GET of something else.
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=timeout_s, sock_connect=CONNECT_TIMEOUT_S),
            ) as response:
                return Answer(response.status, response.headers, await response.read())
        except (aiohttp.ClientError, OSError) as error:
            raise ConnectionFailed(f"{url}: {str(error) or type(error).__name__}") from error

    def hang_up(self) -> None:
        """Half-close every connection: our FIN goes out, their answer may still come in.

        Simply closing would throw away an answer in flight, and the tasks in it would be locked
        for a worker that has never seen them until their locks run out. After the half-close the
        broker either had answered, and the answer is read, or sees that the worker has gone and
        keeps the tasks.
        """
        for sock in list(self._sockets):
            with suppress(OSError):  # Not connected yet, or closed already.
                sock.shutdown(socket.SHUT_WR)

    async def aclose(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()

    def _open_session(self) -> aiohttp.ClientSession:
        # Made on first use, because aiohttp ties a session to the loop it is made in.
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    keepalive_timeout=IDLE_CONNECTION_S, socket_factory=self._open_socket
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    def _open_socket(self, address: tuple[int, int, int, str, tuple[Any, ...]]) -> socket.socket:
        family, kind, protocol, _, _ = address
        sock = socket.socket(family, kind, protocol)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in KEEP_ALIVE:
            if hasattr(socket, name):  # Which of them exist differs between systems.
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        self._sockets.add(sock)
        return sock

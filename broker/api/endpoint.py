"""One request in, one reply out: plain ASGI, because that is half again as fast as
Starlette's Request and Response, and because a broker must know more of the
socket than they tell.

An `Endpoint` is the ASGI application of one verb. It reads the body as it
streams and stops at the limit, whatever Content-Length said; turns what the
verb raises into the dialect's form of an error; and writes the reply. A reply
that may not get lost (locked tasks) names what to do if it does, and is
written so that it is known.

Must never do: decide anything about tasks, or let an exception's text out.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple, TypeVar

import anyio
import structlog
from msgspec import Struct
from starlette.types import Message, Receive, Scope, Send

from broker.api.body import Body
from broker.api.caller import Caller
from broker.errors import BrokerError, TooLarge, UnsupportedMediaType
from broker.metrics import HTTP_REQUEST_DURATION

S = TypeVar("S", bound=Struct)

Headers = tuple[tuple[bytes, bytes], ...]

_log = structlog.stdlib.get_logger(__name__)
_level = logging.getLogger(__name__)
"""Asked before a line is put together: most brokers do not log their requests."""

_SECRETS: Final = frozenset({"token"})
"""Parameters of paths that are never logged: who knows a callback's token may end its task."""

_HOST: Final = re.compile(rb"(?:[\w.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::\d{1,5})?", re.ASCII)

_JSON: Final = re.compile(rb"application/(?:[\w.+-]+\+)?json\s*(?:;|\Z)", re.IGNORECASE)


class Reply(NamedTuple):
    """What a verb answers. `if_lost` undoes the verb when the client could not be told."""

    status: int
    body: bytes = b""
    headers: Headers = ()
    content_type: bytes = b"application/json"
    if_lost: Callable[[], Awaitable[None]] | None = None


Verb = Callable[["Call"], Awaitable[Reply]]


class ClientGone(Exception):
    """The client left before its request was complete. Nobody is there to answer."""


class Call:
    """One request, as a verb sees it."""

    __slots__ = ("_receive", "_scope", "caller", "headers", "parameters", "query")

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._receive = receive
        self._scope = scope
        self.caller = Caller(receive)
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.parameters: dict[str, str] = scope.get("path_params", {})
        self.query: bytes = scope["query_string"]

    @property
    def base_url(self) -> str:
        """Where the caller has reached the broker, by its own account if that can be one."""
        host = self.headers.get(b"host", b"")
        if _HOST.fullmatch(host):
            return f"{self._scope['scheme']}://{host.decode()}"
        name, port = self._scope["server"]
        return f"{self._scope['scheme']}://{f'[{name}]' if ':' in name else name}:{port}"

    async def read(self, kind: Body[S]) -> tuple[S, str]:
        """The request's body as `kind` reads it. Raises `Invalid` and what `body` raises."""
        return kind.read(await self.body(kind.bytes_max))

    async def body(self, bytes_max: int) -> bytes:
        """The body, which must be JSON by its Content-Type if it has any.

        Raises:
            TooLarge: it says it has more than `bytes_max` bytes, or turned out to.
            UnsupportedMediaType: it says it is something else.
            ClientGone: the client left before the end.
        """
        said = self.headers.get(b"content-length", b"")
        # Python refuses to read numbers of thousands of digits, with an exception.
        if said.isdigit() and (len(said) > 18 or int(said) > bytes_max):
            raise _too_large(bytes_max)
        parts: list[bytes] = []
        size = 0
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > bytes_max:
                raise _too_large(bytes_max)
            more = message.get("more_body", False)
        content_type = self.headers.get(b"content-type")
        if size and content_type and not _JSON.match(content_type):
            raise UnsupportedMediaType("The body must be application/json.")
        return b"".join(parts)


class Endpoint:
    """The ASGI application of one verb.

    `route` is the path's template: the label of the metric. `write_error` is the
    dialect's. A quiet endpoint is not logged, for probes that come every second.
    """

    def __init__(
        self,
        verb: Verb,
        route: str,
        write_error: Callable[[BrokerError], Reply],
        *,
        quiet: bool = False,
    ) -> None:
        self._verb = verb
        self._route = route
        self._write_error = write_error
        self._quiet = quiet
        # prometheus_client finds a child by its labels in microseconds; a dict does in nanoseconds.
        self._durations: dict[tuple[str, int], Any] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began_s = time.perf_counter()
        call = Call(scope, receive)
        try:
            reply = await self._answer(call)
        except ClientGone:
            return
        if reply.if_lost is None:
            await send(_head(reply))
            await send({"type": "http.response.body", "body": reply.body})
        else:
            await _hand_over(reply, reply.if_lost, call.caller, send)
        self._observe(scope, reply.status, time.perf_counter() - began_s)

    async def _answer(self, call: Call) -> Reply:
        try:
            return await self._verb(call)
        except BrokerError as error:
            return self._write_error(error)
        except ClientGone:
            raise
        except Exception:
            _log.exception("request failed", route=self._route)
            return self._write_error(BrokerError("The broker failed; its log says why."))

    def _observe(self, scope: Scope, status: int, seconds: float) -> None:
        key = scope["method"], status
        duration = self._durations.get(key)
        if duration is None:
            duration = HTTP_REQUEST_DURATION.labels(self._route, key[0], str(status))
            self._durations[key] = duration
        duration.observe(seconds)
        if not self._quiet and _level.isEnabledFor(logging.DEBUG):
            _log.debug(
                "request",
                route=self._route,
                method=key[0],
                status=status,
                duration_ms=round(seconds * 1000, 3),
                **{
                    name: text
                    for name, text in scope.get("path_params", {}).items()
                    if name not in _SECRETS
                },
            )


async def _hand_over(
    reply: Reply, if_lost: Callable[[], Awaitable[None]], caller: Caller, send: Send
) -> None:
    """Write a reply that may not get lost, or undo what it tells of.

    uvicorn drops what is sent to a client that has gone, without a word; and once a
    reply is complete it calls every client gone. So the end is held back: a send
    waits until the socket has taken what came before it (but for the last 64 KiB),
    and only if the client is still there then is the reply ended. The event loop must
    turn once in between: a client's end of file closes the transport at once, which
    then drops what is written, but the server hears of it with the next turn.
    """
    written = False
    try:
        if not caller.is_gone:
            await send(_head(reply))
            await send({"type": "http.response.body", "body": reply.body, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": True})
            await anyio.lowlevel.cancel_shielded_checkpoint()
            if not caller.is_gone:
                await send({"type": "http.response.body", "body": b""})
                written = True
    finally:
        if not written:
            # Whatever ended this, a cancelled server included, the tasks are not in use.
            with anyio.CancelScope(shield=True):
                await if_lost()


def _head(reply: Reply) -> Message:
    headers = list(reply.headers)
    if reply.status not in (204, 304):  # They have no body, not even of no bytes (RFC 9110, 8.6).
        headers.append((b"content-type", reply.content_type))
        headers.append((b"content-length", b"%d" % len(reply.body)))
    return {"type": "http.response.start", "status": reply.status, "headers": headers}


def _too_large(bytes_max: int) -> TooLarge:
    return TooLarge(f"The body has more than {bytes_max} bytes.", {"bytesMax": bytes_max})

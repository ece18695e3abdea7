"""The ASGI application: the routes of every dialect, and what operators ask a broker.

Starlette's router picks the route, where it takes a pattern to tell, and
nothing more. Every answer is written by an `Endpoint`, those for unknown paths
and wrong methods included, so that all of them have the form the document
promises.

/livez must never touch the database: a broker that waits for PostgreSQL is
alive, and a restart would not help it. /readyz is where that is told.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Final

from starlette.convertors import Convertor, register_url_convertor
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from broker import metrics
from broker.api.endpoint import Call, Endpoint, Reply, Verb
from broker.api.native.routes import ROUTES, Native
from broker.api.openapi import document
from broker.api.problem import MethodNotAllowed, NoSuchRoute, problem
from broker.core import Core
from broker.errors import Unavailable

_NOWHERE: Final = "_unknown"
"""The route label of all paths that are none: callers may invent as many as they like."""


def build_app(core: Core) -> ASGIApp:
    """The application over an open core, for uvicorn or any other ASGI server."""
    native = Native(core)
    endpoints: defaultdict[str, dict[str, Endpoint]] = defaultdict(dict)
    for method, path, verb in ROUTES:
        endpoints[path][method] = Endpoint(getattr(native, verb), path, problem)
    for path, answer in _for_operators(core):
        endpoints[path]["GET"] = Endpoint(answer, path, problem, quiet=True)
    return _Routes({path: _Path(path, methods) for path, methods in endpoints.items()})


class _Routes(Router):
    """Starlette's router, which tries one pattern after the other, behind a dict of the paths
    without parameters: those that workers live on are found at once."""

    def __init__(self, paths: dict[str, _Path]) -> None:
        super().__init__(
            [Route(_pattern(path), of_path) for path, of_path in paths.items()],
            redirect_slashes=False,
            default=_nowhere,
        )
        self._fixed = {path: of_path for path, of_path in paths.items() if "{" not in path}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        fixed = self._fixed.get(scope["path"]) if scope["type"] == "http" else None
        await (fixed or super().__call__)(scope, receive, send)


class _Anything(Convertor[str]):
    """A part of a path that may have any character: people choose the names of workers and topics."""

    regex = r"[\s\S]*"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("anything", _Anything())


def _pattern(path: str) -> str:
    """A path as the router takes it."""
    return re.sub(r"\{(workerId|topic)\}", r"{\1:anything}", path)


class _Path:
    """The ASGI application of one path: the endpoint of each of its methods."""

    def __init__(self, path: str, endpoints: dict[str, Endpoint]) -> None:
        self.methods = tuple(endpoints)
        self._endpoints = dict(endpoints)
        if "GET" in endpoints:
            self._endpoints["HEAD"] = endpoints["GET"]  # The server leaves the body out.
        allow = ", ".join(self._endpoints)

        async def refuse(_call: Call) -> Reply:
            refusal = problem(MethodNotAllowed(f"This path takes {allow}."))
            return refusal._replace(headers=((b"allow", allow.encode()),))

        self._refuse = Endpoint(refuse, path, problem)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._endpoints.get(scope["method"], self._refuse)(scope, receive, send)


def _for_operators(core: Core) -> Iterator[tuple[str, Verb]]:
    described = document(core.settings)

    async def livez(_call: Call) -> Reply:
        return Reply(200, b'{"status":"alive"}')

    async def readyz(_call: Call) -> Reply:
        reason = await core.unready_reason()
        if reason is not None:
            raise Unavailable(reason)
        return Reply(200, b'{"status":"ready"}')

    async def scrape(_call: Call) -> Reply:
        body, content_type = metrics.render()
        return Reply(200, body, content_type=content_type.encode())

    async def openapi(_call: Call) -> Reply:
        return Reply(200, described)

    yield "/livez", livez
    yield "/readyz", readyz
    yield "/metrics", scrape
    yield "/openapi.json", openapi


async def _no_such_route(_call: Call) -> Reply:
    raise NoSuchRoute("There is nothing at this path.")


_nowhere_over_http = Endpoint(_no_such_route, _NOWHERE, problem)


async def _nowhere(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close"})
    else:
        await _nowhere_over_http(scope, receive, send)

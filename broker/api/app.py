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
from collections.abc import Callable, Iterator
from typing import Final

from starlette.convertors import Convertor, register_url_convertor
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from broker import metrics
from broker.api.camunda7 import routes as camunda7_dialect
from broker.api.camunda7.errors import refusal
from broker.api.camunda7.reading import of_engine
from broker.api.camunda7.routes import Camunda7
from broker.api.endpoint import Call, Endpoint, Reply, Verb
from broker.api.native.routes import ROUTES, Native
from broker.api.openapi import document
from broker.api.problem import MethodNotAllowed, NoSuchRoute, problem
from broker.core import Core
from broker.errors import BrokerError, Unavailable

_NOWHERE: Final = "_unknown"
"""The route label of all paths that are none: callers may invent as many as they like."""

WriteError = Callable[[BrokerError], Reply]


def build_app(core: Core) -> ASGIApp:
    """The application over an open core, for uvicorn or any other ASGI server."""
    native, camunda7 = native_routes(core), camunda7_routes(core)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        # Each has a router of its own, so that no request is tried on the other's patterns.
        is_camunda7 = f"{scope.get('path', '')}/".startswith(f"{camunda7_dialect.ROOT}/")
        await (camunda7 if is_camunda7 else native)(scope, receive, send)

    return app


def native_routes(core: Core) -> Routes:
    """The native dialect, and what operators ask."""
    routes = Routes(problem)
    native = Native(core)
    for method, path, verb in ROUTES:
        routes.add(method, path, getattr(native, verb))
    for path, answer in _for_operators(core):
        routes.add("GET", path, answer, quiet=True)
    return routes


def camunda7_routes(core: Core) -> Routes:
    """The Camunda 7 dialect, with and without the name of the engine."""
    routes = Routes(refusal)
    camunda7 = Camunda7(core)
    for method, path, verb in camunda7_dialect.ROUTES:
        routes.add(method, f"{camunda7_dialect.ROOT}{path}", getattr(camunda7, verb))
    for method, path, verb in camunda7_dialect.ROUTES:
        named = f"{camunda7_dialect.ROOT}/engine/{{engine}}{path}"
        routes.add(method, named, of_engine(getattr(camunda7, verb)))
    return routes


class Routes(Router):
    """The endpoints of one dialect: Starlette's router, which tries one pattern after the other,
    behind a dict of the paths without parameters: those that workers live on are found at once."""

    def __init__(self, write_error: WriteError) -> None:
        super().__init__(redirect_slashes=False, default=self._nowhere)
        self._write_error = write_error
        self._paths: dict[str, _Path] = {}
        self._fixed: dict[str, _Path] = {}
        self._no_such_route = Endpoint(_no_such_route, _NOWHERE, write_error)

    def add(self, method: str, path: str, verb: Verb, *, quiet: bool = False) -> None:
        """Answer this method at this path with this verb."""
        of_path = self._paths.get(path)
        if of_path is None:
            of_path = self._paths[path] = _Path(path, self._write_error)
            self.routes.append(Route(_pattern(path), of_path))
            if "{" not in path:
                self._fixed[path] = of_path
        of_path.add(method, Endpoint(verb, path, self._write_error, quiet=quiet))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        fixed = self._fixed.get(scope["path"]) if scope["type"] == "http" else None
        await (fixed or super().__call__)(scope, receive, send)

    async def _nowhere(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})
        else:
            await self._no_such_route(scope, receive, send)


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

    def __init__(self, path: str, write_error: WriteError) -> None:
        self._endpoints: dict[str, Endpoint] = {}
        self._write_error = write_error
        self._refused = Endpoint(self._refuse, path, write_error)

    @property
    def methods(self) -> tuple[str, ...]:
        """What the path takes."""
        return tuple(method for method in self._endpoints if method != "HEAD")

    def add(self, method: str, endpoint: Endpoint) -> None:
        """Answer this method."""
        self._endpoints[method] = endpoint
        if method == "GET":
            self._endpoints["HEAD"] = endpoint  # The server leaves the body out.

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._endpoints.get(scope["method"], self._refused)(scope, receive, send)

    async def _refuse(self, _call: Call) -> Reply:
        allow = ", ".join(self._endpoints)
        refused = self._write_error(MethodNotAllowed(f"This path takes {allow}."))
        return refused._replace(headers=((b"allow", allow.encode()),))


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

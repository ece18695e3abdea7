"""A real HTTP server on loopback that says what a test tells it to.

For what the SDK sends and how it takes answers that a healthy broker does not
give. Everything else is tested against the real broker.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from aiohttp import web

from worker_sdk import Client


@dataclass
class Scripted:
    """Answers every request with `status`, `headers` and `body`, and keeps what was asked."""

    base_url: str = ""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    body: bytes = b""
    requests: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    peers: set[object] = field(default_factory=set[object])

    def will_answer(self, status: int, body: object = None, **headers: str) -> None:
        """Answer like this from now on."""
        self.status, self.headers = (
            status,
            {name.replace("_", "-"): v for name, v in headers.items()},
        )
        self.body = body if isinstance(body, bytes) else msgspec.json.encode(body)

    async def answer(self, request: web.Request) -> web.Response:
        """Keep the request, answer as told."""
        assert request.transport is not None
        self.peers.add(request.transport.get_extra_info("peername"))
        body = await request.read()
        self.requests.append(
            {
                "method": request.method,
                "path": request.raw_path,
                "headers": dict(request.headers),
                "body": msgspec.json.decode(body) if body else None,
            }
        )
        return web.Response(status=self.status, headers=self.headers, body=self.body)


@pytest.fixture
async def scripted() -> AsyncIterator[Scripted]:
    """A server that answers as the test says."""
    server = Scripted()
    app = web.Application()
    app.router.add_route("*", "/{anything:.*}", server.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield server
    await runner.cleanup()


@pytest.fixture
async def client(scripted: Scripted) -> AsyncIterator[Client]:
    """A client of that server."""
    async with Client(scripted.base_url, timeout_s=5) as client:
        yield client

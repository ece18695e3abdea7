"""uvicorn in this process, around any ASGI application."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import anyio
import pytest
import uvicorn
from starlette.types import ASGIApp

Serve = Callable[[ASGIApp], AbstractAsyncContextManager[int]]


@pytest.fixture
def serve() -> Serve:
    """Serves an application on a port of its own, which it gives, until the block is left."""

    @asynccontextmanager
    async def serving(app: ASGIApp) -> AsyncIterator[int]:
        config = uvicorn.Config(
            app, http="httptools", log_config=None, access_log=False, lifespan="off"
        )
        server = uvicorn.Server(config)
        listener = socket.create_server(("127.0.0.1", 0))
        ended = anyio.Event()

        async def serve_until_told() -> None:
            try:
                await server._serve([listener])
            finally:
                ended.set()

        async with anyio.create_task_group() as group:
            group.start_soon(serve_until_told)
            try:
                yield listener.getsockname()[1]
            finally:
                # In good order also where a test has failed: a loop that is closed under live
                # connections may never end.
                server.should_exit = True
                with anyio.CancelScope(shield=True):
                    await ended.wait()

    return serving

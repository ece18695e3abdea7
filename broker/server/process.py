"""One broker process: its core, and uvicorn in front of it, until somebody says stop."""

from __future__ import annotations

import logging
import signal
import socket
from collections.abc import Callable, Generator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Final

import anyio
import uvicorn
from anyio.abc import TaskStatus

from broker.api.app import build_app
from broker.core import Core, open_core
from broker.settings import Settings

_DRAIN_S: Final = 25
"""For running requests to end. Orchestrators kill after 30 s."""

_KEEP_ALIVE_S: Final = 75
"""Longer than clients and balancers keep an idle connection, so that it is they who close it:
one that we close can meet a request on its way, which then fails through nobody's fault."""


async def serve(
    settings: Settings,
    listener: socket.socket,
    announce: Callable[[], None],
    parent: Connection | None = None,
) -> None:
    """Serve on `listener` until a signal or the parent says stop; `announce` once it answers.

    The first SIGINT or SIGTERM ends it in order, the second at once. Raises what a background
    loop died of.
    """
    async with open_core(settings) as core, anyio.create_task_group() as group:
        server = _Server(core, announce)
        await group.start(_obey_signals, server, group.cancel_scope)
        if parent is not None:
            group.start_soon(_obey_parent, server, parent)
        await server.serve(sockets=[listener])
        group.cancel_scope.cancel()


class _Server(uvicorn.Server):
    def __init__(self, core: Core, announce: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                build_app(core),
                http="httptools",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=_KEEP_ALIVE_S,
                timeout_graceful_shutdown=_DRAIN_S,
            )
        )
        self._core = core
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._announce()

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().serve(sockets)
        except BaseException:
            self._hang_up()
            raise

    def _hang_up(self) -> None:
        """Cut every connection, which tells a client what is true: nobody knows what was done.

        Otherwise uvicorn would answer each request that is cancelled now with a 500, and log it
        as the application's mistake.
        """
        logging.getLogger("uvicorn.error").disabled = True
        for connection in self.server_state.connections:
            if connection.transport is not None:
                connection.transport.abort()

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave signals alone: uvicorn would raise them again before the core has closed."""
        yield

    def drain(self) -> None:
        """Answer whoever waits, take nothing new, and let `serve` return when all is answered."""
        self._core.begin_shutdown()
        self.should_exit = True


async def _obey_signals(
    server: _Server, everything: anyio.CancelScope, *, task_status: TaskStatus[None]
) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            if server.should_exit:
                everything.cancel()
            server.drain()


async def _obey_parent(server: _Server, parent: Connection) -> None:
    # There is something to read when it tells us to stop, and also when it has died:
    # a process that nobody watches must not keep the port.
    await anyio.wait_readable(parent)
    server.drain()

"""Several broker processes on one port: started, watched, started again, stopped together.

The parent holds the listening socket and answers nothing itself. It tells its
children to stop over a pipe rather than by signals, because a terminal and
systemd send theirs to the whole group: a child would count two and take the
second as the order to drop everything.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Final, NamedTuple

import anyio
import structlog
from anyio.abc import TaskStatus
from prometheus_client.multiprocess import mark_process_dead

from broker import log
from broker.server.process import serve
from broker.settings import Settings

_RESTART_PAUSE_S: Final = 1.0
"""A process that dies at once, as all do while the database is away, must not eat the machine."""

_READY: Final = b"ready"
_STOP: Final = b"stop"

# A forked child would share the parent's event loop and locks.
_spawn = multiprocessing.get_context("spawn")

_log = structlog.stdlib.get_logger(__name__)


class _Child(NamedTuple):
    process: multiprocessing.context.SpawnProcess
    line: Connection


async def supervise(
    settings: Settings, listener: socket.socket, announce: Callable[[], None]
) -> int:
    """Keep `settings.processes` serving until a signal; `announce` once all of them answer.

    Answers the exit code: 0 after an orderly stop, 1 if the first processes could not start.
    """
    with tempfile.TemporaryDirectory(prefix="fetchlock-metrics-") as metrics_dir:
        # The children count into files there, so that each can answer a scrape for all.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = metrics_dir
        supervisor = _Supervisor(settings, listener, announce)
        async with anyio.create_task_group() as group:
            await group.start(supervisor.obey_signals, group.cancel_scope)
            async with anyio.create_task_group() as children:
                for _ in range(settings.processes):
                    children.start_soon(supervisor.keep_one)
            group.cancel_scope.cancel()
        return supervisor.exit_code


class _Supervisor:
    def __init__(
        self, settings: Settings, listener: socket.socket, announce: Callable[[], None]
    ) -> None:
        self.exit_code = 0
        self._settings = settings
        self._listener = listener
        self._announce = announce
        self._children: set[_Child] = set()
        self._unready = settings.processes
        self._is_stopping = False

    async def keep_one(self) -> None:
        """One process, and its successors, until the stop."""
        has_served = False
        while not self._is_stopping:
            child = self._start()
            try:
                if await _is_ready(child) and not has_served:
                    has_served = True
                    self._count_ready()
                await anyio.wait_readable(child.process.sentinel)
            finally:
                self._bury(child)
            if not has_served:
                # It would go the same way with the next one: better say so than try for ever.
                self.exit_code = 1
                self.stop()
            if not self._is_stopping:
                _log.error("a broker process died", exit_code=child.process.exitcode)
                await anyio.sleep(_RESTART_PAUSE_S)

    async def obey_signals(
        self, everything: anyio.CancelScope, *, task_status: TaskStatus[None]
    ) -> None:
        """The first signal stops in order, the second at once."""
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            task_status.started()
            async for _ in signals:
                if self._is_stopping:
                    everything.cancel()
                self.stop()

    def stop(self) -> None:
        """Tell every process to finish what it is at, and start none again."""
        self._is_stopping = True
        for child in self._children:
            with suppress(OSError):  # It has died meanwhile.
                child.line.send_bytes(_STOP)

    def _start(self) -> _Child:
        ours, theirs = _spawn.Pipe()
        process = _spawn.Process(target=_run_child, args=(self._settings, self._listener, theirs))
        process.start()
        theirs.close()
        child = _Child(process, ours)
        self._children.add(child)
        return child

    def _bury(self, child: _Child) -> None:
        self._children.remove(child)
        child.process.kill()  # It is dead already, or this is the second signal.
        child.process.join()
        child.line.close()
        mark_process_dead(child.process.pid)  # type: ignore[no-untyped-call]  # The library's gap.

    def _count_ready(self) -> None:
        self._unready -= 1
        if self._unready == 0 and not self._is_stopping:
            self._announce()


async def _is_ready(child: _Child) -> bool:
    """Wait for the child to answer requests, or to die before that."""
    await anyio.wait_readable(child.line)
    try:
        return child.line.recv_bytes() == _READY
    except (EOFError, OSError):
        return False


def _run_child(settings: Settings, listener: socket.socket, parent: Connection) -> None:
    log.configure(settings.log_level, settings.log_format)
    try:
        anyio.run(
            serve,
            settings,
            listener,
            lambda: parent.send_bytes(_READY),
            parent,
            backend_options={"use_uvloop": True},
        )
    except KeyboardInterrupt:
        sys.exit(130)  # Before it could serve; the parent got the same Ctrl-C.
    except Exception:
        _log.exception("the broker process ends")
        sys.exit(1)

"""Starting, watching and stopping what takes part in the demo.

Whatever ends the demo, nothing of it may stay behind: each process is stopped
by the block that started it, and their folder goes last. They are kept from
the terminal's Ctrl-C, which would reach them all at once and in no order.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

import anyio

from broker.embedded import EmbeddedPostgres
from broker.store.migrations import migrate

_ROOT: Final = Path(__file__).parents[2]
_START_S: Final = 30.0
_STOP_S: Final = 10.0
_LOOK_S: Final = 0.05


class Trouble(Exception):
    """The demo cannot go on. The text says what happened."""


class Child(NamedTuple):
    """A process of ours, and where it logs."""

    name: str
    process: subprocess.Popen[Any]
    log: Path

    def signal(self, number: int) -> None:
        """Send a signal, also to a process that has just died."""
        self.process.send_signal(number)

    def check_alive(self) -> None:
        """Raise `Trouble`, with its last words, if the process has ended."""
        if self.process.poll() is not None:
            raise Trouble(
                f"{self.name} ended with exit code {self.process.returncode}:\n{self.last_words()}"
            )

    def last_words(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace").strip()[-2_000:]

    def check_up_to(self, deadline: float) -> None:
        """Raise `Trouble` if it has ended, or is still not ready at the deadline."""
        self.check_alive()
        if time.monotonic() > deadline:
            raise Trouble(f"{self.name} was not ready within {_START_S:.0f} s")


class Cast(NamedTuple):
    """Everyone who takes part."""

    database_url: str
    broker_url: str
    broker: Child
    workers: list[Child]


@contextmanager
def started(workers: int) -> Iterator[Cast]:
    """A fresh PostgreSQL, a broker on it and some workers, until the block is left."""
    with ExitStack() as stack:
        folder = stack.enter_context(_temporary_folder())
        database = stack.enter_context(EmbeddedPostgres(folder / "database"))
        environment = _environment(FETCHLOCK_DATABASE_URL=database.url())
        anyio.run(migrate, database.url())
        broker, output = stack.enter_context(
            _child("broker", folder, ["broker", "serve", "--port", "0"], environment)
        )
        broker_url = _ready_url(broker, output)
        cast = Cast(database.url(), broker_url, broker, [])
        for number in range(1, workers + 1):
            name = f"worker-{number}"
            environment = _environment(DEMO_BROKER=broker_url, DEMO_WORKER=name)
            command = ["worker_sdk", "examples.demo.worker:worker"]
            worker, _ = stack.enter_context(_child(name, folder, command, environment))
            cast.workers.append(worker)
        for worker in cast.workers:
            _await_started(worker)
        yield cast


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="fetchlock-demo-"))
    try:
        # PostgreSQL's user, who is not root, must get through to its own folder in here.
        folder.chmod(0o755)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _child(
    name: str, folder: Path, command: list[str], environment: dict[str, str]
) -> Iterator[tuple[Child, IO[str]]]:
    log = folder / f"{name}.log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=_ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            process_group=0,
        )
    assert process.stdout is not None
    with process.stdout:
        try:
            yield Child(name, process, log), process.stdout
        finally:
            _stop(process)


def _stop(process: subprocess.Popen[Any]) -> None:
    process.send_signal(signal.SIGCONT)  # The worker to be killed may have been left frozen.
    process.terminate()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _environment(**more: str) -> dict[str, str]:
    """Ours, without settings meant for another broker, which could spoil this one."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith("FETCHLOCK_")}
    return kept | more


def _await_started(worker: Child) -> None:
    """Return once the worker's log says that it works: its imports are not to be timed."""
    deadline = time.monotonic() + _START_S
    while "worker started" not in worker.log.read_text(errors="replace"):
        worker.check_up_to(deadline)
        time.sleep(_LOOK_S)


def _ready_url(broker: Child, output: IO[str]) -> str:
    """The address in the line with which the broker says that it is ready."""
    deadline = time.monotonic() + _START_S
    while not select.select([output], [], [], _LOOK_S)[0]:
        broker.check_up_to(deadline)
    line = output.readline()
    if " on http" not in line:
        broker.process.wait(_STOP_S)
        broker.check_alive()
    return line.rpartition(" ")[2].strip()

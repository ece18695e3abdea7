"""Where it is measured. At home: a PostgreSQL of our own, and brokers started as users start them.

Each contender gets a fresh database on the one server, reached over its socket
in the file system. Only one contender has something to do at a time.

`Outside` is somebody's broker behind a URL: of it no more is known than what it
answers. It is worked on topics of our own, and whatever happens they are left
empty.
"""

from __future__ import annotations

import itertools
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol, Self

import anyio
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from benchmarks.contenders import Contender
from benchmarks.database import Database
from benchmarks.driver import ROOT, Driver, Trouble, driving, environment
from benchmarks.usage import Meter

PROGRAM: Final = "program"
BROKER: Final = "broker"
POSTGRES: Final = "postgres"

_START_S: Final = 60.0
_STOP_S: Final = 30.0
_CLEAN_S: Final = 120.0
_LINE_BYTES_MAX: Final = 65_536


class Session(NamedTuple):
    """A contender that is ready for orders, and the means to watch it."""

    driver: Driver
    meter: Meter
    database: Database | None
    database_name: str


class Stand(Protocol):
    """A place to measure at."""

    database: Database | None

    def session(self, contender: Contender, processes: int) -> AbstractAsyncContextManager[Session]:
        """A contender on something fresh, around a block. Raises `Trouble`."""


class Home:
    """Our own database server, with `folder` for the logs."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database: Database | None = database
        self._server = database
        self._folder = folder
        self._numbers = itertools.count(1)

    @asynccontextmanager
    async def session(self, contender: Contender, processes: int) -> AsyncIterator[Session]:
        """A fresh database, for brokers or for the program itself."""
        name = f"bench_{next(self._numbers)}"
        log = self._folder / f"{name}.log"
        await self._server.create(name)
        try:
            async with (
                self._target(contender, processes, self._server.url(name)) as (target, roots),
                driving(await contender.command(target), log) as driver,
            ):
                meter = Meter({PROGRAM: driver.pid, **roots})
                yield Session(driver, meter, self._server, name)
        finally:
            with anyio.CancelScope(shield=True):
                await self._server.drop(name)

    @asynccontextmanager
    async def _target(
        self, contender: Contender, processes: int, database_url: str
    ) -> AsyncIterator[tuple[str, dict[str, int]]]:
        """What the program is pointed at, and the processes that serve it."""
        roots = {POSTGRES: self._server.pid}
        if contender.uses_database:
            yield database_url, roots
            return
        async with _broker(database_url, processes, self._folder) as (pid, url):
            yield f"{url}#bench", {BROKER: pid, **roots}


class Outside:
    """A broker that is there already. Nothing but tasks on our own topics is touched."""

    database: Database | None = None

    def __init__(self, url: str, folder: Path) -> None:
        self._url = url.rstrip("/")
        self._folder = folder
        self.topic = f"bench-{secrets.token_hex(6)}"
        """Nobody else's. Contenders that need more than one begin their names so."""

    @asynccontextmanager
    async def session(self, contender: Contender, processes: int) -> AsyncIterator[Session]:
        """A program on our topic, which is empty again afterwards."""
        target = f"{self._url}#{self.topic}"
        log = self._folder / "program.log"
        try:
            async with driving(await contender.command(target), log) as driver:
                yield Session(driver, Meter({PROGRAM: driver.pid}), None, "")
        finally:
            with anyio.move_on_after(_CLEAN_S, shield=True):
                # By a program of its own: the other may have been stopped amid its work.
                async with driving(await contender.command(target), log) as cleaner:
                    await cleaner.order("prepare")


class Kept:
    """Another stand, whose sessions go on from one measurement to the next.

    For a quick run: starting everything afresh takes longer than what is measured. Contenders
    still begin with nothing left to do, but not with fresh tables.
    """

    def __init__(self, stand: Stand) -> None:
        self.database = stand.database
        self._stand = stand
        self._open: dict[tuple[str, int], Session] = {}
        self._closing = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: Any) -> None:
        await self._closing.__aexit__(*exception)

    @asynccontextmanager
    async def session(self, contender: Contender, processes: int) -> AsyncIterator[Session]:
        """The one that is open, unless it has failed."""
        key = contender.name, processes
        if key not in self._open:
            self._open[key] = await self._closing.enter_async_context(
                self._stand.session(contender, processes)
            )
        try:
            yield self._open[key]
        except BaseException:
            del self._open[key]
            raise


@asynccontextmanager
async def _broker(
    database_url: str, processes: int, folder: Path
) -> AsyncIterator[tuple[int, str]]:
    """`fetchlock serve` on a database, around the block: its process id and its URL."""
    command = [sys.executable, "-m", "broker"]
    variables = environment(FETCHLOCK_DATABASE_URL=database_url)
    migrated = await anyio.run_process([*command, "migrate"], env=variables, cwd=ROOT, check=False)
    if migrated.returncode:
        raise Trouble(f"fetchlock migrate: {migrated.stderr.decode(errors='replace').strip()}")
    with (folder / "broker.log").open("ab") as log:
        process = await anyio.open_process(
            [*command, "serve", "--port", "0", "--processes", str(processes)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=ROOT,
            env=variables,
            start_new_session=True,
        )
    try:
        yield process.pid, await _announced_url(process)
    finally:
        with anyio.CancelScope(shield=True):
            await _terminate(process)


async def _announced_url(process: Process) -> str:
    assert process.stdout is not None
    lines = BufferedByteReceiveStream(process.stdout)
    try:
        with anyio.fail_after(_START_S):
            while b"is ready on" not in (line := await lines.receive_until(b"\n", _LINE_BYTES_MAX)):
                pass
    except (TimeoutError, anyio.IncompleteRead, anyio.EndOfStream):
        raise Trouble("the broker did not start") from None
    return line.split()[-1].decode()


async def _terminate(process: Process) -> None:
    if process.returncode is None:
        process.terminate()
        with anyio.move_on_after(_STOP_S):
            await process.wait()
    if process.returncode is None:
        process.kill()
    await process.aclose()

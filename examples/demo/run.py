"""The story: create a task per file, kill a worker in the middle, wait for the rest."""

from __future__ import annotations

import signal
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from itertools import islice
from typing import Any, Final, NamedTuple, Protocol

import anyio
import asyncpg

from examples.demo.processes import Cast, Child, Trouble
from examples.demo.worker import FINGERPRINT, PICKUP
from worker_sdk import Client, FetchlockError, NewTask

_BATCH: Final = 500
_LOOK_S: Final = 0.05
_SETTLE_S: Final = 0.02
_STUCK_S: Final = 60.0
_PICKUPS: Final = 200

# The more it holds when it dies, the more there is to see. Files are done in a millisecond, so it
# takes some luck.
_LOCKS_WANTED: Final = 5

_ENDED: Final = """
SELECT (SELECT count(*) FROM fetchlock.outcome)
     + (SELECT count(*) FROM fetchlock.open_task WHERE state = 'failed')
"""


class Death(NamedTuple):
    """Who was killed, and how many locks the broker still counted as its own."""

    name: str
    locks: int


class Watcher(Protocol):
    """Who is told how it goes."""

    def progress(self, ended: int) -> None: ...
    def killed(self, death: Death) -> None: ...


@asynccontextmanager
async def connected(cast: Cast) -> AsyncIterator[tuple[Client, asyncpg.Connection]]:
    """The API, and the database behind it."""
    connection = await asyncpg.connect(cast.database_url)
    try:
        async with Client(cast.broker_url) as client:
            yield client, connection
    finally:
        await connection.close()


async def create(client: Client, paths: Iterable[str]) -> dict[str, str]:
    """Create a task for each path; answer which task id stands for which path."""
    remaining, path_of = iter(paths), dict[str, str]()
    while batch := list(islice(remaining, _BATCH)):
        tasks = [NewTask(FINGERPRINT, {"path": path}) for path in batch]
        for path, answer in zip(batch, await client.create_batch(tasks), strict=True):
            if isinstance(answer, FetchlockError):
                raise Trouble(f"the broker refused a task for {path}: {answer}")
            path_of[answer] = path
    return path_of


async def watch(
    cast: Cast,
    client: Client,
    connection: asyncpg.Connection,
    total: int,
    screen: Watcher,
) -> Death | None:
    """Wait until all tasks have ended; half-way, kill a worker. None: all was done too soon."""
    death: Death | None = None
    wanted_locks = _LOCKS_WANTED
    patience = _Patience(total)
    while True:
        ended = await connection.fetchval(_ENDED)
        screen.progress(ended)
        if ended >= total:
            return death
        patience.check(ended)
        for child in (cast.broker, *cast.workers):
            if death is None or child.name != death.name:
                child.check_alive()
        if death is None and ended >= total / 2:
            death = await _kill_if_holding(cast.workers[1], wanted_locks, client)
            # It may never hold so many at once.
            wanted_locks = max(1, wanted_locks - 1)
            if death is not None:
                screen.killed(death)
        await anyio.sleep(_LOOK_S)


class _Patience:
    """Ends when nothing has moved for too long."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._ended, self._moved_s = 0, time.monotonic()

    def check(self, ended: int) -> None:
        if ended > self._ended:
            self._ended, self._moved_s = ended, time.monotonic()
        elif time.monotonic() - self._moved_s > _STUCK_S:
            raise Trouble(
                f"nothing has moved for {_STUCK_S:.0f} s, at {ended} of {self._total} tasks"
            )


async def _kill_if_holding(victim: Child, wanted_locks: int, client: Client) -> Death | None:
    """Freeze the worker first: what it holds then, it cannot finish any more."""
    victim.signal(signal.SIGSTOP)
    before, locks = -1, await _locks(victim, client)
    # Requests that it had sent before may still be on their way.
    while locks != before:
        before, locks = locks, await _locks(victim, client)
    if locks < wanted_locks:
        victim.signal(signal.SIGCONT)
        return None
    victim.signal(signal.SIGKILL)
    return Death(victim.name, locks)


async def _locks(worker: Child, client: Client) -> int:
    await anyio.sleep(_SETTLE_S)
    return len((await client.list_tasks(state="LOCKED", worker_id=worker.name)).tasks)


async def pickups_ms(client: Client) -> list[float]:
    """Milliseconds from a producer's request to the handler's first line, one task at a time."""
    waits_ms: list[float] = []
    for _ in range(_PICKUPS):
        asked_ns = time.monotonic_ns()
        task = await client.create(NewTask(PICKUP), wait_s=10)
        result: dict[str, Any] = task.result or {}
        if "startedNs" not in result:
            raise Trouble(f"a task on an idle topic is {task.state} after 10 s")
        waits_ms.append((result["startedNs"] - asked_ns) / 1e6)
    return waits_ms

"""`make bench`: how fast tasks go in and out over HTTP, on this machine, just now.

It drives a fresh `fetchlock dev` from outside, as any client would, and counts
only what the broker has acknowledged: a task is drained when its completion is
committed. Client, broker and PostgreSQL share the machine's cores, so the
figures compare ways of working, not machines.
"""

from __future__ import annotations

import itertools
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from subprocess import PIPE
from typing import Final

import aiohttp
import anyio
import msgspec
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

ROUNDS: Final = 3
TASKS: Final = 20_000
"""Of a round: seconds, so that starting the connections does not count."""

CREATE_BATCH: Final = 1_000
DRAIN_BATCHES: Final = (100, 500)
CONNECTIONS: Final = 8
"""Enough for the broker to batch, few enough to leave it a core."""

VARIABLES: Final = {"orderId": "2f1c9a52", "amount": 129.9, "currency": "EUR", "note": "x" * 40}
"""About 100 bytes: a reference and a few facts."""


class Locked(msgspec.Struct, rename="camel"):
    """What a completion needs of a fetched task. The rest is skipped while decoding."""

    id: str
    lock_token: str


class Results(msgspec.Struct):
    """The reply of a batch."""

    results: list[dict[str, object]]


class Client:
    """The calls that are measured, over raw HTTP."""

    def __init__(self, session: aiohttp.ClientSession, topic: str) -> None:
        self._session = session
        self._topic = topic

    async def create(self) -> int:
        """Create a batch of tasks. Returns how many were."""
        task = {"topic": self._topic, "variables": VARIABLES}
        body = await self._post("batch", {"tasks": [task] * CREATE_BATCH})
        return sum("id" in result for result in msgspec.json.decode(body, type=Results).results)

    async def drain(self, batch: int) -> int:
        """Fetch and complete up to `batch` tasks. Returns how many were completed."""
        wish = {
            "workerId": "bench",
            "maxTasks": batch,
            "lockDurationMs": 60_000,
            "requestTimeoutMs": 1_000,
            "subscriptions": [{"topic": self._topic}],
        }
        locked = msgspec.json.decode(await self._post("fetch-and-lock", wish), type=list[Locked])
        if not locked:
            return 0
        body = await self._post("complete", {"workerId": "bench", "tasks": locked})
        results = msgspec.json.decode(body, type=Results).results
        return sum(result.get("outcome") == "done" for result in results)

    async def _post(self, path: str, body: object) -> bytes:
        async with self._session.post(
            f"/api/external-tasks/{path}",
            data=msgspec.json.encode(body),
            headers={"Content-Type": "application/json"},
        ) as response:
            response.raise_for_status()
            return await response.read()


class Round:
    """One topic, filled and then drained by all connections together."""

    def __init__(self, session: aiohttp.ClientSession, topic: str, seen: Callable[[int], None]):
        self._client = Client(session, topic)
        self._seen = seen

    async def create(self) -> float:
        """Create `TASKS` tasks. Returns tasks per second."""
        return await self._rate(self._client.create, range(TASKS // CREATE_BATCH))

    async def drain(self, batch: int) -> float:
        """Fetch and complete all of them, `batch` per request. Returns tasks per second."""
        return await self._rate(lambda: self._client.drain(batch), itertools.count())

    async def _rate(self, step: Callable[[], Awaitable[int]], steps: Iterable[int]) -> float:
        through = 0
        left = iter(steps)

        async def connection() -> None:
            nonlocal through
            for _ in left:
                count = await step()
                through += count
                self._seen(count)
                if through >= TASKS:
                    # The others may be waiting for tasks that never come.
                    group.cancel_scope.cancel()

        begun_at = time.monotonic()
        async with anyio.create_task_group() as group:
            for _ in range(CONNECTIONS):
                group.start_soon(connection)
        assert through == TASKS, f"{through} of {TASKS} tasks went through"
        return TASKS / (time.monotonic() - begun_at)


async def measure(base_url: str, progress: Progress) -> dict[str, list[float]]:
    """Tasks per second in every round, by what was done."""
    rates: dict[str, list[float]] = defaultdict(list)
    bar = progress.add_task("", total=ROUNDS * len(DRAIN_BATCHES) * 2 * TASKS)
    async with aiohttp.ClientSession(base_url) as session:
        for number, batch in itertools.product(range(ROUNDS), DRAIN_BATCHES):
            progress.update(bar, description=f"round {number + 1}, {batch} per request")
            topic = f"bench-{number}-{batch}"
            one = Round(session, topic, lambda count: progress.advance(bar, count))
            rates[f"create, {CREATE_BATCH} per request"].append(await one.create())
            rates[f"fetch and complete, {batch} per request"].append(await one.drain(batch))
    return rates


@contextmanager
def broker() -> Iterator[str]:
    """A fresh broker, commits durable, and its base URL."""
    environment = {name: v for name, v in os.environ.items() if not name.startswith("FETCHLOCK_")}
    with tempfile.TemporaryDirectory(prefix="fetchlock-bench-") as data_dir:
        command = [sys.executable, "-m", "broker", "dev", "--port", "0", "--data", data_dir]
        with subprocess.Popen(command, env=environment, stdout=PIPE, text=True) as process:
            assert process.stdout is not None
            try:
                yield next(line for line in process.stdout if "is ready on" in line).split()[-1]
            finally:
                process.terminate()


def table(rates: dict[str, list[float]]) -> Table:
    """The figures, the median first: a shared machine makes the rounds differ."""
    drawn = Table("", "median", "lowest", "highest", title="Tasks per second over HTTP")
    for column in drawn.columns[1:]:
        column.justify = "right"
    for name, rounds in rates.items():
        figures = (statistics.median(rounds), min(rounds), max(rounds))
        drawn.add_row(name, *(f"{figure:,.0f}" for figure in figures))
    return drawn


def main() -> None:
    """Measure, and print the table."""
    console = Console(highlight=False)
    console.print(
        f"{os.cpu_count()} cores, Python {platform.python_version()}, one broker process, "
        f"{CONNECTIONS} connections, {ROUNDS} rounds of {TASKS:,} tasks with 100 bytes of variables"
    )
    with broker() as base_url, Progress(console=console, transient=True) as progress:
        rates = anyio.run(measure, base_url, progress, backend_options={"use_uvloop": True})
    console.print(table(rates))


if __name__ == "__main__":
    main()

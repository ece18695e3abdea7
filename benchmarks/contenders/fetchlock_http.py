"""Fetchlock over plain HTTP, as a worker in any language would use it.

The target is the broker's base URL; its fragment is the topic to work on, so
that a run against somebody's broker touches nothing but its own tasks.

A task counts as done when the answer to its completion is there, which the
broker sends after COMMIT; a drain asks at its end whether anything is left.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any, ClassVar, Final
from urllib.parse import urldefrag

import anyio

from benchmarks.contenders.calls import BULK, Calls, Locked
from benchmarks.contenders.connection import Connection, Connections, in_parallel
from benchmarks.program import Program, Ready, at_rate, serve

_BULK_CONNECTIONS: Final = 4

_DRAIN_CONNECTIONS: Final = {1: 64, 10: 32, 100: 8, 500: 4}
"""By tasks per request. More would only wait for each other, fewer leave the broker idle."""

_PRODUCER_CONNECTIONS: Final = 64
_WORKER_CONNECTIONS: Final = 4
_WORKER_TASKS: Final = 100

_FLOW_CONNECTIONS: Final = 8
_FLOW_TASKS: Final = 100

_POLL_MS: Final = 20_000
_EMPTY_PAUSE_S: Final = 0.001


class FetchlockHttp(Program):
    """See the module."""

    WORKLOADS: ClassVar[frozenset[str]] = Program.WORKLOADS | {"fetch", "flow"}

    def __init__(self, target: str) -> None:
        super().__init__(target)
        self._url, topic = urldefrag(target)
        self._calls = Calls(topic)
        self._empty = Calls(f"{topic}-empty")

    async def introduce(self) -> Ready:
        await check_ready(self._url)
        drains = ", ".join(f"{c} at {k}" for k, c in _DRAIN_CONNECTIONS.items())
        return Ready(
            name="fetchlock http",
            version=version("fetchlock"),
            settings=f"bulk create {BULK} tasks a request on {_BULK_CONNECTIONS} connections; "
            f"drain connections by tasks a request: {drains}; steady: {_WORKER_CONNECTIONS} "
            f"connections fetch up to {_WORKER_TASKS} and complete them at once",
            durability=DURABILITY,
        )

    async def prepare(self) -> None:
        """Leave nothing on the topic."""
        with Connections(self._url, 1) as connections:
            await self._calls.clear(connections)
            await self._empty.clear(connections)

    async def create_bulk(self, count: int) -> dict[str, float]:
        """In requests of a thousand."""

        async def create(first: int) -> None:
            size = min(BULK, count - first)
            await self._calls.create_batch(connections, size)
            self.advance(size)

        with Connections(self._url, _BULK_CONNECTIONS) as connections:
            begun_at_s = time.monotonic()
            await in_parallel(_BULK_CONNECTIONS, create, range(0, count, BULK))
            return {"seconds": time.monotonic() - begun_at_s}

    async def create_single(self, count: int, concurrency: int) -> dict[str, float]:
        """One a request, each answered before its connection sends the next."""

        async def create(_: int) -> None:
            await self._calls.create(connections)
            self.advance()

        with Connections(self._url, concurrency) as connections:
            begun_at_s = time.monotonic()
            await in_parallel(concurrency, create, range(count))
            return {"seconds": time.monotonic() - begun_at_s}

    async def drain(self, count: int, per_request: int = 500) -> dict[str, float]:
        """Fetch and complete, `per_request` tasks at a time, until all are completed."""
        lanes = _DRAIN_CONNECTIONS[per_request]
        unclaimed, done = count, 0

        async def work() -> None:
            nonlocal unclaimed, done
            while done < count:
                # What others are about to fetch is not asked for a second time.
                if (wanted := min(per_request, unclaimed)) == 0:
                    await anyio.sleep(_EMPTY_PAUSE_S)
                    continue
                unclaimed -= wanted
                locked = await self._calls.fetch(connections, wanted)
                completed = await self._calls.complete(connections, locked)
                unclaimed += wanted - completed
                done += completed
                self.advance(completed)

        with Connections(self._url, lanes) as connections:
            begun_at_s = time.monotonic()
            await in_parallel(lanes, lambda _: work(), range(lanes))
            seconds = time.monotonic() - begun_at_s
            if done != count or await self._calls.fetch(connections, 1):
                raise AssertionError(f"{done} were drained of {count}, and there are more")
        return {"seconds": seconds}

    async def pickup(self, count: int) -> dict[str, list[float]]:
        """Create returned → the worker's poll answered."""
        loop = asyncio.get_running_loop()
        latencies_ms: list[float] = []
        started: asyncio.Future[float]

        def start(_: Locked, at_s: float) -> None:
            started.set_result(at_s)

        with Connections(self._url, 1) as producer:
            async with self._working(1, start, _ignore):
                for _ in range(count):
                    await anyio.sleep(random.uniform(0.005, 0.025))
                    started = loop.create_future()
                    await self._calls.create(producer)
                    created_at_s = time.monotonic()
                    latencies_ms.append(max(0.0, await started - created_at_s) * 1000)
                    self.advance()
        return {"latencies_ms": latencies_ms}

    async def steady(self, rate: float, seconds: float) -> dict[str, Any]:
        """Begin of the create call → answer to the completion, at a rate that nothing slows."""
        total = int(rate * seconds)
        begun: dict[int, tuple[float, float]] = {}
        samples: list[tuple[float, float]] = []
        everything = anyio.Event()

        def completed(task: Locked, at_s: float) -> None:
            offset_s, begun_at_s = begun.pop(task.variables.i)
            samples.append((round(offset_s, 3), round((at_s - begun_at_s) * 1000, 3)))
            self.advance()
            if len(samples) == total:
                everything.set()

        async def create(offset_s: float) -> None:
            number = self._calls.number()
            begun[number] = offset_s, time.monotonic()
            await self._calls.create(producers, number=number)

        with Connections(self._url, _PRODUCER_CONNECTIONS) as producers:
            async with self._working(_WORKER_CONNECTIONS, _ignore, completed):
                async with anyio.create_task_group() as group:
                    async for offset_s in at_rate(rate, seconds):
                        group.start_soon(create, offset_s)
                await everything.wait()
        return {"samples": samples, "created": total}

    # Of Fetchlock only

    async def fetch(self, count: int, is_empty: bool) -> dict[str, list[float]]:
        """The time of a fetch of one task, before each of which one is created behind the rest.

        On the topic, or on one beside it where there is nothing else.
        """
        calls = self._empty if is_empty else self._calls
        latencies_ms: list[float] = []
        with Connections(self._url, 1) as connections:
            for _ in range(count):
                await calls.create(connections)
                begun_at_s = time.monotonic()
                locked = await calls.fetch(connections, 1)
                latencies_ms.append((time.monotonic() - begun_at_s) * 1000)
                if await calls.complete(connections, locked) != 1:
                    raise AssertionError("a fetch from a lane with a ready task brought none")
                self.advance()
        return {"latencies_ms": latencies_ms}

    async def flow(self, seconds: float) -> dict[str, Any]:
        """Closed loop: each connection creates, fetches and completes 100 tasks, over and over.

        Answers of each round when it ended, how long it took, and how many tasks it completed.
        """
        rounds: list[tuple[float, float, int]] = []
        begun_at_s = time.monotonic()

        async def loop() -> None:
            while (started_at_s := time.monotonic()) < begun_at_s + seconds:
                await self._calls.create_batch(connections, _FLOW_TASKS)
                locked = await self._calls.fetch(connections, _FLOW_TASKS, wait_ms=1_000)
                completed = await self._calls.complete(connections, locked)
                ended_at_s = time.monotonic()
                took_ms = (ended_at_s - started_at_s) * 1000
                rounds.append((round(ended_at_s - begun_at_s, 3), round(took_ms, 3), completed))
                self.advance(completed)

        with Connections(self._url, _FLOW_CONNECTIONS) as connections:
            await in_parallel(_FLOW_CONNECTIONS, lambda _: loop(), range(_FLOW_CONNECTIONS))
        return {"rounds": rounds}

    @asynccontextmanager
    async def _working(
        self,
        lanes: int,
        started: Callable[[Locked, float], None],
        completed: Callable[[Locked, float], None],
    ) -> AsyncIterator[None]:
        """A worker around the block: so many connections, each polling, then completing."""

        async def work() -> None:
            with Connections(self._url, 1) as connection:
                while True:
                    locked = await self._calls.fetch(connection, _WORKER_TASKS, wait_ms=_POLL_MS)
                    _tell(started, locked)
                    if await self._calls.complete(connection, locked) != len(locked):
                        raise AssertionError("a lock was lost within its first seconds")
                    _tell(completed, locked)

        async with anyio.create_task_group() as group:
            for _ in range(lanes):
                group.start_soon(work)
            yield
            group.cancel_scope.cancel()


DURABILITY: Final = (
    "creates, locks and completions are each acknowledged after COMMIT; outcomes are kept"
)


async def check_ready(url: str) -> None:
    """Raise unless there is a broker that is ready."""
    connection = await Connection.open(url)
    answer = await connection.get(b"/readyz")
    connection.close()
    if answer.status != 200:
        raise ConnectionError(f"the broker is not ready: {answer.body.decode(errors='replace')}")


def _tell(hearer: Callable[[Locked, float], None], tasks: list[Locked]) -> None:
    now_s = time.monotonic()
    for task in tasks:
        hearer(task, now_s)


def _ignore(_task: Locked, _at_s: float) -> None:
    pass


if __name__ == "__main__":
    serve(FetchlockHttp)

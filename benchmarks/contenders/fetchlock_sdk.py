"""Fetchlock through its own SDK: a `Worker` with a handler that does nothing.

`Worker` reports outcomes by itself and tells nobody when, so a drain is over
when the worker, told to stop with the last handler, has come to its end: by
then every completion was answered. That is later than the last COMMIT, never
earlier. For the same reason there is no created → completed latency here; the
raw client measures that.
"""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import ClassVar, Final
from urllib.parse import urldefrag

import anyio

from benchmarks.contenders.connection import in_parallel
from benchmarks.contenders.fetchlock_http import DURABILITY
from benchmarks.program import Program, Ready, payload, serve
from worker_sdk import Client, NewTask, Subscription, Task, Worker

_CONCURRENCY: Final = 500
"""Of the worker that drains, found by trying: fewer leave the broker idle between fetches."""

_BULK: Final = 1_000
_BULK_CONNECTIONS: Final = 4
_NOBODY: Final = "bench-left-over"


class FetchlockSdk(Program):
    """See the module."""

    WORKLOADS: ClassVar[frozenset[str]] = Program.WORKLOADS - {"steady"}

    def __init__(self, target: str) -> None:
        super().__init__(target)
        self._url, self._topic = urldefrag(target)
        self._client = Client(self._url)
        self._created = 0

    async def introduce(self) -> Ready:
        await self._left_over(1)
        return Ready(
            name="fetchlock sdk",
            version=version("fetchlock"),
            settings=f"Worker(concurrency={_CONCURRENCY}), else its defaults; "
            f"create_batch of {_BULK}, {_BULK_CONNECTIONS} at once",
            durability=DURABILITY,
        )

    async def aclose(self) -> None:
        async with self._client:
            pass

    async def prepare(self) -> None:
        """Leave nothing on the topic."""
        while tasks := await self._left_over(_BULK):
            await self._client.complete_batch((task, None) for task in tasks)
        async for task in self._locked():
            await self._client.complete(task)

    async def create_bulk(self, count: int) -> dict[str, float]:
        """With `create_batch`."""

        async def create(first: int) -> None:
            size = min(_BULK, count - first)
            tasks = [NewTask(self._topic, payload(first + k)) for k in range(size)]
            if not all(isinstance(told, str) for told in await self._client.create_batch(tasks)):
                raise AssertionError("tasks were refused")
            self.advance(size)

        begun_at_s = time.monotonic()
        await in_parallel(_BULK_CONNECTIONS, create, range(0, count, _BULK))
        return {"seconds": time.monotonic() - begun_at_s}

    async def create_single(self, count: int, concurrency: int) -> dict[str, float]:
        """With `create`."""

        async def create(number: int) -> None:
            await self._client.create(NewTask(self._topic, payload(number)))
            self.advance()

        begun_at_s = time.monotonic()
        await in_parallel(concurrency, create, range(count))
        return {"seconds": time.monotonic() - begun_at_s}

    async def drain(self, count: int) -> dict[str, float]:
        """Let a worker handle them all."""
        seen: set[int] = set()
        worker = Worker(self._url, concurrency=_CONCURRENCY)

        @worker.task(self._topic)
        async def handle(task: Task) -> None:
            seen.add(task.variables["i"])
            self.advance()
            if len(seen) == count:
                worker.stop()

        begun_at_s = time.monotonic()
        await worker.serve()
        seconds = time.monotonic() - begun_at_s
        if [task async for task in self._locked()] or await self._left_over(1):
            raise AssertionError(f"{count} tasks were handled, and not all of them are finished")
        return {"seconds": seconds}

    async def pickup(self, count: int) -> dict[str, list[float]]:
        """`create` returned → handler running."""
        latencies_ms: list[float] = []
        started_at_s = 0.0
        started = anyio.Event()

        def start() -> None:
            nonlocal started_at_s
            started_at_s = time.monotonic()
            started.set()

        async with self._serving(start):
            for number in range(count):
                await anyio.sleep(random.uniform(0.005, 0.025))
                started = anyio.Event()
                await self._client.create(NewTask(self._topic, payload(number)))
                created_at_s = time.monotonic()
                await started.wait()
                latencies_ms.append(max(0.0, started_at_s - created_at_s) * 1000)
                self.advance()
        return {"latencies_ms": latencies_ms}

    @asynccontextmanager
    async def _serving(self, start: Callable[[], None]) -> AsyncIterator[None]:
        worker = Worker(self._url)

        @worker.task(self._topic)
        async def handle(_: Task) -> None:
            start()

        async with anyio.create_task_group() as group:
            group.start_soon(worker.serve)
            yield
            worker.stop()

    async def _locked(self) -> AsyncIterator[Task]:
        after = None
        while True:
            page = await self._client.list_tasks(topic=self._topic, state="LOCKED", after=after)
            for task in page.tasks:
                yield task
            # A page may be empty and not the last: the broker looks at so many tasks and no more.
            if (after := page.next) is None:
                return

    async def _left_over(self, max_tasks: int) -> list[Task]:
        return await self._client.fetch_and_lock(
            _NOBODY, [Subscription(self._topic)], max_tasks=max_tasks, request_timeout_ms=0
        )


if __name__ == "__main__":
    serve(FetchlockSdk)

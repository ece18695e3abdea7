"""What the peers in Python have in common: the workloads, over what a library is able to do.

A peer says how its tasks are created and how its worker is run; the rest is
alike for all, and the same as for the peers on Node (`node/program.mjs`). The
`Ledger` is between them: it knows which tasks were handled and which of them
are committed. A peer that handles a task twice, or says too early that it is
done, gets an error instead of a figure.
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar, Final

import anyio

from benchmarks.program import Program, at_rate, payload

WARM_UP_TASKS: Final = 20
"""Before latencies count: connections are made, the worker listens. Their counters are negative."""

_STALL_S: Final = 30.0
"""A peer that has stood still for so long will not come to an end, and a person waits."""

_PAUSE_S: Final = (0.005, 0.025)


class Ledger:
    """What became of the tasks of one workload, each known by the counter in its payload."""

    def __init__(self, expected: int, advance: Callable[[int], None]) -> None:
        self._expected = expected
        self._advance = advance
        self._settled = anyio.Event()
        self._waiting: dict[int, anyio.Event] = {}
        self._handled = 0
        self._committed = 0
        self.started_at_s: dict[int, float] = {}
        self.committed_at_s: dict[int, float] = {}

    def started(self, counter: int) -> None:
        """A handler was called."""
        # Counted, not raised: a library may well swallow the error, and handle the task once more.
        self._handled += 1
        self.started_at_s.setdefault(counter, time.monotonic())
        if waiting := self._waiting.pop(counter, None):
            waiting.set()

    def committed(self, counters: Iterable[int]) -> None:
        """PostgreSQL has answered the statement that finished these."""
        now_s = time.monotonic()
        before = self._committed
        for counter in counters:
            self.committed_at_s[counter] = now_s
            self._committed += 1
        self._advance(self._committed - before)
        if self._committed >= self._expected:
            self._settled.set()

    async def handled(self, counter: int) -> float:
        """Wait for the handler of this one. Returns when it began, in seconds."""
        if counter not in self.started_at_s:
            self._waiting[counter] = anyio.Event()
            await self._wait(self._waiting[counter])
        return self.started_at_s[counter]

    async def settled(self) -> None:
        """Wait until as many completions are committed as were expected."""
        await self._wait(self._settled)

    def verify(self) -> None:
        """Raise unless every task was handled, each once. For when the worker has stopped."""
        tasks = len(self.started_at_s.keys() & self.committed_at_s.keys())
        if not self._handled == self._committed == tasks == self._expected:
            raise AssertionError(
                f"handlers ran {self._handled} times and {self._committed} completions were "
                f"committed, for {tasks} tasks instead of {self._expected}"
            )

    async def _wait(self, event: anyio.Event) -> None:
        while not event.is_set():
            before = self._committed
            with anyio.move_on_after(_STALL_S):
                await event.wait()
            if not event.is_set() and self._committed == before:
                raise TimeoutError(f"stands still at {before} of {self._expected} tasks")


class Peer(Program):
    """Subclass it: `introduce`, `aclose`, `prepare`, `create`, `create_chunk` and `working`."""

    CHUNK: ClassVar[int] = 5_000
    """Tasks per call in a bulk create."""

    CHUNKS_AT_ONCE: ClassVar[int] = 2

    async def create(self, counter: int) -> None:
        """Create one task; committed on return."""
        raise NotImplementedError

    async def create_chunk(self, payloads: list[dict[str, Any]]) -> None:
        """Create these with one call; committed on return."""
        raise NotImplementedError

    def working(self, ledger: Ledger, *, latency: bool) -> AbstractAsyncContextManager[None]:
        """A worker around the block, whose handler only tells the ledger.

        Set for the lowest latency, or for the highest throughput.
        """
        raise NotImplementedError

    async def create_bulk(self, count: int) -> dict[str, float]:
        """`CHUNK` tasks a call, `CHUNKS_AT_ONCE` calls at once."""

        async def chunk(first: int) -> None:
            size = min(self.CHUNK, count - first)
            await self.create_chunk([payload(first + k) for k in range(size)])
            self.advance(size)

        return await _timed(self.CHUNKS_AT_ONCE, chunk, range(0, count, self.CHUNK))

    async def create_single(self, count: int, concurrency: int) -> dict[str, float]:
        """One task a call, `concurrency` calls at once."""

        async def one(counter: int) -> None:
            await self.create(counter)
            self.advance()

        return await _timed(concurrency, one, range(count))

    async def drain(self, count: int) -> dict[str, float]:
        """From the start of a worker to the last completion, of tasks that are there already."""
        ledger = Ledger(count, self.advance)
        begun_at_s = time.monotonic()
        async with self.working(ledger, latency=False):
            await ledger.settled()
            seconds = time.monotonic() - begun_at_s
        ledger.verify()
        return {"seconds": seconds}

    async def pickup(self, count: int) -> dict[str, list[float]]:
        """One task at a time for an idle worker: create call returned → handler runs."""
        ledger = Ledger(WARM_UP_TASKS + count, self.advance)
        latencies_ms = []
        async with self.working(ledger, latency=True):
            for counter in range(-WARM_UP_TASKS, count):
                await anyio.sleep(random.uniform(*_PAUSE_S))
                await self.create(counter)
                created_at_s = time.monotonic()
                # Woken by the commit itself, a worker may be faster than the answer to its producer.
                waited_s = max(0.0, await ledger.handled(counter) - created_at_s)
                latencies_ms.append(waited_s * 1000)
            await ledger.settled()
        ledger.verify()
        return {"latencies_ms": latencies_ms[WARM_UP_TASKS:]}

    async def steady(self, rate: float, seconds: float) -> dict[str, Any]:
        """Open loop: begin of the create call → completion committed."""
        count = int(rate * seconds)
        ledger = Ledger(WARM_UP_TASKS + count, self.advance)
        called: list[tuple[float, float]] = []
        async with self.working(ledger, latency=True):
            async with anyio.create_task_group() as warming_up:
                for counter in range(-WARM_UP_TASKS, 0):
                    warming_up.start_soon(self.create, counter)
            for counter in range(-WARM_UP_TASKS, 0):
                await ledger.handled(counter)
            async with anyio.create_task_group() as producers:
                async for offset_s in at_rate(rate, seconds):
                    called.append((offset_s, time.monotonic()))
                    producers.start_soon(self.create, len(called) - 1)
            await ledger.settled()
        ledger.verify()
        samples = [
            (offset_s, (ledger.committed_at_s[counter] - at_s) * 1000)
            for counter, (offset_s, at_s) in enumerate(called)
        ]
        return {"samples": samples, "created": count}


async def _timed(
    concurrency: int, call: Callable[[int], Awaitable[None]], arguments: Iterable[int]
) -> dict[str, float]:
    left = iter(arguments)

    async def one_after_another() -> None:
        for argument in left:
            await call(argument)

    begun_at_s = time.monotonic()
    async with anyio.create_task_group() as group:
        for _ in range(concurrency):
            group.start_soon(one_after_another)
    return {"seconds": time.monotonic() - begun_at_s}

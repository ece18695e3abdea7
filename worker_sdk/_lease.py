"""The worker's belief that a task is still its own, and the thread that keeps it true.

A lock is the broker's fact; a lease is what a worker may conclude from it. It is
trusted from a moment at which the lock cannot yet have begun (so never too
long), for the lock's duration less a margin. Whoever works without a lease may
be the second to do so: a lease that is over stops its handler, and the result
is thrown away.

Leases are renewed from a thread with an event loop and a connection of its own:
a handler that blocks the worker's loop delays its neighbours, but must not cost
them their locks. Renewal is one request for all leases of one duration, every
third of it, so there are two more tries before anything is lost.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import lru_cache

import anyio
from anyio import to_thread

from worker_sdk._backoff import full_jitter_s
from worker_sdk._client import Client
from worker_sdk._errors import FetchlockError, LockLost, TaskNotFound
from worker_sdk._task import Task

logger = logging.getLogger("fetchlock.worker")

# Two clocks run apart by far less than this; it is for a host too busy to act at the instant.
MARGIN_PART, MARGIN_MAX_S = 0.05, 1.0
# As many locks as the broker extends in one request.
EXTENSION_TASKS_MAX = 1_000


@lru_cache
def trusted_s(lock_duration_ms: int) -> float:
    """For how long a lock of this duration may be relied on, in seconds."""
    duration_s = lock_duration_ms / 1000
    return duration_s - min(duration_s * MARGIN_PART, MARGIN_MAX_S)


class Lease:
    """One held task. Made on the worker's loop; renewed and lost from the keeper's thread.

    `attempt` is what is done for it on that loop, if anything is; losing the lease cancels it.
    `trusted_until_s` is a reading of the monotonic clock.
    """

    __slots__ = ("attempt", "lock_duration_ms", "task", "trusted_until_s")

    def __init__(self, task: Task, lock_duration_ms: int, locked_after_s: float) -> None:
        self.task = task
        self.lock_duration_ms = lock_duration_ms
        self.attempt: asyncio.Task[None] | None = None
        self.renew(locked_after_s)

    def renew(self, locked_after_s: float) -> None:
        """Trust the lock anew, from this reading of the monotonic clock."""
        self.trusted_until_s = locked_after_s + trusted_s(self.lock_duration_ms)

    def lose(self) -> None:
        """Stop trusting the lock, and whoever works under it. From any thread."""
        self.trusted_until_s = -math.inf
        self.task.stop_requested.set()
        if self.attempt is not None:
            with suppress(RuntimeError):  # The worker's loop is closed: nobody works any more.
                self.attempt.get_loop().call_soon_threadsafe(self.attempt.cancel)

    @property
    def remaining_s(self) -> float:
        """How much longer the lock is trusted; negative when it is over."""
        return self.trusted_until_s - time.monotonic()

    @property
    def is_over(self) -> bool:
        """Whether the task may be somebody else's by now."""
        return self.remaining_s <= 0


def earliest_end_s(leases: Iterable[Lease]) -> float:
    """For how long all of these are trusted yet, in seconds; 0 when one is over."""
    return max(0.0, min(lease.trusted_until_s for lease in leases) - time.monotonic())


class Pulse:
    """Since when this event loop has certainly been awake: what a poll's answer can be dated by.

    A poll says little about when its tasks were locked: it may have been parked for minutes, and
    its answer may have lain in the socket while the loop was blocked or the process stopped. But
    whatever had come in before the beat before last has been dealt with before the last one.
    """

    def __init__(self, shortest_lock_ms: int) -> None:
        # Dating costs up to two beats of the lease: a tenth of the shortest one.
        self._interval_s = min(shortest_lock_ms / 20_000, 1.0)
        self._last_s = self._before_last_s = time.monotonic()

    async def beat(self) -> None:
        """For ever: note that the loop runs."""
        while True:
            self.note()
            await anyio.sleep(self._interval_s)

    def note(self) -> None:
        """One beat."""
        self._before_last_s, self._last_s = self._last_s, time.monotonic()

    def received_after(self, request_started_s: float) -> float:
        """The latest moment of which it is certain that an answer now read had not come in."""
        return max(request_started_s, self._before_last_s)


class LeaseKeeper:
    """Keeps the leases it is given until they are taken from it."""

    def __init__(self, connect: Callable[[], Client], lock_durations_ms: Sequence[int]) -> None:
        self._connect = connect
        self._kept: dict[int, set[Lease]] = {duration: set() for duration in lock_durations_ms}
        self._guard = threading.Lock()
        self._end: Callable[[], object] = lambda: None
        self._is_ended = False

    def keep(self, leases: Iterable[Lease]) -> None:
        """Renew these leases until they are released or lost."""
        with self._guard:
            for lease in leases:
                self._kept[lease.lock_duration_ms].add(lease)

    def release(self, lease: Lease) -> None:
        """Let the lease run out."""
        with self._guard:
            self._kept[lease.lock_duration_ms].discard(lease)

    async def run(self) -> None:
        """Keep leases, in a thread of its own, until `stop`."""
        await to_thread.run_sync(
            anyio.run, self._keep_all, limiter=anyio.CapacityLimiter(1), abandon_on_cancel=False
        )

    def stop(self) -> None:
        """Let the thread end. From any thread."""
        with self._guard:
            self._is_ended = True
            self._end()

    async def _keep_all(self) -> None:
        loop = asyncio.get_running_loop()
        async with self._connect() as client, anyio.create_task_group() as keeping:
            for duration_ms in self._kept:
                keeping.start_soon(self._keep, client, duration_ms)
            with self._guard:
                self._end = lambda: loop.call_soon_threadsafe(keeping.cancel_scope.cancel)
                if self._is_ended:  # It was stopped before it had begun.
                    keeping.cancel_scope.cancel()

    async def _keep(self, client: Client, duration_ms: int) -> None:
        third_s = duration_ms / 3000
        pause_s, failures = third_s, 0
        while True:
            await anyio.sleep(pause_s)
            leases = self._current(duration_ms)
            started_s = time.monotonic()
            if not leases or await self._renew(client, leases, duration_ms):
                failures = 0
                pause_s = third_s - (time.monotonic() - started_s)
                continue
            failures += 1
            # Awake again when the first lease ends at the latest, to stop its handler in time.
            pause_s = min(full_jitter_s(failures, cap_s=third_s), earliest_end_s(leases))

    def _current(self, duration_ms: int) -> list[Lease]:
        """The leases to renew. Those that are over are lost and left out."""
        kept = self._kept[duration_ms]
        with self._guard:
            over = {lease for lease in kept if lease.is_over}
            kept -= over
            current = list(kept)
        for lease in over:
            self._lose(lease, "the broker could not be reached in time")
        return current

    async def _renew(self, client: Client, leases: Sequence[Lease], duration_ms: int) -> bool:
        """Whether the broker has spoken about every lease."""
        # Time for a second try must be left, and an answer after a lease's end has no use.
        patience_s = min(duration_ms / 3000, earliest_end_s(leases))
        with anyio.move_on_after(patience_s):
            for start in range(0, len(leases), EXTENSION_TASKS_MAX):
                some = leases[start : start + EXTENSION_TASKS_MAX]
                started_s = time.monotonic()
                try:
                    answers = await client.extend_lock_batch(
                        [lease.task for lease in some], duration_ms
                    )
                except FetchlockError as error:
                    logger.debug("locks could not be extended", extra={"error": str(error)})
                    return False
                if not self._apply(some, answers, started_s):
                    return False
            return True
        return False

    def _apply(
        self, leases: Sequence[Lease], answers: Sequence[FetchlockError | None], started_s: float
    ) -> bool:
        for lease, refusal in zip(leases, answers, strict=True):
            if refusal is None:
                lease.renew(started_s)
            elif isinstance(refusal, LockLost | TaskNotFound):
                self._lose_kept(lease, str(refusal))
        return all(r is None or isinstance(r, LockLost | TaskNotFound) for r in answers)

    def _lose_kept(self, lease: Lease, reason: str) -> None:
        # A handler that is done took its lease back while the request was under way: then the
        # task is lost to the worker's own completion, which is as it should be.
        kept = self._kept[lease.lock_duration_ms]
        with self._guard:
            is_kept = lease in kept
            kept.discard(lease)
        if is_kept:
            self._lose(lease, reason)

    def _lose(self, lease: Lease, reason: str) -> None:
        lease.lose()
        logger.warning(
            "lock lost, the handler is stopped and its result will not be sent",
            extra={"topic": lease.task.topic, "task_id": lease.task.id, "reason": reason},
        )

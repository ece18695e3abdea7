"""The worker's belief that a task is still its own.

A lock is the broker's fact; a lease is what a worker may conclude from it. It is
trusted from a moment at which the lock cannot yet have begun (so never too
long), for the lock's duration less a margin. Whoever works without a lease may
be the second to do so: a lease that is over stops its handler, and the result
is thrown away. How leases are renewed is in `_keeper`.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import lru_cache

import anyio

from worker_sdk._notes import Notes
from worker_sdk._stop import StopReason
from worker_sdk._task import Task

# Two clocks run apart by far less than this; it is for a host too busy to act at the instant.
MARGIN_PART, MARGIN_MAX_S = 0.05, 1.0


@lru_cache
def trusted_s(lock_duration_ms: int) -> float:
    """For how long a lock of this duration may be relied on, in seconds."""
    duration_s = lock_duration_ms / 1000
    return duration_s - min(duration_s * MARGIN_PART, MARGIN_MAX_S)


class Lease:
    """One held task. Made on the worker's loop; renewed, cancelled and lost from the keeper's thread.

    `attempt` is what is done for it on that loop, if anything is; a stop cancels it. With
    `is_cancelled` the task is to be cancelled, so nobody wants its outcome. `notes` are its news, if
    there ever were any. `flushed` is called when the last of them were heard of, once the handler
    has ended. `trusted_until_s` is a reading of the monotonic clock.
    """

    __slots__ = (
        "attempt",
        "flushed",
        "is_cancelled",
        "lock_duration_ms",
        "notes",
        "task",
        "trusted_until_s",
    )

    def __init__(self, task: Task, lock_duration_ms: int, locked_after_s: float) -> None:
        self.task = task
        self.lock_duration_ms = lock_duration_ms
        self.attempt: asyncio.Task[None] | None = None
        self.is_cancelled = False
        self.notes: Notes | None = None
        self.flushed: Callable[[], object] | None = None
        self.renew(locked_after_s)

    @property
    def is_renewed(self) -> bool:
        """Whether its handler is to keep the lock: it works, and not only to clean up."""
        return self.flushed is None and not self.is_cancelled

    def renew(self, locked_after_s: float) -> None:
        """Trust the lock anew, from this reading of the monotonic clock."""
        self.trusted_until_s = locked_after_s + trusted_s(self.lock_duration_ms)

    def lose(self) -> None:
        """Stop trusting the lock, and whoever works under it. From any thread."""
        self.trusted_until_s = -math.inf
        self._stop("lock_lost")

    def cancel(self) -> bool:
        """Stop whoever works under the lock, which may run out. Whether this was not known."""
        if self.task.cancelled:
            return False
        self.is_cancelled = True  # First: whoever is stopped may look at once.
        return self._stop("cancel_requested")

    def _stop(self, reason: StopReason) -> bool:
        # Once: whoever cleans up must not be cancelled again for doing so.
        is_first = self.task.stop_requested.set(reason)
        if is_first and self.attempt is not None:
            with suppress(RuntimeError):  # The worker's loop is closed: nobody works any more.
                self.attempt.get_loop().call_soon_threadsafe(self.attempt.cancel)
        return is_first

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

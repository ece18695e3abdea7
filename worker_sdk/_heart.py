"""One heartbeat: what it says about some leases, and what follows from its answer."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import anyio

from worker_sdk._client import Client
from worker_sdk._errors import FetchlockError, Invalid, LockLost, TaskNotFound
from worker_sdk._lease import Lease, earliest_end_s
from worker_sdk._news import News, Refusal, Renewal
from worker_sdk._rhythm import Rhythm

logger = logging.getLogger("fetchlock.worker")

# As many tasks as the broker takes in one heartbeat.
HEARTBEAT_TASKS_MAX = 1_000

Item = tuple[Lease, News | None]


class Heart:
    """Tells the broker of leases. In the keeper's thread; `guard` is the keeper's.

    `drain` is called with each answer that asks the worker to drain.
    """

    def __init__(
        self,
        client: Client,
        worker_id: str,
        guard: threading.Lock,
        drain: Callable[[], object],
    ) -> None:
        self._client = client
        self._worker_id = worker_id
        self._guard = guard
        self._drain = drain

    async def ask(self, rhythm: Rhythm, items: Sequence[Item]) -> bool:
        """Whether the broker has spoken about every lease."""
        # Time for a second try must be left, and an answer after a lease's end has no use.
        ends_s = earliest_end_s(lease for lease, _ in items) if items else rhythm.third_s
        with anyio.move_on_after(min(rhythm.third_s, ends_s)):
            for start in range(0, max(len(items), 1), HEARTBEAT_TASKS_MAX):
                some = items[start : start + HEARTBEAT_TASKS_MAX]
                if not await self._beat(rhythm, some):
                    return False
            return True
        return False

    async def _beat(self, rhythm: Rhythm, items: Sequence[Item]) -> bool:
        started_s = time.monotonic()
        told = {lease: news for lease, news in items if news is not None}
        try:
            answer = await self._client.heartbeat(
                self._worker_id,
                rhythm.lock_duration_ms,
                [(lease.task, news) for lease, news in items],
            )
        except FetchlockError as error:
            logger.debug("locks could not be renewed", extra={"error": str(error)})
            if error.status in (413, 422):  # Of whatever class: a proxy may have said so.
                self._make_smaller(rhythm, told, error)
            return False
        if answer.drain:
            with suppress(RuntimeError):  # The worker's loop is closed.
                self._drain()
        if told:
            rhythm.grow()
        settled = [
            self._apply(rhythm, item, result, started_s)
            for item, result in zip(items, answer.results, strict=True)
        ]
        return all(settled)

    def _apply(
        self, rhythm: Rhythm, item: Item, result: Renewal | FetchlockError, started_s: float
    ) -> bool:
        """Draw the conclusion for one lease. Returns whether it has not to be told again."""
        lease, news = item
        if isinstance(result, Renewal):
            return self._renewed(rhythm, item, result, started_s)
        if isinstance(result, LockLost | TaskNotFound):
            self._lose_kept(rhythm, lease, str(result))
            return True
        if news is None or not isinstance(result, Invalid):
            return False
        self._spoil(rhythm, lease, result)
        return True

    def _renewed(self, rhythm: Rhythm, item: Item, renewal: Renewal, started_s: float) -> bool:
        lease, news = item
        # Other news of the task came at the same moment: these were not looked at.
        is_unread = any(refusal.member == "sequence" for refusal in renewal.refused)
        dropped: list[Refusal] = []
        with self._guard:
            if not renewal.cancel_requested:
                lease.renew(started_s)
            is_kept = lease.is_renewed and rhythm.leases.get(lease.task) is lease
            is_stopped = renewal.cancel_requested and is_kept and lease.cancel()
            if news is not None and not is_unread and lease in rhythm.noted:
                dropped = rhythm.settle(lease, renewal.refused, time.monotonic())
        if is_stopped:
            about = {"topic": lease.task.topic, "task_id": lease.task.id}
            logger.info("task is to be cancelled, the handler is stopped", extra=about)
        for refusal in dropped:
            warn(f"news were refused: {refusal.member}", lease, f"{refusal.code}: {refusal.detail}")
        self._let_go(rhythm, lease)
        return not is_unread

    def _make_smaller(
        self, rhythm: Rhythm, told: Mapping[Lease, News], error: FetchlockError
    ) -> None:
        """Find out by halves whose news a whole heartbeat was refused for."""
        if len(told) == 1:
            self._spoil(rhythm, next(iter(told)), error)
        elif told:
            rhythm.make_smaller(told.values())

    def _spoil(self, rhythm: Rhythm, lease: Lease, error: FetchlockError) -> None:
        """Drop the news that spoil its heartbeats, and renew its lock at once."""
        with self._guard:
            rhythm.forget_parcel(lease)
            rhythm.whole_s = -math.inf
        warn("news are dropped, the broker does not take them", lease, str(error))
        self._let_go(rhythm, lease)

    def _let_go(self, rhythm: Rhythm, lease: Lease) -> None:
        """Release the lease if its handler has ended and all its news were heard of."""
        with self._guard:
            is_flushed = lease.flushed is not None and lease not in rhythm.noted
            is_flushed = is_flushed and rhythm.discard(lease)
        if is_flushed:
            _flushed(lease)

    def _lose_kept(self, rhythm: Rhythm, lease: Lease, reason: str) -> None:
        # A handler that is done took its lease back while the request was under way: then the
        # task is lost to the worker's own completion, which is as it should be.
        with self._guard:
            is_kept = rhythm.discard(lease)
        if is_kept:
            lose(lease, reason)


def lose(lease: Lease, reason: str) -> None:
    """Stop whoever works under the lease, and whoever waits for its news to be heard of."""
    is_running = lease.is_renewed
    lease.lose()
    if is_running:
        warn("lock lost, the handler is stopped and its result will not be sent", lease, reason)
    _flushed(lease)


def _flushed(lease: Lease) -> None:
    if lease.flushed is not None:
        with suppress(RuntimeError):  # The worker's loop is closed.
            lease.flushed()


def warn(what: str, lease: Lease, reason: str) -> None:
    """Note in the log what befell a task."""
    about = {"topic": lease.task.topic, "task_id": lease.task.id, "reason": reason}
    logger.warning(what, extra=about)

"""The thread that keeps leases true, and tells what handlers have to say meanwhile.

It has an event loop and a connection of its own: a handler that blocks the worker's
loop delays its neighbours, but must not cost them their locks. All leases of one
duration are one heartbeat, every third of the duration, so there are two more tries
before anything is lost. It carries their news, too. News that are due sooner go in a
heartbeat of their own, about nothing else; one is under way at a time, which keeps
the news of a task in order. After a heartbeat that failed locks come first: the next
for all of them carries no news.

A lease whose handler has ended stays here until its last news were heard of, because
its outcome must not overtake them; and one whose task is to be cancelled stays while
its handler cleans up. Neither is renewed for its own sake.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial

import anyio
from anyio import to_thread

from worker_sdk._backoff import full_jitter_s
from worker_sdk._client import Client
from worker_sdk._heart import Heart, lose, warn
from worker_sdk._lease import Lease, earliest_end_s
from worker_sdk._news import News
from worker_sdk._rhythm import Rhythm
from worker_sdk._task import Task


class LeaseKeeper:
    """Keeps the leases it is given until they are taken from it. To be called from any thread."""

    def __init__(
        self, connect: Callable[[], Client], worker_id: str, lock_durations_ms: Iterable[int]
    ) -> None:
        self._connect = connect
        self._worker_id = worker_id
        now_s = time.monotonic()
        self._rhythms = {ms: Rhythm(ms, now_s) for ms in sorted(lock_durations_ms)}
        self._guard = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end: Callable[[], object] = lambda: None
        self._drain: Callable[[], object] = lambda: None
        self._is_ended = False

    def keep(self, leases: Iterable[Lease]) -> None:
        """Renew these leases until they are released or lost."""
        with self._guard:
            for lease in leases:
                self._rhythms[lease.lock_duration_ms].leases[lease.task] = lease

    def release(self, lease: Lease) -> None:
        """Let the lease run out. Whatever was or will be said of its task is not told."""
        rhythm = self._rhythms[lease.lock_duration_ms]
        with self._guard:
            rhythm.discard(lease)

    def held(self, task: Task) -> Lease | None:
        """The lease of this task, if it is kept."""
        found = (rhythm.leases.get(task) for rhythm in self._rhythms.values())
        return next(filter(None, found), None)

    def note(self, task: Task, news: News) -> None:
        """Have these told soon, if anybody still has the task in hand."""
        with self._guard:
            lease = self.held(task)
            if lease is None or lease.flushed is not None:
                return
            rhythm = self._rhythms[lease.lock_duration_ms]
            is_dropping = rhythm.note(lease, news, time.monotonic())
            self._wake(rhythm, rhythm.noted[lease].due_s)
        if is_dropping:
            warn("log lines are dropped, the oldest first", lease, "more than can be told")

    def flush(self, lease: Lease, flushed: Callable[[], object]) -> None:
        """Release the lease when its last news were taken or refused, and call this, from any thread.

        Also when it is over before that.
        """
        with self._guard:
            rhythm = self._rhythms[lease.lock_duration_ms]
            if notes := rhythm.noted.get(lease):
                lease.flushed = flushed
                notes.hurry()
                self._wake(rhythm, notes.due_s)
                return
            rhythm.discard(lease)
        flushed()

    async def wait_flushed(self, lease: Lease) -> None:
        """Release the lease and wait until its last news were taken or refused."""
        is_flushed = anyio.Event()
        loop = asyncio.get_running_loop()
        self.flush(lease, partial(loop.call_soon_threadsafe, is_flushed.set))
        await is_flushed.wait()

    async def run(self, drain: Callable[[], object]) -> None:
        """Keep leases, in a thread of its own, until `stop`.

        `drain` is called on this loop with each heartbeat that asks the worker to drain.
        """
        self._drain = partial(asyncio.get_running_loop().call_soon_threadsafe, drain)
        await to_thread.run_sync(
            anyio.run, self._keep_all, limiter=anyio.CapacityLimiter(1), abandon_on_cancel=False
        )

    def stop(self) -> None:
        """Let the thread end."""
        with self._guard:
            self._is_ended = True
            self._end()

    # In the keeper's thread

    async def _keep_all(self) -> None:
        loop = asyncio.get_running_loop()
        async with self._connect() as client, anyio.create_task_group() as keeping:
            heart = Heart(client, self._worker_id, self._guard, self._drain)
            for rhythm in self._rhythms.values():
                keeping.start_soon(self._keep, heart, rhythm)
            with self._guard:
                self._loop = loop
                self._end = lambda: loop.call_soon_threadsafe(keeping.cancel_scope.cancel)
                if self._is_ended:  # It was stopped before it had begun.
                    keeping.cancel_scope.cancel()

    async def _keep(self, heart: Heart, rhythm: Rhythm) -> None:
        while True:
            await self._rest(rhythm)
            if time.monotonic() >= rhythm.whole_s:
                await self._renew(heart, rhythm)
            else:
                await self._tell_news(heart, rhythm)

    async def _rest(self, rhythm: Rhythm) -> None:
        """Until something is due."""
        while True:
            with self._guard:
                rhythm.awake_s = rhythm.due_s()
                rhythm.woken = woken = anyio.Event()
                pause_s = rhythm.awake_s - time.monotonic()
            if pause_s <= 0:
                return
            with anyio.move_on_after(pause_s):
                await woken.wait()

    def _wake(self, rhythm: Rhythm, due_s: float) -> None:
        """Let the keeper look again if it would otherwise come too late for this."""
        is_late = rhythm.awake_s > max(due_s, rhythm.quiet_until_s)
        if is_late and rhythm.woken is not None and self._loop is not None:
            rhythm.awake_s = due_s
            with suppress(RuntimeError):  # The keeper has ended.
                self._loop.call_soon_threadsafe(rhythm.woken.set)

    async def _renew(self, heart: Heart, rhythm: Rhythm) -> None:
        """Renew all leases of this duration."""
        started_s = time.monotonic()
        self._lose_over(rhythm, rhythm.leases.values())
        with self._guard:
            leases = rhythm.renewed()
            parcels = {} if rhythm.failures else rhythm.parcels_of(leases, started_s)
        rhythm.whole_s = started_s + rhythm.third_s
        if not leases:
            await self._show_up(heart, rhythm)
        elif not await heart.ask(rhythm, [(ls, parcels.get(ls)) for ls in leases]):
            rhythm.failures += 1
            # Awake again when the first lease ends at the latest, to stop its handler in time.
            pause_s = full_jitter_s(rhythm.failures, cap_s=rhythm.third_s)
            pause_s = min(pause_s, earliest_end_s(leases))
            rhythm.whole_s = rhythm.quiet_until_s = time.monotonic() + pause_s
        else:
            rhythm.failures, rhythm.quiet_until_s = 0, started_s

    async def _show_up(self, heart: Heart, rhythm: Rhythm) -> None:
        """A worker without any task asks whether it is still wanted, in its shortest rhythm."""
        rhythms = list(self._rhythms.values())
        if rhythm is rhythms[0] and not any(each.leases for each in rhythms):
            await heart.ask(rhythm, [])

    async def _tell_news(self, heart: Heart, rhythm: Rhythm) -> None:
        """Tell of the tasks that have news, and renew their locks only."""
        self._lose_over(rhythm, rhythm.noted)
        now_s = time.monotonic()
        with self._guard:
            parcels = rhythm.parcels_of(rhythm.due_leases(now_s), now_s)
        if not parcels:
            return
        if await heart.ask(rhythm, list(parcels.items())):
            rhythm.failures = 0
        else:
            rhythm.failures += 1
            pause_s = full_jitter_s(rhythm.failures, cap_s=rhythm.third_s)
            rhythm.quiet_until_s = time.monotonic() + pause_s

    def _lose_over(self, rhythm: Rhythm, leases: Iterable[Lease]) -> None:
        """Lose those of these leases that are over."""
        with self._guard:
            over = rhythm.pop_over(leases, time.monotonic())
        for lease in over:
            lose(lease, "the broker could not be reached in time")

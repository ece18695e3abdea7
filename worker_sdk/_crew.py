"""The hands of a worker: what happens to a task from the moment it is locked.

    attempt    its handler runs, on the loop or in a thread, while the keeper renews its lease
    clean-up   if it was cancelled meanwhile, its outcome is thrown away and its hook runs
    flush      what the handler has said of it last is told, if it has said anything
    report     its outcome is told, while the next handlers run
    decline    it came too late to be begun, and is unlocked

A task that has been locked is run or given back, never dropped: its lease
occupies a slot until the broker has heard of it, and whatever still does when
the crew is cut off is for the session to give back.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from contextvars import copy_context
from functools import partial

import anyio
from msgspec.structs import force_setattr

from worker_sdk._attempt import (
    Handler,
    Hook,
    clean_up,
    clean_up_in_thread,
    handle,
    handle_in_thread,
)
from worker_sdk._client import Client
from worker_sdk._desk import WorkersDesk
from worker_sdk._errors import FetchlockError, LockLost
from worker_sdk._keeper import LeaseKeeper
from worker_sdk._lease import Lease
from worker_sdk._outcome import ACKNOWLEDGED, Outcome, unforeseen
from worker_sdk._report import Reporter
from worker_sdk._slots import Slots
from worker_sdk._task import Task

logger = logging.getLogger("fetchlock.worker")


# A handler cancelled at the end of the worker may clean up for so long before it is cancelled again.
CLEAN_UP_S = 1.0


@asynccontextmanager
async def open_crew(
    handlers: Mapping[str, Handler], client: Client, slots: Slots, keeper: LeaseKeeper
) -> AsyncGenerator[Crew]:
    """A crew that works while the block runs. At its end, whoever still does is cut off."""
    # Not anyio's task group: to start a handler there, in a scope by which to cancel it, costs
    # four times as much, and would be most of what a worker pays for a task.
    async with asyncio.TaskGroup() as group:
        crew = Crew(handlers, client, slots, keeper, group)
        try:
            yield crew
        finally:
            with anyio.CancelScope(shield=True):
                await crew.cut_off()


class Crew:
    """Runs handlers, as many as there are slots. For one event loop."""

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        client: Client,
        slots: Slots,
        keeper: LeaseKeeper,
        group: asyncio.TaskGroup,
    ) -> None:
        self._handlers = handlers
        self._client = client
        self._slots = slots
        self._keeper = keeper
        self._group = group
        self._desk = WorkersDesk(client, keeper, group)
        self._reporter = Reporter(client, group, slots.release)
        self._loop = asyncio.get_running_loop()
        self._threads = ThreadPoolExecutor(slots.size, thread_name_prefix="fetchlock-handler")
        self._is_cut_off = False

    def begin(self, tasks: Sequence[Task], locked_after_s: float) -> None:
        """Begin these tasks, which were locked after this reading of the monotonic clock."""
        begun: list[Lease] = []
        threaded: list[tuple[Handler, Lease]] = []
        now_s = time.monotonic()
        for task in tasks:
            handler = self._handlers[task.topic]
            lease = self._hold(task, handler, locked_after_s)
            if lease.trusted_until_s <= now_s:
                lease.attempt = self._group.create_task(self._decline(lease))
                continue
            begun.append(lease)
            if handler.is_async:
                lease.attempt = self._group.create_task(self._attempt(handler, lease))
            else:
                threaded.append((handler, lease))
        self._keeper.keep(begun)
        # A thread begins at once, and may have something to say: its lease must be known by then.
        for handler, lease in threaded:
            self._threads.submit(copy_context().run, self._attempt_in_thread, handler, lease)

    def decline(self, tasks: Sequence[Task], locked_after_s: float) -> None:
        """Give these tasks back."""
        for task in tasks:
            lease = self._hold(task, self._handlers[task.topic], locked_after_s)
            lease.attempt = self._group.create_task(self._decline(lease))

    async def cut_off(self) -> None:
        """Stop whatever is done for any task. A thread cannot be stopped, it is abandoned."""
        self._is_cut_off = True
        self._reporter.stop()
        self._desk.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
        held = self._slots.held
        for lease in held:
            lease.task.stop_requested.set("worker_stopping")
        attempts = {lease.attempt for lease in held if lease.attempt is not None}
        while attempts:  # A handler may swallow a cancellation, but not all of them.
            for attempt in attempts:
                attempt.cancel()
            _, attempts = await asyncio.wait(attempts, timeout=CLEAN_UP_S)

    def _hold(self, task: Task, handler: Handler, locked_after_s: float) -> Lease:
        lease = Lease(task, handler.lock_duration_ms, locked_after_s)
        force_setattr(task, "_desk", self._desk)
        self._slots.take(lease)
        return lease

    async def _attempt(self, handler: Handler, lease: Lease) -> None:
        try:
            outcome = await handle(handler, lease.task)
        except asyncio.CancelledError as error:
            if self._is_cut_off:
                raise
            # Its lease is lost, and so is its outcome; or the handler let out the cancellation of
            # something of its own. Either way it must not take its slot with it.
            outcome = unforeseen(error)
        self._finish(lease, outcome)

    def _attempt_in_thread(self, handler: Handler, lease: Lease) -> None:
        # Nobody waits for a thread, so one that loses its lease runs on in its slot: abandoned,
        # threads would pile up. Only the end of the whole worker leaves it behind.
        outcome = handle_in_thread(handler, lease.task)
        self._call_from_thread(self._finish, lease, outcome)

    def _finish(self, lease: Lease, outcome: Outcome) -> None:
        if self._is_cut_off:
            return  # The task is given back.
        if lease.is_cancelled:
            self._stopped(lease)
        elif lease.notes is None:
            # Not kept while the outcome is told: that must come to an end when it is not heard.
            self._keeper.release(lease)
            self._reporter.tell(lease, outcome)
        else:
            self._flush(lease, outcome)

    def _stopped(self, lease: Lease) -> None:
        if hook := self._handlers[lease.task.topic].on_cancel:
            self._begin_clean_up(hook, lease)
        else:
            self._flush(lease, ACKNOWLEDGED)

    def _begin_clean_up(self, hook: Hook, lease: Lease) -> None:
        if hook.is_async:
            lease.attempt = self._group.create_task(self._clean_up(hook, lease))
        else:
            self._threads.submit(copy_context().run, self._clean_up_in_thread, hook, lease)

    async def _clean_up(self, hook: Hook, lease: Lease) -> None:
        try:
            await clean_up(hook, lease.task)
        except asyncio.CancelledError:
            if self._is_cut_off:
                raise
        self._flush(lease, ACKNOWLEDGED)

    def _clean_up_in_thread(self, hook: Hook, lease: Lease) -> None:
        clean_up_in_thread(hook, lease.task)
        self._call_from_thread(self._flush, lease, ACKNOWLEDGED)

    def _flush(self, lease: Lease, outcome: Outcome) -> None:
        """Have the outcome told, once the broker has heard whatever was said before it."""
        report = partial(self._call_from_thread, self._report, lease, outcome)
        self._keeper.flush(lease, report)

    def _report(self, lease: Lease, outcome: Outcome) -> None:
        if not self._is_cut_off:
            self._reporter.tell(lease, outcome)

    def _call_from_thread(
        self, call: Callable[[Lease, Outcome], None], lease: Lease, outcome: Outcome
    ) -> None:
        with suppress(RuntimeError):  # The loop is closed: the worker has ended long ago.
            self._loop.call_soon_threadsafe(call, lease, outcome)

    async def _decline(self, lease: Lease) -> None:
        with self._slots.until_done(lease):
            await unlock(self._client, lease)


async def unlock(client: Client, lease: Lease) -> None:
    """Give the task back, or say in the log that it could not be."""
    try:
        await client.unlock(lease.task)
    except LockLost:
        pass  # Then there is nothing to give back.
    except FetchlockError as error:
        about = {"topic": lease.task.topic, "task_id": lease.task.id, "error": str(error)}
        logger.warning("task not given back, its lock must run out", extra=about)

"""Everything of one broker process but its HTTP edge: store, batchers, dispatcher.

The routes of every dialect call these verbs; they hold the process together
and no rule of their own. All loops live in one task group: where one dies, the
whole core ends with its error, because a broker that still answers but
dispatches nothing is worse than one that is down.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from typing import Final, TypeVar

import anyio
import structlog

from broker.batcher import Batcher
from broker.callbacks import Signer
from broker.dispatcher import Dispatcher
from broker.errors import Invalid, TaskNotFound, Unavailable
from broker.followers import Followers
from broker.settings import Settings
from broker.store import (
    Batch,
    Filters,
    Found,
    ListFilters,
    NewVariables,
    Retryable,
    Search,
    Store,
    Wakeups,
    check_schema,
    open_pool,
)

_PING_S: Final = 1.0
"""A probe's answer is good for this long: probes must not load a database that is in trouble."""

_CLOSE_S: Final = 2.0
"""For PostgreSQL to take its leave."""

_PARTITIONS_S: Final = 3_600.0
"""Partitions are made weeks ahead, so once an hour is plenty, even through a long outage."""

_INSTANCE_TASKS_MAX: Final = 200
"""Tasks of a process instance that are looked at together, and that variables are set of at once:
each may have megabytes of them to be written anew."""

T = TypeVar("T")

_log = structlog.stdlib.get_logger(__name__)


class Core:
    """The verbs of one broker process. Bodies are JSON texts that a dialect has validated."""

    def __init__(self, settings: Settings, store: Store, signer: Signer) -> None:
        assert settings.database_url is not None
        self.settings = settings
        self.signer = signer
        self.is_draining = False
        self._store = store
        self._followers = Followers(store)
        self._unlock = Batcher(store.unlock, self._changed)
        self.dispatcher = Dispatcher(
            store,
            Wakeups(settings.database_url) if settings.notify else None,
            self._unlock.submit,
            waiters_max=settings.waiters_max,
            # The other verbs must find a connection, too.
            claims_max=max(1, settings.pool_size - 1),
        )
        self._create = Batcher(self.dispatcher.create, self._changed)
        self._fail = Batcher(store.fail, self._changed)
        # Said twice, these are what they were: the lock token tells a replay from another's.
        self._complete = Batcher(store.complete, self._finished, is_idempotent=True)
        self._bpmn_error = Batcher(store.bpmn_error, self._finished, is_idempotent=True)
        self._extend_lock = Batcher(store.extend_lock, self._changed, is_idempotent=True)
        # A heartbeat may bring log lines, which nobody wants twice.
        self._heartbeat = Batcher(store.heartbeat, self._changed)
        self._callback_url = Batcher(store.callback_url, self._changed, is_idempotent=True)
        self._hand_over = Batcher(store.hand_over, self._finished)
        # The first of several counts, and one that is said again is told so.
        self._callback = Batcher(store.callback, self._finished, is_idempotent=True)
        self._pinged_at_s = 0.0
        self._unready: str | None = None
        # Each verb is the submission to its batcher: no call in between.
        self.create = self._create.submit
        self.complete = self._complete.submit
        self.fail = self._fail.submit
        self.bpmn_error = self._bpmn_error.submit
        self.extend_lock = self._extend_lock.submit
        self.unlock = self._unlock.submit
        self.heartbeat = self._heartbeat.submit
        self.callback_url = self._callback_url.submit
        self.hand_over = self._hand_over.submit
        self.callback = self._callback.submit

    def _changed(self, batch: Batch) -> None:
        self.dispatcher.done(batch)

    def _finished(self, batch: Batch) -> None:
        self.dispatcher.done(batch)
        self._followers.nudge()

    # One task, by its id ----------------------------------------------------

    async def retries(
        self, task_ids: Sequence[str], retries: int, found: Sequence[str] = ()
    ) -> bytes:
        """Set the failures tasks may still have, all or none.

        Of those that nobody named, but a search found, the finished ones are passed over. Answers
        with JSON `{state, retries, availableAt}`, of any one of them.
        """
        return await self._one(self._store.retries(task_ids, retries, found))

    async def retry_timeout(self, task_id: str, retry_timeout_ms: int) -> bytes:
        """Move a task that waits for its retry; JSON `{availableAt}`."""
        return await self._one(self._store.retry_timeout(task_id, retry_timeout_ms))

    async def priority(self, task_id: str, priority: int) -> bytes:
        """Move a task to another priority; JSON `{priority}`."""
        return await self._one(self._store.priority(task_id, priority))

    async def lock(self, task_id: str, worker_id: str, lock_duration_ms: int) -> bytes:
        """Lock one task, or renew its worker's lock; JSON `{lockToken, lockExpiresAt}`."""
        return await self._one(self._store.lock(task_id, worker_id, lock_duration_ms))

    async def variables(
        self, task_ids: Sequence[str], wish: NewVariables, found: Sequence[str] = ()
    ) -> None:
        """Set and remove variables of unfinished tasks, all or none.

        Of those that nobody named, but a search found, the finished ones are passed over.
        """
        await self._one(self._store.variables(task_ids, wish, found))

    async def cancel(self, task_id: str, reason: str | None) -> bytes:
        """End a task for good, or ask its worker to; JSON `{state, cancelRequested?}`."""
        answer = await self._one(self._store.cancel(task_id, reason))
        self._followers.nudge()
        return answer

    async def subtext(self, task_id: str, subtext: str) -> None:
        """Say in one line how an unfinished task is getting on. Raises `TaskNotFound`, `Conflict`."""
        await self._once(self._store.subtext(task_id, subtext))

    async def _one(self, change: Awaitable[Batch]) -> bytes:
        batch = await self._once(change)
        self.dispatcher.done(batch)
        return batch.results[0].body

    async def _once(self, change: Awaitable[T]) -> T:
        try:
            return await change
        except Retryable as error:
            raise Unavailable("the database asked to try again") from error

    # Reading ----------------------------------------------------------------

    async def get_task(self, task_id: str) -> bytes:
        """The task as JSON. Raises `TaskNotFound`."""
        tasks = await self._store.get_tasks([task_id])
        for task, _ in tasks.values():
            return task
        raise TaskNotFound("no task has this id", {"taskId": task_id})

    async def instance_tasks(self, process_instance_id: str) -> list[tuple[bytes, bool]]:
        """The tasks of a process instance: each as JSON, and whether it is finished.

        Their variables, results and error details are not shown. A task that belongs to none is
        one by itself.

        Raises:
            TaskNotFound: There is none.
            Invalid: There are more than are looked at. None is left out in silence.
        """
        most = _INSTANCE_TASKS_MAX
        tasks = await self._store.instance_tasks(process_instance_id, most + 1)
        if len(tasks) > most:
            raise Invalid(f"the process instance has more than {most} tasks")
        if not tasks:
            raise TaskNotFound(
                "no task is of this process instance", {"taskId": process_instance_id}
            )
        return tasks

    async def variable(
        self, task_ids: Sequence[str], name: str
    ) -> tuple[bytes | None, bytes | None]:
        """A variable of the youngest of these tasks that has it: its value and note, as JSON.

        Raises:
            TaskNotFound: There is none of the tasks.
        """
        return await self._store.variable(task_ids, name)

    async def list_tasks(self, filters: ListFilters) -> bytes:
        """One page of a search as JSON `{tasks, next}`."""
        return await self._store.list_tasks(filters)

    async def search(self, search: Search) -> list[Found]:
        """The open tasks that match, in the order that is wished for."""
        return await self._once(self._store.search(search))

    async def count(self, filters: Filters) -> int:
        """How many open tasks match."""
        return await self._once(self._store.count(filters))

    async def topics(self, filters: Filters) -> list[str]:
        """The topics of the open tasks that match."""
        return await self._once(self._store.topics(filters))

    async def log_lines(self, task_id: str, after: int, limit: int) -> bytes:
        """The lines of a task's log after a given one, as JSON `{lines, next}`."""
        return await self._store.log_lines(task_id, after, limit)

    async def follow(self, task_id: str, wait_s: float) -> bytes | None:
        """The task once it is finished, or None when the wait is over."""
        if self.is_draining:
            return None
        return await self._followers.follow(task_id, wait_s)

    # Workers ----------------------------------------------------------------

    async def drain(self, worker_id: str, *, is_wished: bool) -> None:
        """Have a worker's heartbeats tell it to stop, or no longer."""
        await self._once(self._store.drain(worker_id, is_wished=is_wished))

    # Topics -----------------------------------------------------------------

    async def late_work(self, topic: str, *, is_accepted: bool | None) -> None:
        """Say whether work is welcome after its lock ran out; None: as the dialect is used to."""
        await self._once(self._store.late_work(topic, is_accepted=is_accepted))

    # Living -----------------------------------------------------------------

    async def unready_reason(self) -> str | None:
        """Why no traffic should come here, or None where it should."""
        if self.is_draining:
            return "the broker is stopping"
        if time.monotonic() - self._pinged_at_s > _PING_S:
            try:
                with anyio.fail_after(_PING_S):
                    await self._store.ping()
            except (Unavailable, TimeoutError):
                self._unready = "the database does not answer"
            else:
                self._unready = None
            self._pinged_at_s = time.monotonic()
        return self._unready

    def begin_shutdown(self) -> None:
        """Answer whoever waits, now and from now on, so that connections can close."""
        self.is_draining = True
        self.dispatcher.close()
        self._followers.release_all()

    async def run(self) -> None:
        """Serve for ever."""
        async with anyio.create_task_group() as group:
            for batcher in (
                self._create,
                self._complete,
                self._fail,
                self._bpmn_error,
                self._extend_lock,
                self._unlock,
                self._heartbeat,
                self._callback_url,
                self._hand_over,
                self._callback,
            ):
                group.start_soon(batcher.serve)
            group.start_soon(self.dispatcher.run)
            group.start_soon(self._followers.run)
            group.start_soon(self._keep_partitions)

    async def _keep_partitions(self) -> None:
        while True:
            try:
                if made := await self._store.make_partitions():
                    _log.info("partitions made", partitions=made)
            except (Unavailable, Retryable):
                await anyio.sleep(_PING_S)
                continue
            await anyio.sleep(_PARTITIONS_S)


@asynccontextmanager
async def open_core(settings: Settings) -> AsyncIterator[Core]:
    """Connect, check the schema, and serve until the block is left.

    Raises:
        SchemaMismatch: The database is not at this version's schema.
        Unavailable: The database cannot be reached.
    """
    assert settings.database_url is not None
    pool = await open_pool(
        settings.database_url,
        size=settings.pool_size,
        statement_timeout_ms=settings.statement_timeout_ms,
    )
    try:
        await check_schema(pool)
        store = Store(pool, settings)
        await store.load_lanes()
        core = Core(settings, store, Signer(await store.signing_keys()))
        async with anyio.create_task_group() as group:
            group.start_soon(core.run)
            yield core
            group.cancel_scope.cancel()
    finally:
        # In good order, because a loop that is closed under live connections may never end; but a
        # database that does not answer must not hold the process either.
        with anyio.move_on_after(_CLOSE_S, shield=True):
            await pool.close()
        pool.terminate()

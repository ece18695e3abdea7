"""One run of a worker, from its first poll to its last unlock.

    fetching   one poll at a time, for the free slots; what comes in is for the crew
    draining   no more polls; running handlers may finish within the drain timeout
    cut off    the handlers still running are cancelled, and nothing more is told
    giving back  what is still held is unlocked, so others need not wait for locks to run out

Every end passes through these in order: a signal, `stop`, the broker's wish to
drain, a refusal that no waiting can heal, cancellation from outside. Two rules hold throughout. A task
that has been locked is run or given back, never dropped. And a broker that is
away costs patience only: the worker comes back by itself, with one line in the
log when it loses the broker and one when it is back.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Mapping

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from worker_sdk._attempt import Handler
from worker_sdk._backoff import full_jitter_s, pause_s
from worker_sdk._client import Client
from worker_sdk._crew import Crew, open_crew, unlock
from worker_sdk._errors import FetchlockError
from worker_sdk._keeper import LeaseKeeper
from worker_sdk._lease import Lease, Pulse
from worker_sdk._slots import Slots
from worker_sdk._task import Task

logger = logging.getLogger("fetchlock.worker")

# A third of the default lock: a request that hangs leaves time for two more.
TIMEOUT_S = 10.0
# As many tasks as the broker locks in one fetch.
FETCH_TASKS_MAX = 1_000
# After the hang-up an answer is at most still on the wire.
HANG_UP_PATIENCE_S = 2.0
# What cannot be unlocked in this time comes back when its lock runs out.
GIVE_BACK_PATIENCE_S = 5.0


class Session:
    """What a worker needs to know and hold while it serves. Used once."""

    def __init__(
        self,
        base_url: str,
        worker_id: str,
        handlers: Mapping[str, Handler],
        stopping: anyio.Event,
        *,
        concurrency: int,
        request_timeout_ms: int,
        drain_timeout_s: float,
    ) -> None:
        durations = sorted({handler.lock_duration_ms for handler in handlers.values()})
        self._worker_id = worker_id
        self._handlers = handlers
        self._stopping = stopping
        self._request_timeout_ms = request_timeout_ms
        self._drain_timeout_s = drain_timeout_s
        self._client = Client(base_url, timeout_s=TIMEOUT_S)
        # Apart from the other, because it is hung up while outcomes are still to be told.
        self._poller = Client(base_url, timeout_s=TIMEOUT_S)
        self._keeper = LeaseKeeper(
            lambda: Client(base_url, timeout_s=TIMEOUT_S), worker_id, durations
        )
        self._pulse = Pulse(durations[0])
        self._slots = Slots(concurrency)
        self._draining = anyio.CancelScope()
        self._polling = anyio.CancelScope(shield=True)
        self._refusal: FetchlockError | None = None
        self._is_connected = True

    async def run(self, *, obey_signals: bool) -> None:
        """Serve until stopped. Raises the FetchlockError that no waiting could heal."""
        async with self._client, self._poller, anyio.create_task_group() as keeping:
            keeping.start_soon(self._keeper.run, self._obey_broker)
            if obey_signals:
                keeping.start_soon(self._obey_signals)
            try:
                await self._work()
            finally:
                await self._give_back()
                self._keeper.stop()
                keeping.cancel_scope.cancel()
        if self._refusal is not None:
            raise self._refusal

    async def _obey_signals(self) -> None:
        """The first signal stops the worker in good order, the second at once."""
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            is_first = True  # Also where the broker's wish came before it.
            async for _ in signals:
                if not is_first:
                    self._draining.cancel()
                is_first = False
                self._stopping.set()

    def _obey_broker(self) -> None:
        """The broker's wish to drain is as good as the first signal."""
        if not self._stopping.is_set():
            logger.info("the broker asks the worker to drain", extra=self._about(None))
            self._stopping.set()

    async def _work(self) -> None:
        async with open_crew(self._handlers, self._client, self._slots, self._keeper) as crew:
            async with anyio.create_task_group() as fetching:
                fetching.start_soon(self._pulse.beat)
                fetching.start_soon(self._hang_up_at_stop, fetching)
                try:
                    await self._fetch(crew)
                except FetchlockError as error:
                    logger.error("broker refuses the worker", extra=self._about(error))
                    self._refusal = error
                fetching.cancel_scope.cancel()
            await self._drain()

    # Fetching

    async def _fetch(self, crew: Crew) -> None:
        failures = 0
        while not self._stopping.is_set():
            wanted = min(await self._slots.wait_free(), FETCH_TASKS_MAX)
            asked_s = time.monotonic()
            try:
                tasks = await self._poll(wanted)
            except FetchlockError as error:
                if self._stopping.is_set():
                    return  # We hung up.
                if not error.is_transient:
                    raise
                failures += 1
                self._note_connection(error)
                await anyio.sleep(pause_s(failures, error))
                continue
            self._note_connection(None)
            locked_after_s = self._pulse.received_after(asked_s)
            if self._stopping.is_set():
                crew.decline(tasks, locked_after_s)
                return
            crew.begin(tasks, locked_after_s)
            # The next poll is out before anything slow, but not before what makes somebody wait:
            # in the first turn of the loop the handlers begin, in the second the outcomes of
            # those that have ended already are sent.
            await anyio.lowlevel.checkpoint()
            await anyio.lowlevel.checkpoint()
            if tasks or time.monotonic() - asked_s >= self._request_timeout_ms / 2000:
                failures = 0
            else:
                # Nothing, and much too soon: a broker about to stop. It would say so for ever.
                failures += 1
                await anyio.sleep(full_jitter_s(failures))

    async def _poll(self, wanted: int) -> list[Task]:
        # Shielded, because an answer thrown away leaves its tasks locked for nobody. It ends by
        # the hang-up instead, which `_hang_up_at_stop` sees to however the worker ends.
        with anyio.CancelScope(shield=True) as self._polling:
            return await self._poller.fetch_and_lock(
                self._worker_id,
                [handler.subscription for handler in self._handlers.values()],
                max_tasks=wanted,
                request_timeout_ms=self._request_timeout_ms,
            )
        return []

    async def _hang_up_at_stop(self, fetching: TaskGroup) -> None:
        try:
            await self._stopping.wait()
        finally:
            self._stopping.set()  # Also when it is cancelled from outside.
            self._poller.hang_up()
            self._polling.deadline = anyio.current_time() + HANG_UP_PATIENCE_S
            fetching.cancel_scope.cancel()

    def _note_connection(self, error: FetchlockError | None) -> None:
        was_connected, self._is_connected = self._is_connected, error is None
        if was_connected and error is not None:
            logger.warning("broker lost, trying again", extra=self._about(error))
        elif error is None and not was_connected:
            logger.info("broker is back", extra=self._about(None))

    def _about(self, error: FetchlockError | None) -> dict[str, str]:
        about = {"worker_id": self._worker_id, "broker": self._client.base_url}
        return about if error is None else {**about, "error": str(error)}

    # Ending

    async def _drain(self) -> None:
        logger.info("draining", extra={"running": len(self._slots.held)})
        self._draining.deadline = anyio.current_time() + self._drain_timeout_s
        with self._draining:
            await self._slots.wait_idle()

    async def _give_back(self) -> None:
        with anyio.move_on_after(GIVE_BACK_PATIENCE_S, shield=True) as patience:
            async with anyio.create_task_group() as unlocking:
                for lease in self._slots.held:
                    unlocking.start_soon(self._give_back_one, lease)
        if patience.cancelled_caught:
            logger.warning("tasks not given back in time, their locks must run out")

    async def _give_back_one(self, lease: Lease) -> None:
        if lease.notes is not None:  # The next attempt may go on from its last checkpoint.
            await self._keeper.wait_flushed(lease)
        await unlock(self._client, lease)

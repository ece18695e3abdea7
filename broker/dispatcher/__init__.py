"""Where long polls meet ready tasks.

A poll parks as a waiter; `waiters` knows, without any I/O, which waiters
should look now. This module does the I/O around it, in four loops that live
in the core's task group:

1. claims      run what `waiters` says should be run
2. deadlines   take back expired locks, make delayed tasks ready, settle what ran
               out otherwise, then sleep until the next deadline
3. wake-ups    hear of the work that other processes got, tell them of ours
4. second look ask once a second for all lanes together, in case news got lost

No loop asks anything on behalf of a single parked poll.
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final

import anyio
import msgspec
import structlog
from anyio.abc import TaskGroup

from broker import metrics
from broker.dispatcher.claims import RunningClaim
from broker.dispatcher.deadlines import TICK_S, Deadlines
from broker.dispatcher.waiter import FIRST_IN_FIRST_OUT, Caller, Order, Subscription, Waiter
from broker.dispatcher.waiters import Waiters
from broker.errors import TooManyRequests, Unavailable
from broker.store import Batch, Granted, Results, Retryable, Store, TooSlow, Wake, Wakeups

__all__ = ["Caller", "Delivery", "Dispatcher", "Order", "Subscription"]

_SECOND_LOOK_S: Final = (0.8, 1.2)
"""At random between these, so that several brokers do not look at the same instant."""

_AWAY_S: Final = (0.1, 1.0)
"""While the database is away, claims are tried again at random between these."""

_CONTENDED_S: Final = 0.01
"""Another broker is locking what was seen here: by then it has committed, or is in trouble."""

_LOOK_BACK_MARGIN_MS: Final = 2_000
"""A sweep starts this much before the last one, for locks that were just being written then."""

_SWEEP_ALL_S: Final = 60.0
"""A sweep looks at all deadlines this often: see floors.py."""

_log = structlog.stdlib.get_logger(__name__)


class _New(msgspec.Struct):
    """Of a task to create, what says who may wait for it."""

    topic: str


class _Creation(msgspec.Struct):
    tasks: list[_New]


_creation = msgspec.json.Decoder(_Creation)


class _Held(msgspec.Struct, rename="camel"):
    """Enough of a delivered task to give it back."""

    id: str
    lock_token: str


class Delivery:
    """The answer to a fetch: `body` is a JSON array of `tasks` locked tasks."""

    __slots__ = ("_unlock", "_worker_id", "body", "tasks")

    def __init__(self, waiter: Waiter, unlock: Callable[[str], Awaitable[Results]]) -> None:
        self.body = waiter.body
        self.tasks = waiter.tasks
        self._worker_id = waiter.worker_id
        self._unlock = unlock

    async def give_back(self) -> None:
        """Unlock all of it, because it could not be delivered: no retry, no expiry is counted.

        While the database is away nothing can be given back: the locks then run out.
        """
        if not self.tasks:
            return
        held = msgspec.json.decode(self.body, type=list[_Held])
        request = msgspec.json.encode({"workerId": self._worker_id, "tasks": held}).decode()
        try:
            await self._unlock(request)
        except Unavailable:
            _log.info("an undelivered fetch could not be given back", tasks=self.tasks)


class Dispatcher:
    """Parks polls and hands them tasks. `unlock` is how undelivered tasks go back."""

    def __init__(
        self,
        store: Store,
        wakeups: Wakeups | None,
        unlock: Callable[[str], Awaitable[Results]],
        *,
        waiters_max: int,
        claims_max: int,
    ) -> None:
        self._store = store
        self._wakeups = wakeups
        self._unlock = unlock
        self._waiters = Waiters(store.lanes)
        self._waiters_max = waiters_max
        self._claims_max = claims_max
        self._running = 0
        self._has_work = anyio.Event()
        self._deadlines = Deadlines()
        self._deadline_moved = anyio.Event()
        self._lane_is_unknown = anyio.Event()
        """Another process made a lane: the second look, which learns of it, is due at once."""
        self._is_closing = False

    # What the core and the routes call --------------------------------------

    async def fetch_and_lock(
        self,
        worker_id: str,
        max_tasks: int,
        request_timeout_ms: int,
        subscriptions: Sequence[Subscription],
        caller: Caller,
        order: Order = FIRST_IN_FIRST_OUT,
    ) -> Delivery:
        """Wait until there are tasks, the time is up, or the client has gone.

        Raises:
            TooManyRequests: So many polls are parked that one more would endanger them.
            Unavailable: The database is away, and the poll does not wait.
        """
        wishes = tuple(subscriptions)
        waiter = Waiter(worker_id, max_tasks, caller, is_impatient=request_timeout_ms == 0)
        if self._is_closing:
            return Delivery(waiter, self._unlock)
        if len(self._waiters) >= self._waiters_max:
            raise TooManyRequests(f"{self._waiters_max} polls are parked here already")
        if waiter.is_impatient and not all(self._store.lanes.of_topic(w.topic) for w in wishes):
            await self._learn_lanes()
        started_at = time.monotonic()
        self._waiters.add(waiter, wishes, started_at, order)
        metrics.LONGPOLLS.inc()
        self._has_work.set()
        try:
            await self._park(waiter, wishes, order, request_timeout_ms)
        except BaseException:
            # Nobody will write the answer that a claim brought meanwhile.
            with anyio.CancelScope(shield=True):
                await Delivery(waiter, self._unlock).give_back()
            raise
        finally:
            metrics.LONGPOLLS.dec()
        result = "tasks" if waiter.tasks else "empty"
        metrics.FETCH_SECONDS.labels(result).observe(time.monotonic() - started_at)
        if waiter.error:
            raise waiter.error
        return Delivery(waiter, self._unlock)

    async def _park(
        self,
        waiter: Waiter,
        wishes: tuple[Subscription, ...],
        order: Order,
        request_timeout_ms: int,
    ) -> None:
        if not waiter.is_impatient:
            waiter.parked.deadline = anyio.current_time() + request_timeout_ms / 1000
        try:
            # Ended by the client's leaving, by the deadline, or by the settling.
            with waiter.parked:
                await waiter.caller.wait_gone()
        finally:
            self._waiters.leave(waiter, wishes, order)
            # A claim may be bringing tasks just now; who leaves without them loses them.
            with anyio.CancelScope(shield=True):
                await waiter.settled.wait()

    async def create(self, requests: Sequence[str]) -> Batch:
        """Create tasks, and lock those at once for which somebody waits: one statement for both.

        A batch makes one offer, to those who wait for the first task of a request; whoever else
        waits is woken, as by any news. Raises what `Store.create` does.
        """
        offer = None
        if len(self._waiters):
            creations = [_creation.decode(text).tasks for text in requests]
            topics = dict.fromkeys(tasks[0].topic for tasks in creations)
            offer = self._waiters.offer(topics, sum(map(len, creations)), time.monotonic())
        if offer is None:
            return await self._store.create(requests)
        granted = None
        try:
            batch = await self._store.create(requests, offer.claim)
            granted = batch.granted
        finally:
            if granted is None:
                self._waiters.withdraw(offer)
            else:
                self._settle(offer, granted)
            self._has_work.set()
        return batch

    def wake(self, wakes: Iterable[Wake], due_in_ms: float | None = None) -> None:
        """This process put work on lanes, or set a deadline."""
        wakes = list(wakes)
        self._hear(wakes)
        if self._wakeups:
            self._wakeups.send(wakes)
        if due_in_ms is not None:
            self._expect(due_in_ms)

    def done(self, batch: Batch) -> None:
        """A batch was committed: tell whom it concerns."""
        self.wake(batch.wakes, batch.due_in_ms)

    def close(self) -> None:
        """Answer every parked poll now, and every further one at once."""
        self._is_closing = True
        self._waiters.release_all()

    async def run(self) -> None:
        """Serve for ever."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._run_claims, group)
            group.start_soon(self._run_deadlines)
            group.start_soon(self._run_second_looks)
            if self._wakeups:
                group.start_soon(self._wakeups.run, self._hear, self._look_everywhere)

    # 1. Claims --------------------------------------------------------------

    async def _run_claims(self, group: TaskGroup) -> None:
        while True:
            while self._running < self._claims_max:
                running = self._waiters.next_claim(time.monotonic())
                if running is None:
                    break
                self._running += 1
                group.start_soon(self._run_claim, running)
            await self._has_work.wait()
            self._has_work = anyio.Event()

    async def _run_claim(self, running: RunningClaim) -> None:
        pause_s = 0.0
        try:
            granted = await self._store.fetch_and_lock(running.claim)
        except (Unavailable, Retryable) as error:
            refusal = error if isinstance(error, Unavailable) else Unavailable(str(error))
            is_too_slow = isinstance(error, TooSlow)
            self._waiters.fail(running, refusal, may_be_its_own=is_too_slow)
            pause_s = random.uniform(*_AWAY_S)
        except Exception:
            # A task that breaks the statement must not take one broker after the other down.
            _log.exception("a claim failed")
            refusal = Unavailable("the broker failed; its log says why")
            self._waiters.fail(running, refusal, may_be_its_own=True)
            pause_s = _AWAY_S[1]
        except BaseException:
            self._waiters.fail(running, Unavailable("the broker is stopping"))
            raise
        else:
            self._settle(running, granted)
            if granted.seen and not granted.locked:
                pause_s = _CONTENDED_S
        if pause_s:
            await anyio.sleep(pause_s)
        self._running -= 1
        self._has_work.set()

    def _settle(self, running: RunningClaim, granted: Granted) -> None:
        self._waiters.settle(running, granted, time.monotonic())
        if granted.locked:
            self._expect(min(scan.lock_duration_ms for scan in running.claim.scans))

    # 2. Deadlines -----------------------------------------------------------

    def _expect(self, in_ms: float) -> None:
        if in_ms > TICK_S * 1000:
            return  # A sweep before it will tell.
        if self._deadlines.expect(time.monotonic() + in_ms / 1000):
            self._deadline_moved.set()

    async def _run_deadlines(self) -> None:
        looked_at_s: float | None = None
        sweep_all_at_s = 0.0
        while True:
            now_s = time.monotonic()
            if now_s >= sweep_all_at_s:
                looked_at_s, sweep_all_at_s = None, now_s + _SWEEP_ALL_S
            self._deadlines.forget_past(now_s)
            try:
                if not await self._sweep(looked_at_s):
                    looked_at_s = now_s
            except (Unavailable, Retryable):
                looked_at_s = None
                await anyio.sleep(random.uniform(*_AWAY_S))
                continue
            with anyio.move_on_after(self._deadlines.next_in_s(time.monotonic())):
                await self._deadline_moved.wait()
                self._deadline_moved = anyio.Event()

    async def _sweep(self, looked_at_s: float | None) -> bool:
        """Deal with the deadlines since `looked_at_s`; answer whether there are more."""
        swept = await self._store.release_due(_look_back_ms(looked_at_s), TICK_S * 1000)
        self.wake(swept.wakes, 0 if swept.has_more else swept.next_in_ms)
        has_more = swept.has_to_settle and await self._settle_due(looked_at_s)
        return swept.has_more or has_more

    async def _settle_due(self, looked_at_s: float | None) -> bool:
        try:
            settled = await self._store.settle_due(_look_back_ms(looked_at_s))
        except (Unavailable, Retryable):
            raise
        except Exception:
            # It looks into what callers have said. Whatever is in there must not take one broker
            # after the other down, nor keep expired locks from being released.
            _log.exception("settling failed")
            return True
        self.wake(settled.wakes, 0 if settled.has_more else settled.due_in_ms)
        return settled.has_more

    # 3. Wake-ups ------------------------------------------------------------

    def _hear(self, wakes: Iterable[Wake]) -> None:
        now_s = time.monotonic()
        for lane_id, position, returned in wakes:
            if not self._waiters.wake(lane_id, position, returned=returned, now_s=now_s):
                self._lane_is_unknown.set()
        self._has_work.set()

    def _look_everywhere(self) -> None:
        self._waiters.look_everywhere()
        self._has_work.set()

    # 4. Second look ---------------------------------------------------------

    async def _run_second_looks(self) -> None:
        while True:
            with anyio.move_on_after(random.uniform(*_SECOND_LOOK_S)):
                await self._lane_is_unknown.wait()
                self._lane_is_unknown = anyio.Event()
            now_s = time.monotonic()
            floors = self._waiters.watched_floors(now_s)
            if not len(self._waiters):
                continue
            try:
                ready, has_new_lanes = await self._store.ready_lanes(floors)
                if has_new_lanes:
                    await self._learn_lanes()
            except (Unavailable, Retryable):
                continue
            self._waiters.found_dry(floors.keys() - ready, time.monotonic())
            self._waiters.look_at(ready)
            self._has_work.set()

    async def _learn_lanes(self) -> None:
        await self._store.load_lanes()
        self._waiters.learn_lanes(time.monotonic())
        self._has_work.set()


def _look_back_ms(looked_at_s: float | None) -> float | None:
    if looked_at_s is None:
        return None
    return (time.monotonic() - looked_at_s) * 1000 + _LOOK_BACK_MARGIN_MS

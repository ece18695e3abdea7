"""How the broker hears of outcomes: alone when nothing is under way, else together.

A flight is one request at a time, again and again, for as long as outcomes wait.
With nothing under way an outcome takes off at once: there is no timer, so a
single one is never delayed. Whatever is told meanwhile waits for the flight's
return and goes out as one batch, so a worker under load pays for requests, not
for tasks. Completions and failures have a flight each; what has no batch on the
wire (a BPMN error, a hand-over, the acknowledgement of a cancellation) flies
alone, beside others.

An outcome is told again and again, through outages of the broker and its
database, until it has been heard or its lease is over: then the task is somebody
else's, and silence is the right thing. Telling twice is harmless, the lock token
sees to that. What is wrong with one outcome must never hurt its neighbours in
the batch: a batch that cannot be said as a whole is halved until the bad one is
alone.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import cast

import anyio

from worker_sdk._backoff import pause_s
from worker_sdk._client import Client
from worker_sdk._errors import ConnectionFailed, FetchlockError
from worker_sdk._lease import Lease, earliest_end_s
from worker_sdk._outcome import (
    Acknowledgement,
    BpmnError,
    Failure,
    HandOver,
    Outcome,
    Variables,
)

logger = logging.getLogger("fetchlock.worker")

# As many tasks as the broker takes in one batch.
BATCH_TASKS_MAX = 1_000
# What the broker takes for one task alone. So nothing passes in company that would be refused
# alone, and a batch stays far below the 8 MiB that the broker takes for one.
BATCH_BYTES_MAX = 2**20
# Enough for the broker to commit them together; each needs a connection.
LONE_FLIGHTS_MAX = 32

Report = tuple[Lease, Outcome]
Send = Callable[[Sequence[Report]], Awaitable[Sequence[Exception | None]]]


class Refused(Failure):
    """The failure that tells of a refused outcome. When it is refused itself, that is the end."""


class Lane:
    """Outcomes of one kind that wait to be told, and what limits the telling."""

    def __init__(self, send: Send, *, batch_max: int, flights_max: int = 1) -> None:
        self.send = send
        self.flights_max = flights_max
        self.flights = 0
        self.waiting: deque[Report] = deque()
        self._batch_max = self._next_max = batch_max

    def take(self) -> list[Report]:
        """The outcomes of the next request, the oldest first."""
        count = min(self._next_max, len(self.waiting))
        return [self.waiting.popleft() for _ in range(count)]

    def put_back(self, reports: Sequence[Report]) -> None:
        """Let these be the next again."""
        self.waiting.extendleft(reversed(reports))

    def halve(self, batch: Sequence[Report]) -> None:
        """Let the batch be told in smaller parts. The parts grow again as they get through."""
        self._next_max = len(batch) // 2
        self.put_back(batch)

    def grow(self) -> None:
        """Note that a batch got through."""
        self._next_max = min(2 * self._next_max, self._batch_max)


class Reporter:
    """Tells outcomes. `done` is called with each lease of which nothing more is to be told.

    Requests are tasks of `group`. For one event loop.
    """

    def __init__(
        self, client: Client, group: asyncio.TaskGroup, done: Callable[[Lease], None]
    ) -> None:
        self._client = client
        self._group = group
        self._done = done
        self._flights: set[asyncio.Task[None]] = set()
        self._completions = Lane(self._complete, batch_max=BATCH_TASKS_MAX)
        self._failures = Lane(self._fail, batch_max=BATCH_TASKS_MAX)
        self._lone = Lane(self._tell_alone, batch_max=1, flights_max=LONE_FLIGHTS_MAX)

    def tell(self, lease: Lease, outcome: Outcome) -> None:
        """Have the outcome told for as long as the lease lasts. Does not wait for it."""
        if lease.is_over:
            self._give_up((lease, outcome), "outcome thrown away, the lock had been lost")
            return
        lane = self._lane(outcome)
        lane.waiting.append((lease, outcome))
        if lane.flights < lane.flights_max:
            lane.flights += 1
            flight = self._group.create_task(self._fly(lane))
            self._flights.add(flight)
            flight.add_done_callback(self._flights.discard)

    def stop(self) -> None:
        """Break off every request. Outcomes not heard of by now are not told."""
        for flight in self._flights:
            flight.cancel()

    def _lane(self, outcome: Outcome) -> Lane:
        if isinstance(outcome, Failure):
            return self._failures
        is_lone = isinstance(outcome, BpmnError | HandOver | Acknowledgement)
        return self._lone if is_lone else self._completions

    async def _fly(self, lane: Lane) -> None:
        failures = 0
        while batch := self._take(lane):
            answers = await self._ask(lane, batch)
            if answers is None:
                lane.halve(batch)
                continue
            trouble = self._settle(lane, batch, answers)
            if trouble is None:
                failures = 0
                continue
            failures += 1
            # Awake again when the first lease ends at the latest: its slot is free then.
            ends_s = earliest_end_s(lease for lease, _ in lane.waiting)
            await anyio.sleep(min(pause_s(failures, trouble), ends_s))
        lane.flights -= 1

    def _take(self, lane: Lane) -> list[Report]:
        """The next batch, without the outcomes that nobody wants any more."""
        batch: list[Report] = []
        while lane.waiting and not batch:
            now_s = time.monotonic()
            for report in lane.take():
                if report[0].trusted_until_s > now_s:
                    batch.append(report)
                else:
                    self._give_up(report, "outcome not delivered before the lock ran out")
        return batch

    async def _ask(self, lane: Lane, batch: Sequence[Report]) -> Sequence[Exception | None] | None:
        """Per outcome: None once it is heard, or why not. None if they cannot be told together."""
        # An answer after a lease's end has no use; who has more time is told again.
        with anyio.move_on_after(earliest_end_s(lease for lease, _ in batch)):
            try:
                answers = await lane.send(batch)
            except (FetchlockError, TypeError, ValueError) as error:
                return None if len(batch) > 1 and _is_refusal(error) else [error] * len(batch)
            lane.grow()
            return answers
        return [ConnectionFailed("no answer while the lock lasted")] * len(batch)

    def _settle(
        self, lane: Lane, batch: Sequence[Report], answers: Sequence[Exception | None]
    ) -> FetchlockError | None:
        """Draw the conclusions. Returns why some must be told again, if some must."""
        again: list[Report] = []
        trouble = None
        for report, error in zip(batch, answers, strict=True):
            lease, outcome = report
            if error is None:
                self._done(lease)
            elif isinstance(error, FetchlockError) and error.is_transient:
                again.append(report)
                trouble = error
            elif _is_refusal(error) and not isinstance(outcome, Refused):
                # The handler must hear of it as of any failure, else the task would run out of
                # its lock, and be done and refused again, without anybody learning why.
                self.tell(lease, Refused(f"the outcome was refused: {error}"))
            else:
                self._give_up(report, "outcome not accepted", error=str(error))
        lane.put_back(again)
        return trouble

    def _give_up(self, report: Report, why: str, **facts: str) -> None:
        lease, outcome = report
        about = {"topic": lease.task.topic, "task_id": lease.task.id, **facts}
        # A cancelled task is cancelled, whether or not its worker says that it has stopped.
        is_trouble = not isinstance(outcome, Acknowledgement)
        logger.log(logging.WARNING if is_trouble else logging.DEBUG, why, extra=about)
        self._done(lease)

    # One outcome alone has its own verb: its refusal is about nothing else.

    async def _complete(self, batch: Sequence[Report]) -> Sequence[Exception | None]:
        results = [(lease.task, cast("Variables", outcome)) for lease, outcome in batch]
        if len(results) > 1:
            return await self._client.complete_batch(results, bytes_max=BATCH_BYTES_MAX)
        await self._client.complete(*results[0])
        return [None]

    async def _fail(self, batch: Sequence[Report]) -> Sequence[Exception | None]:
        failures = [(lease.task, cast("Failure", outcome)) for lease, outcome in batch]
        if len(failures) > 1:
            return await self._client.fail_batch(failures, bytes_max=BATCH_BYTES_MAX)
        await self._client.fail(*failures[0])
        return [None]

    async def _tell_alone(self, batch: Sequence[Report]) -> Sequence[Exception | None]:
        [(lease, outcome)] = batch
        if isinstance(outcome, BpmnError):
            await self._client.bpmn_error(lease.task, outcome)
        elif isinstance(outcome, HandOver):
            await self._client.hand_over(lease.task, outcome)
        else:
            await self._client.unlock(lease.task)
        return [None]


def _is_refusal(error: Exception) -> bool:
    """Whether it is the outcome itself that is wrong: too large, invalid, or nothing JSON can say."""
    return not isinstance(error, FetchlockError) or error.status in (413, 422)

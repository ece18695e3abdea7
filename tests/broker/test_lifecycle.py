"""A random walk through the lifecycle, over two brokers on one real database.

`Known` is all the test believes: a task in one line, and what each verb does
to it. The walk asks either broker for anything at any time, with the right
lock and with wrong ones, ages rows, and lets two verbs race; the database
must then say what the model says, and both what `task.TRANSITIONS` allows.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
import pytest
from anyio.from_thread import start_blocking_portal
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from broker.core import open_core
from broker.settings import Settings
from broker.store import Results
from broker.task import API_STATES, FINISHED, TRANSITIONS, State
from tests.broker.known import STORED, Known, Lock
from tests.broker.said import (
    BROKERS,
    LATER_MS,
    OPERATOR_VERBS,
    OUTSIDE_VERBS,
    PICKS,
    WISHES,
    WORKER_VERBS,
    WORKERS,
    Said,
)
from tests.broker.world import World, connected
from tests.eventually import eventually
from tests.factories import (
    TaskJson,
    creation,
    decoded,
    expire_lock,
    make_due,
    overrun,
    poll,
    run_out,
    subscribe,
)

_STEPS: Final = 55
_WALKS: Final = 40
_OPEN_MAX: Final = 4
"""So that most steps are about tasks that have got somewhere."""

_HELD: Final = (State.LOCKED, State.AWAITING)


class Lifecycle(RuleBasedStateMachine):
    """One walk, on a topic of its own."""

    world: World

    @initialize()
    def begin(self) -> None:
        self.topic = f"walk-{next(self.world.walks)}"
        self.known: dict[str, Known] = {}
        self.locks: dict[str, list[Lock]] = {}

    # Verbs

    @rule(broker=BROKERS, wishes=st.lists(WISHES, min_size=1, max_size=3))
    def create(self, broker: int, wishes: list[tuple[int, bool, int, bool]]) -> None:
        if len(self.known) - len(self._in(*FINISHED)) >= _OPEN_MAX:
            return
        asked = [
            {"topic": self.topic, "priority": priority, "retries": retries}
            | ({"delayMs": LATER_MS} if is_delayed else {})
            | ({"totalTimeoutMs": LATER_MS} if has_timeout else {})
            for priority, is_delayed, retries, has_timeout in wishes
        ]
        results: Results = self.world.run(self.world.brokers[broker].create, creation(*asked))
        ids = [answer["id"] for answer in decoded(results.body)]
        for task_id, (priority, is_delayed, retries, has_timeout) in zip(ids, wishes, strict=True):
            state = State.DELAYED if is_delayed else State.READY
            assert task_id not in self.known
            self.known[task_id] = Known(state, retries, priority, len(self.known), has_timeout)
            self.locks[task_id] = []

    @rule(broker=BROKERS, worker_id=WORKERS, tasks_max=st.integers(1, 4))
    def fetch(self, broker: int, worker_id: str, tasks_max: int) -> None:
        ready = {task_id for task_id, known in self.known.items() if known.state is State.READY}
        # Who waits gets something, be it with the second look; where nothing is, nobody waits.
        timeout_ms = 20_000 if ready else 0

        async def fetch() -> list[TaskJson]:
            delivery = await poll(
                self.world.brokers[broker].dispatcher, tasks_max, worker_id,
                timeout_ms=timeout_ms, subscriptions=subscribe(self.topic),
            )  # fmt: skip
            return decoded(delivery.body)

        fetched = self.world.run(fetch)
        ids = [task["id"] for task in fetched]
        assert bool(ids) == bool(ready)
        assert len(ids) == len(set(ids)) <= tasks_max
        assert set(ids) <= ready
        assert ids == sorted(
            ids, key=lambda task_id: (-self.known[task_id].priority, self.known[task_id].place)
        )
        for task in fetched:
            self._take(task, worker_id)

    def _take(self, task: TaskJson, worker_id: str) -> None:
        lock = Lock(worker_id, task["lockToken"])
        assert lock.token not in {old.token for old in self.locks[task["id"]]}
        self.locks[task["id"]].append(lock)
        known = self.known[task["id"]].fetched(lock)
        assert task["attempt"] == known.attempt
        assert (task["workerId"], task["retries"]) == (worker_id, known.retries)
        self.known[task["id"]] = known

    @rule(broker=BROKERS, worker_id=WORKERS, pick=PICKS)
    def lock(self, broker: int, worker_id: str, pick: int) -> None:
        """This very task, or a longer lock on it."""
        if (task_id := self._any_task(pick)) is None:
            return
        answer, token = self.world.run(self.world.lock, broker, task_id, worker_id)
        before = self.known[task_id]
        expected, after = before.locked_by(worker_id, token)
        assert answer == expected
        self._goes_on(task_id, "lock", after)
        if after.lock is not None and after.lock != before.lock:
            assert after.lock not in self.locks[task_id]
            self.locks[task_id].append(after.lock)

    def _in(self, *states: State) -> list[str]:
        return [task_id for task_id, known in self.known.items() if known.state in states]

    def _any_task(self, pick: int) -> str | None:
        """A task, mostly one that somebody has, or has lost.

        No draw may depend on how a race came out.
        """
        lost = [task_id for task_id, known in self.known.items() if known.lost]
        if not self._in(*_HELD) and not lost and self._in(State.READY):
            self.fetch(0, "w1", 4)
        pool = [*(self._in(*_HELD) + lost) * 9, *self.known]
        return pool[pick % len(pool)] if pool else None

    @rule(broker=BROKERS, said=WORKER_VERBS, pick=PICKS, key=PICKS)
    def work(self, broker: int, said: Said, pick: int, key: int) -> None:
        if (task_id := self._any_task(pick)) is None:
            return
        lock = self._key_to(task_id, key)
        expected, after = self.known[task_id].worker_says(said, lock)
        answer = self.world.run(self.world.say, broker, said, task_id, lock)
        assert answer == expected
        self._goes_on(task_id, said.verb, after)

    @rule(broker=BROKERS, said=OPERATOR_VERBS, pick=PICKS)
    def operate(self, broker: int, said: Said, pick: int) -> None:
        if (task_id := self._any_task(pick)) is not None:
            self._operate(task_id, broker, said)

    def _operate(self, task_id: str, broker: int, said: Said) -> None:
        expected, after = self.known[task_id].operator_says(said)
        assert self.world.run(self.world.say_as_operator, broker, said, task_id) == expected
        self._goes_on(task_id, said.verb, after)

    @rule(broker=BROKERS, said=OUTSIDE_VERBS, pick=PICKS, key=PICKS)
    def call_back(self, broker: int, said: Said, pick: int, key: int) -> None:
        if (task_id := self._any_task(pick)) is None:
            return
        lock = self._key_to(task_id, key)
        expected, after = self.known[task_id].outsider_says(said, lock.token)
        assert self.world.run(self.world.say, broker, said, task_id, lock) == expected
        self._goes_on(task_id, said.verb, after)

    @rule(
        one=st.one_of(WORKER_VERBS, OUTSIDE_VERBS),
        other=st.one_of(WORKER_VERBS, OPERATOR_VERBS, OUTSIDE_VERBS),
        pick=PICKS,
        key=PICKS,
    )
    def race(self, one: Said, other: Said, pick: int, key: int) -> None:
        """Both at once, over both brokers: it must come out as one after the other."""
        if (task_id := self._any_task(pick)) is None:
            return
        lock = self._key_to(task_id, key)
        before = self.known[task_id]

        first, then = before.says(one, lock)
        second, then = then.says(other, lock)
        outcomes = [((first, second), then)]
        second, then = before.says(other, lock)
        first, then = then.says(one, lock)
        outcomes.append(((first, second), then))
        answers = self.world.run(self.world.say_both, task_id, lock, one, other)
        stored = self.world.run(self._stored)[task_id]
        possible = [then for told, then in outcomes if told == answers and then.is_as(stored)]
        assert possible, answers
        self.known[task_id] = possible[0]

    def _key_to(self, task_id: str, key: int) -> Lock:
        """Mostly the task's last lock, or else whatever one may try."""
        known = self.known[task_id]
        worker_id = (known.lock or known.lost or Lock("w1", None)).worker_id
        keys = [Lock(worker_id, None), Lock("w1", None), Lock("w3", None)]
        keys += self.locks[task_id][-2:] + self.locks[task_id][-1:] * 4
        return keys[-1 - key % len(keys)]

    def _goes_on(self, task_id: str, verb: str, after: Known) -> None:
        before = self.known[task_id]
        assert after.state == before.state or after.state in TRANSITIONS[verb][before.state]
        self.known[task_id] = after

    # Time

    @rule(broker=BROKERS, pick=PICKS)
    def let_time_pass(self, broker: int, pick: int) -> None:
        if waiting := self._in(*_HELD, State.DELAYED):
            self._let_time_pass(waiting[pick % len(waiting)], broker)

    def _let_time_pass(self, task_id: str, broker: int) -> None:
        """Until the task's deadline: the end of its lock, of its delay, or of its hand-over."""
        known = self.known[task_id]
        match known.state:
            case State.LOCKED if known.called_back is not None or known.cancel_requested:
                self._goes_on(task_id, "settle_due", known.settled())
                self.world.run(self._age, broker, expire_lock, task_id)
            case State.LOCKED:
                expiries_max = self.world.brokers[broker].settings.max_expiries
                self._goes_on(task_id, "release_due", known.expired(expiries_max))
                self.world.run(self._age, broker, expire_lock, task_id)
            case State.AWAITING:
                self._goes_on(task_id, "settle_due", known.settled())
                self.world.run(self._age, broker, run_out, task_id)
            case State.DELAYED:
                after = dataclasses.replace(known, state=State.READY)
                self._goes_on(task_id, "release_due", after)
                self.world.run(self._age, broker, make_due, task_id)

    @rule(broker=BROKERS, pick=PICKS)
    def let_its_timeout_come(self, broker: int, pick: int) -> None:
        unfinished = self._in(*_HELD, State.DELAYED, State.READY)
        if timed := [task_id for task_id in unfinished if self.known[task_id].has_timeout]:
            task_id = timed[pick % len(timed)]
            self._goes_on(task_id, "settle_due", self.known[task_id].settled(is_overdue=True))
            self.world.run(self._age, broker, overrun, task_id)

    async def _age(self, broker: int, age: Callable[..., Awaitable[None]], task_id: str) -> None:
        await age(self.world.connection, task_id)
        # The next sweep would come within a second; walks are long.
        self.world.brokers[broker].dispatcher._expect(0)

        async def is_swept() -> bool:
            return bool((await self._stored())[task_id]["state"] == self.known[task_id].state)

        await eventually(is_swept)

    # What must hold

    @invariant()
    def the_database_says_the_same(self) -> None:
        self.world.steps += 1
        stored = self.world.run(self._stored)
        assert set(stored) == set(self.known)
        for task_id, known in self.known.items():
            row = stored[task_id]
            assert row["rows"] == 1, f"{task_id} is in several states"
            assert known.is_as(row), row

    async def _stored(self) -> dict[str, Any]:
        rows = await self.world.connection.fetch(STORED, list(self.known))
        return {row["id"]: dict(row) for row in rows}

    def teardown(self) -> None:
        """Nothing is lost: every task can still be brought to an end, and reads as it ended."""
        if not hasattr(self, "known") or sys.exc_info()[0] is not None:
            return  # It has failed before the end.
        while any(known.state not in FINISHED for known in self.known.values()):
            for task_id in self.known:
                self._hurry(task_id)
        self.the_database_says_the_same()
        for task_id, known in self.known.items():
            task = msgspec.json.decode(self.world.run(self.world.brokers[0].get_task, task_id))
            assert (task["state"], task["attempt"]) == (API_STATES[known.state], known.attempt)
            log = msgspec.json.decode(
                self.world.run(self.world.brokers[0].log_lines, task_id, 0, 1_000)
            )
            numbers = [line["number"] for line in log["lines"]]
            assert numbers == list(range(1, len(numbers) + 1))

    def _hurry(self, task_id: str) -> None:
        """Bring a task closer to its end."""
        known = self.known[task_id]
        match known.state:
            case State.FAILED:
                self._operate(task_id, 0, Said("retries", {"retries": 1}))
            case State.DELAYED:
                self._let_time_pass(task_id, 1)
            case State.READY:
                self.fetch(0, "w1", 4)
            case State.AWAITING:
                said = Said("callback", {"isSuccess": True})
                expected, after = known.outsider_says(said, known.handed_over)
                lock = Lock("", known.handed_over)
                assert self.world.run(self.world.say, 1, said, task_id, lock) == expected
                self._goes_on(task_id, said.verb, after)
            case State.LOCKED:
                assert known.lock is not None
                is_called_back = known.called_back is not None
                said = (
                    Said("hand_over", {}) if is_called_back else Said("complete", {"variables": {}})
                )
                expected, after = known.worker_says(said, known.lock)
                assert expected == "done"
                answer = self.world.run(self.world.say, 1, said, task_id, known.lock)
                assert answer == expected
                self._goes_on(task_id, said.verb, after)


@pytest.mark.timeout(600)  # To make a counterexample short takes its time; to find none does not.
def test_a_random_walk_over_two_brokers(database_url: str) -> None:
    # The wait after a failed callback is drawn at random up to a bound: here it is none.
    broker_settings = Settings(database_url=database_url, retry_base_ms=0)
    with (
        start_blocking_portal("asyncio", {"use_uvloop": True}) as portal,
        portal.wrap_async_context_manager(open_core(broker_settings)) as one,
        portal.wrap_async_context_manager(open_core(broker_settings)) as other,
        portal.wrap_async_context_manager(connected(database_url)) as connection,
    ):
        Lifecycle.world = World(portal, [one, other], connection)
        run_state_machine_as_test(
            Lifecycle,
            settings=settings(
                max_examples=_WALKS,
                stateful_step_count=_STEPS,
                deadline=None,
                print_blob=True,
                suppress_health_check=list(HealthCheck),
            ),
        )
    assert Lifecycle.world.steps >= 1_000

"""A random walk through the lifecycle, over two brokers on one real database.

`Known` is all the test believes: a task in one line, and what each verb does
to it. The walk asks either broker for anything at any time, with the right
lock and with wrong ones, ages rows, and lets two verbs race; the database
must then say what the model says, and both what `task.TRANSITIONS` allows.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio
import asyncpg
import msgspec
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from broker.core import Core, open_core
from broker.errors import BrokerError
from broker.settings import Settings
from broker.store import Results
from broker.task import API_STATES, FINISHED, TRANSITIONS, State
from tests.broker.known import LATER_MS, OPERATOR_VERBS, WORKER_VERBS, Known, Lock, Said
from tests.eventually import eventually
from tests.factories import (
    TaskJson,
    creation,
    decoded,
    expire_lock,
    make_due,
    poll,
    request,
    subscribe,
)

_STEPS: Final = 55
_WALKS: Final = 25


BROKERS = st.integers(0, 1)
WORKERS = st.sampled_from(["w1", "w2"])


class World:
    """Two brokers, one database, and a connection beside them, for all walks."""

    def __init__(
        self, portal: BlockingPortal, brokers: list[Core], connection: asyncpg.Connection
    ) -> None:
        self.portal = portal
        self.brokers = brokers
        self.connection = connection
        self.walks = itertools.count(1)
        self.steps = 0

    def run(self, work: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        return self.portal.call(work, *args)


class Lifecycle(RuleBasedStateMachine):
    """One walk, on a topic of its own."""

    world: World
    tasks = Bundle("tasks")

    @initialize()
    def begin(self) -> None:
        self.topic = f"walk-{next(self.world.walks)}"
        self.known: dict[str, Known] = {}
        self.locks: dict[str, list[Lock]] = {}

    # Verbs

    @rule(
        target=tasks,
        broker=BROKERS,
        wishes=st.lists(
            st.tuples(st.sampled_from([0, 0, 5]), st.booleans(), st.integers(1, 3)),
            min_size=1,
            max_size=3,
        ),
    )
    def create(self, broker: int, wishes: list[tuple[int, bool, int]]) -> Any:
        asked = [
            {"topic": self.topic, "priority": priority, "retries": retries}
            | ({"delayMs": LATER_MS} if is_delayed else {})
            for priority, is_delayed, retries in wishes
        ]
        results: Results = self.world.run(self.world.brokers[broker].create, creation(*asked))
        ids = [answer["id"] for answer in decoded(results.body)]
        for task_id, (priority, is_delayed, retries) in zip(ids, wishes, strict=True):
            state = State.DELAYED if is_delayed else State.READY
            assert task_id not in self.known
            self.known[task_id] = Known(state, retries, priority, place=len(self.known))
            self.locks[task_id] = []
        return multiple(*ids)

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

    @rule(task_id=tasks, broker=BROKERS, said=WORKER_VERBS, data=st.data())
    def work(self, task_id: str, broker: int, said: Said, data: Any) -> None:
        lock = data.draw(st.sampled_from(self._keys_to(task_id)))
        expected, after = self.known[task_id].worker_says(said, lock)
        answer = self.world.run(self._say_as_worker, broker, said, task_id, lock)
        assert answer == expected
        self._goes_on(task_id, said.verb, after)

    @rule(task_id=tasks, broker=BROKERS, said=OPERATOR_VERBS)
    def operate(self, task_id: str, broker: int, said: Said) -> None:
        expected, after = self.known[task_id].operator_says(said)
        assert self.world.run(self._say_as_operator, broker, said, task_id) == expected
        self._goes_on(task_id, said.verb, after)

    @rule(
        task_id=tasks,
        one=WORKER_VERBS,
        other=st.one_of(WORKER_VERBS, OPERATOR_VERBS),
        data=st.data(),
    )
    def race(self, task_id: str, one: Said, other: Said, data: Any) -> None:
        """Both at once, over both brokers: it must come out as one after the other."""
        lock = data.draw(st.sampled_from(self._keys_to(task_id)))
        before = self.known[task_id]

        def says(known: Known, said: Said) -> tuple[str, Known]:
            if said.verb in ("cancel", "retries", "retry_timeout"):
                return known.operator_says(said)
            return known.worker_says(said, lock)

        first, then = says(before, one)
        second, then = says(then, other)
        outcomes = [((first, second), then)]
        second, then = says(before, other)
        first, then = says(then, one)
        outcomes.append(((first, second), then))
        answers = self.world.run(self._say_both, task_id, lock, one, other)
        stored = self.world.run(self._stored)[task_id]
        possible = [then for told, then in outcomes if told == answers and then.is_as(stored)]
        assert possible, answers
        self.known[task_id] = possible[0]

    async def _say_both(self, task_id: str, lock: Lock, one: Said, other: Said) -> tuple[str, str]:
        answers = ["", ""]

        async def say(place: int, said: Said) -> None:
            if said.verb in ("cancel", "retries", "retry_timeout"):
                answers[place] = await self._say_as_operator(place, said, task_id)
            else:
                answers[place] = await self._say_as_worker(place, said, task_id, lock)

        async with anyio.create_task_group() as group:
            group.start_soon(say, 0, one)
            group.start_soon(say, 1, other)
        return answers[0], answers[1]

    def _keys_to(self, task_id: str) -> list[Lock]:
        """The lock that holds the task, where there is one, and whatever else one may try."""
        known = self.known[task_id]
        keys = [Lock("w1", None), Lock("w3", None), *self.locks[task_id][-2:]]
        return [known.lock, Lock(known.lock.worker_id, None), *keys] if known.lock else keys

    async def _say_as_worker(self, broker: int, said: Said, task_id: str, lock: Lock) -> str:
        task = {"id": task_id} | ({"lockToken": lock.token} if lock.token else {}) | said.members
        verb = getattr(self.world.brokers[broker], said.verb)
        [answer] = decoded((await verb(request(lock.worker_id, task))).body)
        if answer.get("replayed"):
            return "replayed"
        return str(answer.get("code") or answer["outcome"])

    async def _say_as_operator(self, broker: int, said: Said, task_id: str) -> str:
        verb = getattr(self.world.brokers[broker], said.verb)
        members = {"reason": None} if said.verb == "cancel" else said.members
        try:
            msgspec.json.decode(await verb(task_id, **members))
        except BrokerError as error:
            return error.code
        return "done"

    def _goes_on(self, task_id: str, verb: str, after: Known) -> None:
        before = self.known[task_id]
        assert after.state == before.state or after.state in TRANSITIONS[verb][before.state]
        self.known[task_id] = after

    # Time

    @rule(task_id=tasks, broker=BROKERS)
    def let_time_pass(self, task_id: str, broker: int) -> None:
        """Until the task's deadline: the end of its lock, or of its delay."""
        known = self.known[task_id]
        if known.state is State.LOCKED:
            expiries_max = self.world.brokers[broker].settings.max_expiries
            self._goes_on(task_id, "release_due", known.expired(expiries_max))
            self.world.run(self._age, broker, expire_lock, task_id)
        elif known.state is State.DELAYED:
            after = dataclasses.replace(known, state=State.READY)
            self._goes_on(task_id, "release_due", after)
            self.world.run(self._age, broker, make_due, task_id)

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
        rows = await self.world.connection.fetch(
            """
            SELECT id::text, count(*) AS rows, min(state) AS state, min(retries) AS retries,
                   min(attempt) AS attempt, min(failures) AS failures, min(expiries) AS expiries,
                   min(worker_id) AS worker_id, min(lock_token::text) AS lock_token
            FROM (
                SELECT id, state::text, retries, attempt, failures, expiries, worker_id, lock_token
                FROM fetchlock.open_task WHERE id = ANY ($1::uuid[])
                UNION ALL
                SELECT id, state::text, retries, attempt, failures, expiries, worker_id, lock_token
                FROM fetchlock.outcome WHERE id = ANY ($1::uuid[])
            ) t GROUP BY id
            """,
            list(self.known),
        )
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

    def _hurry(self, task_id: str) -> None:
        """Bring a task closer to its end."""
        known = self.known[task_id]
        match known.state:
            case State.FAILED:
                self.operate(task_id, 0, Said("retries", {"retries": 1}))
            case State.DELAYED:
                self.let_time_pass(task_id, 1)
            case State.READY:
                self.fetch(0, "w1", 4)
            case State.LOCKED:
                assert known.lock is not None
                said = Said("complete", {"variables": {}})
                expected, after = known.worker_says(said, known.lock)
                assert expected == "done"
                answer = self.world.run(self._say_as_worker, 1, said, task_id, known.lock)
                assert answer == expected
                self._goes_on(task_id, said.verb, after)


@pytest.mark.timeout(600)  # To make a counterexample short takes its time; to find none does not.
def test_a_random_walk_over_two_brokers(database_url: str) -> None:
    broker_settings = Settings(database_url=database_url)
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


@asynccontextmanager
async def connected(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection beside those of the brokers."""
    connection = await asyncpg.connect(database_url)
    try:
        yield connection
    finally:
        connection.terminate()

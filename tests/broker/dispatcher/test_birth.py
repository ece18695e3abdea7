"""Tasks that are born locked: created and handed to a parked poll by one statement.

It is a shortcut past the claim, so what is tested is that nobody can tell: not
the worker by the task it gets, not the others by the order and the turns.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import asyncpg
import pytest

from broker import dispatcher as dispatcher_module
from broker.core import Core
from broker.dispatcher import Delivery, waiters
from broker.errors import Unavailable
from broker.store import Store
from broker.task import State
from tests.broker.conftest import Outage, Statements
from tests.eventually import eventually
from tests.factories import (
    Client,
    TaskJson,
    create,
    creation,
    decoded,
    is_at_rest,
    poll,
    row_of,
    state_of,
    subscribe,
)

Connection = asyncpg.Connection


@pytest.fixture(autouse=True)
def only_at_birth(monkeypatch: pytest.MonkeyPatch) -> None:
    """No second look happens, and what was found dry is trusted to be so."""
    monkeypatch.setattr(dispatcher_module, "_SECOND_LOOK_S", (3_600.0, 3_600.0))
    monkeypatch.setattr(waiters, "DRY_FOR_S", 3_600.0)


class Parked:
    """Polls that wait, in the order in which they came, and what each brought."""

    def __init__(self, core: Core, group: anyio.abc.TaskGroup) -> None:
        self._core = core
        self._group = group
        self.deliveries: list[Delivery | None] = []

    async def poll(self, tasks_max: int = 1, *topics: str, **options: Any) -> None:
        """Park one more, and return once the broker has found nothing for it."""
        place = len(self.deliveries)
        self.deliveries.append(None)
        client = options.pop("client", None)

        async def wait() -> None:
            self.deliveries[place] = await poll(
                self._core.dispatcher,
                tasks_max,
                f"w{place}",
                subscriptions=subscribe(*topics, **options),
                client=client,
            )

        async def is_parked() -> bool:
            dispatcher = self._core.dispatcher
            return len(dispatcher._waiters) == place + 1 and is_at_rest(dispatcher)

        self._group.start_soon(wait)
        await eventually(is_parked)

    @property
    def brought(self) -> list[list[TaskJson] | None]:
        """The tasks of each poll; None of one that still waits."""
        return [None if each is None else decoded(each.body) for each in self.deliveries]

    @property
    def ids(self) -> list[list[str] | None]:
        return [None if tasks is None else [task["id"] for task in tasks] for tasks in self.brought]


async def eventually_brought(parked: Parked, polls: int | None = None) -> None:
    """Return once the first `polls` have brought something, or all."""

    async def is_brought() -> bool:
        return None not in parked.ids[:polls]

    await eventually(is_brought)


@asynccontextmanager
async def parking(core: Core) -> AsyncIterator[Parked]:
    """Polls for the block. Those that still wait at its end are let go."""
    async with anyio.create_task_group() as group:
        parked = Parked(core, group)
        yield parked
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()


@pytest.fixture
async def lane(core: Core) -> None:
    """The topic `t` has had a task before, so its lane is known, and dry."""
    await core.create(creation({}))
    await poll(core.dispatcher)


async def created(core: Core, *tasks: TaskJson) -> list[str]:
    """Create tasks in one request; their ids. Whoever gets one has got it when this returns."""
    results = await core.create(creation(*tasks))
    await anyio.wait_all_tasks_blocked()
    return [answer["id"] for answer in decoded(results.body)]


async def test_it_is_one_statement_from_create_to_delivery(
    lane: None, core: Core, statements: Statements, connection: Connection
) -> None:
    async with parking(core) as parked:
        await parked.poll()
        await statements.forget()
        [task_id] = await created(core, {})
        assert parked.ids == [[task_id]]
        assert await statements.calls() == {"create": 1}
    assert await state_of(connection, task_id) == State.LOCKED


async def test_the_worker_gets_what_a_fetch_would_have_brought(lane: None, core: Core) -> None:
    task = {
        "businessKey": "b", "processInstanceId": "i", "processDefinitionKey": "k",
        "activityId": 'a"', "traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "retries": 7,
        "variables": {"a": 1.0, "b": {"c": ["ü"]}, "d": 2**70},
        "executionTimeoutMs": 60_000, "totalTimeoutMs": 90_000, "tenantId": "t",
        "processDefinitionVersionTag": "v", "variableTypes": {"a": {"type": "Double"}},
    }  # fmt: skip
    for given in (task, {}):
        await core.create(creation(given))
        await poll(core.dispatcher)
        for wanted in (None, ("a", "b", "x"), ()):
            async with parking(core) as parked:
                await parked.poll(variables=wanted, lock_duration_ms=30_000)
                await created(core, given)
                [brought] = parked.brought
            assert brought is not None
            await core.create(creation(given))
            fetched = decoded(
                (await poll(core.dispatcher, subscriptions=subscribe(variables=wanted))).body
            )
            assert [alike(each) for each in brought] == [
                alike(each) | {"workerId": "w0"} for each in fetched
            ]


def alike(task: TaskJson) -> TaskJson:
    """A task without what is another with each: its names and its instants."""
    assert task["availableAt"] == task["createdAt"] <= task["startedAt"] < task["lockExpiresAt"]
    instants = {"createdAt", "availableAt", "startedAt", "lockExpiresAt", "timesOutAt"}
    return {
        name: type(value) if name in instants | {"id", "lockToken"} else value
        for name, value in task.items()
    }


async def test_the_lock_lasts_as_long_as_the_worker_asked(
    lane: None, core: Core, connection: Connection
) -> None:
    async with parking(core) as parked:
        await parked.poll(lock_duration_ms=12_345)
        [task_id] = await created(core, {})
    row = await row_of(connection, task_id)
    assert (row["lock_expires_at"] - row["locked_at"]).total_seconds() == 12.345
    assert (row["worker_id"], row["attempt"], row["returned"]) == ("w0", 1, True)


# Order ------------------------------------------------------------------------


@pytest.mark.parametrize("priority", [0, 5], ids=["its lane", "a higher priority"])
async def test_it_does_not_overtake_what_was_ready_unknown_to_this_broker(
    core: Core, store: Store, connection: Connection, priority: int
) -> None:
    """Another broker made it, whose news has not come: the statement itself must look."""
    await core.create(creation({}, {"priority": priority}))
    await poll(core.dispatcher, 2)
    async with parking(core) as parked:
        await parked.poll()
        [older] = await create(store, {"priority": priority})
        [task_id] = await created(core, {})
        await eventually_brought(parked)
        assert parked.ids == [[older]]
    assert await state_of(connection, task_id) == State.READY


async def test_it_does_not_overtake_a_task_that_came_back(
    core: Core, store: Store, connection: Connection
) -> None:
    await core.create(creation({}))
    await poll(core.dispatcher, 1)
    [older] = await create(store, {"delayMs": 60_000})
    async with parking(core) as parked:
        await parked.poll()
        await connection.execute(
            "UPDATE fetchlock.open_task SET state = 'ready', available_at = now() WHERE id = $1",
            older,
        )
        await created(core, {})
        await eventually_brought(parked)
        assert parked.ids == [[older]]


async def test_what_is_ready_where_nobody_of_them_looks_is_no_hindrance(core: Core) -> None:
    await core.create(creation({}, {"topic": "other"}))
    await poll(core.dispatcher)
    async with parking(core) as parked:
        await parked.poll()
        ids = await created(core, {})
        assert parked.ids == [ids]


async def test_of_one_request_the_highest_priority_comes_first(
    core: Core, connection: Connection
) -> None:
    await core.create(creation({}, {"priority": 5}, {"priority": -1}))
    await poll(core.dispatcher, 3)
    async with parking(core) as parked:
        await parked.poll(3)
        ids = await created(core, {"priority": -1}, {}, {}, {"priority": 5})
        assert parked.ids == [[ids[3], ids[1], ids[2]]]
    assert await state_of(connection, ids[0]) == State.READY


async def test_a_lane_that_is_new_may_come_first(
    lane: None, core: Core, connection: Connection
) -> None:
    async with parking(core) as parked:
        await parked.poll()
        ids = await created(core, {}, {"priority": 5})
        await eventually_brought(parked)
        assert parked.ids == [[ids[1]]]
    assert await state_of(connection, ids[0]) == State.READY


async def test_what_is_delayed_waits(lane: None, core: Core, connection: Connection) -> None:
    async with parking(core) as parked:
        await parked.poll(2)
        delayed, ready = await created(core, {"delayMs": 60_000}, {})
        assert parked.ids == [[ready]]
    assert await state_of(connection, delayed) == State.DELAYED


# Turns ------------------------------------------------------------------------


async def test_who_came_first_is_served_first(lane: None, core: Core) -> None:
    async with parking(core) as parked:
        for tasks_max in (1, 2, 2):
            await parked.poll(tasks_max)
        ids = await created(core, *[{}] * 4)
        assert parked.ids == [ids[:1], ids[1:3], ids[3:]]


async def test_no_more_waiters_are_looked_at_than_there_are_tasks(lane: None, core: Core) -> None:
    """Or one task among ten thousand parked polls would cost a hundred of them a look."""
    looked_at = 0

    class Watched(Client):
        @property
        def is_gone(self) -> bool:
            nonlocal looked_at
            looked_at += 1
            return False

    async with parking(core) as parked:
        for _ in range(5):
            await parked.poll(client=Watched())
        looked_at = 0
        await created(core, {}, {})
        assert looked_at <= 3


async def test_who_gets_nothing_goes_on_waiting(lane: None, core: Core) -> None:
    async with parking(core) as parked:
        await parked.poll()
        await parked.poll()
        [first] = await created(core, {})
        assert parked.ids == [[first], None]
        [second] = await created(core, {})
        assert parked.ids == [[first], [second]]


async def test_what_is_left_over_can_be_fetched(lane: None, core: Core) -> None:
    async with parking(core) as parked:
        await parked.poll()
        ids = await created(core, {}, {}, {})
        assert parked.ids == [ids[:1]]
        delivery = await poll(core.dispatcher, 5, timeout_ms=0)
        assert [task["id"] for task in decoded(delivery.body)] == ids[1:]


async def test_nobody_is_passed_by_who_came_later_with_other_wishes(lane: None, core: Core) -> None:
    await core.create(creation({"topic": "u"}))
    await poll(core.dispatcher, subscriptions=subscribe("u"))
    async with parking(core) as parked:
        await parked.poll(1, "u")
        await parked.poll(2, "t", "u")
        await parked.poll(1, "t")
        ids = await created(core, {"topic": "t"}, {"topic": "u"})
        await eventually_brought(parked, 2)
        assert parked.ids == [[ids[1]], [ids[0]], None]


async def test_the_first_of_those_with_other_wishes_is_served_at_birth(
    lane: None, core: Core, statements: Statements
) -> None:
    await core.create(creation({"topic": "u"}))
    await poll(core.dispatcher, subscriptions=subscribe("u"))
    async with parking(core) as parked:
        await parked.poll(1, "t", "u")
        await parked.poll(1, "t")
        await statements.forget()
        [task_id] = await created(core, {})
        assert parked.ids == [[task_id], None]
        assert await statements.calls() == {"create": 1}


async def test_nothing_is_locked_for_a_client_that_has_left(
    lane: None, core: Core, connection: Connection
) -> None:
    class Silent(Client):
        """One whose leaving is not noticed until somebody looks."""

        async def wait_gone(self) -> None:
            await anyio.sleep_forever()

    client = Silent()
    async with parking(core) as parked:
        await parked.poll(client=client)
        client.leave()
        [task_id] = await created(core, {})
        row = await row_of(connection, task_id)
        assert (row["state"], row["attempt"]) == (State.READY, 0)


# What can go wrong ------------------------------------------------------------


async def test_a_task_said_again_is_delivered_once(lane: None, core: Core) -> None:
    async with parking(core) as parked:
        await parked.poll()
        await parked.poll()
        [task_id] = await created(core, {"uniqueKey": "k"})
        assert await created(core, {"uniqueKey": "k"}) == [task_id]
        assert parked.ids == [[task_id], None]


async def test_polls_outlive_a_create_that_fails(lane: None, core: Core, outage: Outage) -> None:
    async with parking(core) as parked:
        await parked.poll()
        await outage.begin()
        with pytest.raises(Unavailable):
            await core.create(creation({}))
        assert parked.ids == [None]
        await outage.end()

        async def serves_again() -> bool:
            try:
                await core.create(creation({}))
            except Unavailable:
                return False
            return True

        await eventually(serves_again)
        await eventually_brought(parked)


async def test_a_refused_task_does_not_keep_others_from_being_delivered(
    lane: None, core: Core, store: Store
) -> None:
    async with parking(core) as parked:
        await parked.poll()
        bad = {"delayMs": 1, "availableAt": "2030-01-01T00:00:00Z"}
        results = await core.create(creation(bad, {}))
        refused, fine = decoded(results.body)
        await anyio.wait_all_tasks_blocked()
        assert refused["code"] == "invalid"
        assert parked.ids == [[fine["id"]]]


async def test_a_wish_for_certain_definitions_holds(lane: None, core: Core) -> None:
    await core.create(creation({"processDefinitionId": "d"}))
    await poll(core.dispatcher)
    async with parking(core) as parked:
        await parked.poll(2, process_definition_ids=("d",))
        ids = await created(core, {}, {"processDefinitionId": "d"})
        assert parked.ids == [ids[1:]]

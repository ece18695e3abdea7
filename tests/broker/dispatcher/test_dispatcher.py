"""Long polls over real databases: woken, timed out, left alone, given back.

The second look would deliver everything within a second or so, whatever else
is broken. Where a test is about another way of being woken, `only_woken`
takes the second look away.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator
from functools import partial

import anyio
import asyncpg
import msgspec
import pytest

from broker import dispatcher as dispatcher_module
from broker.core import Core, open_core
from broker.dispatcher import Delivery
from broker.dispatcher import deadlines as deadlines_module
from broker.errors import TooManyRequests, Unavailable
from broker.settings import Settings
from broker.task import State
from tests.broker.conftest import Outage, Statements
from tests.eventually import eventually
from tests.factories import (
    Client,
    TaskJson,
    creation,
    decoded,
    expire_lock,
    held,
    is_blocked,
    poll,
    request,
    row_of,
    state_of,
    subscribe,
)

Connection = asyncpg.Connection


@pytest.fixture
def only_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask for it before `core`: no second look happens during this test."""
    monkeypatch.setattr(dispatcher_module, "_SECOND_LOOK_S", (3_600.0, 3_600.0))


@pytest.fixture
def without_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask for it before `core`: it sweeps only at the deadlines that it knows of."""
    for module in (dispatcher_module, deadlines_module):
        monkeypatch.setattr(module, "TICK_S", 3_600.0)


@pytest.fixture
async def other_core(settings: Settings) -> AsyncIterator[Core]:
    """Another broker on the same database."""
    async with open_core(settings) as opened:
        yield opened


@pytest.fixture
def without_notify(settings: Settings) -> Settings:
    return msgspec.structs.replace(settings, notify=False)


async def create(core: Core, *tasks: TaskJson) -> list[str]:
    results = await core.create(creation(*tasks))
    return [answer["id"] for answer in decoded(results.body)]


async def parked(core: Core, polls: int) -> None:
    """Return once so many polls are parked and the broker has found nothing for them."""

    async def is_at_rest() -> bool:
        waiters = core.dispatcher._waiters
        return len(waiters) == polls and not waiters._due and not core.dispatcher._running

    await eventually(is_at_rest)


async def listening(*cores: Core) -> None:
    """Return once the brokers hear each other."""

    async def do_listen() -> bool:
        wakeups = [core.dispatcher._wakeups for core in cores]
        return all(way is not None and way.is_listening for way in wakeups)

    await eventually(do_listen)


class Polls:
    """Polls in the background, and what they brought."""

    def __init__(self) -> None:
        self.deliveries: list[tuple[str, Delivery]] = []

    async def run(self, core: Core, worker_id: str = "w1", tasks_max: int = 1) -> None:
        self.deliveries.append((worker_id, await poll(core.dispatcher, tasks_max, worker_id)))

    @property
    def ids(self) -> list[str]:
        return [task["id"] for _, delivery in self.deliveries for task in decoded(delivery.body)]


# Being woken ------------------------------------------------------------------


async def test_a_poll_brings_what_is_there(core: Core) -> None:
    created = await create(core, {}, {}, {})
    delivery = await poll(core.dispatcher, 2, timeout_ms=0)
    assert [task["id"] for task in decoded(delivery.body)] == created[:2]
    assert delivery.tasks == 2


@pytest.mark.parametrize("is_new", [True, False], ids=["new lane", "known lane"])
async def test_a_task_wakes_a_parked_poll(only_woken: None, core: Core, is_new: bool) -> None:
    if not is_new:
        await create(core, {})
        await poll(core.dispatcher)
    polls = Polls()
    async with anyio.create_task_group() as group:
        group.start_soon(polls.run, core)
        await parked(core, 1)
        created = await create(core, {})
    assert polls.ids == created


async def test_a_task_with_a_new_priority_wakes_a_parked_poll(only_woken: None, core: Core) -> None:
    await create(core, {})
    await poll(core.dispatcher)
    polls = Polls()
    async with anyio.create_task_group() as group:
        group.start_soon(polls.run, core)
        await parked(core, 1)
        created = await create(core, {"priority": 7, "processDefinitionId": "x"})
    assert polls.ids == created


@pytest.mark.parametrize("is_new", [True, False], ids=["new lane", "known lane"])
async def test_a_task_wakes_a_poll_at_another_broker(
    only_woken: None, core: Core, other_core: Core, is_new: bool
) -> None:
    if not is_new:
        await create(core, {})
        await poll(core.dispatcher)
        await other_core.dispatcher._learn_lanes()
    await listening(core, other_core)
    polls = Polls()
    async with anyio.create_task_group() as group:
        group.start_soon(polls.run, other_core)
        await parked(other_core, 1)
        created = await create(core, {})
    assert polls.ids == created


@pytest.mark.parametrize("is_new", [True, False], ids=["new lane", "known lane"])
async def test_without_notify_the_second_look_finds_it(
    without_notify: Settings, is_new: bool
) -> None:
    async with open_core(without_notify) as core, open_core(without_notify) as other:
        if not is_new:
            await create(core, {})
            await poll(other.dispatcher)
        polls = Polls()
        async with anyio.create_task_group() as group:
            group.start_soon(polls.run, other)
            await parked(other, 1)
            created = await create(core, {})
        assert polls.ids == created


async def test_a_lane_that_the_store_learned_by_itself_is_looked_at(
    without_notify: Settings,
) -> None:
    """A poll is parked; then its broker makes a lane and so loads another broker's lane, too."""
    async with open_core(without_notify) as core, open_core(without_notify) as other:
        polls = Polls()
        async with anyio.create_task_group() as group:
            group.start_soon(polls.run, other)
            await parked(other, 1)
            await create(core, {"delayMs": 3_600_000})
            await create(other, {"topic": "u"})
            assert other._store.lanes.of_topic("t")
            created = await create(core, {})
        assert polls.ids == created


async def test_a_lane_that_is_committed_late_is_looked_at(
    without_notify: Settings, connection: Connection
) -> None:
    """It has a lower number than a lane that this broker knows already."""
    async with open_core(without_notify) as core:
        polls = Polls()
        async with anyio.create_task_group() as group:
            group.start_soon(polls.run, core)
            await parked(core, 1)
            await connection.execute("BEGIN")
            await connection.execute(
                "INSERT INTO fetchlock.lane (topic, priority, shard) VALUES ('t', 0, 0)"
            )
            await create(core, {"topic": "u"})
            await connection.execute("COMMIT")
            async with open_core(without_notify) as other:
                created = await create(other, {})
        assert polls.ids == created


async def test_a_broken_connection_for_wake_ups_is_made_again(
    only_woken: None, core: Core, other_core: Core, connection: Connection
) -> None:
    await create(core, {})
    await poll(core.dispatcher)
    await other_core.dispatcher._learn_lanes()
    await listening(core, other_core)
    polls = Polls()
    async with anyio.create_task_group() as group:
        group.start_soon(polls.run, other_core)
        await parked(other_core, 1)
        # While it is away the news is lost; that it is back is news for everybody.
        await connection.execute(
            """
            SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
            WHERE application_name = 'fetchlock wake-ups' AND datname = current_database()
            """
        )
        created = await create(core, {})
    assert polls.ids == created


@pytest.mark.parametrize("of_another_broker", [False, True])
async def test_a_delayed_start_wakes_a_parked_poll(
    only_woken: None, core: Core, other_core: Core, of_another_broker: bool
) -> None:
    await listening(core, other_core)
    polls = Polls()
    async with anyio.create_task_group() as group:
        group.start_soon(polls.run, core)
        await parked(core, 1)
        created = await create(other_core if of_another_broker else core, {"delayMs": 150})
        if of_another_broker:
            await core.dispatcher._learn_lanes()
    assert polls.ids == created


async def test_a_retry_timeout_wakes_a_parked_poll(
    only_woken: None, without_ticks: None, core: Core
) -> None:
    created = await create(core, {})
    [task] = decoded((await poll(core.dispatcher)).body)
    polls = Polls()
    async with anyio.create_task_group() as group:
        group.start_soon(polls.run, core)
        await parked(core, 1)
        said = held(task, errorMessage="e", retryTimeoutMs=150)
        await core.fail(request("w1", said))
    assert polls.ids == created


async def test_a_moved_retry_timeout_wakes_a_parked_poll(
    only_woken: None, without_ticks: None, core: Core
) -> None:
    created = await create(core, {"delayMs": 3_600_000}, {"delayMs": 3_600_000})
    polls = Polls()
    async with anyio.create_task_group() as group:
        for _ in created:
            group.start_soon(polls.run, core)
        await parked(core, 2)
        await core.retry_timeout(created[0], 0)
        await core.retry_timeout(created[1], 150)
    assert polls.ids == created


async def test_a_redriven_task_wakes_a_parked_poll(only_woken: None, core: Core) -> None:
    created = await create(core, {})
    [task] = decoded((await poll(core.dispatcher)).body)
    await core.fail(request("w1", held(task, errorMessage="e", retries=0)))
    polls = Polls()
    async with anyio.create_task_group() as group:
        group.start_soon(polls.run, core)
        await parked(core, 1)
        await core.retries(created[0], 1)
    assert polls.ids == created


async def test_an_expired_lock_wakes_a_parked_poll(
    only_woken: None, without_ticks: None, core: Core
) -> None:
    created = await create(core, {})
    await poll(core.dispatcher, subscriptions=subscribe(lock_duration_ms=150))
    polls = Polls()
    async with anyio.create_task_group() as group:
        group.start_soon(polls.run, core)
        await parked(core, 1)
    assert polls.ids == created


async def test_a_shortened_lock_wakes_a_parked_poll(
    only_woken: None, without_ticks: None, core: Core
) -> None:
    created = await create(core, {})
    [task] = decoded((await poll(core.dispatcher)).body)
    polls = Polls()
    async with anyio.create_task_group() as group:
        group.start_soon(polls.run, core)
        await parked(core, 1)
        await core.extend_lock(request("w1", held(task, lockDurationMs=150)))
    assert polls.ids == created


async def test_the_lock_of_a_dead_broker_is_found_by_the_tick(
    only_woken: None, core: Core, connection: Connection
) -> None:
    created = await create(core, {})
    await poll(core.dispatcher)
    polls = Polls()
    async with anyio.create_task_group() as group:
        group.start_soon(polls.run, core)
        await parked(core, 1)
        await expire_lock(connection, *created)
    assert polls.ids == created
    assert (await row_of(connection, created[0]))["expiries"] == 1


async def test_an_unlocked_task_wakes_a_parked_poll(only_woken: None, core: Core) -> None:
    created = await create(core, {})
    [task] = decoded((await poll(core.dispatcher)).body)
    polls = Polls()
    async with anyio.create_task_group() as group:
        group.start_soon(polls.run, core)
        await parked(core, 1)
        await core.unlock(request("w1", held(task)))
    assert polls.ids == created


# Going without ----------------------------------------------------------------


@pytest.mark.parametrize("timeout_ms", [0, 1, 50])
@pytest.mark.parametrize("is_known", [True, False])
async def test_a_poll_ends_with_its_time(core: Core, timeout_ms: int, is_known: bool) -> None:
    if is_known:
        await create(core, {"delayMs": 3_600_000})
    with anyio.fail_after(10):
        delivery = await poll(core.dispatcher, timeout_ms=timeout_ms)
    assert (delivery.body, delivery.tasks) == (b"[]", 0)
    assert len(core.dispatcher._waiters) == 0


async def test_a_poll_whose_client_left_locks_nothing(
    only_woken: None, core: Core, connection: Connection
) -> None:
    client = Client()
    async with anyio.create_task_group() as group:
        for is_there in (False, True, False):
            who = Client() if is_there else client
            group.start_soon(partial(poll, core.dispatcher, 10, timeout_ms=2_000, client=who))
        await parked(core, 3)
        client.leave()
        created = await create(core, {}, {})
    assert [await state_of(connection, task_id) for task_id in created] == [State.LOCKED] * 2
    assert {(await row_of(connection, task_id))["attempt"] for task_id in created} == {1}
    created = await create(core, {})
    assert await state_of(connection, created[0]) == State.READY


async def test_a_client_that_was_gone_before_it_was_served(
    core: Core, connection: Connection
) -> None:
    created = await create(core, {})
    client = Client()
    client.leave()
    delivery = await poll(core.dispatcher, client=client)
    assert delivery.tasks == 0
    assert (await row_of(connection, created[0]))["attempt"] == 0


async def test_what_is_given_back_counts_for_nothing(core: Core, connection: Connection) -> None:
    created = await create(core, {}, {})
    delivery = await poll(core.dispatcher, 2, timeout_ms=0)
    before = decoded(delivery.body)
    await delivery.give_back()
    for task_id in created:
        row = await row_of(connection, task_id)
        assert (row["state"], row["failures"], row["expiries"]) == ("ready", 0, 0)
    again = decoded((await poll(core.dispatcher, 2, timeout_ms=0)).body)
    assert [task["id"] for task in again] == created
    assert [task["retries"] for task in again] == [task["retries"] for task in before]


async def test_nothing_to_give_back_is_no_statement(core: Core, statements: Statements) -> None:
    delivery = await poll(core.dispatcher, timeout_ms=0)
    await delivery.give_back()
    assert "unlock" not in await statements.calls()


async def test_a_cancelled_poll_gives_back_what_its_claim_brings(
    core: Core, connection: Connection, watcher: Connection
) -> None:
    created = await create(core, {})
    scope = anyio.CancelScope()

    async def poll_until_cancelled() -> None:
        with scope:
            await poll(core.dispatcher)

    async with anyio.create_task_group() as group:
        await connection.execute("BEGIN")
        await connection.execute("LOCK TABLE fetchlock.open_task IN EXCLUSIVE MODE")
        group.start_soon(poll_until_cancelled)
        await eventually(lambda: is_blocked(watcher))
        scope.cancel()
        await connection.execute("COMMIT")
    row = await row_of(connection, created[0])
    assert (row["state"], row["attempt"], row["expiries"]) == (State.READY, 1, 0)


async def test_too_many_polls_are_refused(settings: Settings) -> None:
    few = msgspec.structs.replace(settings, waiters_max=2)
    async with open_core(few) as core, anyio.create_task_group() as group:
        for _ in range(2):
            group.start_soon(poll, core.dispatcher)
        await parked(core, 2)
        with pytest.raises(TooManyRequests):
            await poll(core.dispatcher)
        core.begin_shutdown()


async def test_parked_polls_are_answered_at_the_end(core: Core) -> None:
    polls = Polls()
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(polls.run, core)
            await parked(core, 20)
            core.begin_shutdown()
    assert [delivery.body for _, delivery in polls.deliveries] == [b"[]"] * 20
    await create(core, {})
    assert (await poll(core.dispatcher)).tasks == 0


async def test_a_claim_in_flight_at_the_end_is_still_delivered(
    core: Core, connection: Connection, watcher: Connection
) -> None:
    created = await create(core, {})
    polls = Polls()
    async with anyio.create_task_group() as group:
        await connection.execute("BEGIN")
        await connection.execute("LOCK TABLE fetchlock.open_task IN EXCLUSIVE MODE")
        group.start_soon(polls.run, core)
        await eventually(lambda: is_blocked(watcher))
        core.begin_shutdown()
        await connection.execute("COMMIT")
    assert polls.ids == created


# Many at once -----------------------------------------------------------------


async def test_polls_are_served_in_the_order_they_came(only_woken: None, core: Core) -> None:
    await create(core, {})
    await poll(core.dispatcher)
    polls = Polls()
    created = []
    async with anyio.create_task_group() as group:
        for number in range(30):
            group.start_soon(polls.run, core, f"w{number}")
            await parked(core, number + 1)
        for _ in range(3):
            created += await create(core, *({} for _ in range(10)))
    brought = {worker_id: decoded(delivery.body) for worker_id, delivery in polls.deliveries}
    assert [brought[f"w{number}"][0]["id"] for number in range(30)] == created


async def test_polls_of_other_groups_on_the_same_lane_wait_their_turn(
    only_woken: None, core: Core
) -> None:
    for topic in ("t", "u"):
        await create(core, {"topic": topic})
        await poll(core.dispatcher, subscriptions=subscribe(topic))
    served: list[int] = []

    async def wait(number: int) -> None:
        topics = (("t",), ("t", "u"), ("u", "t"))[number % 3]
        await poll(core.dispatcher, 1, f"w{number}", subscriptions=subscribe(*topics))
        served.append(number)

    async with anyio.create_task_group() as group:
        for number in range(12):
            group.start_soon(wait, number)
            await parked(core, number + 1)
        for number in range(12):
            await create(core, {})
            await parked(core, 11 - number)
    assert served == list(range(12))


async def test_200_polls_at_once_lock_10_000_tasks_once_each(
    core: Core, other_core: Core, connection: Connection
) -> None:
    created: list[str] = []
    for _ in range(10):
        created += await create(core, *({} for _ in range(1_000)))
    fetched: Counter[str] = Counter()
    tokens: set[tuple[str, str]] = set()

    async def work(number: int) -> None:
        dispatcher = (core, other_core)[number % 2].dispatcher
        while True:
            delivery = await poll(dispatcher, 1 + number % 20, f"w{number}", timeout_ms=0)
            tasks = decoded(delivery.body)
            assert {task["workerId"] for task in tasks} <= {f"w{number}"}
            fetched.update(task["id"] for task in tasks)
            tokens.update((task["id"], task["lockToken"]) for task in tasks)
            if not tasks and fetched.total() >= len(created):
                break

    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            for number in range(200):
                group.start_soon(work, number)
    assert fetched == Counter(created)
    attempts = await connection.fetch("SELECT DISTINCT attempt, state FROM fetchlock.open_task")
    assert [tuple(row) for row in attempts] == [(1, "locked")]
    held_now = await connection.fetch("SELECT id::text, lock_token::text FROM fetchlock.open_task")
    assert {tuple(row) for row in held_now} == tokens


async def test_parked_polls_cost_no_statements(core: Core, statements: Statements) -> None:
    """Two a second, however many polls: the sweep, and one second look for all of them."""
    topics = [f"topic-{number}" for number in range(20)]
    await create(core, *({"topic": topic, "delayMs": 3_600_000} for topic in topics))
    async with anyio.create_task_group() as group:
        for number in range(200):
            wish = subscribe(topics[number % 20], topics[(number + 1) % 20])
            group.start_soon(
                partial(poll, core.dispatcher, 10, timeout_ms=60_000, subscriptions=wish)
            )
        await parked(core, 200)
        started_at = time.monotonic()
        await statements.forget()

        async def has_ticked() -> dict[str, int]:
            calls = await statements.calls()
            return calls if calls.get("release_due", 0) >= 4 else {}

        calls = await eventually(has_ticked)
        elapsed_s = time.monotonic() - started_at
        core.begin_shutdown()
    assert set(calls) <= {"release_due", "ready_lanes"}
    # Looks are up to a fifth of a second early.
    assert sum(calls.values()) <= 2.3 * elapsed_s + 2


# A database in trouble --------------------------------------------------------


async def test_a_claim_whose_connection_dies_is_made_again(
    only_woken: None, core: Core, connection: Connection, watcher: Connection
) -> None:
    created = await create(core, {})
    polls = Polls()
    async with anyio.create_task_group() as group:
        await connection.execute("BEGIN")
        await connection.execute("LOCK TABLE fetchlock.open_task IN EXCLUSIVE MODE")
        group.start_soon(polls.run, core)
        await eventually(lambda: is_blocked(watcher))
        await watcher.execute(
            """
            SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
            WHERE application_name = 'fetchlock' AND datname = current_database()
            """
        )
        await connection.execute("COMMIT")
    assert polls.ids == created


async def test_an_outage_is_told_to_who_does_not_park_and_waited_out_by_who_does(
    core: Core, outage: Outage
) -> None:
    await create(core, {})
    await poll(core.dispatcher)
    polls = Polls()
    async with anyio.create_task_group() as group:
        group.start_soon(polls.run, core)
        await parked(core, 1)
        await outage.begin()
        with pytest.raises(Unavailable):
            await poll(core.dispatcher, timeout_ms=0)
        await outage.end()
        created: list[str] = []

        async def is_back() -> bool:
            try:
                created.extend(await create(core, {}))
            except Unavailable:
                return False
            return True

        await eventually(is_back)
    assert polls.ids == created[:1]


async def test_a_mistake_in_a_loop_ends_the_broker(
    settings: Settings, connection: Connection
) -> None:
    """One that answers but dispatches nothing would be worse."""

    async def serve() -> None:
        async with open_core(settings):
            await connection.execute("ALTER TABLE fetchlock.open_task RENAME TO gone")
            await anyio.sleep_forever()

    with pytest.raises(ExceptionGroup) as raised:
        await serve()
    assert raised.group_contains(asyncpg.UndefinedTableError)


async def test_a_poll_that_does_not_wait_waits_for_no_transaction(
    core: Core, connection: Connection
) -> None:
    created = await create(core, {})
    async with connection.transaction():
        await connection.execute("SELECT FROM fetchlock.open_task FOR UPDATE")
        assert (await poll(core.dispatcher, timeout_ms=0)).tasks == 0
    delivery = await poll(core.dispatcher)
    assert [task["id"] for task in decoded(delivery.body)] == created

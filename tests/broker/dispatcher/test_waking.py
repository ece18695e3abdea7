"""Long polls over real databases: what wakes a parked one.

The second look would deliver everything within a second or so, whatever else
is broken. Where a test is about another way of being woken, `only_woken`
takes the second look away.
"""

from __future__ import annotations

import anyio
import asyncpg
import pytest

from broker.core import Core, open_core
from broker.settings import Settings
from tests.broker.dispatcher.polls import Polls, create, listening, parked
from tests.factories import decoded, expire_lock, held, poll, request, row_of, subscribe

Connection = asyncpg.Connection


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
        await core.retries([created[0]], 1)
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

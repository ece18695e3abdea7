"""What runs out otherwise than a lock is dealt with when it is due, and wakes who waits."""

from __future__ import annotations

import anyio
import asyncpg
import pytest

from broker.core import Core
from broker.settings import Settings
from broker.task import State
from tests.broker.dispatcher.polls import Polls, parked
from tests.eventually import eventually
from tests.factories import (
    TaskJson,
    called_back,
    creation,
    decoded,
    held,
    poll,
    request,
    state_of,
    subscribe,
)

Connection = asyncpg.Connection


@pytest.fixture
def settings(database_url: str) -> Settings:
    """The wait after a failed callback is drawn at random up to a bound: here it is none."""
    return Settings(database_url=database_url, retry_base_ms=0)


async def fetched(core: Core, lock_duration_ms: int = 60_000, **members: object) -> TaskJson:
    await core.create(creation(members))
    subscriptions = subscribe(lock_duration_ms=lock_duration_ms)
    return decoded((await poll(core.dispatcher, subscriptions=subscriptions)).body)[0]


async def test_a_hand_over_that_runs_out_wakes_a_parked_poll(
    only_woken: None, without_ticks: None, core: Core
) -> None:
    task = await fetched(core)
    polls = Polls()
    async with anyio.create_task_group() as group:
        group.start_soon(polls.run, core)
        await parked(core, 1)
        await core.hand_over(request("w1", held(task, timeoutMs=150)))
    assert polls.ids == [task["id"]]


@pytest.mark.parametrize("is_early", [True, False])
async def test_a_failed_callback_wakes_a_parked_poll(
    only_woken: None, without_ticks: None, core: Core, is_early: bool
) -> None:
    task = await fetched(core)
    polls = Polls()
    async with anyio.create_task_group() as group:
        group.start_soon(polls.run, core)
        await parked(core, 1)
        await core.callback_url(request("w1", held(task)))
        if not is_early:
            await core.hand_over(request("w1", held(task)))
        assert (await core.callback(called_back(task, isSuccess=False))).refused == 0
        if is_early:
            await core.hand_over(request("w1", held(task)))
    assert polls.ids == [task["id"]]


async def test_a_lock_that_a_heartbeat_shortened_wakes_a_parked_poll(
    only_woken: None, without_ticks: None, core: Core
) -> None:
    task = await fetched(core)
    polls = Polls()
    async with anyio.create_task_group() as group:
        group.start_soon(polls.run, core)
        await parked(core, 1)
        await core.heartbeat(request("w1", held(task), lockDurationMs=150))
    assert polls.ids == [task["id"]]


async def test_an_unwanted_task_ends_with_its_lock(
    without_ticks: None, core: Core, connection: Connection
) -> None:
    task = await fetched(core, lock_duration_ms=300)
    await core.cancel(task["id"], None)

    async def is_cancelled() -> bool:
        return await state_of(connection, task["id"]) == State.CANCELLED

    await eventually(is_cancelled)


async def test_a_timeout_is_found_by_the_tick(core: Core, connection: Connection) -> None:
    task = await fetched(core, totalTimeoutMs=300)

    async def is_failed() -> bool:
        return await state_of(connection, task["id"]) == State.FAILED

    await eventually(is_failed)


async def test_what_cannot_be_settled_does_not_keep_locks_from_being_released(
    core: Core, connection: Connection
) -> None:
    """Nor does it end the broker: it looks into what callers have said, and they say anything."""
    broken = await fetched(core)
    await core.hand_over(request("w1", held(broken)))
    await connection.execute("ALTER FUNCTION fetchlock.merged RENAME TO unmerged")
    await core.callback(called_back(broken))
    task = await fetched(core, lock_duration_ms=300)
    again = decoded((await poll(core.dispatcher)).body)
    assert [each["id"] for each in again] == [task["id"]]
    await connection.execute("ALTER FUNCTION fetchlock.unmerged RENAME TO merged")

    async def is_completed() -> bool:
        return await state_of(connection, broken["id"]) == State.COMPLETED

    await eventually(is_completed)

"""Long polls over real databases: how one ends that brings nothing, or must not."""

from __future__ import annotations

from functools import partial

import anyio
import asyncpg
import msgspec
import pytest

from broker.core import Core, open_core
from broker.errors import TooManyRequests
from broker.settings import Settings
from broker.task import State
from tests.broker.conftest import Statements
from tests.broker.dispatcher.polls import Polls, create, parked
from tests.eventually import eventually
from tests.factories import Client, decoded, is_blocked, poll, row_of, state_of

Connection = asyncpg.Connection


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

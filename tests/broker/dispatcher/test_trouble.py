"""Long polls over a database in trouble, and a broker that is in trouble itself."""

from __future__ import annotations

import anyio
import asyncpg
import msgspec
import pytest

from broker.core import Core, open_core
from broker.errors import Unavailable
from broker.settings import Settings
from tests.broker.conftest import Outage
from tests.broker.dispatcher.polls import Polls, create, parked
from tests.eventually import eventually
from tests.factories import decoded, is_blocked, poll, subscribe

Connection = asyncpg.Connection


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


@pytest.fixture
def with_short_statements(settings: Settings) -> Settings:
    return msgspec.structs.replace(settings, statement_timeout_ms=1_000)


async def test_a_filter_that_takes_too_long_is_told_so_and_holds_up_nobody(
    with_short_statements: Settings, connection: Connection
) -> None:
    """The others are not told: they wait until the database is faster."""
    async with open_core(with_short_statements) as core:
        created = await create(core, {"businessKey": "x"})
        polls = Polls()
        async with anyio.create_task_group() as group, connection.transaction():
            await connection.execute("LOCK TABLE fetchlock.task")
            group.start_soon(polls.run, core)
            with pytest.raises(Unavailable):
                await poll(core.dispatcher, subscriptions=subscribe(business_key="x"))
    assert polls.ids == created


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

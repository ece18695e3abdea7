"""Room for the coming weeks, made by whoever comes first."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import anyio
import asyncpg

from broker.store import Store
from broker.store.cursor import first_id
from tests.factories import ask, create, held, lock

Connection = asyncpg.Connection

_PARTITIONS = """
    SELECT inhrelid::regclass::text FROM pg_inherits
    WHERE inhparent IN ('fetchlock.task'::regclass, 'fetchlock.outcome'::regclass) ORDER BY 1
"""


async def test_a_migrated_database_has_room(store: Store) -> None:
    assert await store.make_partitions() == 0


async def test_missing_weeks_are_made(store: Store, connection: Connection) -> None:
    before = await connection.fetch(_PARTITIONS)
    last = before[-1][0], before[len(before) // 2 - 1][0]
    for name in last:
        await connection.execute(f"DROP TABLE {name}")
    assert await store.make_partitions() == 2
    assert await connection.fetch(_PARTITIONS) == before


async def test_two_brokers_at_once_both_succeed(store: Store, connection: Connection) -> None:
    before = await connection.fetch(_PARTITIONS)
    for row in before:
        await connection.execute(f"DROP TABLE {row[0]}")
    made: list[int] = []

    async def make() -> None:
        made.append(await store.make_partitions())

    async with anyio.create_task_group() as group:
        for _ in range(4):
            group.start_soon(make)
    assert sum(made) == len(before)
    assert await connection.fetch(_PARTITIONS) == before


async def test_a_task_and_its_outcome_are_in_the_same_week(
    store: Store, connection: Connection
) -> None:
    await create(store, {})
    [task] = await lock(store)
    await ask(store.complete, "w1", held(task))
    asked, ended = await connection.fetch(
        """
        SELECT c.relname FROM fetchlock.task t JOIN pg_class c ON c.oid = t.tableoid
        UNION ALL
        SELECT c.relname FROM fetchlock.outcome t JOIN pg_class c ON c.oid = t.tableoid
        """
    )
    week = await connection.fetchval(
        "SELECT to_char(date_trunc('week', now() AT TIME ZONE 'UTC'), '_YYYY_MM_DD')"
    )
    assert (asked[0], ended[0]) == (f"task{week}", f"outcome{week}")


async def test_a_bound_is_the_first_id_of_its_instant(connection: Connection) -> None:
    """An id begins with the milliseconds since 1970, and so does the bound of a partition."""
    monday = datetime(2026, 6, 1, tzinfo=UTC)
    bound = await connection.fetchval("SELECT fetchlock.first_id($1)::text", monday)
    assert UUID(bound) == first_id(monday)
    assert UUID(bound).int == int(monday.timestamp() * 1000) << 80

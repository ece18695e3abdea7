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

_TABLES = ["callback", "log_line", "outcome", "progress", "task"]

_PARTITIONS = """
    SELECT inhrelid::regclass::text FROM pg_inherits
    JOIN pg_class parent ON parent.oid = inhparent AND parent.relkind = 'p' ORDER BY 1
"""


async def test_a_migrated_database_has_room(store: Store) -> None:
    assert await store.make_partitions() == 0


async def test_missing_weeks_are_made(store: Store, connection: Connection) -> None:
    before = await connection.fetch(_PARTITIONS)
    weeks = len(before) // len(_TABLES)
    last = [row[0] for row in before[weeks - 1 :: weeks]]
    assert [name[: -len("_YYYY_MM_DD")] for name in last] == _TABLES
    for name in last:
        await connection.execute(f"DROP TABLE {name}")
    assert await store.make_partitions() == len(_TABLES)
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


async def test_all_that_is_kept_of_a_task_is_in_the_same_week(
    store: Store, connection: Connection
) -> None:
    await create(store, {})
    [task] = await lock(store)
    await ask(store.hand_over, "w1", held(task))
    await ask(store.callback, None, held(task, isSuccess=True, logs=["line"]))
    rows = await connection.fetch(
        """
        SELECT tableoid::regclass::text FROM fetchlock.callback
        UNION ALL SELECT tableoid::regclass::text FROM fetchlock.log_line
        UNION ALL SELECT tableoid::regclass::text FROM fetchlock.outcome
        UNION ALL SELECT tableoid::regclass::text FROM fetchlock.progress
        UNION ALL SELECT tableoid::regclass::text FROM fetchlock.task ORDER BY 1
        """
    )
    week = await connection.fetchval(
        "SELECT to_char(date_trunc('week', now() AT TIME ZONE 'UTC'), '_YYYY_MM_DD')"
    )
    assert [row[0] for row in rows] == [f"{table}{week}" for table in _TABLES]


async def test_a_bound_is_the_first_id_of_its_instant(connection: Connection) -> None:
    """An id begins with the milliseconds since 1970, and so does the bound of a partition."""
    monday = datetime(2026, 6, 1, tzinfo=UTC)
    bound = await connection.fetchval("SELECT fetchlock.first_id($1)::text", monday)
    assert UUID(bound) == first_id(monday)
    assert UUID(bound).int == int(monday.timestamp() * 1000) << 80

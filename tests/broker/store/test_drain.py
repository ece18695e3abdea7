"""The wish that a worker stops: told with each heartbeat until it is taken back."""

from __future__ import annotations

import asyncpg

from broker.store import Store, queries
from broker.store.database import SHARD
from tests.broker.conftest import Statements
from tests.factories import create, held, lock, request

Connection = asyncpg.Connection


async def told_to_drain(store: Store, *worker_ids: str) -> list[bool]:
    """What the heartbeats of these workers are told, in one batch."""
    batch = await store.heartbeat([request(each, lockDurationMs=30_000) for each in worker_ids])
    return [result.is_to_drain for result in batch.results]


async def test_a_worker_is_told_until_the_wish_is_taken_back(store: Store) -> None:
    assert await told_to_drain(store, "w1", "w2") == [False, False]
    await store.drain("w1", is_wished=True)
    for _ in range(2):
        assert await told_to_drain(store, "w2", "w1", "", "w1") == [False, True, False, True]
    await store.drain("w1", is_wished=False)
    assert await told_to_drain(store, "w1") == [False]


async def test_said_twice_it_is_one_wish(store: Store, connection: Connection) -> None:
    for is_wished, wishes in ((True, 1), (True, 1), (False, 0), (False, 0)):
        await store.drain("w1", is_wished=is_wished)
        assert await connection.fetchval("SELECT count(*) FROM fetchlock.worker") == wishes


async def test_it_is_told_beside_what_becomes_of_the_tasks(store: Store) -> None:
    await create(store, {})
    [task] = await lock(store)
    await store.drain("w1", is_wished=True)
    unknown = {"id": "no id", "lockToken": ""}
    batch = await store.heartbeat([request("w1", held(task), unknown, lockDurationMs=30_000)])
    [result] = batch.results
    assert (result.is_to_drain, result.refused) == (True, 1)


async def test_each_is_one_statement(store: Store, statements: Statements) -> None:
    await store.drain("w1", is_wished=True)
    await told_to_drain(store, "w1")
    await store.drain("w1", is_wished=False)
    assert await statements.calls() == {"drain": 2, "heartbeat": 1}


async def test_two_wishes_at_once_are_one(store: Store, connection: Connection) -> None:
    async with connection.transaction():
        await connection.execute("SAVEPOINT wished")
        await connection.fetch(queries.DRAIN, SHARD, "w1", True)
        await store.drain("w2", is_wished=True)
        assert await told_to_drain(store, "w1", "w2") == [False, True]
    await store.drain("w1", is_wished=True)
    assert await told_to_drain(store, "w1", "w2") == [True, True]


async def test_the_newest_key_signs_and_all_are_accepted(
    store: Store, connection: Connection
) -> None:
    [first] = await store.signing_keys()
    await connection.execute("INSERT INTO fetchlock.signing_key DEFAULT VALUES")
    second, old = await store.signing_keys()
    assert old == first != second
    assert {len(first), len(second)} == {32}

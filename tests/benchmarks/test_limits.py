"""The raw SQL moves every row to where it belongs, and a limit that loses some is none."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

from benchmarks.limits import BATCH, _expect_left, _Pgbench, measure


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A look at the tables."""
    opened = await asyncpg.connect(database_url)
    yield opened
    opened.terminate()


async def test_both_limits_have_three_phases(
    database_url: str, connection: asyncpg.Connection
) -> None:
    found = await measure(database_url, 4 * BATCH, 2)
    phases = ("create", "drain", "lifecycle")
    assert list(found) == [
        f"{name} {phase}" for name in ("bare", "same promise") for phase in phases
    ]
    assert min(found.values()) > 0
    schema = "SELECT to_regnamespace('fetchlock_limit') IS NULL"
    assert await connection.fetchval(schema)


async def test_the_same_promise_is_kept_in_rows(
    database_url: str, connection: asyncpg.Connection
) -> None:
    pgbench = _Pgbench(database_url, "promise", clients=2, rounds=2)
    await connection.execute(pgbench.read("tables"))
    await pgbench.run("create")
    created = await connection.fetch("SELECT id, topic, attempt FROM fetchlock_limit.ready")
    assert len(created) == pgbench.tasks == 4 * BATCH
    payloads = "SELECT count(*) FROM fetchlock_limit.task WHERE length(payload) = 100"
    assert await connection.fetchval(payloads) == pgbench.tasks

    await pgbench.run("drain")
    finished = await connection.fetch("SELECT * FROM fetchlock_limit.outcome")
    assert {row["id"] for row in finished} == {row["id"] for row in created}
    assert len({row["lock_token"] for row in finished}) == 4
    assert {row["worker_id"] for row in finished} == {"worker-0", "worker-1"}
    assert {row["attempt"] for row in finished} == {1}
    for emptied in ("ready", "locked"):
        assert not await connection.fetch(f"TABLE fetchlock_limit.{emptied}")


async def test_a_limit_that_loses_tasks_is_none(
    database_url: str, connection: asyncpg.Connection
) -> None:
    bare = _Pgbench(database_url, "bare", clients=1, rounds=1)
    await connection.execute(bare.read("tables"))
    await bare.run("create")
    await _expect_left(connection, bare, BATCH)
    with pytest.raises(AssertionError, match="500 of 500"):
        await _expect_left(connection, bare, 0)

    promise = _Pgbench(database_url, "promise", clients=1, rounds=1)
    await connection.execute(promise.read("tables"))
    await promise.run("create", "drain")
    await _expect_left(connection, promise, 0)
    await connection.execute("DELETE FROM fetchlock_limit.outcome WHERE worker_id = 'worker-0'")
    with pytest.raises(AssertionError, match="500 of 500"):
        await _expect_left(connection, promise, 0)

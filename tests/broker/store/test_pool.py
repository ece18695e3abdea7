"""What is set at connect, and PostgreSQL's refusals in the broker's words."""

from __future__ import annotations

import asyncpg
import pytest

from broker.errors import Invalid, Unavailable
from broker.store import Retryable, Store, open_pool
from broker.store.pool import map_exceptions
from tests.broker.conftest import Statements

Connection = asyncpg.Connection


@pytest.mark.parametrize(
    ("raised", "mapped"),
    [
        (asyncpg.SerializationError("x"), Retryable),
        (asyncpg.DeadlockDetectedError("x"), Retryable),
        (asyncpg.NumericValueOutOfRangeError("x"), Invalid),
        (asyncpg.UntranslatableCharacterError("x"), Invalid),
        (asyncpg.InvalidTextRepresentationError("x"), Invalid),
        (asyncpg.QueryCanceledError(), Unavailable),
        (asyncpg.AdminShutdownError(), Unavailable),
        (asyncpg.CrashShutdownError(), Unavailable),
        (asyncpg.CannotConnectNowError(), Unavailable),
        (asyncpg.ConnectionDoesNotExistError(), Unavailable),
        (asyncpg.TooManyConnectionsError(), Unavailable),
        (asyncpg.DiskFullError(), Unavailable),
        (asyncpg.InterfaceError("connection is closed"), Unavailable),
        (ConnectionRefusedError(), Unavailable),
        (TimeoutError(), Unavailable),
    ],
)
def test_what_postgresql_raises_has_the_brokers_words(
    raised: Exception, mapped: type[Exception]
) -> None:
    with pytest.raises(mapped), map_exceptions():
        raise raised


def test_our_own_mistakes_pass_as_they_are() -> None:
    with pytest.raises(asyncpg.UndefinedColumnError), map_exceptions():
        raise asyncpg.UndefinedColumnError


async def test_the_session_is_set_for_the_plans(store: Store) -> None:
    rows = await store._pool.fetch("SELECT name, setting FROM pg_settings")
    settings = {row["name"]: row["setting"] for row in rows}
    assert settings["jit"] == settings["enable_seqscan"] == settings["enable_bitmapscan"] == "off"
    assert settings["enable_partition_pruning"] == "off"
    assert settings["TimeZone"] == "UTC"
    assert settings["application_name"] == "fetchlock"
    assert settings["statement_timeout"] == "10000"


async def test_a_call_is_one_round_trip(store: Store, statements: Statements) -> None:
    """No reset of the session, no transaction around it."""
    await store.ping()
    await statements.forget()
    for _ in range(3):
        await store.ping()
    assert await statements.calls() == {"SELECT 1": 3}


async def test_a_statement_that_takes_too_long_is_given_up(database_url: str) -> None:
    pool = await open_pool(database_url, size=1, statement_timeout_ms=100)
    with pytest.raises(Unavailable), map_exceptions():
        await pool.fetch("SELECT pg_sleep(60)")
    with map_exceptions():
        assert await pool.fetchval("SELECT 1") == 1
    pool.terminate()


async def test_killed_connections_are_replaced(store: Store, connection: Connection) -> None:
    await store.ping()
    await connection.execute(
        """
        SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
        WHERE application_name = 'fetchlock' AND datname = current_database()
        """
    )
    for _ in range(store._settings.pool_size):
        try:
            await store.ping()
        except Unavailable:
            continue
        break
    await store.ping()


@pytest.mark.parametrize(
    "url", ["postgresql://nobody@/no?host=/nowhere", "postgresql://nobody@127.0.0.1:1/no"]
)
async def test_a_database_that_is_away_is_unavailable(url: str) -> None:
    with pytest.raises(Unavailable):
        await open_pool(url, size=1, statement_timeout_ms=1_000)


async def test_a_database_that_does_not_exist_is_unavailable(database_url: str) -> None:
    with pytest.raises(Unavailable):
        await open_pool(
            database_url.replace("/test_", "/no_test_"), size=1, statement_timeout_ms=1_000
        )

"""The core's levels below `core`: a store without loops, and a look from outside."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from broker.settings import Settings
from broker.store import Store, open_pool, queries
from broker.store.queries import SQL_ROOT


@pytest.fixture
async def store(settings: Settings) -> AsyncIterator[Store]:
    """The verbs alone: nothing sweeps or looks unless the test says so."""
    assert settings.database_url is not None
    pool = await open_pool(
        settings.database_url,
        size=settings.pool_size,
        statement_timeout_ms=settings.statement_timeout_ms,
    )
    yield Store(pool, settings)
    pool.terminate()


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection of the test's own, beside the broker's."""
    opened = await asyncpg.connect(database_url)
    yield opened
    opened.terminate()


@pytest.fixture
async def watcher(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """Another one, for tests whose first connection is in the middle of a transaction."""
    opened = await asyncpg.connect(database_url)
    yield opened
    opened.terminate()


class Outage:
    """Takes the test's database away from everybody who uses it, and gives it back."""

    def __init__(self, server: asyncpg.Connection, database: str) -> None:
        self._server = server
        self._database = database

    async def begin(self) -> None:
        """End all connections; no other can be made."""
        await self._accept(False)
        await self._server.execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = $1",
            self._database,
        )

    async def end(self) -> None:
        """It is there again."""
        await self._accept(True)

    async def _accept(self, accepts: bool) -> None:
        await self._server.execute(
            f"ALTER DATABASE {self._database} WITH ALLOW_CONNECTIONS {accepts}"
        )


@pytest.fixture
async def outage(server_url: str, database_url: str) -> AsyncIterator[Outage]:
    """An outage of this test's database, which the test begins."""
    server = await asyncpg.connect(server_url)
    yield Outage(server, urlsplit(database_url).path.removeprefix("/"))
    server.terminate()


class Statements:
    """What PostgreSQL itself counted of this database's statements, from the last `forget` on."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection

    async def forget(self) -> None:
        await self._connection.execute(
            "SELECT pg_stat_statements_reset(0, oid) FROM pg_database "
            "WHERE datname = current_database()"
        )

    async def calls(self) -> dict[str, int]:
        """How often each file of sql/queries ran; any other statement is named by its text."""
        calls: Counter[str] = Counter()
        for row in await self._rows():
            calls[_NAMES.get(_skeleton(row["query"]), row["query"])] += row["calls"]
        return dict(calls)

    async def buffers(self, name: str) -> int:
        """The buffers that a file's statement has read, in memory or not."""
        rows = [row for row in await self._rows() if _NAMES.get(_skeleton(row["query"])) == name]
        return sum(row["buffers"] for row in rows)

    async def _rows(self) -> list[Any]:
        rows: list[Any] = await self._connection.fetch(
            """
            SELECT query, calls, shared_blks_hit + shared_blks_read AS buffers
            FROM pg_stat_statements
            WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
              AND query NOT LIKE '%pg_stat_statements%'
              -- What asyncpg asks of its own, once a connection and type.
              AND query NOT LIKE '%typeinfo_tree%' AND query NOT LIKE '%set_config(%'
            """
        )
        return rows


def _skeleton(sql: str) -> str:
    """A statement without its comments and its constants, which PostgreSQL replaces."""
    sql = re.sub(r"--.*\n", "", sql)
    sql = re.sub(r"\bIN \([^)]*\)", "IN (?)", sql)
    sql = re.sub(r"'[^']*'|-?\$?\b\d+(?:\.\d+)?\b|\b(true|false|NULL|epoch)\b", "?", sql)
    return " ".join(sql.rstrip("; \n").split())


_NAMES = {
    **{
        _skeleton(path.read_text(encoding="utf-8")): path.stem
        for path in (SQL_ROOT / "queries").glob("*.sql")
    },
    _skeleton(queries.CREATE_UNLOCKED): "create",
    _skeleton(queries.FETCH_AND_LOCK): "fetch_and_lock",
    _skeleton(queries.FETCH_AND_LOCK_FILTERED): "fetch_and_lock filtered",
}


@pytest.fixture
async def statements(connection: asyncpg.Connection) -> Statements:
    """What ran in this test's database."""
    await connection.execute("CREATE EXTENSION pg_stat_statements")
    counted = Statements(connection)
    await counted.forget()
    return counted

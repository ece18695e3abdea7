"""The one PostgreSQL that all contenders run on, and what the harness asks it by itself.

It has its default settings but for the number of connections. That means
durable: fsync and synchronous_commit are on, which is read back and written
down.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import asyncpg
import psutil

from benchmarks.machine import SETTINGS
from broker.embedded import EmbeddedPostgres

_CLOSE_S: Final = 10.0

_CONNECTIONS_MAX: Final = "300"
"""The pools of all contenders at once do not fit into the usual hundred."""


class Database:
    """What the harness asks PostgreSQL by itself."""

    def __init__(self, server: EmbeddedPostgres, admin: asyncpg.Connection[Any], pid: int) -> None:
        self._server = server
        self._admin = admin
        self.pid = pid
        """Of the postmaster."""

    def url(self, name: str) -> str:
        """A database's address."""
        return self._server.url(name)

    async def settings(self) -> dict[str, str]:
        """The settings that matter, as the server has them."""
        query = "SELECT name, current_setting(name) FROM pg_settings WHERE name = ANY($1)"
        found = dict(await self._admin.fetch(query, list(SETTINGS)))
        return {name: found[name] for name in SETTINGS}

    async def create(self, name: str) -> None:
        """Make a database."""
        await self._execute("CREATE DATABASE %I", name)

    async def drop(self, name: str) -> None:
        """Drop a database, whoever is connected."""
        await self._execute("DROP DATABASE IF EXISTS %I WITH (FORCE)", name)

    async def checkpoint(self) -> None:
        """Write everything out, so that no contender pays for the one before."""
        await self._admin.execute("CHECKPOINT")

    async def wal_bytes(self) -> int:
        """How much WAL the server has written since it was made."""
        return int(await self._admin.fetchval("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn"))

    async def transactions(self, name: str) -> int:
        """How many transactions there were in a database. Backends tell within ten seconds."""
        return int(
            await self._admin.fetchval(
                "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = $1", name
            )
        )

    @asynccontextmanager
    async def held_snapshot(self, name: str) -> AsyncIterator[None]:
        """A transaction around the block that has read something, as a long report would."""
        connection = await asyncpg.connect(self.url(name))
        try:
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                await connection.fetchval("SELECT count(*) FROM pg_class")
                yield
        finally:
            await connection.close(timeout=_CLOSE_S)

    async def _execute(self, command: str, name: str) -> None:
        await self._admin.execute(
            await self._admin.fetchval("SELECT format($1::text, $2::text)", command, name)
        )


@asynccontextmanager
async def serving_database(folder: Path) -> AsyncIterator[Database]:
    """A fresh server with its data in `folder`, around the block."""
    with EmbeddedPostgres(folder, settings={"max_connections": _CONNECTIONS_MAX}) as server:
        admin = await asyncpg.connect(server.url("postgres"))
        try:
            # The postmaster is the parent of every backend.
            backend = psutil.Process(await admin.fetchval("SELECT pg_backend_pid()"))
            yield Database(server, admin, backend.ppid())
        finally:
            await admin.close(timeout=_CLOSE_S)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="fetchlock-bench-"))
    try:
        # PostgreSQL's user, who is not root, must get through to its own folder in here.
        folder.chmod(0o755)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)

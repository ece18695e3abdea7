"""Bringing a database to the schema this version needs.

Migrations are forward only: files `NNNN_words.sql`, applied in order, each in
a transaction of its own with the row that records it, under an advisory lock
so that two brokers starting together do not both try. A file that changed
after it was applied is a mismatch, never applied again.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final, NamedTuple

import asyncpg

from broker.store.pool import map_exceptions
from broker.store.queries import SQL_ROOT

_ADVISORY_LOCK: Final = 0x66657463686C6F63
"""Any number nobody else uses in this database: the ASCII of `fetchloc`."""

_BOOKKEEPING: Final = """
CREATE SCHEMA IF NOT EXISTS fetchlock;
CREATE TABLE IF NOT EXISTS fetchlock.migration (
    name       text        PRIMARY KEY,
    checksum   text        NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)
"""
_RECORD: Final = "INSERT INTO fetchlock.migration (name, checksum) VALUES ($1, $2)"
_HAS_BOOKKEEPING: Final = "SELECT to_regclass('fetchlock.migration') IS NOT NULL"
_APPLIED: Final = "SELECT name, checksum FROM fetchlock.migration ORDER BY name"


class Migration(NamedTuple):
    """One file of `sql/migrations/`."""

    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """What is recorded, to notice a file that changed after it was applied."""
        return sha256(self.sql.encode()).hexdigest()


class SchemaMismatch(Exception):
    """The database is not at the schema this version of the broker needs."""


def all_migrations() -> list[Migration]:
    """Every migration this version knows, in the order of their numbers."""
    paths = sorted((SQL_ROOT / "migrations").glob("*.sql"))
    return [Migration(path.stem, path.read_text(encoding="utf-8")) for path in paths]


async def pending(database_url: str) -> list[Migration]:
    """The migrations that are yet to be applied.

    Raises:
        SchemaMismatch: The database is newer than this version, or was changed by hand.
        Unavailable: The database cannot be reached.
    """
    with map_exceptions():
        connection = await asyncpg.connect(database_url)
        try:
            return await _pending(connection)
        finally:
            await connection.close()


async def migrate(database_url: str) -> list[str]:
    """Apply what is pending; answer the names of what was applied.

    Raises:
        SchemaMismatch: The database is newer than this version, or was changed by hand.
        Unavailable: The database cannot be reached.
    """
    with map_exceptions():
        connection = await asyncpg.connect(database_url)
        try:
            await connection.execute("SELECT pg_advisory_lock($1)", _ADVISORY_LOCK)
            await connection.execute(_BOOKKEEPING)
            migrations = await _pending(connection)
            for migration in migrations:
                async with connection.transaction():
                    await connection.execute(migration.sql)
                    await connection.execute(_RECORD, migration.name, migration.checksum)
            return [migration.name for migration in migrations]
        finally:
            await connection.close()  # Which lets go of the advisory lock.


async def check_schema(pool: asyncpg.Pool) -> None:
    """Refuse a database that is not at exactly this version's schema.

    Raises:
        SchemaMismatch: With what to run.
        Unavailable: The database cannot be reached.
    """
    with map_exceptions():
        async with pool.acquire() as connection:
            migrations = await _pending(connection)
    if migrations:
        names = ", ".join(migration.name for migration in migrations)
        raise SchemaMismatch(f"the database lacks {names}; run: fetchlock migrate")


_Connection = asyncpg.Connection | asyncpg.pool.PoolConnectionProxy


async def _pending(connection: _Connection) -> list[Migration]:
    if not await connection.fetchval(_HAS_BOOKKEEPING):
        return all_migrations()
    applied = {row["name"]: row["checksum"] for row in await connection.fetch(_APPLIED)}
    known = {migration.name: migration for migration in all_migrations()}
    if unknown := sorted(applied.keys() - known.keys()):
        raise SchemaMismatch(
            f"the database has {', '.join(unknown)}, which this version does not know; "
            "run a newer version of fetchlock"
        )
    for name, checksum in applied.items():
        if known[name].checksum != checksum:
            raise SchemaMismatch(f"migration {name} is not the one that was applied")
    return [migration for name, migration in known.items() if name not in applied]

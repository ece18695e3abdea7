"""Bringing a database up: once, in order, and never past what was changed by hand."""

from __future__ import annotations

from pathlib import Path

import anyio
import asyncpg
import pytest

from broker.core import open_core
from broker.errors import Unavailable
from broker.settings import Settings
from broker.store import SchemaMismatch, migrate, migrations, pending
from broker.store.queries import SQL_ROOT

Connection = asyncpg.Connection

NAMES = sorted(path.stem for path in (SQL_ROOT / "migrations").glob("*.sql"))


@pytest.fixture
async def empty_url(database_url: str) -> str:
    """A database that nobody has migrated."""
    connection = await asyncpg.connect(database_url)
    await connection.execute("DROP SCHEMA fetchlock CASCADE")
    await connection.close()
    return database_url


@pytest.fixture
def one_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A version of the broker that has one more migration: the directory of all of them."""
    directory = tmp_path / "migrations"
    directory.mkdir()
    for path in (SQL_ROOT / "migrations").glob("*.sql"):
        (directory / path.name).write_bytes(path.read_bytes())
    (directory / "9999_later.sql").write_text("CREATE TABLE fetchlock.later ();")
    monkeypatch.setattr(migrations, "SQL_ROOT", tmp_path)
    return directory


async def test_an_empty_database_is_migrated_once(empty_url: str) -> None:
    assert [migration.name for migration in await pending(empty_url)] == NAMES
    assert await migrate(empty_url) == NAMES
    assert await pending(empty_url) == []
    assert await migrate(empty_url) == []


async def test_only_what_is_missing_is_applied(database_url: str, one_more: Path) -> None:
    assert await migrate(database_url) == ["9999_later"]
    assert await migrate(database_url) == []


async def test_a_migration_that_fails_leaves_nothing(
    database_url: str, connection: Connection, one_more: Path
) -> None:
    broken = "CREATE TABLE fetchlock.half (); SELECT 1 / 0;"
    (one_more / "9999_later.sql").write_text(broken)
    with pytest.raises(Exception, match="division by zero"):
        await migrate(database_url)
    assert await connection.fetchval("SELECT to_regclass('fetchlock.half') IS NULL")
    assert [migration.name for migration in await pending(database_url)] == ["9999_later"]


async def test_brokers_that_start_together_migrate_once(empty_url: str) -> None:
    applied: list[list[str]] = []

    async def run() -> None:
        applied.append(await migrate(empty_url))

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(run)
    assert sorted(applied) == [[], [], NAMES]


async def test_a_broker_refuses_an_older_schema_and_says_what_to_run(
    settings: Settings, one_more: Path
) -> None:
    with pytest.raises(SchemaMismatch, match=r"9999_later.*fetchlock migrate"):
        async with open_core(settings):
            pass


async def test_a_broker_refuses_a_newer_schema(settings: Settings, connection: Connection) -> None:
    await connection.execute(
        "INSERT INTO fetchlock.migration (name, checksum) VALUES ('9999_later', '')"
    )
    assert settings.database_url is not None
    with pytest.raises(SchemaMismatch, match="9999_later"):
        async with open_core(settings):
            pass
    with pytest.raises(SchemaMismatch, match="9999_later"):
        await migrate(settings.database_url)


async def test_a_broker_refuses_a_migration_that_was_changed_after_it_was_applied(
    settings: Settings, connection: Connection
) -> None:
    await connection.execute("UPDATE fetchlock.migration SET checksum = ''")
    with pytest.raises(SchemaMismatch, match=NAMES[0]):
        async with open_core(settings):
            pass


async def test_a_database_without_any_schema_is_told_apart(empty_url: str) -> None:
    with pytest.raises(SchemaMismatch, match=NAMES[0]):
        async with open_core(Settings(database_url=empty_url)):
            pass


async def test_a_database_that_is_away_is_unavailable() -> None:
    with pytest.raises(Unavailable):
        await migrate("postgresql://nobody@/no?host=/nowhere")


def test_the_names_have_numbers_that_count_up() -> None:
    assert [int(name[:4]) for name in NAMES] == list(range(1, len(NAMES) + 1))
    assert all(name[4] == "_" for name in NAMES)

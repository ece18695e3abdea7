"""Bringing a database up: once, in order, and never past what was changed by hand."""

from __future__ import annotations

import itertools
from pathlib import Path

import anyio
import asyncpg
import pytest

from broker.core import open_core
from broker.errors import Unavailable
from broker.settings import Settings
from broker.store import SchemaMismatch, Store, migrate, migrations, pending
from broker.store.queries import SQL_ROOT
from tests.factories import create, lock, shown

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


# What a migration does with the data of before ------------------------------------

LANE_OF_BEFORE = """
    INSERT INTO fetchlock.lane (topic, process_definition_id, priority, shard)
    VALUES ($1, $2, $3, 0) ON CONFLICT DO NOTHING
"""
TASK_OF_BEFORE = """
    WITH task AS (
        INSERT INTO fetchlock.task (id, lane_id, shard, process_definition_key, variables)
        SELECT fetchlock.first_id(now() - $5 * interval '1 second'), lane_id, 0, $4, '{"n": 1.0}'
        FROM fetchlock.lane WHERE (topic, process_definition_id, priority) = ($1, $2, $3)
        RETURNING *
    ), opened AS (
        INSERT INTO fetchlock.open_task (
            id, position, available_at, lane_id, state, retries, size_bytes, shard, returned)
        SELECT id, nextval('fetchlock.position'), now(), lane_id, 'ready', 3, 10, 0, false
        FROM task WHERE $6
    ), finished AS (
        INSERT INTO fetchlock.outcome (
            id, lane_id, state, retries, attempt, failures, expiries, shard, result)
        SELECT id, lane_id, 'completed', 3, 1, 0, 0, 0, '{}' FROM task WHERE NOT $6
    )
    SELECT id::text FROM task
"""
SAME_LANES = """
    SELECT count(*) FROM fetchlock.task t
    JOIN (SELECT id, lane_id FROM fetchlock.open_task
          UNION ALL SELECT id, lane_id FROM fetchlock.outcome) o USING (id, lane_id)
"""
LANES_OF_BEFORE = [("t", "", 0), ("t", "p:1", 0), ("t", "", 5), ("u", "", 0)]
KEYS_OF_BEFORE = [None, "", "a", "b"]


@pytest.fixture
async def old_url(empty_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database at the schema of the migration 0004."""
    directory = tmp_path / "old" / "migrations"
    directory.mkdir(parents=True)
    for name in NAMES[:4]:
        (directory / f"{name}.sql").write_bytes(
            (SQL_ROOT / "migrations" / f"{name}.sql").read_bytes()
        )
    with monkeypatch.context() as before:
        before.setattr(migrations, "SQL_ROOT", directory.parent)
        assert await migrate(empty_url) == NAMES[:4]
    return empty_url


async def test_a_definitions_key_becomes_part_of_the_lane(
    old_url: str, connection: Connection, store: Store
) -> None:
    """Of finished tasks, too: a task has no key of its own any more."""
    for lane in LANES_OF_BEFORE:
        await connection.execute(LANE_OF_BEFORE, *lane)
    tasks = list(itertools.product(LANES_OF_BEFORE, KEYS_OF_BEFORE, [True, False], range(2)))
    ids = [
        await connection.fetchval(TASK_OF_BEFORE, *lane, key, place, is_open)
        for place, (lane, key, is_open, _) in enumerate(tasks)
    ]
    assert await migrate(old_url) == NAMES[4:]
    for task_id, ((topic, definition, priority), key, is_open, _) in zip(ids, tasks, strict=True):
        task = await shown(store, task_id)
        assert (task["topic"], task["priority"]) == (topic, priority)
        assert task["processDefinitionId"] == (definition or None)
        assert task["processDefinitionKey"] == (key or None)
        assert task["processDefinitionVersionTag"] is task["tenantId"] is None
        assert (task["variables"], task["state"] == "CREATED") == ({"n": 1.0}, is_open)
    lanes = await connection.fetchval("SELECT count(*) FROM fetchlock.lane")
    assert lanes == len(LANES_OF_BEFORE) * 3
    assert await connection.fetchval(SAME_LANES) == len(tasks)
    # Every task is found, in the old order.
    await store.load_lanes()
    assert [task["id"] for task in await lock(store, 99)] == [
        task_id
        for wanted in (5, 0)
        for task_id, ((topic, _, priority), _, is_open, _) in zip(ids, tasks, strict=True)
        if (topic, priority, is_open) == ("t", wanted, True)
    ]
    await create(store, {"processDefinitionKey": "a"})
    assert await connection.fetchval("SELECT count(*) FROM fetchlock.lane") == lanes

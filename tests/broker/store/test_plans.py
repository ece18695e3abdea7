"""Plans are part of correctness: no statement may ever walk a table.

Each is explained with the statistics of empty tables and with those of a
million rows, as the planner sees it with its arguments and without them; and
with a million rows it is run, to count what it reads.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

import asyncpg
import msgspec
import pytest

from broker.store import open_pool
from broker.store.database import SHARD
from tests.broker.store.test_queries import STATEMENTS
from tests.conftest import database_on

Connection = asyncpg.pool.PoolConnectionProxy

_KEYS: Final = {
    # index: the columns that a scan of it must be bound by
    "open_task_pkey": {"id"},
    "open_task_ready": {"lane_id", "returned"},
    "open_task_locked": {"lock_expires_at"},
    "open_task_delayed": {"available_at"},
    "task_pkey": {"id"},
    "outcome_pkey": {"id"},
    "lane_pkey": {"lane_id"},
    "lane_topic_tenant_id_process_definition_id_priority_shard_key": {"topic"},
    "unique_key_pkey": {"key"},
}

_RANGES: Final = {
    # statement: what its scan of a range must be bound by besides
    "create": {("open_task_ready", "position")},
    "fetch_and_lock": {("open_task_ready", "position")},
    "ready_lanes": {("open_task_ready", "position")},
    "release_due": {
        ("open_task_locked", "lock_expires_at"),
        ("open_task_delayed", "available_at"),
    },
    "list_tasks": {("task_pkey", "id")},
    "load_lanes": {("lane_pkey", "lane_id")},
}

_BUFFERS_MAX: Final = 1_500
"""A statement below is about ten tasks. One walk of a million rows reads ten times as many."""

_FILL: Final = """
INSERT INTO fetchlock.lane (topic, priority, shard)
SELECT 'topic-' || n / 2, n % 2, 0 FROM generate_series(0, 199) n;

INSERT INTO fetchlock.task (id, lane_id, shard, business_key, variables)
SELECT pg_temp.id(n), 1 + n % 200, 0, CASE n % 10 WHEN 0 THEN 'order-' || n END, '{}'
FROM generate_series(700001, 1200000) n;

DROP INDEX fetchlock.open_task_ready;
INSERT INTO fetchlock.open_task (
    id, position, available_at, locked_at, lock_expires_at, lock_token, lane_id, state, retries,
    size_bytes, shard, returned, worker_id)
SELECT pg_temp.id(n), n, now() + n * interval '10 ms', CASE WHEN is_locked THEN now() END,
       CASE WHEN is_locked THEN now() + (n - 1000) * interval '10 ms' END,
       CASE WHEN is_locked THEN gen_random_uuid() END, 1 + n % 200,
       (ARRAY['ready', 'ready', 'delayed', 'failed', 'locked'])[1 + n / 200 % 5]
           ::fetchlock.open_state,
       3, 100, 0, n % 7 = 0, CASE WHEN is_locked THEN 'w1' END
FROM (SELECT n, n / 200 % 5 = 4 AS is_locked FROM generate_series(1, 1000000) n) f;
CREATE INDEX open_task_ready ON fetchlock.open_task (lane_id, returned, position)
    WHERE state = 'ready';

INSERT INTO fetchlock.outcome (
    id, lane_id, state, retries, attempt, failures, expiries, shard, worker_id, result)
SELECT pg_temp.id(n), 1 + n % 200, 'completed', 3, 1, 0, 0, 0, 'w1', '{}'
FROM generate_series(1000001, 1200000) n;

INSERT INTO fetchlock.unique_key (task_id, shard, key, fingerprint)
SELECT pg_temp.id(n), 0, 'key-' || n, md5('') FROM generate_series(1, 100000) n;

SELECT setval('fetchlock.position', 1000000);
ANALYZE;
"""

_ID: Final = """
CREATE FUNCTION pg_temp.id(n integer) RETURNS uuid LANGUAGE sql STABLE AS $$
    SELECT (lpad(to_hex((extract(epoch FROM now()) * 1000)::bigint - (1200000 - n) * 400::bigint), 12, '0')
            || '70008000' || lpad(to_hex(n), 12, '0'))::uuid
$$
"""

_TASKS: Final = """
SELECT array_agg(id::text) AS ids FROM (
    SELECT id FROM fetchlock.open_task WHERE state = 'locked' AND lock_expires_at > now()
    ORDER BY lock_expires_at LIMIT 10) t
"""


@pytest.fixture(scope="module", params=["empty", "a million rows"])
async def explained(
    request: pytest.FixtureRequest, server_url: str, template_database: str
) -> AsyncIterator[Connection]:
    """A connection of the broker's, on tables that were analysed empty or full."""
    name = f"plans_{uuid.uuid4().hex}"
    server = await asyncpg.connect(server_url)
    await server.execute(f"CREATE DATABASE {name} TEMPLATE {template_database} STRATEGY FILE_COPY")
    pool = await open_pool(database_on(server_url, name), size=1, statement_timeout_ms=100_000)
    async with pool.acquire() as connection:
        await connection.execute("ANALYZE" if request.param == "empty" else _ID + ";" + _FILL)
        yield connection
    pool.terminate()
    await server.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await server.close()


def _request(ids: list[str], **members: Any) -> list[str]:
    tasks = [{"id": task_id} | members for task_id in ids]
    return [msgspec.json.encode({"workerId": "w1", "tasks": tasks}).decode()]


def arguments(name: str, ids: list[str]) -> list[Any]:
    """What a statement is called with, about ten tasks."""
    created = [
        msgspec.json.encode({"tasks": [{"topic": "topic-1", "uniqueKey": f"k{n}"}]}).decode()
        for n in range(10)
    ]
    lanes = list(range(1, 11))
    scans = [
        [*lanes, *lanes], [n % 2 for n in lanes] * 2, [True] * 10 + [False] * 10,
        [500_000] * 20, [60_000] * 20, [None] * 20, ['"topic":"t"'] * 20, ["w1", "w2"], [5, 10],
    ]  # fmt: skip
    after: dict[str, list[Any]] = {
        "bpmn_error": [_request(ids, errorCode="E")],
        "cancel": [ids[0], "reason"],
        "complete": [_request(ids, variables={"a": 1})],
        "create": [created, 3, True, *scans],
        "create_unlocked": [created, 3, True],
        "extend_lock": [_request(ids, lockDurationMs=60_000)],
        "fail": [_request(ids, errorMessage="m"), 1_000.0, 2.0, 300_000.0],
        "fetch_and_lock": [*scans, 2**24],
        "first_tasks": [[f"key-{n}" for n in range(10)]],
        "finished_tasks": [ids],
        "get_tasks": [ids],
        "list_tasks": [
            "topic-1", None, None, None, None,
            uuid.UUID(int=0), uuid.UUID(int=2**128 - 1), 10, 100,
        ],
        "load_lanes": [190],
        "make_lanes": [created, 255, 256],
        "make_partitions": [],
        "ready_lanes": [lanes, [500_000] * 10, 190],
        "refusals": [_request(ids), "completed"],
        "release_due": [5_000.0, 10, 5, 1_000.0],
        "retries": [ids[0], 3],
        "retry_timeout": [ids[0], 60_000],
        "unlock": [_request(ids)],
    }  # fmt: skip
    return after[name] if name == "make_partitions" else [SHARD, *after[name]]


def literal(value: Any) -> str:
    """An argument of EXECUTE."""
    if value is None:
        return "NULL"
    if isinstance(value, list):
        elements = (
            "NULL" if element is None else msgspec.json.encode(str(element)).decode()
            for element in value
        )
        value = f"{{{','.join(elements)}}}"
    return "'{}'".format(str(value).replace("'", "''"))


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


def check(name: str, plan: dict[str, Any], *, is_empty: bool) -> None:
    """Every table is reached by an index, and the index by the columns it is ordered by."""
    bound: set[tuple[str, str]] = set()
    for node in nodes(plan):
        kind = node["Node Type"]
        assert "Relation Name" not in node or kind in (
            "Index Scan", "Index Only Scan", "ModifyTable",
        ), node  # fmt: skip
        if "Index Name" in node:
            # A partition's index has the partition's name: task_2026_06_01_pkey.
            index = re.sub(r"_\d{4}_\d\d_\d\d", "", node["Index Name"])
            columns = set(re.findall(r"\w+", node.get("Index Cond", "")))
            # Of an empty table, whose pages are none, all indexes cost the same. A lane's are both
            # short then, and it is analysed with its first row.
            assert _KEYS[index] <= columns or (is_empty and node["Relation Name"] == "lane"), node
            bound |= {(index, column) for column in columns}
        if kind == "Sort":
            # The order that a range is wanted in is the order of its index.
            assert "open_task_ready" not in {n.get("Index Name") for n in node["Plans"]}, node
    assert _RANGES.get(name, set()) <= bound


@pytest.mark.parametrize("name", STATEMENTS)
async def test_no_statement_walks_a_table(explained: Connection, name: str) -> None:
    text = STATEMENTS[name]
    ids = await explained.fetchval(_TASKS) or [str(uuid.uuid4()) for _ in range(10)]
    given = arguments(name, ids)
    is_empty = not await explained.fetchval("SELECT EXISTS (SELECT FROM fetchlock.lane)")

    await explained.execute("SET plan_cache_mode = force_generic_plan")
    await explained.execute(f"PREPARE generic AS {text}")
    literals = f"({', '.join(map(literal, given))})" if given else ""
    generic = await explained.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE generic {literals}")
    await explained.execute("DEALLOCATE generic; RESET plan_cache_mode")
    check(name, msgspec.json.decode(generic)[0]["Plan"], is_empty=is_empty)

    async with explained.transaction():
        seen = await explained.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {text}", *given)
        plan = msgspec.json.decode(seen)[0]["Plan"]
        check(name, plan, is_empty=is_empty)
        assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < _BUFFERS_MAX

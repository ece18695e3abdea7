"""Plans are part of correctness: no statement may ever walk a table.

Each is explained with the statistics of empty tables and with those of a
million rows, as the planner sees it with its arguments and without them; and
with a million rows it is run, to count what it reads.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any, Final

import asyncpg
import msgspec
import pytest

from broker.store import open_pool
from broker.store.cursor import first_id
from broker.store.database import SHARD
from tests.broker.store.test_queries import STATEMENTS
from tests.conftest import database_on
from tests.factories import TaskJson

Connection = asyncpg.pool.PoolConnectionProxy

_KEYS: Final = {
    # index: the columns that a scan of it must be bound by
    "open_task_pkey": {"id"},
    "open_task_ready": {"lane_id", "returned"},
    "open_task_locked": {"lock_expires_at"},
    "open_task_delayed": {"available_at"},
    "open_task_let_go": {"lock_expires_at"},
    "open_task_awaiting": {"lock_expires_at"},
    "open_task_deadline": {"deadline_at"},
    "task_pkey": {"id"},
    "task_process_instance_id_id_idx": {"process_instance_id"},
    "outcome_pkey": {"id"},
    "progress_pkey": {"id"},
    "log_line_pkey": {"id"},
    "callback_pkey": {"id"},
    "worker_pkey": {"worker_id"},
    # There are a few, and all of them are wanted.
    "signing_key_pkey": set(),
    "lane_pkey": {"lane_id"},
    "lane_topic_variant_priority_shard_key": {"topic"},
    "unique_key_pkey": {"key"},
    "topic_pkey": {"topic"},
}

_RANGES: Final = {
    # statement: what its scan of a range must be bound by besides
    "create": {("open_task_ready", "position")},
    "fetch_and_lock": {("open_task_ready", "position")},
    "fetch_and_lock_filtered": {("open_task_ready", "position")},
    "ready_lanes": {("open_task_ready", "position")},
    "release_due": {
        ("open_task_locked", "lock_expires_at"),
        ("open_task_let_go", "lock_expires_at"),
        ("open_task_delayed", "available_at"),
        ("open_task_awaiting", "lock_expires_at"),
        ("open_task_deadline", "deadline_at"),
    },
    "settle_due": {
        ("open_task_let_go", "lock_expires_at"),
        ("open_task_awaiting", "lock_expires_at"),
        ("open_task_deadline", "deadline_at"),
    },
    "log_lines": {("log_line_pkey", "number")},
    "list_tasks": {("task_pkey", "id")},
    "load_lanes": {("lane_pkey", "lane_id")},
    "search": {
        ("open_task_locked", "lock_expires_at"), ("task_process_instance_id_id_idx", "process_instance_id"),
    },
    "count": {("open_task_locked", "lock_expires_at")},
    "topics": {("open_task_locked", "lock_expires_at")},
}  # fmt: skip

_WITHOUT_SHARD: Final = {"make_partitions", "signing_keys"}
"""They are about the database, not about tasks."""

_BUFFERS_MAX: Final = 1_500
"""A statement below is about ten tasks. One walk of a million rows reads ten times as many."""

_WALKS: Final = {
    # case: the buffers it may read of a million open tasks
    "count of everything": 40_000,
    "search of everything": 40_000,
    "search of a topic": 3_000_000,
    "topics": 40_000,
}
"""Searches that no index serves walk along all open tasks, by their ids: most of them once
along the table, or with a look at each task's lane. The statement's timeout bounds them."""

_FILL: Final = """
INSERT INTO fetchlock.lane (topic, priority, shard)
SELECT 'topic-' || n / 2, n % 2, 0 FROM generate_series(0, 199) n;

INSERT INTO fetchlock.task (id, lane_id, shard, business_key, variables)
SELECT pg_temp.id(n), 1 + n % 200, 0, CASE n % 10 WHEN 0 THEN 'order-' || n END, '{}'
FROM generate_series(1, 1200000) n
-- The first ones are those that the statements below are about.
WHERE n <= 50000 OR n > 700000;

DROP INDEX fetchlock.open_task_ready;
INSERT INTO fetchlock.open_task (
    id, position, available_at, locked_at, lock_expires_at, lock_token, lane_id, state, retries,
    size_bytes, shard, returned, worker_id, total_expires_at, deadline_at, reported,
    cancel_requested)
SELECT pg_temp.id(n), n, now() + n * interval '10 ms', CASE WHEN is_locked OR is_awaiting THEN now() END,
       CASE WHEN is_locked OR is_awaiting THEN now() + (n - 1400) * interval '10 ms' END,
       CASE WHEN is_locked OR is_awaiting THEN gen_random_uuid() END, 1 + n % 200,
       (ARRAY['ready', 'ready', 'delayed', 'failed', 'locked', 'awaiting'])[1 + n / 200 % 6]
           ::fetchlock.open_state,
       3, 100, 0, n % 7 = 0, CASE WHEN is_locked THEN 'w1' END, deadline_at, deadline_at,
       n % 3 = 0, n % 11 = 0 AND is_locked
FROM (
    SELECT n, n / 200 % 6 = 4 AS is_locked, n / 200 % 6 = 5 AS is_awaiting,
           CASE WHEN n % 4 = 0 THEN now() + (n - 400) * interval '10 ms' END AS deadline_at
    FROM generate_series(1, 1000000) n
) f;
CREATE INDEX open_task_ready ON fetchlock.open_task (lane_id, returned, position)
    WHERE state = 'ready';

INSERT INTO fetchlock.outcome (
    id, lane_id, state, retries, attempt, failures, expiries, shard, worker_id, result)
SELECT pg_temp.id(n), 1 + n % 200, 'completed', 3, 1, 0, 0, 0, 'w1', '{}'
FROM generate_series(1000001, 1200000) n;

INSERT INTO fetchlock.progress (id, shard, updated_at, percent, log_lines, checkpoint)
SELECT pg_temp.id(n), 0, now(), n % 100, 2, '{}' FROM generate_series(3, 1000000, 3) n;

INSERT INTO fetchlock.log_line (id, shard, number, line)
SELECT pg_temp.id(n), 0, number, 'line' FROM generate_series(3, 300000, 3) n, generate_series(1, 2) number;

INSERT INTO fetchlock.callback (id, lock_token, shard, expires_at, own_result)
SELECT id, lock_token, 0, lock_expires_at, '{}' FROM fetchlock.open_task
WHERE position % 2 = 0 AND lock_token IS NOT NULL;

INSERT INTO fetchlock.worker (worker_id, shard)
SELECT 'worker-' || n, 0 FROM generate_series(1, 10000) n;

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
SELECT id::text, lock_token::text AS "lockToken" FROM fetchlock.open_task
WHERE state = 'locked' AND lock_expires_at > now()
ORDER BY lock_expires_at LIMIT 10
"""

_UNANSWERED: Final = """
SELECT id::text FROM fetchlock.open_task WHERE state = 'awaiting' AND lock_expires_at <= now()
ORDER BY lock_expires_at DESC LIMIT 10
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


def _request(tasks: list[TaskJson], **members: Any) -> list[str]:
    said = [task | members for task in tasks]
    request = {"workerId": "w1", "lockDurationMs": 60_000, "tasks": said}
    return [msgspec.json.encode(request).decode()]


def arguments(name: str, tasks: list[TaskJson], unanswered: list[str]) -> list[Any]:
    """What a statement is called with, about ten tasks."""
    ids = [task["id"] for task in tasks]
    created = [
        msgspec.json.encode({"tasks": [{"topic": "topic-1", "uniqueKey": f"k{n}"}]}).decode()
        for n in range(10)
    ]
    lanes = list(range(1, 11))
    scans = [
        [*lanes, *lanes], [n % 2 for n in lanes] * 2, [True] * 10 + [False] * 10,
        [500_000] * 20, [60_000] * 20, [None] * 20, ['"topic":"t"'] * 20, ["w1", "w2"], [5, 10],
    ]  # fmt: skip
    pairs = ['[["a",1],["b",2]]']
    filters = ["order-7", None] * 10, [None] * 20
    first_filter = [None] * 20, [1] * 20
    after: dict[str, list[Any]] = {
        "bpmn_error": [_request(tasks, errorCode="E")],
        "callback": [_request(tasks, isSuccess=True, logs=["l"], subtext="s")],
        "callback_refusals": [_request(tasks, isSuccess=True)],
        "callback_url": [_request(tasks, timeoutMs=60_000), 60_000],
        "cancel": [ids[0], "reason"],
        "complete": [_request(tasks, variables={"a": 1})],
        "count": ['{"locked":true,"lockExpiresBefore":"2000-01-01T00:00:00Z"}'],
        "count of everything": ["{}"],
        "create": [created, 3, True, *scans],
        "create_unlocked": [created, 3, True],
        "drain": ["worker-1", True],
        "extend_lock": [_request(tasks, lockDurationMs=60_000)],
        "fail": [
            _request(tasks, errorMessage="m", variables={"a": 1}), 1_000.0, 2.0, 300_000.0, 10_000,
        ],
        "fetch_and_lock": [*scans, 2**24],
        "fetch_and_lock_filtered": [*scans, 2**24, *filters, False, 10, []],
        "fetch_and_lock_filtered by variables": [
            *scans, 2**24, *first_filter, False, 10, pairs,
        ],
        "fetch_and_lock_filtered newest first": [*scans, 2**24, *filters, True, 10, []],
        "first_tasks": [[f"key-{n}" for n in range(10)]],
        "finished_tasks": [ids],
        "get_tasks": [ids],
        "hand_over": [_request(tasks, variables={"a": 1}), 60_000],
        "heartbeat": [
            _request(tasks, sequence=1, percent=1, logs=["l"], checkpoint={"a": 1}), 100, 100, 100,
        ],
        "instance_tasks": [ids[0], 10],
        "lane_beside": [ids[0], 7, 256, 4_096],
        "late_work": ["topic-1", True],
        "lock": [ids[0], "w1", 60_000, 5],
        "list_tasks": [
            "topic-1", None, None, None, None,
            uuid.UUID(int=0), uuid.UUID(int=2**128 - 1), 10, 100,
        ],
        "load_lanes": [190],
        "log_lines": [uuid.UUID(ids[0]), 1, 10, 2**20],
        "make_lanes": [created, 255, 256, 4_096],
        "make_partitions": [],
        "priority": [ids[0], 1],
        "ready_lanes": [lanes, [500_000] * 10, 190],
        "refusals": [_request(tasks), "completed"],
        "release_due": [5_000.0, 10, 5, 1_000.0],
        "retries": [ids[:5], 3, ids[5:]],
        "retry_timeout": [ids[0], 60_000],
        "search": [
            msgspec.json.encode({"ids": ids, "topic": "topic-1"}).decode(),
            ["createTime", "taskPriority"], [True, False], 0, 10,
        ],
        "search of a process instance": [
            msgspec.json.encode({"processInstanceIds": [*ids, "p"]}).decode(), [], [], 0, 10,
        ],
        "search of a topic": ['{"topic":"topic-1"}', [], [], 0, 10],
        "search of everything": ["{}", [], [], 0, 10],
        "settle_due": [None, 5_000.0, 10, 1_000.0, 2.0, 300_000.0],
        "settle_due of some tasks": [unanswered, None, 10, 1_000.0, 2.0, 300_000.0],
        "signing_keys": [],
        "subtext": [ids[0], "s"],
        "topics": ['{"withRetriesLeft":true}'],
        "unlock": [_request(tasks)],
        "variable": [ids, "a"],
        "variables": [ids[:5], '{"a":1}', None, ["b"], 10_000, ids[5:]],
    }  # fmt: skip
    return after[name] if name in _WITHOUT_SHARD else [SHARD, *after[name]]


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


CASES: Final = [
    *STATEMENTS,
    "settle_due of some tasks",
    "fetch_and_lock_filtered by variables",
    "fetch_and_lock_filtered newest first",
    "search of a process instance",
    "search of a topic",
    "search of everything",
    "count of everything",
]


@pytest.mark.parametrize("case", CASES)
async def test_no_statement_walks_a_table(explained: Connection, case: str) -> None:
    name, _, _ = case.partition(" ")
    text = STATEMENTS[name]
    is_empty = not await explained.fetchval("SELECT EXISTS (SELECT FROM fetchlock.lane)")
    tasks = [dict(row) for row in await explained.fetch(_TASKS)]
    unanswered = [row["id"] for row in await explained.fetch(_UNANSWERED)]
    assert len(tasks) == len(unanswered) in (0, 10)
    nobody = {"id": str(first_id(datetime.now(UTC))), "lockToken": str(uuid.uuid4())}
    given = arguments(case, tasks or [nobody] * 10, unanswered or [nobody["id"]])

    await explained.execute("SET plan_cache_mode = force_generic_plan")
    await explained.execute(f"PREPARE generic AS {text}")
    literals = f"({', '.join(map(literal, given))})" if given else ""
    generic = await explained.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE generic {literals}")
    await explained.execute("DEALLOCATE generic; RESET plan_cache_mode")
    check(name, msgspec.json.decode(generic)[0]["Plan"], is_empty=is_empty)

    async with explained.transaction():
        seen = await explained.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {text}", *given)
        plan = msgspec.json.decode(seen)[0]["Plan"]
        # Of a custom plan, what a given argument rules out is not a part.
        check(name if name == case else "", plan, is_empty=is_empty)
        buffers = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
        assert buffers < _WALKS.get(case, _BUFFERS_MAX)

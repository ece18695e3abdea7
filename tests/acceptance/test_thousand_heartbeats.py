"""A worker with a thousand running tasks, all of them with news: one request, one statement."""

from __future__ import annotations

from datetime import datetime
from typing import Final

import asyncpg
import pytest

from tests.acceptance.scene import LOAD_S, Gate, Ledger, WorkerProcess, metric
from tests.broker.conftest import Statements
from tests.eventually import eventually
from worker_sdk import Client

pytestmark = pytest.mark.acceptance

TASKS: Final = 1_000
LOCK_MS: Final = 3_000
BEATS: Final = 4

_ROUTE: Final = "/api/workers/{workerId}/heartbeat"
# What one statement writes has one time.
_TOLD: Final = """
    SELECT min(updated_at) AS told_at, count(*) AS tasks FROM fetchlock.progress
    HAVING min(updated_at) = max(updated_at)
"""


async def test_one_statement_for_all(
    broker: str, client: Client, database_url: str, ledger: Ledger, gate: Gate
) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute("CREATE EXTENSION pg_stat_statements")
        statements = Statements(connection)
        await statements.forget()
        answers = await client.create_batch([gate.task("reporting")] * TASKS)
        with WorkerProcess(broker, "one", concurrency=TASKS, lock_duration_ms=LOCK_MS) as worker:
            seen: set[datetime] = set()
            while len(seen) < BEATS:
                told_at = await eventually(lambda: _told_at_once(ledger, seen), within_s=LOAD_S)
                assert told_at is not None
                seen.add(told_at)
            # And until locks that nobody renewed would have run out.
            await eventually(lambda: _are_renewed(ledger))
            gate.open()
            await eventually(lambda: ledger.has_finished(TASKS), within_s=LOAD_S)
            assert worker.stop() == 0
        calls = await statements.calls()
        requests = await metric(
            broker, "fetchlock_http_request_duration_seconds_count", route=_ROUTE, status="200"
        )
    finally:
        await connection.close()
    assert calls["heartbeat"] == requests
    assert "extend_lock" not in calls
    # Nobody has lost a lock: none ran out, and none was taken a second time.
    for outcome in (await ledger.assert_each_completed_once(map(str, answers))).values():
        assert outcome == ("completed", "one", 1, 0, 0)


async def _are_renewed(ledger: Ledger) -> bool:
    """Whether all locks would have run out by now, had nobody renewed them."""
    rows = await ledger.rows(
        "SELECT FROM fetchlock.open_task"
        " WHERE locked_at + interval '1 millisecond' * $1 > now() OR state <> 'locked'",
        LOCK_MS,
    )
    return not rows


async def _told_at_once(ledger: Ledger, seen: set[datetime]) -> datetime | None:
    """When the last news of all tasks were written, if that was one instant, and a new one."""
    rows = await ledger.rows(_TOLD)
    if not rows or rows[0]["tasks"] < TASKS or rows[0]["told_at"] in seen:
        return None
    told_at: datetime = rows[0]["told_at"]
    return told_at

"""What the acceptance tests share: worker processes, loads, and a look at the books.

How a task ended is read from the database's own tables, over a connection that
is made for each look: nothing of the broker under test may vouch for itself,
and a look must work again as soon as a killed database does.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import asyncpg
import httpx2
import msgspec
from anyio import to_thread
from prometheus_client.parser import text_string_to_metric_families

from tests.processes import PythonProcess
from worker_sdk import Client, NewTask

LOCK_MS: Final = 2_000
"""Locks of workers that will be killed: how long the others wait for their tasks."""

LOAD_S: Final = 60.0
"""For a whole load to be done, on a machine that is busy with other things besides."""

_BATCH: Final = 1_000


class WorkerProcess(PythonProcess):
    """`tests.acceptance.worker` with the `Worker`'s own options."""

    def __init__(self, base_url: str, worker_id: str, **options: Any) -> None:
        told = {
            "base_url": base_url,
            "worker_id": worker_id,
            "lock_duration_ms": LOCK_MS,
            **options,
        }
        super().__init__(["-m", "tests.acceptance.worker", msgspec.json.encode(told).decode()])

    async def says(self) -> str:
        """Its next line."""
        return await to_thread.run_sync(self.await_line)


class Gate:
    """What gated handlers wait for: files, because they are in other processes."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def open(self, attempt: int = 1) -> None:
        """Let this attempt at the gate's tasks come to its end, or go this step."""
        Path(f"{self._path}{attempt}").touch()

    def task(self, topic: str, **settings: Any) -> NewTask:
        """A task on a topic whose handler waits for this gate."""
        return NewTask(topic, {"gate": str(self._path)}, **settings)


class Outcome(NamedTuple):
    """A row of `outcome`."""

    state: str
    worker_id: str
    attempt: int
    failures: int
    expiries: int


class Ledger:
    """The tables of tasks, as PostgreSQL has them."""

    def __init__(self, database_url: str) -> None:
        self._database_url = database_url

    async def rows(self, sql: str, *parameters: object) -> list[asyncpg.Record]:
        """What a statement returns, over a connection of its own."""
        connection = await asyncpg.connect(self._database_url)
        try:
            return list(await connection.fetch(sql, *parameters))
        finally:
            await connection.close()

    async def finished(self) -> int:
        """How many tasks have an outcome."""
        [row] = await self.rows("SELECT count(*) AS tasks FROM fetchlock.outcome")
        return int(row["tasks"])

    async def has_finished(self, tasks: int) -> bool:
        """Whether so many tasks have an outcome by now."""
        return await self.finished() >= tasks

    async def outcomes(self) -> dict[str, Outcome]:
        """Every outcome, by the task's id."""
        rows = await self.rows(
            "SELECT id, state::text, worker_id, attempt, failures, expiries FROM fetchlock.outcome"
        )
        assert len({row["id"] for row in rows}) == len(rows), "a task has two outcomes"
        return {str(row["id"]): Outcome(*list(row)[1:]) for row in rows}

    async def state(self, task_id: str) -> str:
        """The state of a task, open or not."""
        [row] = await self.rows(
            "SELECT state::text FROM fetchlock.open_task WHERE id = $1"
            " UNION ALL SELECT state::text FROM fetchlock.outcome WHERE id = $1",
            task_id,
        )
        return str(row["state"])

    async def is_in(self, state: str, task_id: str) -> bool:
        """Whether the task is in this state by now."""
        return await self.state(task_id) == state

    async def result(self, task_id: str) -> Any:
        """What a completed task ended with."""
        [row] = await self.rows("SELECT result FROM fetchlock.outcome WHERE id = $1", task_id)
        return msgspec.json.decode(row["result"])

    async def log(self, task_id: str) -> list[str]:
        """The lines of a task's log, which are numbered from 1 on without a gap."""
        rows = await self.rows(
            "SELECT number, line FROM fetchlock.log_line WHERE id = $1 ORDER BY number", task_id
        )
        assert [row["number"] for row in rows] == list(range(1, len(rows) + 1))
        return [row["line"] for row in rows]

    async def progress(self, task_id: str) -> tuple[float | None, str | None, Any]:
        """What was last said of a task: percent, subtext and checkpoint."""
        rows = await self.rows(
            "SELECT percent, subtext, checkpoint FROM fetchlock.progress WHERE id = $1", task_id
        )
        if not rows:
            return None, None, None
        percent, subtext, checkpoint = rows[0]
        return percent, subtext, msgspec.json.decode(checkpoint or "null")

    async def checkpoint(self, task_id: str) -> Any:
        """The checkpoint that a next attempt will find; None while there is none."""
        return (await self.progress(task_id))[2]

    async def long_work(self) -> list[list[tuple[Any, ...]]]:
        """All that is known of unfinished tasks, of callbacks and of outcomes, to be compared."""
        tables = "open_task", "callback", "progress", "log_line", "outcome"
        return [
            [tuple(row) for row in await self.rows(f"SELECT * FROM fetchlock.{table} ORDER BY id")]  # noqa: S608
            for table in tables
        ]

    async def end_statements(self) -> None:
        """End what a killed broker has left behind, wherever it stands: it will not be committed.

        Whoever holds a lock for a test is idle in a transaction.
        """
        ended = await self.rows(
            "SELECT pg_terminate_backend(pid, 10000) AS is_ended FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            " AND state <> 'idle in transaction'"
        )
        assert all(row["is_ended"] for row in ended)

    async def open_task(self, task_id: str) -> asyncpg.Record:
        """The row of a task that has no outcome."""
        [row] = await self.rows("SELECT * FROM fetchlock.open_task WHERE id = $1", task_id)
        return row

    async def is_waiting(self, verb: str, *, times: int = 1) -> bool:
        """Whether a verb's statement stands at another transaction's lock, or several do."""
        rows = await self.rows(
            "SELECT FROM pg_stat_activity WHERE datname = current_database()"
            " AND wait_event_type = 'Lock' AND starts_with(query, $1)",
            f"-- {verb}:",
        )
        return len(rows) >= times

    async def assert_each_completed_once(self, ids: Iterable[str]) -> dict[str, Outcome]:
        """These tasks have one outcome each, nothing else has, and nothing is open."""
        outcomes = await self.outcomes()
        assert outcomes.keys() == set(ids)
        assert {outcome.state for outcome in outcomes.values()} == {"completed"}
        assert await self.rows("SELECT id FROM fetchlock.open_task") == []
        return outcomes


@asynccontextmanager
async def holding(database_url: str, lock: str) -> AsyncIterator[None]:
    """Keep a lock in PostgreSQL while the block runs: statements that need it stand there."""
    connection = await asyncpg.connect(database_url)
    try:
        async with connection.transaction():
            await connection.execute(lock)
            yield
    finally:
        await connection.close()


async def create_work(client: Client, count: int) -> list[str]:
    """So many tasks for the handler `work`; their ids, in order."""
    tasks = [NewTask("work", {"number": number}) for number in range(count)]
    ids: list[str] = []
    for start in range(0, count, _BATCH):
        for answer in await client.create_batch(tasks[start : start + _BATCH]):
            assert isinstance(answer, str), answer
            ids.append(answer)
    return ids


async def is_ready(base_url: str) -> bool:
    """Whether the broker wants traffic."""
    async with httpx2.AsyncClient() as http:
        try:
            return (await http.get(f"{base_url}/readyz")).status_code == 200
        except httpx2.TransportError:
            return False


async def is_unready(base_url: str) -> bool:
    """Whether the broker lives, but wants no traffic."""
    async with httpx2.AsyncClient() as http:
        alive, ready = [await http.get(f"{base_url}/{probe}") for probe in ("livez", "readyz")]
    return (alive.status_code, ready.status_code) == (200, 503)


async def metric(base_url: str, name: str, **labels: str) -> float:
    """A figure that the broker counts; 0 while it has not begun to."""
    async with httpx2.AsyncClient() as http:
        text = (await http.get(f"{base_url}/metrics")).text
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


async def parked_polls(*base_urls: str) -> int:
    """How many polls wait at these brokers."""
    return int(sum([await metric(url, "fetchlock_http_longpolls") for url in base_urls]))

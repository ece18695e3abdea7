"""Either dialect does the same work: else the ratio between them would be of different things."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from benchmarks.driver import Driver, Trouble, driving

_TASKS = 130
"""More than one fetch brings, so the last fetch is a smaller one."""

_RESULTS = "SELECT result::jsonb::text FROM fetchlock.outcome"
_TYPED = "SELECT count(*) FROM fetchlock.outcome WHERE result_types <> '{}'"
_OPEN = "SELECT count(*) FROM fetchlock.open_task"


@pytest.fixture
async def worker(broker: str, tmp_path: Path) -> AsyncIterator[Driver]:
    """The program, on a broker that nobody else uses."""
    module = "benchmarks.contenders.fetchlock_one_by_one"
    async with driving([sys.executable, "-m", module, f"{broker}#bench"], tmp_path / "log") as told:
        yield told


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A look at the broker's tables."""
    opened = await asyncpg.connect(database_url)
    yield opened
    opened.terminate()


async def test_both_dialects_complete_the_same_tasks_with_the_same_variables(
    worker: Driver, connection: asyncpg.Connection
) -> None:
    expected: Counter[str] = Counter()
    for first, dialect in ((0, "native"), (2 * _TASKS, "camunda7")):
        await worker.order("create_bulk", count=_TASKS)
        await worker.order("drain", count=_TASKS, dialect=dialect)
        await worker.order("create_bulk", count=_TASKS)
        await worker.order("lock", count=_TASKS, dialect=dialect)
        assert await connection.fetchval(_OPEN) == _TASKS
        await worker.order("complete")
        assert await connection.fetchval(_OPEN) == 0
        numbers = range(first, first + 2 * _TASKS)
        expected.update(f'{{"receipt": "r-{i}", "settled": true}}' for i in numbers)
    assert Counter(result for [result] in await connection.fetch(_RESULTS)) == expected
    assert await connection.fetchval(_TYPED) == 0


async def test_a_drain_that_leaves_tasks_is_an_error(worker: Driver) -> None:
    await worker.order("create_bulk", count=_TASKS)
    with pytest.raises(Trouble, match="there are more"):
        await worker.order("drain", count=_TASKS - 1, dialect="camunda7")

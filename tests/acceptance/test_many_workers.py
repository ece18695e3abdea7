"""200 workers at two brokers, all parked before 10,000 tasks come in: each is locked once."""

from __future__ import annotations

from collections import Counter
from typing import Final

import anyio
import pytest

from tests.acceptance.scene import LOAD_S, Ledger, create_work, parked_polls
from tests.eventually import eventually
from tests.processes import BrokerProcess
from worker_sdk import Client, Subscription

pytestmark = pytest.mark.acceptance

WORKERS: Final = 200
TASKS: Final = 10_000
# So that the last fetches find less than they ask for.
FETCH_TASKS: Final = 7
# Longer than any test may take: no lock expires, and a parked poll ends only with a task.
LONG_MS: Final = 600_000


async def test_each_task_is_locked_once(database_url: str, ledger: Ledger) -> None:
    with BrokerProcess(database_url) as one, BrokerProcess(database_url) as two:
        urls = one.base_url, two.base_url
        locked = Counter[str]()
        async with anyio.create_task_group() as group:
            for number in range(WORKERS):
                group.start_soon(_work, urls[number % 2], number, locked)
            await eventually(lambda: _all_are_parked(urls))
            async with Client(one.base_url) as client:
                ids = await create_work(client, TASKS)
            await eventually(lambda: ledger.has_finished(TASKS), within_s=LOAD_S)
            # Whatever was locked is told: had one been locked twice, somebody would know of it.
            await eventually(lambda: _all_are_parked(urls))
            group.cancel_scope.cancel()
    assert locked == Counter(ids)
    for outcome in (await ledger.assert_each_completed_once(ids)).values():
        assert outcome.attempt == 1


async def _work(base_url: str, number: int, locked: Counter[str]) -> None:
    async with Client(base_url, timeout_s=LOAD_S) as client:
        while True:
            tasks = await client.fetch_and_lock(
                f"worker-{number}",
                [Subscription("work")],
                max_tasks=FETCH_TASKS,
                lock_duration_ms=LONG_MS,
                request_timeout_ms=LONG_MS,
            )
            locked.update(task.id for task in tasks)
            assert await client.complete_batch([(task, None) for task in tasks]) == [None] * len(
                tasks
            )


async def _all_are_parked(urls: tuple[str, str]) -> bool:
    return await parked_polls(*urls) == WORKERS

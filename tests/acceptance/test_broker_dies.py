"""A broker is killed while it serves: nothing is lost, nothing is done twice over."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Final

import pytest

from tests.acceptance.scene import (
    LOAD_S,
    Gate,
    Ledger,
    WorkerProcess,
    create_work,
    holding,
)
from tests.eventually import eventually
from tests.processes import BrokerProcess
from worker_sdk import Client, NewTask, Subscription

pytestmark = pytest.mark.acceptance

TASKS: Final = 800
# A worker that cannot lose its lock while a broker is started again, however slowly.
LONG_LOCK_MS: Final = 60_000

_THE_TASK: Final = "SELECT FROM fetchlock.open_task FOR UPDATE"
_ALL_THAT_WAS_ASKED: Final = "LOCK TABLE fetchlock.task IN ACCESS EXCLUSIVE MODE"


@pytest.fixture
def broker_process(database_url: str) -> Iterator[BrokerProcess]:
    """One whose statements may stand still for long, and all go through one connection."""
    with BrokerProcess(database_url, statement_timeout_ms="60000", pool_size="1") as process:
        yield process


async def test_killed_under_load(
    broker_process: BrokerProcess, broker: str, client: Client, ledger: Ledger
) -> None:
    ids = await create_work(client, TASKS)
    with WorkerProcess(broker, "one"), WorkerProcess(broker, "two"):
        for finished in (TASKS // 8, TASKS // 2):
            await eventually(lambda: ledger.has_finished(finished))  # noqa: B023 - awaited here
            broker_process.kill()
            broker_process.start()
        await eventually(lambda: ledger.has_finished(TASKS), within_s=LOAD_S)
    await ledger.assert_each_completed_once(ids)


async def test_killed_in_the_middle_of_a_complete(
    broker_process: BrokerProcess,
    broker: str,
    client: Client,
    database_url: str,
    ledger: Ledger,
    gate: Gate,
) -> None:
    task = await client.create(gate.task("gated"))
    with WorkerProcess(broker, "one", concurrency=1, lock_duration_ms=LONG_LOCK_MS) as worker:
        assert await worker.says() == f"started {task.id}"
        async with holding(database_url, _THE_TASK):
            gate.open()
            await eventually(lambda: ledger.is_waiting("complete"))
            broker_process.kill()
        # The statement went on without its broker, and nobody has been told.
        await eventually(lambda: ledger.has_finished(1))
        broker_process.start()
        # The worker says it again and is told that it is done: the slot is free for the next task.
        following = await client.create(gate.task("gated"))
        assert await worker.says() == f"started {following.id}"
        await eventually(lambda: ledger.has_finished(2))
        assert worker.stop() == 0
        assert "not accepted" not in worker.log
    for outcome in (await ledger.assert_each_completed_once([task.id, following.id])).values():
        assert outcome == ("completed", "one", 1, 0, 0)


async def test_killed_in_the_middle_of_a_fetch(
    broker_process: BrokerProcess, broker: str, client: Client, database_url: str, ledger: Ledger
) -> None:
    # A statement that has run before is sent whole: it needs its broker no more.
    await client.create(NewTask("work"))
    [task] = await client.fetch_and_lock("first", [Subscription("work")])
    await client.complete(task)
    [task_id] = await create_work(client, 1)
    with ExitStack() as stack:
        async with holding(database_url, _ALL_THAT_WAS_ASKED):
            stack.enter_context(WorkerProcess(broker, "one"))
            await eventually(lambda: ledger.is_waiting("fetch_and_lock"))
            broker_process.kill()
        # The statement went on without its broker: the task is locked for one who does not know.
        await eventually(lambda: _is_locked(ledger, task_id))
        broker_process.start()
        await eventually(lambda: ledger.has_finished(2))
    outcomes = await ledger.assert_each_completed_once([task.id, task_id])
    assert outcomes[task_id] == ("completed", "one", 2, 0, 1)


async def _is_locked(ledger: Ledger, task_id: str) -> bool:
    return bool((await ledger.open_task(task_id))["state"] == "locked")

"""Many tasks for several workers with Camunda's clients, and a broker that is killed meanwhile."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from tests.acceptance.camunda.workers import CLIENTS, camunda_worker
from tests.acceptance.scene import LOAD_S, LOCK_MS, Ledger, create_work, parked_polls
from tests.eventually import eventually
from tests.processes import BrokerProcess
from worker_sdk import Client

pytestmark = pytest.mark.acceptance

TASKS: Final = 500
TASKS_AROUND_A_KILL: Final = 100
"""Before it, and as many after it."""

_TOPICS: Final = {"work": "work"}


@pytest.mark.parametrize(
    "crew", [("javascript",) * 3, ("python",) * 3, CLIENTS], ids=["javascript", "python", "mixed"]
)
async def test_three_workers_do_each_task_once(
    crew: Sequence[str], broker: str, client: Client, ledger: Ledger, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    workers = [
        await camunda_worker(client_name, broker, f"worker-{number}", _TOPICS, log=log)
        for number, client_name in enumerate(crew)
    ]

    async def all_are_parked() -> bool:
        return await parked_polls(broker) == len(crew)

    async def all_are_done() -> bool:
        return len(log.read_text().splitlines()) >= TASKS

    with ExitStack() as stack:
        for worker in workers:
            stack.enter_context(worker)
        await eventually(all_are_parked)
        ids = await create_work(client, TASKS)
        await eventually(lambda: ledger.has_finished(TASKS), within_s=LOAD_S)
        await eventually(all_are_done)
    assert Counter(log.read_text().splitlines()) == Counter(ids)
    outcomes = (await ledger.assert_each_completed_once(ids)).values()
    assert {outcome.worker_id for outcome in outcomes} == {
        f"worker-{number}" for number in range(len(crew))
    }
    assert {outcome[2:] for outcome in outcomes} == {(1, 0, 0)}


async def test_work_goes_on_after_the_broker_was_killed(
    broker_process: BrokerProcess, broker: str, client: Client, ledger: Ledger
) -> None:
    with ExitStack() as stack:
        for client_name in CLIENTS:
            worker = await camunda_worker(
                client_name, broker, client_name, _TOPICS, lock_ms=LOCK_MS
            )
            stack.enter_context(worker)
        ids = await create_work(client, TASKS_AROUND_A_KILL)
        await eventually(lambda: ledger.has_finished(TASKS_AROUND_A_KILL // 5))
        broker_process.kill()
        broker_process.start()
        # The old client still has a connection to the dead, and tries nothing twice.
        async with Client(broker) as restarted:
            ids += await create_work(restarted, TASKS_AROUND_A_KILL)
        await eventually(lambda: ledger.has_finished(2 * TASKS_AROUND_A_KILL), within_s=LOAD_S)
    await ledger.assert_each_completed_once(ids)

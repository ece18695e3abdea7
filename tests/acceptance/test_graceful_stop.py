"""SIGTERM: whoever waits is answered, whoever works may finish, and nothing is held on to."""

from __future__ import annotations

import signal
from typing import Any, Final

import anyio
import pytest
from anyio import to_thread

from tests.acceptance.scene import Gate, Ledger, WorkerProcess, create_work, parked_polls
from tests.eventually import eventually
from tests.processes import BrokerProcess
from worker_sdk import Client, Subscription

pytestmark = pytest.mark.acceptance

POLLS: Final = 50
# Longer than any test may take.
POLL_MS: Final = 600_000


async def test_broker_answers_parked_polls_and_ends(
    broker_process: BrokerProcess, broker: str
) -> None:
    answers: list[list[Any]] = []

    async def poll(number: int) -> None:
        async with Client(broker) as client:
            answers.append(
                await client.fetch_and_lock(
                    f"worker-{number}", [Subscription("nothing")], request_timeout_ms=POLL_MS
                )
            )

    async with anyio.create_task_group() as group:
        for number in range(POLLS):
            group.start_soon(poll, number)
        await eventually(lambda: _are_parked(broker, POLLS))
        assert await to_thread.run_sync(broker_process.stop) == 0
    assert answers == [[]] * POLLS


async def test_worker_finishes_what_it_began(
    broker: str, client: Client, ledger: Ledger, gate: Gate
) -> None:
    with WorkerProcess(broker, "leaving", concurrency=2) as worker:
        begun = await client.create(gate.task("gated"))
        assert await worker.says() == f"started {begun.id}"
        await eventually(lambda: parked_polls(broker))
        worker.signal(signal.SIGTERM)
        await eventually(lambda: _are_parked(broker, 0))
        # There is a slot for it, but the worker takes nothing any more.
        [late_id] = await create_work(client, 1)
        gate.open()
        assert await to_thread.run_sync(worker.wait) == 0
    assert (await ledger.outcomes()) == {begun.id: ("completed", "leaving", 1, 0, 0)}
    assert (await ledger.open_task(late_id))["attempt"] == 0


async def test_worker_gives_back_what_it_cannot_finish(
    broker: str, client: Client, ledger: Ledger, gate: Gate
) -> None:
    # With this lock, nothing but the unlocking can have set the task free.
    options = {"drain_timeout_s": 0.5, "lock_duration_ms": POLL_MS}
    with WorkerProcess(broker, "leaving", **options) as worker:
        task = await client.create(gate.task("gated"))
        assert await worker.says() == f"started {task.id}"
        before = await ledger.open_task(task.id)
        assert await to_thread.run_sync(worker.stop) == 0
    after = await ledger.open_task(task.id)
    kept = "retries", "attempt", "failures", "expiries"
    assert (before["state"], after["state"]) == ("locked", "ready")
    assert [after[name] for name in kept] == [before[name] for name in kept]


async def _are_parked(base_url: str, polls: int) -> bool:
    return await parked_polls(base_url) == polls

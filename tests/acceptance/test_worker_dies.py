"""A worker is killed, or frozen past its locks: others do its tasks, and it can do no harm."""

from __future__ import annotations

from typing import Final

import pytest

from tests.acceptance.scene import Gate, Ledger, WorkerProcess, create_work, parked_polls
from tests.eventually import eventually
from worker_sdk import Client, NewTask

pytestmark = pytest.mark.acceptance

CONCURRENCY: Final = 4
LONG_LOCK_MS: Final = 600_000


async def test_killed_in_the_middle_of_tasks(
    broker: str, client: Client, ledger: Ledger, gate: Gate
) -> None:
    ids = [(await client.create(gate.task("gated"))).id for _ in range(CONCURRENCY)]
    with WorkerProcess(broker, "victim", concurrency=CONCURRENCY) as victim:
        started = {await victim.says() for _ in ids}
        assert started == {f"started {task_id}" for task_id in ids}
        victim.kill()
    gate.open(attempt=2)
    with WorkerProcess(broker, "heir"):
        await eventually(lambda: ledger.has_finished(len(ids)))
    for outcome in (await ledger.assert_each_completed_once(ids)).values():
        assert outcome == ("completed", "heir", 2, 0, 1)


async def test_killed_while_it_waits(broker: str, client: Client, ledger: Ledger) -> None:
    # With such a lock, nobody else would get a task that was given to the dead.
    with WorkerProcess(broker, "victim", lock_duration_ms=LONG_LOCK_MS) as victim:
        await eventually(lambda: parked_polls(broker))
        victim.kill()
    ids = await create_work(client, CONCURRENCY)
    with WorkerProcess(broker, "heir"):
        await eventually(lambda: ledger.has_finished(len(ids)))
    for outcome in (await ledger.assert_each_completed_once(ids)).values():
        assert (outcome.worker_id, outcome.expiries) == ("heir", 0)


async def test_frozen_past_its_lock(
    broker: str, client: Client, ledger: Ledger, gate: Gate
) -> None:
    with WorkerProcess(broker, "sleeper", concurrency=1) as sleeper:
        task = await client.create(gate.task("late"))
        assert await sleeper.says() == f"started {task.id}"
        sleeper.pause()
        with WorkerProcess(broker, "heir", concurrency=1) as heir:
            assert await heir.says() == f"started {task.id}"
            sleeper.resume()
            gate.open(attempt=1)
            assert await sleeper.says() == "told 409 lock_lost"
            gate.open(attempt=2)
            assert await heir.says() == "told that it is done"
            assert heir.stop() == 0
        [outcome] = (await ledger.assert_each_completed_once([task.id])).values()
        assert outcome == ("completed", "heir", 2, 0, 1)
        # It is none the worse for it: nobody else is there to do this.
        after = await client.create(NewTask("work"), wait_s=20)
        assert (after.state, after.worker_id) == ("COMPLETED", "sleeper")
        assert sleeper.stop() == 0

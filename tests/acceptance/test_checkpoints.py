"""A worker is killed between two heartbeats: the next attempt goes on from the last checkpoint."""

from __future__ import annotations

from typing import Final

import anyio
import pytest

from tests.acceptance.scene import Gate, Ledger, WorkerProcess, holding
from tests.eventually import eventually
from worker_sdk import Client

pytestmark = pytest.mark.acceptance

LONG_LOCK_MS: Final = 60_000

_THE_TASK: Final = "SELECT FROM fetchlock.open_task FOR UPDATE"


async def test_killed_between_two_heartbeats(
    broker: str, client: Client, ledger: Ledger, gate: Gate
) -> None:
    created = await client.create(gate.task("steps"))
    with WorkerProcess(broker, "victim") as victim:
        gate.open(1)
        assert await victim.says() == "did 1"
        await eventually(lambda: ledger.checkpoint(created.id))
        gate.open(2)
        # It takes a second until the broker would hear of this.
        assert await victim.says() == "did 2"
        victim.kill()
    assert await ledger.checkpoint(created.id) == {"step": 1}
    # What the first attempt said is there for others to read.
    task = await client.get_task(created.id)
    assert task.last_progress is not None
    assert (task.last_progress.percent, task.last_progress.subtext) == (20, "step 1")
    assert await _lines(client, task.id) == ["attempt 1 did step 1"]

    for step in (3, 4, 5):
        gate.open(step)
    with WorkerProcess(broker, "heir") as heir:
        assert await heir.says() == "did 2"
        await eventually(lambda: ledger.has_finished(1))
    [outcome] = (await ledger.assert_each_completed_once([task.id])).values()
    assert outcome == ("completed", "heir", 2, 0, 1)
    assert await ledger.result(task.id) == {"beganAt": 2}
    assert await _lines(client, task.id) == [
        "attempt 1 did step 1",
        *(f"attempt 2 did step {step}" for step in (2, 3, 4, 5)),
    ]


async def test_frozen_worker_says_nothing_more_of_its_task(
    broker: str, client: Client, ledger: Ledger, gate: Gate
) -> None:
    created = await client.create(gate.task("steps"))
    # With one hand, so that nothing is given to it meanwhile.
    with WorkerProcess(broker, "sleeper", concurrency=1) as sleeper:
        gate.open(1)
        assert await sleeper.says() == "did 1"
        await eventually(lambda: ledger.checkpoint(created.id))
        sleeper.pause()
        with WorkerProcess(broker, "heir") as heir:
            gate.open(2)
            assert await heir.says() == "did 2"
            gate.open(3)
            assert await heir.says() == "did 3"
            await eventually(lambda: _is_at(ledger, created.id, 3))
            # What it was about to say is what the heir has said long ago.
            sleeper.resume()
            assert sleeper.stop() == 0
            assert await ledger.checkpoint(created.id) == {"step": 3}
            for step in (4, 5):
                gate.open(step)
            await eventually(lambda: ledger.has_finished(1))
    [outcome] = (await ledger.assert_each_completed_once([created.id])).values()
    assert outcome == ("completed", "heir", 2, 0, 1)
    assert await ledger.log(created.id) == [
        "attempt 1 did step 1",
        *(f"attempt 2 did step {step}" for step in (2, 3, 4, 5)),
    ]


async def test_news_that_meet_somebody_elses_word(
    broker: str, client: Client, database_url: str, ledger: Ledger, gate: Gate
) -> None:
    created = await client.create(gate.task("steps"))
    with WorkerProcess(broker, "one", lock_duration_ms=LONG_LOCK_MS) as worker:
        await eventually(lambda: ledger.is_in("locked", created.id))
        async with anyio.create_task_group() as group, holding(database_url, _THE_TASK):
            group.start_soon(client.subtext, created.id, "an operator looks at it")
            await eventually(lambda: ledger.is_waiting("subtext"))
            gate.open(1)
            assert await worker.says() == "did 1"
            await eventually(lambda: ledger.is_waiting("heartbeat"))
        # Both are the first to say anything of this task, and neither is lost.
        await eventually(lambda: ledger.checkpoint(created.id))
        for step in (2, 3, 4, 5):
            gate.open(step)
        await eventually(lambda: ledger.has_finished(1))
        assert worker.stop() == 0
    await ledger.assert_each_completed_once([created.id])
    assert await ledger.log(created.id) == [
        f"attempt 1 did step {step}" for step in (1, 2, 3, 4, 5)
    ]


async def _is_at(ledger: Ledger, task_id: str, step: int) -> bool:
    return bool(await ledger.checkpoint(task_id) == {"step": step})


async def _lines(client: Client, task_id: str) -> list[str]:
    return [line.line for line in (await client.log_lines(task_id)).lines]

"""Tasks that take too long: their time is over wherever they are, and a person sends them again."""

from __future__ import annotations

from typing import Final

import pytest

from tests.acceptance.outside import Outside
from tests.acceptance.scene import Gate, Ledger, WorkerProcess, parked_polls
from tests.eventually import eventually
from worker_sdk import Client, FetchlockError, HandOver, LockLost, NewTask, Subscription

pytestmark = pytest.mark.acceptance

TIMEOUT_MS: Final = 1_000
# Nothing here may come about by a lock that runs out.
LOCK_MS: Final = 3_000


@pytest.mark.parametrize("timeout", ["execution_timeout", "total_timeout"])
async def test_handler_that_takes_too_long(
    timeout: str, broker: str, client: Client, ledger: Ledger, gate: Gate
) -> None:
    with WorkerProcess(broker, "slow", lock_duration_ms=LOCK_MS) as worker:
        await eventually(lambda: parked_polls(broker))
        created = await client.create(gate.task("tidy", **{f"{timeout}_ms": TIMEOUT_MS}))
        assert await worker.says() == f"started {created.id}"
        await eventually(lambda: ledger.is_in("failed", created.id))
        failed = await client.get_task(created.id)
        assert (failed.state, failed.error_code) == ("FAILED", timeout)
        assert failed.worker_id is None
        assert await worker.says() == f"stopped {created.id} lock_lost"
        # It is nobody's, and stays an incident, whatever this worker would like.
        assert await ledger.state(created.id) == "failed"
        # The time that was over does not count again.
        gate.open(attempt=2)
        await client.retries(created.id, 1)
        assert await worker.says() == f"started {created.id}"
        await eventually(lambda: ledger.has_finished(1))
        assert worker.stop() == 0
    [outcome] = (await ledger.assert_each_completed_once([created.id])).values()
    assert (outcome.attempt, outcome.expiries) == (2, 0)


async def test_late_worker_is_told(client: Client, ledger: Ledger) -> None:
    created = await client.create(NewTask("late", execution_timeout_ms=TIMEOUT_MS))
    [task] = await client.fetch_and_lock("worker", [Subscription("late")], lock_duration_ms=60_000)
    assert task.times_out_at is not None
    await eventually(lambda: ledger.is_in("failed", created.id))
    with pytest.raises(LockLost):
        await client.complete(task)
    [renewal] = (await client.heartbeat("worker", 60_000, [(task, None)])).results
    assert isinstance(renewal, FetchlockError)
    assert renewal.code == "lock_lost"
    assert await ledger.state(created.id) == "failed"


async def test_total_timeout_of_tasks_that_nobody_takes(client: Client, ledger: Ledger) -> None:
    waiting = await client.create(NewTask("nobody", total_timeout_ms=TIMEOUT_MS))
    delayed = await client.create(NewTask("nobody", total_timeout_ms=TIMEOUT_MS, delay_ms=600_000))
    # The other timeout does not begin before the first lock.
    patient = await client.create(NewTask("nobody", execution_timeout_ms=TIMEOUT_MS))
    for task in (waiting, delayed):
        await eventually(lambda: ledger.is_in("failed", task.id))  # noqa: B023 - awaited here
        assert (await client.get_task(task.id)).error_code == "total_timeout"
    assert await ledger.state(patient.id) == "ready"
    [taken] = await client.fetch_and_lock("worker", [Subscription("nobody")])
    assert taken.id == patient.id
    await client.retries(waiting.id, 1)
    [again] = await client.fetch_and_lock("worker", [Subscription("nobody")])
    assert again.id == waiting.id
    assert again.times_out_at is None
    await client.complete(again)


async def test_execution_timeout_counts_through_all_attempts(
    broker: str, client: Client, ledger: Ledger, gate: Gate
) -> None:
    created = await client.create(NewTask("dropped", execution_timeout_ms=2 * TIMEOUT_MS))
    seen = []
    for _ in range(2):
        [task] = await client.fetch_and_lock(
            "worker", [Subscription("dropped")], lock_duration_ms=TIMEOUT_MS
        )
        seen.append(task.times_out_at)
    assert seen[0] == seen[1]
    await eventually(lambda: ledger.is_in("failed", created.id))
    assert (await ledger.open_task(created.id))["error_code"] == "execution_timeout"


async def test_callback_that_does_not_come(
    client: Client, ledger: Ledger, outside: Outside
) -> None:
    created = await client.create(NewTask("handed", retries=2))
    for attempt in (1, 2):
        [task] = await client.fetch_and_lock("worker", [Subscription("handed")])
        assert (task.id, task.attempt) == (created.id, attempt)
        handed_over = await client.hand_over(task, HandOver(timeout_s=1))
        assert handed_over.state == "AWAITING"
        await eventually(lambda: _has_failed(ledger, created.id, attempt))  # noqa: B023
        answer = await outside.call_back(handed_over.url, {"too": "late"})
        assert (answer.status, answer.said["code"]) == (410, "callback_expired")
    failed = await client.get_task(created.id)
    assert (failed.state, failed.retries, failed.error_code) == ("FAILED", 0, "callback_timeout")
    await client.retries(created.id, 1)
    [task] = await client.fetch_and_lock("worker", [Subscription("handed")])
    await client.complete(task)
    [outcome] = (await ledger.assert_each_completed_once([created.id])).values()
    assert (outcome.attempt, outcome.failures) == (3, 2)


async def test_time_is_over_while_a_callback_is_awaited(
    client: Client, ledger: Ledger, outside: Outside
) -> None:
    created = await client.create(NewTask("handed", total_timeout_ms=TIMEOUT_MS))
    [task] = await client.fetch_and_lock("worker", [Subscription("handed")])
    url = (await client.hand_over(task)).url
    await eventually(lambda: ledger.is_in("failed", created.id))
    before = await ledger.long_work()
    answer = await outside.call_back(url, {"too": "late"})
    assert (answer.status, answer.said["code"]) == (410, "callback_expired")
    assert await ledger.long_work() == before
    assert (await client.get_task(created.id)).error_code == "total_timeout"


async def _has_failed(ledger: Ledger, task_id: str, times: int) -> bool:
    row = await ledger.open_task(task_id)
    return bool(row["failures"] == times and row["state"] != "awaiting")

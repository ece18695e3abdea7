"""Tasks that are not wanted any more, and workers that are to leave."""

from __future__ import annotations

from typing import Final

import pytest
from anyio import to_thread

from tests.acceptance.outside import Outside
from tests.acceptance.scene import Gate, Ledger, WorkerProcess, create_work, parked_polls
from tests.eventually import eventually
from worker_sdk import Client, Failure, FetchlockError, HandOver, NewTask, Subscription

pytestmark = pytest.mark.acceptance

# Long enough to tell a task that was let go of from one whose lock ran out.
LONG_LOCK_MS: Final = 9_000
# Longer than any test may take.
DELAY_MS: Final = 600_000


@pytest.mark.parametrize("topic", ["tidy", "tidying"], ids=["async", "thread"])
async def test_handler_stops_and_cleans_up(
    topic: str, broker: str, client: Client, ledger: Ledger, gate: Gate
) -> None:
    created = await client.create(gate.task(topic))
    with WorkerProcess(broker, "one", lock_duration_ms=LONG_LOCK_MS) as worker:
        assert await worker.says() == f"started {created.id}"
        await client.cancel(created.id, "not wanted")
        task = await client.get_task(created.id)
        assert (task.state, task.cancel_requested) == ("LOCKED", True)
        assert task.lock_expires_at is not None
        assert await worker.says() == f"stopped {created.id} cancel_requested"
        assert await worker.says() == f"cleaned {created.id}"
        await eventually(lambda: ledger.has_finished(1))
        ended = await client.get_task(created.id)
        assert (ended.state, ended.error_message) == ("CANCELLED", "not wanted")
        # The worker has said so: nobody waited for the lock to run out.
        assert ended.finished_at is not None
        assert ended.finished_at < task.lock_expires_at
        # The hand is free for the next one.
        following = await client.create(gate.task(topic))
        assert await worker.says() == f"started {following.id}"
        gate.open()
        await eventually(lambda: ledger.has_finished(2))
        assert worker.stop() == 0
    outcomes = await ledger.outcomes()
    assert outcomes[created.id] == ("cancelled", "one", 1, 0, 0)
    assert outcomes[following.id] == ("completed", "one", 1, 0, 0)


async def test_handler_that_has_nothing_to_clean_up(
    broker: str, client: Client, ledger: Ledger, gate: Gate
) -> None:
    created = await client.create(gate.task("gated"))
    with WorkerProcess(broker, "one", lock_duration_ms=LONG_LOCK_MS) as worker:
        assert await worker.says() == f"started {created.id}"
        await client.cancel(created.id)
        before = await ledger.open_task(created.id)
        await eventually(lambda: ledger.has_finished(1))
        assert worker.stop() == 0
    ended = await client.get_task(created.id)
    assert ended.state == "CANCELLED"
    assert ended.finished_at is not None
    assert ended.finished_at < before["lock_expires_at"]


async def test_wish_is_told_with_the_heartbeat_and_lets_the_lock_run(client: Client) -> None:
    await client.create(NewTask("held", retries=3))
    [task] = await client.fetch_and_lock("worker", [Subscription("held")])
    await client.cancel(task.id, "not wanted")
    [renewal] = (await client.heartbeat("worker", LONG_LOCK_MS, [(task, None)])).results
    assert not isinstance(renewal, FetchlockError)
    assert renewal.cancel_requested
    assert renewal.lock_expires_at == task.lock_expires_at
    # Whatever else the worker says of it, it is not tried again.
    assert (await client.fail(task, Failure("interrupted"))).state == "CANCELLED"


async def test_worker_that_does_not_listen_loses_the_task(
    broker: str, client: Client, ledger: Ledger, gate: Gate
) -> None:
    created = await client.create(gate.task("late"))
    with WorkerProcess(broker, "deaf") as worker:
        assert await worker.says() == f"started {created.id}"
        await client.cancel(created.id)
        before = await ledger.open_task(created.id)
        await eventually(lambda: ledger.has_finished(1))
        gate.open()
        assert await worker.says() == "told 409 lock_lost"
        assert worker.stop() == 0
    ended = await client.get_task(created.id)
    assert ended.state == "CANCELLED"
    # Not before its lock ran out, which nothing has renewed.
    assert ended.finished_at is not None
    assert ended.finished_at >= before["lock_expires_at"]
    assert (await ledger.outcomes()).keys() == {created.id}


async def test_worker_that_is_done_first_wins(
    broker: str, client: Client, ledger: Ledger, gate: Gate
) -> None:
    created = await client.create(gate.task("late"))
    with WorkerProcess(broker, "deaf", lock_duration_ms=LONG_LOCK_MS) as worker:
        assert await worker.says() == f"started {created.id}"
        await client.cancel(created.id)
        gate.open()
        assert await worker.says() == "told that it is done"
        assert worker.stop() == 0
    await ledger.assert_each_completed_once([created.id])


async def test_task_that_nobody_works_on_is_cancelled_at_once(
    client: Client, ledger: Ledger, outside: Outside, broker: str
) -> None:
    waiting = await client.create(NewTask("waiting"))
    delayed = await client.create(NewTask("waiting", delay_ms=DELAY_MS))
    await client.create(NewTask("awaited"))
    [awaiting] = await client.fetch_and_lock("worker", [Subscription("awaited")])
    handed_over = await client.hand_over(awaiting, HandOver({"by": "worker"}))
    for task in (waiting, delayed, awaiting):
        await client.cancel(task.id, "not wanted")
        ended = await client.get_task(task.id)
        assert (ended.state, ended.error_message, ended.result) == ("CANCELLED", "not wanted", None)
    before = await ledger.long_work()
    answer = await outside.call_back(handed_over.url, {"by": "outside"})
    assert (answer.status, answer.said["code"]) == (410, "callback_expired")
    assert await ledger.long_work() == before
    assert await client.fetch_and_lock("w", [Subscription("waiting")], request_timeout_ms=0) == []


async def test_drained_worker_finishes_what_it_has_and_ends(
    broker: str, client: Client, ledger: Ledger, gate: Gate
) -> None:
    with WorkerProcess(broker, "leaving", concurrency=2) as worker:
        begun = await client.create(gate.task("gated"))
        assert await worker.says() == f"started {begun.id}"
        await eventually(lambda: parked_polls(broker))
        await client.drain("leaving")
        await eventually(lambda: _are_parked(broker, 0))
        # There is a hand for it, but the worker takes nothing any more.
        [late_id] = await create_work(client, 1)
        gate.open()
        assert await to_thread.run_sync(worker.wait) == 0
    assert (await ledger.outcomes()) == {begun.id: ("completed", "leaving", 1, 0, 0)}
    assert (await ledger.open_task(late_id))["attempt"] == 0
    # As long as it is wished, one of this name ends again, also with nothing to do.
    with WorkerProcess(broker, "leaving") as worker:
        assert await to_thread.run_sync(worker.wait) == 0
    await client.undrain("leaving")
    with WorkerProcess(broker, "leaving") as worker:
        await eventually(lambda: parked_polls(broker))
        after = await client.create(NewTask("work"), wait_s=20)
        assert (after.state, after.worker_id) == ("COMPLETED", "leaving")
        assert worker.stop() == 0


async def test_drain_is_for_one_worker(broker: str, client: Client, ledger: Ledger) -> None:
    with WorkerProcess(broker, "leaving") as leaving, WorkerProcess(broker, "staying") as staying:
        await client.drain("leaving")
        assert await to_thread.run_sync(leaving.wait) == 0
        done = await client.create(NewTask("work"), wait_s=20)
        assert (done.state, done.worker_id) == ("COMPLETED", "staying")
        assert staying.stop() == 0


async def _are_parked(base_url: str, polls: int) -> bool:
    return await parked_polls(base_url) == polls

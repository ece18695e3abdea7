"""What Camunda's JavaScript client can do with a lock. The Python one has no word for it."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

import pytest

from tests.acceptance.camunda.workers import FINISHED_S, LONG_MS, camunda_worker
from tests.acceptance.scene import Gate, Ledger, WorkerProcess
from worker_sdk import Client, NewTask, Subscription

pytestmark = pytest.mark.acceptance

SHORT_MS: Final = LONG_MS // 10

_HALF_LONG: Final = timedelta(milliseconds=LONG_MS / 2)


@pytest.mark.parametrize(("handler", "said"), [("extend", "extended"), ("relock", "locked")])
async def test_a_lock_is_made_longer(
    handler: str, said: str, broker: str, client: Client, gate: Gate
) -> None:
    with await camunda_worker(
        "javascript", broker, "one", {"t": handler}, lock_ms=SHORT_MS
    ) as worker:
        task = await client.create(gate.task("t"))
        assert await worker.says() == f"{said} {task.id}"
        locked = await client.get_task(task.id)
        gate.open()
        done = await client.get_task(task.id, wait_s=FINISHED_S)
    assert (locked.state, locked.worker_id) == ("LOCKED", "one")
    assert locked.lock_expires_at is not None
    assert locked.started_at is not None
    assert locked.lock_expires_at - locked.started_at > _HALF_LONG
    assert (done.state, done.attempt) == ("COMPLETED", 1)


async def test_a_task_is_locked_by_its_id(broker: str, client: Client, gate: Gate) -> None:
    other = await client.create(NewTask("nobody's"))
    gated = gate.task("t").variables or {}
    with await camunda_worker("javascript", broker, "one", {"t": "reach"}) as worker:
        task = await client.create(NewTask("t", gated | {"other": other.id}))
        assert await worker.says() == f"locked {other.id}"
        locked = await client.get_task(other.id)
        gate.open()
        done = await client.get_task(other.id, wait_s=FINISHED_S)
    assert (locked.state, locked.worker_id, locked.attempt) == ("LOCKED", "one", 1)
    assert (done.state, done.worker_id, done.result) == ("COMPLETED", "one", {"by": task.id})


async def test_a_task_is_given_back_to_oneself(broker: str, client: Client, ledger: Ledger) -> None:
    with await camunda_worker("javascript", broker, "one", {"t": "release"}) as worker:
        task = await client.create(NewTask("t"))
        assert await worker.says() == f"unlocked {task.id}"
        await client.get_task(task.id, wait_s=FINISHED_S)
    assert (await ledger.outcomes())[task.id] == ("completed", "one", 2, 0, 0)


async def test_a_task_is_given_back_to_a_native_worker(
    broker: str, client: Client, ledger: Ledger
) -> None:
    with await camunda_worker("javascript", broker, "one", {"work": "leave"}) as worker:
        task = await client.create(NewTask("work"))
        assert await worker.says() == f"unlocked {task.id}"
        # It lives on, but has unsubscribed.
        with WorkerProcess(broker, "native"):
            await client.get_task(task.id, wait_s=FINISHED_S)
    assert (await ledger.outcomes())[task.id] == ("completed", "native", 2, 0, 0)


async def test_anybody_may_unlock(broker: str, client: Client, ledger: Ledger) -> None:
    other = await client.create(NewTask("held"))
    [_] = await client.fetch_and_lock("holder", [Subscription("held")], lock_duration_ms=LONG_MS)
    with await camunda_worker("javascript", broker, "one", {"t": "free"}):
        done = await client.create(NewTask("t", {"other": other.id}), wait_s=FINISHED_S)
    assert done.state == "COMPLETED"
    freed = await client.get_task(other.id)
    assert (freed.state, freed.worker_id, freed.lock_expires_at) == ("CREATED", None, None)

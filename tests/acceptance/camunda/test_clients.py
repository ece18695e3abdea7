"""Workers with Camunda's clients, unmodified: how their tasks end, and what they are refused."""

from __future__ import annotations

import re
import uuid
from datetime import timedelta
from typing import Any, Final

import pytest

from tests.acceptance.camunda.workers import CLIENTS, FINISHED_S, LONG_MS, camunda_worker
from tests.acceptance.scene import Ledger, WorkerProcess, parked_polls
from tests.eventually import eventually
from worker_sdk import Client, Failure, NewTask, Subscription, Task

pytestmark = [pytest.mark.acceptance, pytest.mark.parametrize("client_name", CLIENTS)]

_HALF_LONG: Final = timedelta(milliseconds=LONG_MS / 2)

_UNKNOWN: Final = ("no-such-id", str(uuid.UUID(int=1)))


async def test_a_parked_poll_is_woken_by_tasks_of_several_topics(
    client_name: str, broker: str, client: Client
) -> None:
    topics = {"a": "work", "b": "business"}
    # One client asks for all its topics at once, the other has a poll for each.
    polls = len(topics) if client_name == "async_python" else 1

    async def is_parked() -> bool:
        return await parked_polls(broker) == polls

    with await camunda_worker(client_name, broker, "one", topics):
        await eventually(is_parked)
        completed = await client.create(NewTask("a", {"number": 1}), wait_s=FINISHED_S)
        await eventually(is_parked)
        refused = await client.create(NewTask("b"), wait_s=FINISHED_S)
    assert (completed.state, completed.result) == ("COMPLETED", {"number": 1})
    assert (refused.state, refused.result) == ("BPMN_ERROR", {"left": 3})
    assert (refused.error_code, refused.error_message) == ("E1", "not today")
    assert {completed.worker_id, refused.worker_id} == {"one"}


async def test_a_failure_is_tried_again_after_its_time(
    client_name: str, broker: str, client: Client, ledger: Ledger
) -> None:
    with await camunda_worker(client_name, broker, "one", {"t": "flaky"}) as worker:
        task = await client.create(NewTask("t", {"retries": 2, "retryTimeout": LONG_MS}))
        assert await worker.says() == f"failed {task.id}"
        await eventually(lambda: ledger.is_in("delayed", task.id))
        waiting = await client.get_task(task.id)
        await client.retry_timeout(task.id, 0)
        done = await client.get_task(task.id, wait_s=FINISHED_S)
    assert (waiting.state, waiting.retries) == ("CREATED", 2)
    assert (waiting.error_message, waiting.error_details) == ("no luck", "line 1\nline 2")
    assert waiting.available_at is not None
    assert waiting.created_at is not None
    assert waiting.available_at - waiting.created_at > _HALF_LONG
    assert (done.state, done.attempt) == ("COMPLETED", 2)
    assert done.result == {"told": _told(retries=2)}


async def test_without_retries_it_waits_for_an_operator(
    client_name: str, broker: str, client: Client, ledger: Ledger
) -> None:
    with await camunda_worker(client_name, broker, "one", {"t": "flaky"}) as worker:
        task = await client.create(NewTask("t", {"retries": 0, "retryTimeout": 0}))
        assert await worker.says() == f"failed {task.id}"
        await eventually(lambda: ledger.is_in("failed", task.id))
        failed = await client.get_task(task.id)
        await client.retries(task.id, 1)
        done = await client.get_task(task.id, wait_s=FINISHED_S)
    assert (failed.state, failed.retries, failed.error_message) == ("FAILED", 0, "no luck")
    assert (done.state, done.result) == ("COMPLETED", {"told": _told(retries=1)})


def _told(retries: int) -> dict[str, Any]:
    """What a worker is told of the failure before."""
    return {"retries": retries, "errorMessage": "no luck", "errorDetails": "line 1\nline 2"}


async def test_the_wrong_worker_and_unknown_ids_are_refused(
    client_name: str, broker: str, client: Client
) -> None:
    held, finished = [await _held(client, "work") for _ in range(2)]
    await client.complete(finished)
    gone = finished.id, *_UNKNOWN
    with await camunda_worker(client_name, broker, "one", {"t": "trespass"}):
        new = NewTask("t", {"ids": [held.id, *gone]})
        done = await client.create(new, wait_s=FINISHED_S)
    assert done.result is not None, done
    told: dict[str, dict[str, str]] = done.result["told"]
    assert set(told) == {held.id, *gone}
    for refusal in told[held.id].values():
        assert _status(refusal) == 400, told
    assert "worker 'one'. It is locked by worker 'holder'" in told[held.id]["complete"]
    for task_id in gone:
        for refusal in told[task_id].values():
            assert _status(refusal) == 404, told
        assert task_id in told[task_id]["complete"]
    # It has made no difference to whose task it is.
    await client.complete(held, {"by": "holder"})
    assert (await client.get_task(held.id)).result == {"by": "holder"}


def _status(refusal: str) -> int:
    """The status in a client's words: each has its own, and the status is its first number."""
    found = re.search(r"\b\d{3}\b", refusal)
    assert found is not None, refusal
    return int(found[0])


async def test_what_it_fails_is_finished_by_a_native_worker(
    client_name: str, broker: str, client: Client, ledger: Ledger
) -> None:
    variables = {"retries": 1, "retryTimeout": LONG_MS}
    task = await client.create(NewTask("work", variables))
    with await camunda_worker(client_name, broker, "one", {"work": "flaky"}) as worker:
        assert await worker.says() == f"failed {task.id}"
        await eventually(lambda: ledger.is_in("delayed", task.id))
    await client.retry_timeout(task.id, 0)
    with WorkerProcess(broker, "native"):
        done = await client.get_task(task.id, wait_s=FINISHED_S)
    assert (done.state, done.worker_id, done.result) == ("COMPLETED", "native", variables)
    assert (await ledger.outcomes())[task.id] == ("completed", "native", 2, 1, 0)


async def test_it_finishes_what_a_native_worker_fails_or_gives_back(
    client_name: str, broker: str, client: Client, ledger: Ledger
) -> None:
    failed, unlocked = [await _held(client, "work") for _ in range(2)]
    await client.fail(failed, Failure("not here", retries=1, retry_after=0))
    await client.unlock(unlocked)
    with await camunda_worker(client_name, broker, "one", {"work": "work"}):
        for task in failed, unlocked:
            await client.get_task(task.id, wait_s=FINISHED_S)
    outcomes = await ledger.outcomes()
    assert outcomes[failed.id] == ("completed", "one", 2, 1, 0)
    assert outcomes[unlocked.id] == ("completed", "one", 2, 0, 0)


async def _held(client: Client, topic: str) -> Task:
    """A new task that a native worker has."""
    await client.create(NewTask(topic))
    [task] = await client.fetch_and_lock(
        "holder", [Subscription(topic)], max_tasks=1, lock_duration_ms=LONG_MS
    )
    return task

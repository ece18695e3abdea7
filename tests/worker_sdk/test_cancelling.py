"""How a handler learns that it should stop, and what is done then, on a real broker."""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio.lowlevel
import pytest
from anyio import to_thread

from tests.processes import BrokerProcess
from tests.worker_sdk.serving import DEADLINE_S, serving, until_state
from worker_sdk import Client, NewTask, Task, Worker

# The shortest lock there is.
SHORT_MS = 1_000


@pytest.fixture
async def client(broker: str) -> AsyncIterator[Client]:
    """A client of a real broker."""
    async with Client(broker) as client:
        yield client


async def test_async_handler_is_cancelled_when_its_task_is(broker: str, client: Client) -> None:
    worker = Worker(broker, lock_duration_ms=SHORT_MS, request_timeout_ms=5_000)
    started, cancelled = anyio.Event(), anyio.Event()

    @worker.task("t")
    async def handler(task: Task) -> None:
        started.set()
        try:
            await anyio.sleep_forever()
        finally:
            assert task.cancelled
            cancelled.set()

    async with serving(worker):
        created = await client.create(NewTask("t"))
        with anyio.fail_after(DEADLINE_S):
            await started.wait()
            await client.cancel(created.id, "ordered twice")
            await cancelled.wait()
    assert (await client.get_task(created.id)).state == "CANCELLED"


async def test_stopped_handler_can_clean_up(broker: str, client: Client) -> None:
    worker = Worker(broker, lock_duration_ms=SHORT_MS, request_timeout_ms=5_000)
    cleaned_up = anyio.Event()

    @worker.task("t")
    async def handler(task: Task) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            await client.list_tasks()
            cleaned_up.set()

    async with serving(worker):
        created = await client.create(NewTask("t"))
        await until_state(client, created.id, "LOCKED")
        await client.cancel(created.id)
        with anyio.fail_after(DEADLINE_S):
            await cleaned_up.wait()


async def test_sync_handler_is_told_when_its_task_is_cancelled(broker: str, client: Client) -> None:
    worker = Worker(broker, concurrency=1, request_timeout_ms=5_000)
    stopped: list[bool] = []

    @worker.task("t", lock_duration_ms=SHORT_MS)
    def handler(task: Task) -> dict[str, Any]:
        stopped.append(task.stop_requested.wait(DEADLINE_S))
        return {"too": "late"}

    worker.task("next")(lambda task: None)

    async with serving(worker):
        created = await client.create(NewTask("t"))
        await until_state(client, created.id, "LOCKED")
        await client.cancel(created.id)
        # The slot is free again once the thread has ended.
        assert (await client.create(NewTask("next"), wait_s=DEADLINE_S)).state == "COMPLETED"
    assert stopped == [True]
    task = await client.get_task(created.id)
    assert (task.state, task.result) == ("CANCELLED", None)


# Cleaning up

# So long that nothing happens because it is over, and its third is soon.
LOCK_MS = 6_000


async def cancelled(
    client: Client,
    worker: Worker,
    handler: Callable[[Task], Any],
    on_cancel: Callable[[Task], Awaitable[object] | object] | None,
) -> Task:
    """A task that was cancelled under this handler, which sets off when it is locked."""
    worker.task("t", on_cancel=on_cancel)(handler)
    worker.task("next")(lambda task: None)
    async with serving(worker):
        created = await client.create(NewTask("t"))
        await until_state(client, created.id, "LOCKED")
        await client.cancel(created.id, "ordered twice")
        task = await until_state(client, created.id, "CANCELLED")
        # The worker goes on.
        assert (await client.create(NewTask("next"), wait_s=DEADLINE_S)).state == "COMPLETED"
    return task


@pytest.fixture
def worker(broker: str) -> Worker:
    """A worker of a real broker that has one hand."""
    return Worker(broker, concurrency=1, lock_duration_ms=LOCK_MS, request_timeout_ms=5_000)


@pytest.mark.parametrize("is_async", [True, False])
@pytest.mark.parametrize("is_hook_async", [True, False])
async def test_hook_cleans_up_after_the_handler_and_then_it_is_acknowledged(
    is_async: bool, is_hook_async: bool, client: Client, worker: Worker
) -> None:
    steps: list[str] = []

    def handle(task: Task) -> dict[str, Any]:
        assert task.stop_requested.wait(DEADLINE_S)
        steps.append("handler")
        return {"thrown": "away"}

    async def handle_async(task: Task) -> dict[str, Any]:
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            steps.append("handler")
        return {"thrown": "away"}

    def hook(task: Task) -> None:
        steps.append(f"hook {task.stop_reason}")
        task.log("cleaned up")

    async def hook_async(task: Task) -> None:
        await anyio.lowlevel.checkpoint()
        hook(task)

    handler = handle_async if is_async else handle
    task = await cancelled(client, worker, handler, hook_async if is_hook_async else hook)
    assert steps == ["handler", "hook cancel_requested"]
    assert (task.state, task.result, task.attempt) == ("CANCELLED", None, 1)
    # By the time it was acknowledged the log was there. Nobody waited for the lock to run out.
    assert [line.line for line in (await client.log_lines(task.id)).lines] == ["cleaned up"]


async def test_cancellation_is_acknowledged_before_the_lock_runs_out(
    broker: str, client: Client
) -> None:
    worker = Worker(broker, lock_duration_ms=3_600_000, request_timeout_ms=5_000)

    async def handler(task: Task) -> None:
        while True:
            task.progress(subtext="so that the worker hears of it soon")
            await anyio.sleep(0.1)

    # The lock is an hour's.
    assert (await cancelled(client, worker, handler, None)).state == "CANCELLED"


async def test_hook_that_fails_is_logged_and_the_task_cancelled(
    client: Client, worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "fetchlock.worker")

    async def handler(task: Task) -> None:
        await anyio.sleep_forever()

    def hook(task: Task) -> None:
        raise SystemExit("no way back")

    await cancelled(client, worker, handler, hook)
    assert caplog.messages == ["on_cancel failed, the task is cancelled all the same"]
    assert "no way back" in caplog.text


async def test_stopping_worker_runs_no_hook(broker: str, client: Client) -> None:
    worker = Worker(broker, request_timeout_ms=5_000, drain_timeout_s=0.1)
    reasons: list[str | None] = []
    hooked: list[Task] = []

    @worker.task("async", on_cancel=hooked.append)
    async def handle_async(task: Task) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            reasons.append(task.stop_reason)

    @worker.task("sync", on_cancel=hooked.append)
    def handle(task: Task) -> None:
        task.stop_requested.wait(DEADLINE_S)
        reasons.append(task.stop_reason)
        ended.set()

    ended = threading.Event()
    async with serving(worker):
        for topic in ("async", "sync"):
            created = await client.create(NewTask(topic))
            await until_state(client, created.id, "LOCKED")
    assert await to_thread.run_sync(ended.wait, DEADLINE_S)
    assert (reasons, hooked) == (["worker_stopping"] * 2, [])


async def test_lost_lock_runs_no_hook(broker_process: BrokerProcess) -> None:
    worker = Worker(broker_process.base_url, lock_duration_ms=SHORT_MS, request_timeout_ms=5_000)
    started, stopped = anyio.Event(), anyio.Event()
    reasons: list[str | None] = []
    hooked: list[Task] = []

    @worker.task("t", on_cancel=hooked.append)
    async def handler(task: Task) -> None:
        started.set()
        try:
            await anyio.sleep_forever()
        finally:
            reasons.append(task.stop_reason)
            stopped.set()

    async with Client(broker_process.base_url) as client, serving(worker):
        await client.create(NewTask("t"))
        with anyio.fail_after(DEADLINE_S):
            await started.wait()
            broker_process.pause()
            await stopped.wait()
        broker_process.resume()
        worker.stop()
    assert (reasons[0], hooked) == ("lock_lost", [])

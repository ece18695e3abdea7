"""Leases and news on a real broker. What is said on the wire is in test_heart.py."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from anyio import to_thread

from tests.processes import BrokerProcess
from tests.worker_sdk.serving import DEADLINE_S, serving, until, until_state
from worker_sdk import Client, Failure, NewTask, Task, Worker

# The shortest lock there is.
SHORT_MS = 1_000


@pytest.fixture
async def client(broker: str) -> AsyncIterator[Client]:
    """A client of a real broker."""
    async with Client(broker) as client:
        yield client


def results(tasks: list[Task]) -> list[Any]:
    return [(task.state, task.attempt, task.result) for task in tasks]


# Leases


async def test_long_handler_keeps_its_lock_while_another_blocks_the_loop(
    broker: str, client: Client
) -> None:
    worker = Worker(broker, lock_duration_ms=SHORT_MS, request_timeout_ms=5_000)
    blocking = anyio.Event()

    @worker.task("long")
    async def long(task: Task) -> dict[str, Any]:
        await blocking.wait()
        return {"long": True}

    @worker.task("blocking")
    async def block(task: Task) -> dict[str, Any]:
        blocking.set()
        # What must not be done in an async handler: the loop stands still for two and a half locks.
        started_s = time.monotonic()
        while time.monotonic() - started_s < 2.5:
            pass
        return {"blocking": True}

    async with serving(worker):
        first = await client.create(NewTask("long"))
        await until_state(client, first.id, "LOCKED")
        second = await client.create(NewTask("blocking"))
        tasks = [await until_state(client, task.id, "COMPLETED") for task in (first, second)]
    assert results(tasks) == [
        ("COMPLETED", 1, {"long": True}),
        ("COMPLETED", 1, {"blocking": True}),
    ]


async def test_sync_handler_keeps_its_lock(broker: str, client: Client) -> None:
    worker = Worker(broker, request_timeout_ms=5_000)

    @worker.task("t", lock_duration_ms=SHORT_MS)
    def handler(task: Task) -> dict[str, Any]:
        # Two locks long, unless the worker believes that it has lost the first.
        return {"stopped": task.stop_requested.wait(2.2)}

    async with serving(worker):
        task = await client.create(NewTask("t"), wait_s=DEADLINE_S)
    assert results([task]) == [("COMPLETED", 1, {"stopped": False})]


async def test_handler_is_stopped_when_its_lock_can_no_longer_be_confirmed(
    broker_process: BrokerProcess,
) -> None:
    worker = Worker(broker_process.base_url, lock_duration_ms=SHORT_MS, request_timeout_ms=5_000)
    started, cancelled = anyio.Event(), anyio.Event()

    @worker.task("t")
    async def handler(task: Task) -> None:
        started.set()
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.set()

    async with Client(broker_process.base_url) as client, serving(worker):
        await client.create(NewTask("t"))
        with anyio.fail_after(DEADLINE_S):
            await started.wait()
            broker_process.pause()  # Its socket still takes our requests: the worst kind of silence.
            await cancelled.wait()
        broker_process.resume()


# News


async def lines_of(client: Client, task: Task) -> list[str]:
    return [line.line for line in (await client.log_lines(task.id, limit=1_000)).lines]


async def test_progress_is_seen_while_the_handler_runs(broker: str, client: Client) -> None:
    worker = Worker(broker, request_timeout_ms=5_000)
    released = anyio.Event()

    @worker.task("t")
    async def handler(task: Task) -> None:
        task.progress(50, "half")
        task.log("a line", "another")
        await released.wait()

    async with serving(worker):
        created = await client.create(NewTask("t"))
        # Long before a third of the lock is over.
        with anyio.fail_after(9):
            task = await until(
                lambda: client.get_task(created.id), lambda task: task.last_progress is not None
            )
        assert task.last_progress is not None
        assert (task.last_progress.percent, task.last_progress.subtext) == (50, "half")
        assert await lines_of(client, created) == ["a line", "another"]
        released.set()


@pytest.mark.parametrize("is_async", [True, False])
async def test_last_news_are_there_when_the_task_is_finished(
    is_async: bool, broker: str, client: Client
) -> None:
    worker = Worker(broker, request_timeout_ms=5_000)

    def handle(task: Task) -> None:
        for percent in range(101):
            task.progress(percent)
            task.log(f"{percent} %")

    async def handle_async(task: Task) -> None:
        handle(task)

    worker.task("t")(handle_async if is_async else handle)
    async with serving(worker):
        task = await client.create(NewTask("t"), wait_s=DEADLINE_S)
        assert task.last_progress is not None
        assert (task.state, task.last_progress.percent) == ("COMPLETED", 100)
        assert await lines_of(client, task) == [f"{percent} %" for percent in range(101)]


async def test_next_attempt_goes_on_from_the_last_checkpoint(broker: str, client: Client) -> None:
    worker = Worker(broker, request_timeout_ms=5_000)

    @worker.task("t")
    def handler(task: Task) -> dict[str, Any]:
        if task.attempt == 1:
            task.checkpoint({"page": 1})
            task.checkpoint({"page": 2, "huge": 10**40})
            task.progress(20)
            raise Failure("again", retry_after=0)
        assert task.last_progress is not None
        return {"from": task.last_checkpoint, "percent": task.last_progress.percent}

    async with serving(worker):
        task = await client.create(NewTask("t"), wait_s=DEADLINE_S)
    assert task.result == {"from": {"page": 2, "huge": 10**40}, "percent": 20}


async def test_news_outlive_an_outage_and_arrive_once(
    broker_process: BrokerProcess, client: Client
) -> None:
    worker = Worker(broker_process.base_url, request_timeout_ms=5_000)
    restarted = threading.Event()

    @worker.task("t")
    def handler(task: Task) -> None:
        task.log("before")
        broker_process.kill()
        task.log("meanwhile")
        task.progress(50)
        broker_process.start()
        task.log("after")
        restarted.set()

    async with serving(worker):
        created = await client.create(NewTask("t"))
        await to_thread.run_sync(restarted.wait, DEADLINE_S)
        task = await until_state(client, created.id, "COMPLETED")
        assert await lines_of(client, task) == ["before", "meanwhile", "after"]
    assert (task.attempt, task.last_progress and task.last_progress.percent) == (1, 50)


async def test_lines_that_the_broker_does_not_take_fail_no_handler(
    broker: str, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "fetchlock.worker")
    worker = Worker(broker, request_timeout_ms=5_000)

    @worker.task("t")
    async def handler(task: Task) -> None:
        task.log(*(f"line {number}" for number in range(3_000)))

    async with serving(worker):
        task = await client.create(NewTask("t"), wait_s=DEADLINE_S)
        assert (task.state, len(await lines_of(client, task))) == ("COMPLETED", 1_000)
    assert caplog.messages == ["news were refused: logs"]


async def test_mistake_is_the_handlers_who_makes_it(broker: str, client: Client) -> None:
    worker = Worker(broker, request_timeout_ms=5_000)

    @worker.task("t")
    async def handler(task: Task) -> None:
        task.progress(101)

    async with serving(worker):
        created = await client.create(NewTask("t", retries=1))
        task = await until_state(client, created.id, "FAILED")
    assert task.error_message == "ValueError: percent is from 0 to 100, not 101"

"""A worker over its life, on a real broker: slots, outages and every kind of end."""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import anyio.lowlevel
import pytest
from anyio import to_thread

from tests.processes import BrokerProcess
from tests.worker_sdk.conftest import Scripted
from tests.worker_sdk.serving import DEADLINE_S, serving, until, until_state
from worker_sdk import Answer, Client, FetchlockError, Invalid, NewTask, Task, Worker
from worker_sdk._transport import AiohttpTransport


@pytest.fixture
async def client(broker: str) -> AsyncIterator[Client]:
    """A client of a real broker."""
    async with Client(broker) as client:
        yield client


@pytest.fixture
def worker(broker: str) -> Worker:
    """A worker of a real broker, without a handler as yet."""
    return Worker(broker, request_timeout_ms=5_000)


def results(tasks: list[Task]) -> list[Any]:
    return [(task.state, task.attempt, task.result) for task in tasks]


# Fetching


async def test_one_worker_serves_many_topics(client: Client, worker: Worker) -> None:
    topics = [f"topic {number}" for number in range(5)]
    for topic in topics:
        worker.task(topic)(lambda task: {"done": task.topic})
    async with serving(worker):
        created = [await client.create(NewTask(topic)) for topic in topics]
        tasks = [await until_state(client, task.id, "COMPLETED") for task in created]
    assert [task.result for task in tasks] == [{"done": topic} for topic in topics]


async def test_subscription_says_what_is_wanted(client: Client, worker: Worker) -> None:
    @worker.task("t", process_definition_ids=["p:1"], variables=["a"])
    async def handler(task: Task) -> dict[str, Any]:
        return {"seen": task.variables}

    async with serving(worker):
        other = await client.create(NewTask("t", process_definition_id="p:2"))
        wanted = NewTask("t", {"a": 1, "b": 2}, process_definition_id="p:1")
        task = await client.create(wanted, wait_s=DEADLINE_S)
    assert task.result == {"seen": {"a": 1}}
    assert (await client.get_task(other.id)).attempt == 0


async def test_no_more_tasks_are_locked_than_there_are_slots(broker: str, client: Client) -> None:
    worker = Worker(broker, concurrency=3, request_timeout_ms=5_000)
    running: set[str] = set()
    locked: list[int] = []

    @worker.task("t")
    async def handler(task: Task) -> None:
        running.add(task.id)
        assert len(running) <= 3
        locked.append(len((await client.list_tasks(state="LOCKED")).tasks))
        running.remove(task.id)

    created = await client.create_batch([NewTask("t")] * 30)
    async with serving(worker):
        for task_id in created:
            task = await until_state(client, str(task_id), "COMPLETED")
            assert task.attempt == 1
    assert max(locked) <= 3


async def test_long_handler_does_not_keep_a_free_slot_from_work(
    broker: str, client: Client
) -> None:
    worker = Worker(broker, concurrency=2, request_timeout_ms=5_000)
    released = anyio.Event()

    @worker.task("long")
    async def long(task: Task) -> None:
        await released.wait()

    worker.task("short")(lambda task: None)

    async with serving(worker):
        await client.create(NewTask("long"))
        for _ in range(5):
            short = await client.create(NewTask("short"), wait_s=DEADLINE_S)
            assert short.state == "COMPLETED"
        released.set()


async def test_handler_begins_and_its_outcome_is_sent_before_the_next_poll(
    client: Client, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    request = AiohttpTransport.request

    async def noted(transport: AiohttpTransport, method: str, url: str, *rest: Any) -> Answer:
        steps.append(url.rsplit("/", 1)[1])
        return await request(transport, method, url, *rest)

    @worker.task("t")
    async def handler(task: Task) -> None:
        steps.append("handler")

    created = await client.create(NewTask("t"))
    with monkeypatch.context() as patch:
        patch.setattr(AiohttpTransport, "request", noted)
        async with serving(worker):
            with anyio.fail_after(DEADLINE_S):
                while steps.count("fetch-and-lock") < 2:
                    await anyio.lowlevel.checkpoint()
    assert steps[:4] == ["fetch-and-lock", "handler", "complete", "fetch-and-lock"]
    await until_state(client, created.id, "COMPLETED")


# Outages


async def test_worker_works_again_after_the_brokers_restart(
    broker_process: BrokerProcess, client: Client, worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "fetchlock.worker")
    worker.task("t")(lambda task: {"attempt": task.attempt})
    async with serving(worker):
        assert (await client.create(NewTask("t"), wait_s=DEADLINE_S)).state == "COMPLETED"
        assert await to_thread.run_sync(broker_process.stop) == 0
        with anyio.fail_after(DEADLINE_S):
            while "broker lost, trying again" not in caplog.messages:  # noqa: ASYNC110
                await anyio.sleep(0.02)
        await to_thread.run_sync(broker_process.start)
        assert (await client.create(NewTask("t"), wait_s=DEADLINE_S)).state == "COMPLETED"
    # One line for each change, however many attempts there were in between.
    assert [m for m in caplog.messages if "broker" in m] == [
        "broker lost, trying again",
        "broker is back",
    ]


async def test_outcome_is_told_after_an_outage_within_the_lock(
    broker_process: BrokerProcess, client: Client, worker: Worker
) -> None:
    killed = threading.Event()

    @worker.task("t")
    def handler(task: Task) -> dict[str, Any]:
        broker_process.kill()
        killed.set()
        return {"attempt": task.attempt}

    async with serving(worker):
        created = await client.create(NewTask("t"))
        await to_thread.run_sync(killed.wait, DEADLINE_S)
        await to_thread.run_sync(broker_process.start)
        task = await until_state(client, created.id, "COMPLETED")
    assert results([task]) == [("COMPLETED", 1, {"attempt": 1})]


async def test_poll_answered_at_once_with_nothing_does_not_become_a_loop(
    scripted: Scripted,
) -> None:
    scripted.will_answer(200, [])
    worker = Worker(scripted.base_url)
    worker.task("t")(lambda task: None)
    with anyio.move_on_after(1.0):
        await worker.serve()
    assert 1 <= len(scripted.requests) < 30


@pytest.mark.parametrize("status", [401, 403, 404, 422])
async def test_refusal_that_cannot_heal_ends_the_worker(status: int, scripted: Scripted) -> None:
    scripted.will_answer(status, b"")
    worker = Worker(scripted.base_url)
    worker.task("t")(lambda task: None)
    with anyio.fail_after(DEADLINE_S), pytest.raises(FetchlockError) as caught:
        await worker.serve()
    assert caught.value.status == status
    assert len(scripted.requests) == 1


async def test_refused_subscription_ends_the_worker(worker: Worker) -> None:
    worker.task("t", lock_duration_ms=1)(lambda task: None)
    with anyio.fail_after(DEADLINE_S), pytest.raises(Invalid, match="lockDurationMs"):
        await worker.serve()


# Ends


async def test_stopped_worker_lets_its_handlers_finish(client: Client, worker: Worker) -> None:
    started, released = anyio.Event(), anyio.Event()

    @worker.task("t")
    async def handler(task: Task) -> dict[str, Any]:
        started.set()
        await released.wait()
        return {"finished": True}

    async with serving(worker):
        first = await client.create(NewTask("t"))
        await started.wait()
        worker.stop()
        second = await client.create(NewTask("t"))
        released.set()
    assert results([await client.get_task(first.id)]) == [("COMPLETED", 1, {"finished": True})]
    assert (await client.get_task(second.id)).attempt == 0


async def test_worker_ends_in_good_order_when_the_broker_wants_it_to_drain(
    broker: str, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "fetchlock.worker")
    worker = Worker(broker, worker_id="w/1", lock_duration_ms=1_000, request_timeout_ms=5_000)
    started, released = anyio.Event(), anyio.Event()

    @worker.task("t")
    async def handler(task: Task) -> dict[str, Any]:
        started.set()
        await released.wait()
        return {"finished": True}

    with anyio.fail_after(DEADLINE_S):
        async with anyio.create_task_group() as group:
            group.start_soon(worker.serve)
            first = await client.create(NewTask("t"))
            await started.wait()
            await client.drain("w/1")
            while "draining" not in caplog.messages:  # noqa: ASYNC110
                await anyio.sleep(0.02)
            second = await client.create(NewTask("t"))
            released.set()
        assert results([await client.get_task(first.id)]) == [("COMPLETED", 1, {"finished": True})]
        # It stays wanted, from a worker without any task as well, until it is taken back.
        await client.cancel(second.id)
        await worker.serve()
    await client.undrain("w/1")
    async with serving(worker):
        third = await client.create(NewTask("t"), wait_s=DEADLINE_S)
    assert third.state == "COMPLETED"
    assert (await client.get_task(second.id)).attempt == 0
    assert caplog.messages.count("the broker asks the worker to drain") == 2


async def test_task_given_back_keeps_its_last_checkpoint(broker: str, client: Client) -> None:
    worker = Worker(broker, request_timeout_ms=5_000, drain_timeout_s=0.1)
    started = anyio.Event()

    @worker.task("t")
    async def handler(task: Task) -> None:
        started.set()
        try:
            await anyio.sleep_forever()
        finally:
            assert task.stop_reason == "worker_stopping"
            task.checkpoint({"page": 7})

    with anyio.fail_after(DEADLINE_S):
        async with serving(worker):
            created = await client.create(NewTask("t"))
            await started.wait()
    task = await client.get_task(created.id)
    assert (task.state, task.last_checkpoint) == ("CREATED", {"page": 7})


@pytest.mark.parametrize("end", ["drain timeout", "cancellation"])
async def test_tasks_cut_off_are_given_back_unharmed(end: str, broker: str, client: Client) -> None:
    worker = Worker(broker, request_timeout_ms=5_000, drain_timeout_s=0.1)

    @worker.task("async")
    async def async_handler(task: Task) -> None:
        await anyio.sleep_forever()

    @worker.task("sync")
    def sync_handler(task: Task) -> None:
        assert task.stop_requested.wait(DEADLINE_S)

    with anyio.fail_after(DEADLINE_S):
        async with anyio.create_task_group() as group:
            group.start_soon(worker.serve)
            created = [await client.create(NewTask(topic)) for topic in ("async", "sync")]
            for task in created:
                await until_state(client, task.id, "LOCKED")
            if end == "cancellation":
                group.cancel_scope.cancel()
            else:
                worker.stop()
    for task in [await client.get_task(task.id) for task in created]:
        assert (task.state, task.retries, task.error_message) == ("CREATED", 3, None)


async def test_handler_that_swallows_its_cancellation_does_not_keep_the_worker(
    broker: str, client: Client
) -> None:
    worker = Worker(broker, request_timeout_ms=5_000, drain_timeout_s=0.1)
    cancellations = 0

    @worker.task("t")
    async def handler(task: Task) -> None:
        nonlocal cancellations
        for _ in range(2):
            try:
                await anyio.sleep_forever()
            except anyio.get_cancelled_exc_class():
                cancellations += 1

    with anyio.fail_after(DEADLINE_S):
        async with serving(worker):
            created = await client.create(NewTask("t"))
            await until_state(client, created.id, "LOCKED")
    assert cancellations == 2
    # Whatever it returned then came too late.
    assert (await client.get_task(created.id)).state == "CREATED"


async def test_no_task_is_locked_by_a_worker_that_has_ended(broker: str, client: Client) -> None:
    # The broker answers the poll and the creation at the same moment. The stop comes just then,
    # each time a little later, while the tasks are on their way to the worker.
    for turns in range(40):
        # No lock runs out while the test looks: whoever unlocks a task does so on purpose.
        worker = Worker(
            broker, concurrency=50, lock_duration_ms=3_600_000, request_timeout_ms=5_000
        )
        worker.task(f"topic {turns}")(lambda task: None)
        async with serving(worker):
            first = await client.create(NewTask(f"topic {turns}"), wait_s=DEADLINE_S)
            assert first.state == "COMPLETED"
            await client.create_batch([NewTask(f"topic {turns}")] * 50)
            for _ in range(turns):
                await anyio.lowlevel.checkpoint()
    # The broker gives back what it could not deliver a moment after the worker has left.
    await until(partial(client.list_tasks, state="LOCKED"), lambda page: not page.tasks)


async def test_worker_can_serve_again(client: Client, worker: Worker) -> None:
    worker.task("t")(lambda task: None)
    for _ in range(2):
        async with serving(worker):
            assert (await client.create(NewTask("t"), wait_s=DEADLINE_S)).state == "COMPLETED"


async def test_two_workers_share_the_work(broker: str, client: Client) -> None:
    workers = [Worker(broker, concurrency=2, request_timeout_ms=5_000) for _ in range(2)]
    attempts: dict[str, int] = {}

    async def handler(task: Task) -> None:
        attempts[task.id] = attempts.get(task.id, 0) + 1

    for worker in workers:
        worker.task("t")(handler)
    created = await client.create_batch([NewTask("t")] * 100)
    async with serving(workers[0]), serving(workers[1]):
        await until(
            lambda: client.list_tasks(state="COMPLETED", limit=200),
            lambda page: len(page.tasks) == 100,
        )
    assert attempts == dict.fromkeys(created, 1)

"""Tasks that somebody else finishes, on a real broker."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import anyio
import msgspec
import pytest
from anyio import to_thread

from tests.processes import BrokerProcess
from tests.worker_sdk.serving import DEADLINE_S, serving, until_state
from worker_sdk import CallbackUrl, Client, HandOver, NewTask, Task, Worker


@pytest.fixture
async def client(broker: str) -> AsyncIterator[Client]:
    """A client of a real broker."""
    async with Client(broker) as client:
        yield client


@pytest.fixture
def worker(broker: str) -> Worker:
    """A worker of a real broker, without a handler as yet."""
    return Worker(broker, request_timeout_ms=5_000)


async def call_back(url: str, result: object) -> dict[str, Any]:
    """What an outside party does with the URL that it was given."""
    async with aiohttp.ClientSession() as session:
        body = msgspec.json.encode(result)
        headers = {"Content-Type": "application/json"}
        async with session.put(url, data=body, headers=headers) as response:
            assert response.status == 200, await response.text()
            return msgspec.json.decode(await response.read(), type=dict[str, Any])


@pytest.mark.parametrize("is_async", [True, False])
async def test_callback_ends_the_task_that_was_handed_over(
    is_async: bool, client: Client, worker: Worker
) -> None:
    urls: list[CallbackUrl] = []

    def handle(task: Task) -> HandOver:
        urls.append(task.callback_url(timeout_s=60).result())
        task.log("handed over")
        return task.hand_over({"a": 1, "b": 1}, timeout_s=60)

    async def handle_async(task: Task) -> HandOver:
        urls.append(await task.callback_url())
        task.log("handed over")
        return task.hand_over({"a": 1, "b": 1})

    worker.task("t")(handle_async if is_async else handle)
    async with serving(worker):
        created = await client.create(NewTask("t"))
        waiting = await until_state(client, created.id, "AWAITING")
        assert waiting.callback_expires_at is not None
        [line] = (await client.log_lines(created.id)).lines
        assert line.line == "handed over"
    [callback] = urls
    assert (await call_back(callback.url, {"b": 2}))["state"] == "COMPLETED"
    task = await client.get_task(created.id)
    assert (task.state, task.result) == ("COMPLETED", {"a": 1, "b": 2})


async def test_slot_is_free_while_the_callback_is_waited_for(broker: str, client: Client) -> None:
    worker = Worker(broker, concurrency=1, request_timeout_ms=5_000)
    worker.task("t")(lambda task: task.hand_over())
    worker.task("next")(lambda task: None)
    async with serving(worker):
        created = await client.create(NewTask("t"))
        await until_state(client, created.id, "AWAITING")
        assert (await client.create(NewTask("next"), wait_s=DEADLINE_S)).state == "COMPLETED"


async def test_callback_may_come_before_the_hand_over(client: Client, worker: Worker) -> None:
    @worker.task("t")
    async def handler(task: Task) -> HandOver:
        callback = await task.callback_url()
        assert (await call_back(callback.url, {"early": True}))["state"] == "LOCKED"
        return task.hand_over()

    async with serving(worker):
        task = await client.create(NewTask("t"), wait_s=DEADLINE_S)
    assert (task.state, task.result) == ("COMPLETED", {"early": True})


async def test_hand_over_that_is_refused_is_a_failure(client: Client, worker: Worker) -> None:
    worker.task("NaN")(lambda task: task.hand_over({"x": float("nan")}))
    worker.task("centuries")(lambda task: task.hand_over(timeout_s=1e10))
    async with serving(worker):
        for topic, complaint in (("NaN", "JSON has no nan"), ("centuries", "422 invalid")):
            created = await client.create(NewTask(topic, retries=1))
            task = await until_state(client, created.id, "FAILED")
            assert complaint in (task.error_message or "")


@pytest.mark.parametrize(
    ("ask", "complaint"),
    [
        (lambda request: request.result(), "await it instead"),
        (lambda request: to_thread.run_sync(anyio.run, _awaited, request), "result"),
    ],
)
async def test_url_is_asked_for_in_the_way_of_the_handler(
    ask: Callable[[Any], Any], complaint: str, client: Client, worker: Worker
) -> None:
    @worker.task("t")
    async def handler(task: Task) -> None:
        await ask(task.callback_url())

    async with serving(worker):
        created = await client.create(NewTask("t", retries=1))
        task = await until_state(client, created.id, "FAILED")
    assert (task.error_message or "").startswith("RuntimeError: ")
    assert complaint in (task.error_message or "")


async def _awaited(request: Any) -> object:
    return await request


async def test_url_is_asked_for_again_after_an_outage(
    broker_process: BrokerProcess, client: Client, worker: Worker
) -> None:
    killed = threading.Event()

    @worker.task("t")
    def handler(task: Task) -> HandOver:
        broker_process.kill()
        killed.set()
        task.callback_url().result()
        return task.hand_over()

    async with serving(worker):
        created = await client.create(NewTask("t"))
        await to_thread.run_sync(killed.wait, DEADLINE_S)
        await to_thread.run_sync(broker_process.start)
        task = await until_state(client, created.id, "AWAITING")
    assert task.attempt == 1


async def test_thread_that_waits_for_its_url_learns_of_the_workers_end(
    broker_process: BrokerProcess, client: Client
) -> None:
    # It would ask again for as long as the lock lasts, which is longer than anybody waits here.
    worker = Worker(
        broker_process.base_url,
        lock_duration_ms=600_000,
        request_timeout_ms=5_000,
        drain_timeout_s=0.1,
    )
    asking, ended = threading.Event(), threading.Event()

    @worker.task("t")
    def handler(task: Task) -> None:
        broker_process.pause()
        request = task.callback_url()
        asking.set()
        try:
            request.result()
        finally:
            ended.set()

    with anyio.fail_after(DEADLINE_S):
        async with serving(worker):
            await client.create(NewTask("t"))
            assert await to_thread.run_sync(asking.wait, DEADLINE_S)
    assert await to_thread.run_sync(ended.wait, DEADLINE_S)
    broker_process.resume()

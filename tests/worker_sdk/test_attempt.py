"""What becomes of whatever a handler does, on a real broker."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import anyio.lowlevel
import pytest

from tests.worker_sdk.serving import serving, until, until_state
from worker_sdk import BpmnError, Client, Failure, NewTask, Task, Worker

HUGE = 10**40


@pytest.fixture
async def client(broker: str) -> AsyncIterator[Client]:
    """A client of a real broker."""
    async with Client(broker) as client:
        yield client


def a_worker(client: Client, handler: Callable[[Task], Any]) -> Worker:
    worker = Worker(client.base_url, request_timeout_ms=5_000)
    worker.task("t")(handler)
    return worker


async def finished(client: Client, handler: Callable[[Task], Any]) -> Task:
    """The task after the handler has had it, and finished it."""
    async with serving(a_worker(client, handler)):
        return await client.create(NewTask("t", {"n": HUGE}), wait_s=30)


async def failed(client: Client, handler: Callable[[Task], Any]) -> Task:
    """The task after the handler has failed at it once, as the broker tells it."""
    async with serving(a_worker(client, handler)):
        return await until_failed(client, NewTask("t"))


async def until_failed(client: Client, new: NewTask) -> Task:
    """The new task as soon as a failure of it is known."""
    created = await client.create(new)
    return await until(
        lambda: client.get_task(created.id), lambda task: task.error_message is not None
    )


async def test_async_handler_completes_with_what_it_returns(client: Client) -> None:
    async def handler(task: Task) -> dict[str, Any]:
        await anyio.lowlevel.checkpoint()
        return {"n": task.variables["n"] + 1}

    task = await finished(client, handler)
    assert (task.state, task.result, task.attempt) == ("COMPLETED", {"n": HUGE + 1}, 1)


async def test_sync_handler_runs_in_a_thread(client: Client) -> None:
    def handler(task: Task) -> dict[str, Any]:
        return {"main": threading.current_thread() is threading.main_thread()}

    assert (await finished(client, handler)).result == {"main": False}


async def test_object_with_an_async_call_is_an_async_handler(client: Client) -> None:
    class Handler:
        async def __call__(self, task: Task) -> dict[str, Any]:
            return {"main": threading.current_thread() is threading.main_thread()}

    assert (await finished(client, Handler())).result == {"main": True}


async def test_handler_that_returns_nothing_completes_without_a_result(client: Client) -> None:
    task = await finished(client, lambda task: None)
    assert task.state == "COMPLETED"
    assert not task.result


async def test_bpmn_error_finishes_with_its_code(client: Client) -> None:
    async def handler(task: Task) -> None:
        raise BpmnError("CARD_DECLINED", "no funds", variables={"balance": HUGE})

    task = await finished(client, handler)
    assert (task.state, task.error_code, task.error_message) == (
        "BPMN_ERROR",
        "CARD_DECLINED",
        "no funds",
    )
    assert task.result == {"balance": HUGE}


async def test_failure_without_retries_is_an_incident(client: Client) -> None:
    def handler(task: Task) -> None:
        raise Failure("gateway gone for good", retries=0, details="call them")

    task = await failed(client, handler)
    assert (task.state, task.retries) == ("FAILED", 0)
    assert (task.error_message, task.error_details) == ("gateway gone for good", "call them")


async def test_failure_says_when_to_try_again(client: Client) -> None:
    async def handler(task: Task) -> None:
        raise Failure("gateway timeout", retries=7, retry_after=timedelta(hours=2))

    task = await failed(client, handler)
    assert (task.state, task.retries) == ("CREATED", 7)
    assert task.available_at is not None
    assert task.created_at is not None
    assert task.available_at - task.created_at >= timedelta(hours=2)


async def test_failure_that_says_nothing_leaves_it_to_the_policy(client: Client) -> None:
    async def handler(task: Task) -> None:
        raise Failure("try again")

    task = await failed(client, handler)
    assert (task.state, task.retries) == ("CREATED", 2)


def raises(error: BaseException) -> Callable[[Task], Any]:
    def handler(task: Task) -> None:
        raise error

    return handler


def async_raises(error: BaseException) -> Callable[[Task], Any]:
    async def handler(task: Task) -> None:
        raise error

    return handler


async def test_anything_else_is_a_failure_with_its_traceback(client: Client) -> None:
    worker = Worker(client.base_url, request_timeout_ms=5_000)
    expected: dict[str, str] = {}
    for error, message in (
        (LookupError("no such order"), "LookupError: no such order"),
        (ValueError("NUL \0 and half a \ud83d"), r"ValueError: NUL \x00 and half a \ud83d"),
        (SystemExit(3), "SystemExit: 3"),
        (asyncio.CancelledError(), "asyncio.exceptions.CancelledError"),
    ):
        for kind in (raises, async_raises):
            topic = f"{kind.__name__} {type(error).__name__}"
            worker.task(topic)(kind(error))
            expected[topic] = message
    async with serving(worker):
        for topic, message in expected.items():
            task = await until_failed(client, NewTask(topic))
            assert task.error_message == message
            assert task.error_details is not None
            assert "test_attempt.py" in task.error_details


async def test_result_that_cannot_be_one_is_a_failure(client: Client) -> None:
    results: dict[str, tuple[Any, str]] = {
        "no dict": (7, "TypeError: the handler of topic 'no dict' returned int"),
        "NaN": ({"x": float("nan")}, "the outcome was refused: JSON has no nan"),
        "no JSON": ({"x": object()}, "the outcome was refused: Encoding objects of type object"),
        "NUL": ({"x": "\0"}, "the outcome was refused: 422 invalid"),
        "too large": ({"x": "x" * 2**21}, "the outcome was refused: 413 too_large"),
    }
    worker = Worker(client.base_url, request_timeout_ms=5_000)
    for topic, (result, _) in results.items():
        worker.task(topic)(lambda task, result=result: result)
    async with serving(worker):
        for topic, (_, complaint) in results.items():
            task = await until_failed(client, NewTask(topic))
            assert task.state == "CREATED"
            assert task.error_message is not None
            assert task.error_message.startswith(complaint)


async def test_failure_that_is_refused_is_told_as_one(client: Client) -> None:
    task = await failed(client, raises(Failure("no", retries=-1)))
    assert task.error_message is not None
    assert task.error_message.startswith("the outcome was refused: 422 invalid")


async def test_worker_goes_on_after_every_kind_of_failure(client: Client) -> None:
    errors = [SystemExit(1), asyncio.CancelledError(), RuntimeError("boom"), RecursionError()]

    async def handler(task: Task) -> dict[str, Any]:
        if errors:
            raise errors.pop()
        return {"python": sys.version}

    worker = Worker(client.base_url, concurrency=1, request_timeout_ms=5_000)
    worker.task("t")(handler)
    async with serving(worker):
        for _ in range(4):
            await client.create(NewTask("t", retries=1))
        last = await client.create(NewTask("t"), wait_s=30)
        assert last.state == "COMPLETED"
        assert len((await client.list_tasks(state="FAILED")).tasks) == 4


async def test_task_of_another_topic_is_left_alone(client: Client) -> None:
    other = await client.create(NewTask("other"))
    assert (await finished(client, lambda task: None)).state == "COMPLETED"
    assert (await until_state(client, other.id, "CREATED")).attempt == 0

"""What can be said about a worker before it serves."""

from __future__ import annotations

import anyio
import pytest

from worker_sdk import Task, Worker
from worker_sdk._worker import default_worker_id

URL = "http://127.0.0.1:9"


def test_decorated_function_stays_itself() -> None:
    def handler(task: Task) -> None: ...

    assert Worker(URL).task("t")(handler) is handler


def test_one_function_may_handle_many_topics() -> None:
    worker = Worker(URL)

    @worker.task("a")
    @worker.task("b")
    async def handler(task: Task) -> None: ...

    assert sorted(worker._handlers) == ["a", "b"]


def test_topic_has_one_handler() -> None:
    worker = Worker(URL)
    worker.task("t")(lambda task: None)
    with pytest.raises(ValueError, match="has a handler already"):
        worker.task("t")


def test_worker_without_a_handler_does_not_serve() -> None:
    with pytest.raises(ValueError, match="no handler"):
        anyio.run(Worker(URL).serve)


def test_worker_ids_tell_workers_apart() -> None:
    assert default_worker_id() != default_worker_id()
    assert Worker(URL, worker_id="me").worker_id == "me"


def test_wrong_settings_are_refused_where_they_stand() -> None:
    with pytest.raises(ValueError, match="http"):
        Worker("localhost:8080")
    with pytest.raises(ValueError, match="concurrency 0"):
        Worker(URL, concurrency=0)
    with pytest.raises(ValueError, match="less than a second"):
        Worker(URL, request_timeout_ms=0)


def test_subscription_is_what_the_decorator_says() -> None:
    worker = Worker(URL, lock_duration_ms=5_000)
    worker.task("a", process_definition_ids=["p:1"], variables=["x"])(lambda task: None)
    worker.task("b", lock_duration_ms=9_000)(lambda task: None)
    a, b = worker._handlers["a"].subscription, worker._handlers["b"].subscription
    assert (a.process_definition_ids, a.variables, a.lock_duration_ms) == (["p:1"], ["x"], 5_000)
    assert (b.process_definition_ids, b.variables, b.lock_duration_ms) == (None, None, 9_000)

"""The hands, apart from what gives them work. Their life with a broker is in test_session.py."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Any

import anyio
import pytest
from anyio import to_thread

from tests.worker_sdk.conftest import Scripted
from tests.worker_sdk.hearing import Hearing, listening
from tests.worker_sdk.serving import DEADLINE_S
from worker_sdk import Client, Subscription, Task
from worker_sdk._attempt import Handler
from worker_sdk._crew import Crew, open_crew
from worker_sdk._keeper import LeaseKeeper
from worker_sdk._slots import Slots

DURATION_MS = 30_000

order: ContextVar[str] = ContextVar("order", default="none")


@contextmanager
def running_keeper(broker: Hearing) -> Iterator[LeaseKeeper]:
    """A keeper at work in its thread."""
    keeper = LeaseKeeper(lambda: Client(broker.base_url), "w", [DURATION_MS])
    thread = threading.Thread(target=anyio.run, args=[keeper._keep_all])
    thread.start()
    try:
        yield keeper
    finally:
        keeper.stop()
        thread.join(DEADLINE_S)


@asynccontextmanager
async def at_work(
    client: Client,
    function: Callable[[Task], Any],
    *,
    is_async: bool,
    keeper: LeaseKeeper | None = None,
) -> AsyncIterator[Crew]:
    """A crew with this handler for `t`. At the end of the block it has finished its tasks."""
    slots, handler = Slots(5), Handler(function, is_async, Subscription("t"), DURATION_MS)
    keeper = keeper or LeaseKeeper(lambda: client, "w", [DURATION_MS])
    with anyio.fail_after(DEADLINE_S):
        async with open_crew({"t": handler}, client, slots, keeper) as crew:
            yield crew
            await slots.wait_idle()
    assert slots.free == 5
    assert not keeper._rhythms[DURATION_MS].leases


def tasks(count: int) -> list[Task]:
    return [Task(id=str(n), topic="t", worker_id="w", lock_token="x") for n in range(count)]


@pytest.mark.parametrize("age_s", [0, 40])
async def test_task_that_comes_too_late_is_given_back_unbegun(
    age_s: int, client: Client, scripted: Scripted
) -> None:
    scripted.will_answer(204, b"")
    begun: list[str] = []

    async def handler(task: Task) -> None:
        begun.append(task.id)

    async with at_work(client, handler, is_async=True) as crew:
        crew.begin(tasks(1), time.monotonic() - age_s)
    [request] = scripted.requests
    assert request["path"].endswith("/0/unlock" if age_s else "/0/complete")
    assert begun == ([] if age_s else ["0"])


@pytest.mark.parametrize("is_async", [True, False])
async def test_handler_leaves_nothing_in_the_context_of_another(
    is_async: bool, client: Client, scripted: Scripted
) -> None:
    scripted.will_answer(204, b"")
    seen: list[str] = []

    def note(task: Task) -> None:
        seen.append(order.get())
        order.set(task.id)

    async def handler(task: Task) -> None:
        note(task)

    order.set("the worker's")
    async with at_work(client, handler if is_async else note, is_async=is_async) as crew:
        for task in tasks(3):
            crew.begin([task], time.monotonic())
    assert seen == ["the worker's"] * 3


async def test_lease_is_kept_while_the_handler_runs_and_no_longer(
    client: Client, scripted: Scripted
) -> None:
    scripted.will_answer(204, b"")
    kept: list[int] = []

    async def handler(task: Task) -> None:
        kept.append(len(crew._keeper._rhythms[DURATION_MS].leases))

    async with at_work(client, handler, is_async=True) as crew:
        crew.begin(tasks(1), time.monotonic())
    assert kept == [1]


@pytest.mark.parametrize("is_async", [True, False])
async def test_outcome_is_not_told_before_the_last_news(is_async: bool) -> None:
    def say(task: Task) -> None:
        task.progress(100)

    async def say_async(task: Task) -> None:
        say(task)

    async with listening() as broker, Client(broker.base_url) as client:
        broker.gate = anyio.Event()
        with running_keeper(broker) as keeper:
            function = say_async if is_async else say
            async with at_work(client, function, is_async=is_async, keeper=keeper) as crew:
                crew.begin(tasks(1), time.monotonic())
                await broker.until(lambda heard: heard.news)
                await anyio.wait_all_tasks_blocked()
                assert broker.outcomes == []
                broker.gate.set()
        assert broker.outcomes == ["0/complete"]
        assert [item["percent"] for item in broker.news] == [100]


async def test_task_without_news_costs_no_heartbeat() -> None:
    async def handler(task: Task) -> None: ...

    async with listening() as broker, Client(broker.base_url) as client:
        with running_keeper(broker) as keeper:
            async with at_work(client, handler, is_async=True, keeper=keeper) as crew:
                crew.begin(tasks(5), time.monotonic())
        assert len(broker.outcomes) >= 1
        assert broker.heartbeats == []


async def test_thread_that_is_abandoned_is_told_to_stop(client: Client) -> None:
    begun, stopped = threading.Event(), threading.Event()

    def wait(task: Task) -> None:
        begun.set()
        if task.stop_requested.wait(DEADLINE_S):
            stopped.set()

    slots = Slots(1)
    handler = Handler(wait, False, Subscription("t"), DURATION_MS)
    keeper = LeaseKeeper(lambda: client, "w", [DURATION_MS])
    async with open_crew({"t": handler}, client, slots, keeper) as crew:
        crew.begin(tasks(1), time.monotonic())
        assert await to_thread.run_sync(begun.wait, DEADLINE_S)
    assert await to_thread.run_sync(stopped.wait, DEADLINE_S)
    assert [lease.task.id for lease in slots.held] == ["0"]  # To be given back.

"""A worker that serves while a test looks on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import anyio

from worker_sdk import Client, Task, Worker

T = TypeVar("T")

# For what must happen, however slow the machine is. Nothing is expected to take nearly so long.
DEADLINE_S = 30.0


@asynccontextmanager
async def serving(worker: Worker) -> AsyncIterator[None]:
    """The worker serves while the block runs. Then it is stopped in good order."""
    async with anyio.create_task_group() as group:
        group.start_soon(worker.serve)
        yield
        worker.stop()


async def until(read: Callable[[], Awaitable[T]], holds: Callable[[T], bool]) -> T:
    """What is read as soon as it is as it should be."""
    with anyio.fail_after(DEADLINE_S):
        while not holds(value := await read()):  # noqa: ASYNC110 - the broker tells no events
            await anyio.sleep(0.02)
    return value


async def until_state(client: Client, task_id: str, state: str) -> Task:
    """The task as soon as it is in this state."""
    return await until(lambda: client.get_task(task_id), lambda task: task.state == state)

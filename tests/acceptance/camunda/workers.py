"""What the tests with Camunda's clients share: workers with them, and what only HTTP shows."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import httpx2
import msgspec
from anyio import to_thread

from tests.camunda_clients import installed
from tests.factories import TaskJson
from tests.processes import Process
from worker_sdk import Client, NewTask, Task

CLIENTS: Final = ("javascript", "python", "async_python")

LONG_MS: Final = 600_000
"""Longer than any test may take."""

FINISHED_S: Final = 60.0
"""Only so that what is never finished fails the test."""

_MODULES: Final = {"python": "worker", "async_python": "async_worker"}


class CamundaWorker(Process):
    """A worker with one of `CLIENTS`, in a process of its own. It says `ready` first."""

    async def says(self) -> str:
        """Its next line."""
        return await to_thread.run_sync(self.await_line)


async def camunda_worker(
    client_name: str,
    base_url: str,
    worker_id: str,
    topics: Mapping[str, str],
    *,
    lock_ms: int = LONG_MS,
    log: Path | None = None,
) -> CamundaWorker:
    """One that is not started yet. `topics` names each one's handler.

    A poll that finds nothing lasts longer than the test, so that it is woken or the test fails.
    """
    options = {
        "baseUrl": f"{base_url}/engine-rest",
        "workerId": worker_id,
        "topics": topics,
        "lockMs": lock_ms,
        "pollMs": LONG_MS,
        "log": None if log is None else str(log),
    }
    argument = msgspec.json.encode(options).decode()
    if client_name == "javascript":
        node = await to_thread.run_sync(installed.javascript)
        program, *arguments = node.command("worker", argument)
        return CamundaWorker(program, arguments)
    path = await to_thread.run_sync(installed.python)
    module = f"tests.camunda_clients.{_MODULES[client_name]}"
    return CamundaWorker(sys.executable, ["-m", module, argument], {"PYTHONPATH": str(path)})


async def shown(base_url: str, task_id: str) -> TaskJson:
    """The task as the native API shows it, with what the SDK does not read."""
    async with httpx2.AsyncClient() as http:
        answer = await http.get(f"{base_url}/api/external-tasks/{task_id}")
    assert answer.status_code == 200, answer.text
    task: TaskJson = msgspec.json.decode(answer.content)
    return task


async def typed_task(base_url: str, client: Client, new: NewTask, typed: Mapping[str, Any]) -> Task:
    """A task that has typed values, too, which a native producer cannot say. Finished."""
    created = await client.create(msgspec.structs.replace(new, delay_ms=LONG_MS))
    url = f"{base_url}/engine-rest/process-instance/{created.id}/variables"
    async with httpx2.AsyncClient() as http:
        answer = await http.post(url, json={"modifications": typed})
    assert answer.status_code == 204, answer.text
    await client.retry_timeout(created.id, 0)
    return await client.get_task(created.id, wait_s=FINISHED_S)

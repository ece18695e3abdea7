"""A worker that runs as a process of its own: `python -m worker_sdk …worker_for_tests:worker`."""

from __future__ import annotations

import os
import threading
from functools import partial
from typing import Any

from tests.worker_sdk.serving import until
from worker_sdk import Client, Task, Worker

BROKER_URL = os.environ.get("BROKER_URL_FOR_TESTS", "http://127.0.0.1:9")
LOCK_DURATION_MS = int(os.environ.get("LOCK_DURATION_MS_FOR_TESTS", "600000"))

worker = Worker(
    BROKER_URL,
    worker_id="worker-for-tests",
    lock_duration_ms=LOCK_DURATION_MS,
    drain_timeout_s=600,
)


@worker.task("polite")
async def polite(task: Task) -> dict[str, Any]:
    """Finishes once the test has made a task of topic `release`."""
    print("started", flush=True)  # noqa: T201 - what the test waits for
    async with Client(BROKER_URL) as client:
        await until(partial(client.list_tasks, topic="release"), lambda page: bool(page.tasks))
    return {"finished": True}


@worker.task("stubborn")
def stubborn(task: Task) -> None:
    """Never finishes, whatever it is told."""
    print("started", flush=True)  # noqa: T201 - what the test waits for
    threading.Event().wait()

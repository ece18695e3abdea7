"""The worker, as anybody would write one: `fetchlock worker examples.demo.worker:worker`."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from examples.demo.files import fingerprint
from worker_sdk import Task, Worker

FINGERPRINT = "fingerprintFile"
PICKUP = "pickup"
LOCK_DURATION_MS = 3_000

worker = Worker(
    os.environ.get("DEMO_BROKER", "http://127.0.0.1:8080"),
    worker_id=os.environ.get("DEMO_WORKER"),
    concurrency=16,
    # How long the others wait for the tasks of one that died. A live worker extends its locks.
    lock_duration_ms=LOCK_DURATION_MS,
)


@worker.task(FINGERPRINT)
def fingerprint_file(task: Task) -> dict[str, Any]:
    """Not async: it reads files, so it runs in a thread."""
    return fingerprint(Path(task.variables["path"]))


@worker.task(PICKUP)
async def note_start(task: Task) -> dict[str, Any]:
    """When the handler began, by a clock that all processes of a machine share."""
    return {"startedNs": time.monotonic_ns()}

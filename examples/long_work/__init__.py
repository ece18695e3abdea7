"""Long work, one pattern a file. Each runs by itself beside a broker, and ends:

    fetchlock dev
    python -m examples.long_work.progress

docs/long-work.md tells what they show.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import anyio

from worker_sdk import Client, Worker

BROKER: Final = os.environ.get("FETCHLOCK_URL", "http://127.0.0.1:8080")


@asynccontextmanager
async def working(worker: Worker) -> AsyncIterator[Client]:
    """A worker at work in this process, and a client beside it to ask and to look."""
    async with Client(BROKER) as client, anyio.create_task_group() as group:
        group.start_soon(worker.serve)
        yield client
        worker.stop()

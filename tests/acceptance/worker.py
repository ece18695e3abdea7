"""A worker process for the tests, as anybody would write one: `python -m tests.acceptance.worker`.

Its one argument is its options as JSON. Standard output is how a test hears of
it: a line for each thing that is worth waiting for.

    work     takes a moment
    gated    says `started ID`, and ends once this attempt's gate is open
    late     as gated, but then completes by itself, like a program that knows nothing of leases,
             and says what it was told

An attempt's gate is open once there is a file of the name that variables["gate"] says, with the
number of the attempt behind it.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any, Final

import anyio
import msgspec

from worker_sdk import Client, FetchlockError, Task, Worker

_MOMENT_S: Final = 0.02
_LOOK_S: Final = 0.01


def main() -> None:
    """Work until told to stop."""
    worker = Worker(**msgspec.json.decode(sys.argv[1]))

    @worker.task("work")
    async def work(task: Task) -> dict[str, Any]:
        await anyio.sleep(_MOMENT_S)
        return task.variables

    @worker.task("gated")
    async def gated(task: Task) -> None:
        _say(f"started {task.id}")
        while not _is_open(task):  # noqa: ASYNC110 - the test is another process
            await anyio.sleep(_LOOK_S)

    @worker.task("late")
    def late(task: Task) -> None:
        _say(f"started {task.id}")
        while not _is_open(task):
            time.sleep(_LOOK_S)
        _say(anyio.run(_complete, worker.base_url, task))

    _say("ready")
    worker.run()


def _is_open(task: Task) -> bool:
    return Path(f"{task.variables['gate']}{task.attempt}").exists()


async def _complete(base_url: str, task: Task) -> str:
    async with Client(base_url) as client:
        try:
            await client.complete(task)
        except FetchlockError as error:
            return f"told {error.status} {error.code}"
        return "told that it is done"


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()

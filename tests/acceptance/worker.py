"""A worker process for the tests, as anybody would write one: `python -m tests.acceptance.worker`.

Its one argument is its options as JSON. Standard output is how a test hears of
it: a line for each thing that is worth waiting for.

    work       takes a moment
    gated      says `started ID`, and ends once this attempt's gate is open
    late       as gated, but then completes by itself, like a program that knows nothing of leases,
               and says what it was told
    steps      goes five steps from its last checkpoint on, each with a gate of its own, and says
               `did STEP`
    reporting  says without end how far it is, until the gate is open
    tidy       as gated, and says `stopped ID REASON` when it has to stop, and then `cleaned ID` if
               that is because it is to be cancelled
    tidying    the same in a thread
    outsource  tells how far it is for so many lines, passes the work on to a service with the URL
               to call back, and hands the task over
    event      hands the task over, and passes nothing on but its id

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
from aiohttp import ClientSession

from worker_sdk import Client, FetchlockError, HandOver, Task, Worker

_MOMENT_S: Final = 0.02
_LOOK_S: Final = 0.01
_REPORT_S: Final = 0.4
_STEPS: Final = 5


def main() -> None:
    """Work until told to stop."""
    worker = Worker(**msgspec.json.decode(sys.argv[1]))
    worker.task("work")(work)
    worker.task("gated")(gated)
    worker.task("steps")(steps)
    worker.task("reporting")(reporting)
    worker.task("tidy", on_cancel=cleaned)(tidy)
    worker.task("tidying", on_cancel=cleaned)(tidying)
    worker.task("outsource")(outsource)
    worker.task("event")(event)

    @worker.task("late")
    def late(task: Task) -> None:
        _say(f"started {task.id}")
        while not _is_open(task):
            time.sleep(_LOOK_S)
        _say(anyio.run(_complete, worker.base_url, task))

    _say("ready")
    worker.run()


async def work(task: Task) -> dict[str, Any]:
    await anyio.sleep(_MOMENT_S)
    return task.variables


async def gated(task: Task) -> None:
    _say(f"started {task.id}")
    await _opening(task, task.attempt)


async def steps(task: Task) -> dict[str, Any]:
    began_at = 1 if task.last_checkpoint is None else task.last_checkpoint["step"] + 1
    for step in range(began_at, _STEPS + 1):
        await _opening(task, step)
        task.progress(100 * step / _STEPS, f"step {step}")
        task.log(f"attempt {task.attempt} did step {step}")
        task.checkpoint({"step": step})
        _say(f"did {step}")
    return {"beganAt": began_at}


async def reporting(task: Task) -> None:
    reports = 0
    while not _is_open(task):
        reports += 1
        task.progress(subtext=f"report {reports}")
        await anyio.sleep(_REPORT_S)


async def tidy(task: Task) -> None:
    _say(f"started {task.id}")
    try:
        await _opening(task, task.attempt)
    finally:
        if task.stop_reason:
            _say(f"stopped {task.id} {task.stop_reason}")


def tidying(task: Task) -> None:
    _say(f"started {task.id}")
    while not (_is_open(task) or task.stop_requested.wait(_LOOK_S)):
        pass
    if task.stop_reason:
        _say(f"stopped {task.id} {task.stop_reason}")


def cleaned(task: Task) -> None:
    _say(f"cleaned {task.id}")


async def outsource(task: Task) -> HandOver:
    lines: int = task.variables.get("lines", 0)
    for line in range(1, lines + 1):
        task.progress(100 * line / lines, f"line {line}")
        task.log(f"attempt {task.attempt} line {line}")
        task.checkpoint(line)
        await anyio.sleep(_MOMENT_S)
    callback = await task.callback_url()
    call = [task.id, task.attempt, callback.url, task.variables["number"]]
    async with ClientSession() as http, http.post(task.variables["service"], json=call) as answer:
        assert answer.status == 202
    return task.hand_over({"number": task.variables["number"], "by": "worker"})


def event(task: Task) -> HandOver:
    _say(f"started {task.id}")
    return task.hand_over({"by": "worker", "kept": True})


async def _opening(task: Task, gate: int) -> None:
    while not _is_open(task, gate):  # noqa: ASYNC110 - the test is another process
        await anyio.sleep(_LOOK_S)


def _is_open(task: Task, gate: int | None = None) -> bool:
    return Path(f"{task.variables['gate']}{gate or task.attempt}").exists()


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

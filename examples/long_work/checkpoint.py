"""An import that is killed half-way and goes on where it was, in another process."""

import subprocess
import sys

import anyio

from examples.long_work import BROKER
from worker_sdk import Client, NewTask, Task, Worker

ROWS = 100

# Short locks, so that the example need not wait long for the next attempt.
worker = Worker(BROKER, lock_duration_ms=2_000)


@worker.task("importRows")
async def import_rows(task: Task) -> dict[str, object]:
    """Begin after the last row that an earlier attempt is known to have done."""
    first = task.last_checkpoint["row"] + 1 if task.last_checkpoint else 1
    for row in range(first, ROWS + 1):
        await anyio.sleep(0.05)
        task.checkpoint({"row": row})
    return {"beganAtRow": first, "attempt": task.attempt}


def start_worker() -> subprocess.Popen[bytes]:
    """This file as a worker, in a process that can be killed."""
    return subprocess.Popen([sys.executable, "-m", "examples.long_work.checkpoint", "worker"])


async def main() -> None:
    """Create the task, kill its worker, start another."""
    async with Client(BROKER) as client:
        task = await client.create(NewTask("importRows"))
        first = start_worker()
        while not task.last_checkpoint:
            task = await client.get_task(task.id, wait_s=1)
        first.kill()
        first.wait()
        print("killed after row", task.last_checkpoint["row"])
        second = start_worker()
        task = await client.get_task(task.id, wait_s=30)
        print(task.state, task.result)
        second.terminate()
        second.wait()


if __name__ == "__main__":
    if sys.argv[1:] == ["worker"]:
        worker.run()
    else:
        anyio.run(main)

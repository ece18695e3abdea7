"""A task that hangs, is stopped by its timeout, and is sent again by a person."""

import anyio

from examples.long_work import BROKER, working
from worker_sdk import NewTask, Task, Worker

worker = Worker(BROKER, lock_duration_ms=2_000)


@worker.task("callSlowSystem")
async def call(task: Task) -> dict[str, object]:
    """The first attempt would never end."""
    if task.attempt == 1:
        await anyio.sleep_forever()
    return {"attempt": task.attempt}


async def main() -> None:
    """The producer's and the operator's side."""
    async with working(worker) as client:
        task = await client.create(NewTask("callSlowSystem", execution_timeout_ms=1_000))
        while task.state != "FAILED":
            task = await client.get_task(task.id, wait_s=1)
        print(task.state, task.error_code)
        await client.retries(task.id, 1)
        task = await client.get_task(task.id, wait_s=10)
        print(task.state, task.result)


if __name__ == "__main__":
    anyio.run(main)

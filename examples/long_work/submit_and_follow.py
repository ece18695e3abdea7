"""Submit a report, get an answer at once, and ask for the result when it is needed."""

import anyio

from examples.long_work import BROKER, working
from worker_sdk import NewTask, Task, Worker

worker = Worker(BROKER)


@worker.task("generateReport")
async def generate(task: Task) -> dict[str, object]:
    """A report that takes a while."""
    await anyio.sleep(1)
    return {"resultUrl": f"https://reports.example.com/{task.variables['month']}.pdf"}


async def main() -> None:
    """The producer's side."""
    async with working(worker) as client:
        task = await client.create(NewTask("generateReport", {"month": "2026-10"}))
        print("202", task.id, task.state)
        # Over HTTP the same is GET …/{id} with If-None-Match, or with Prefer: wait=10.
        task = await client.get_task(task.id, wait_s=10)
        print(task.state, task.result)


if __name__ == "__main__":
    anyio.run(main)

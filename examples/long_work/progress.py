"""A handler that says how far it is and keeps a log; a watcher that reads along."""

import anyio

from examples.long_work import BROKER, working
from worker_sdk import NewTask, Task, Worker

SCENES = 8

worker = Worker(BROKER)


@worker.task("transcode")
async def transcode(task: Task) -> dict[str, object]:
    """What it says goes out with the next heartbeat: saying it often costs nothing."""
    for scene in range(1, SCENES + 1):
        await anyio.sleep(0.4)
        task.progress(100 * scene / SCENES, f"{scene} of {SCENES} scenes")
        task.log(f"scene {scene} done")
    return {"scenes": SCENES}


async def main() -> None:
    """The watcher's side."""
    async with working(worker) as client:
        task = await client.create(NewTask("transcode"))
        read = 0
        while task.finished_at is None:
            task = await client.get_task(task.id, wait_s=1)
            log = await client.log_lines(task.id, after=read)
            read = log.next
            if task.last_progress:
                print(f"{task.last_progress.percent:5.1f} %  {task.last_progress.subtext}")
            for line in log.lines:
                print("         ", line.number, line.line)
        print(task.state, task.result)


if __name__ == "__main__":
    anyio.run(main)

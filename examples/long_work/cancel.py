"""Work that nobody wants any more: the handler stops, cleans up, and the task is cancelled."""

import tempfile
from pathlib import Path

import anyio

from examples.long_work import BROKER, working
from worker_sdk import NewTask, Task, Worker

# Short locks, because the wish to cancel comes with the answer to a heartbeat: every third of one.
worker = Worker(BROKER, lock_duration_ms=3_000)


def half_done(task: Task) -> Path:
    """The file that the export writes to."""
    return Path(tempfile.gettempdir(), f"export-{task.id}.part")


def clean_up(task: Task) -> None:
    """Runs once the handler has stopped, while the task is still this worker's."""
    half_done(task).unlink()
    print("removed", half_done(task).name)


@worker.task("export", on_cancel=clean_up)
def export(task: Task) -> None:
    """A handler in a thread looks for itself whether it should stop. An async one is cancelled."""
    half_done(task).touch()
    task.progress(subtext="exporting")
    while not task.stop_requested.wait(0.1):
        pass


async def main() -> None:
    """Change one's mind while the export runs."""
    async with working(worker) as client:
        task = await client.create(NewTask("export"))
        while not task.last_progress:
            task = await client.get_task(task.id, wait_s=1)
        await client.cancel(task.id, "not wanted any more")
        task = await client.get_task(task.id, wait_s=10)
        print(task.state, "-", task.error_message)


if __name__ == "__main__":
    anyio.run(main)

"""A task that somebody else finishes: an outside service, which calls back when it is done.

The service answers 202 and works on; the task waits for its callback without a
worker. The first callback says that it failed, so the task is dispatched again.
"""

import anyio
from aiohttp import ClientSession, web

from examples.long_work import BROKER, working
from worker_sdk import HandOver, NewTask, Task, Worker

worker = Worker(BROKER)


@worker.task("renderVideo")
async def render(task: Task) -> HandOver:
    """Pass the URL on, then let go of the task."""
    callback = await task.callback_url(timeout_s=60)
    request = {"video": task.variables["video"], "callbackUrl": callback.url}
    service = task.variables["service"]
    async with ClientSession() as session, session.post(service, json=request) as answer:
        answer.raise_for_status()
    return task.hand_over({"renderedBy": "outside"})


# The outside service: it knows nothing of Fetchlock but the URL that it was given.


class RenderService:
    """Fails at its first try and does well at the second."""

    def __init__(self) -> None:
        self._accepted, self._to_do = anyio.create_memory_object_stream[str](10)

    async def accept(self, request: web.Request) -> web.Response:
        """202: it will take a while."""
        await self._accepted.send((await request.json())["callbackUrl"])
        return web.Response(status=202)

    async def call_back(self) -> None:
        """Tell how it went, through the URL alone."""
        async with ClientSession() as session, self._accepted, self._to_do:
            for outcome in (FAILURE, SUCCESS):
                url = await self._to_do.receive()
                await anyio.sleep(0.5)  # The work.
                async with session.put(url, json=outcome) as answer:
                    print("called back:", answer.status, (await answer.json())["state"])


FAILURE = {
    "command_response": {"body": None, "mimetype": "application/json", "http_status": 500},
    "error": {"error_code": "OutOfMemory", "message": "the renderer ran out of memory"},
}
SUCCESS = {"videoUrl": "https://videos.example.com/1.mp4"}


async def main() -> None:
    """Start the service and the worker, and follow one task."""
    service = RenderService()
    app = web.Application()
    app.router.add_post("/render", service.accept)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0]
    variables = {"video": 1, "service": f"http://{host}:{port}/render"}
    async with working(worker) as client, anyio.create_task_group() as group:
        group.start_soon(service.call_back)
        task = await client.create(NewTask("renderVideo", variables, retries=3), wait_s=30)
        print(task.state, task.result, "attempt", task.attempt)
    await runner.cleanup()


if __name__ == "__main__":
    anyio.run(main)

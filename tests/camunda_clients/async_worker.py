"""The same with the client's other half: `python -m tests.camunda_clients.async_worker`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from camunda.external_task.async_external_task_worker import AsyncExternalTaskWorker
from camunda.external_task.external_task import ExternalTask, TaskResult

from tests.camunda_clients.handlers import Handlers, listed, say
from tests.camunda_clients.options import told

AsyncHandler = Callable[[ExternalTask], Awaitable[TaskResult]]


async def main() -> None:
    """Work until killed."""
    options = told()
    worker = AsyncExternalTaskWorker(options.worker_id, options.base_url, options.config)
    handlers = Handlers(options.base_url, options.log)

    async def trespass(task: ExternalTask) -> TaskResult:
        client = worker.client
        answers = {
            task_id: {
                "complete": await refusal(client.complete(task_id, {})),
                "failure": await refusal(client.failure(task_id, "x", None, 0, 0)),
                "bpmnError": await refusal(client.bpmn_failure(task_id, "E1", "x")),
            }
            for task_id in listed(task, "ids")
        }
        return task.complete({"told": answers})

    def handler(name: str) -> AsyncHandler:
        if name == "trespass":
            return trespass

        async def handle(task: ExternalTask) -> TaskResult:
            return handlers.named(name)(task)

        return handle

    say("ready")
    await worker.subscribe({topic: handler(name) for topic, name in options.topics.items()})


async def refusal(call: Awaitable[bool]) -> str:
    """How the client tells its caller that it was refused."""
    try:
        await call
    except Exception as error:
        return str(error)
    return "done"


if __name__ == "__main__":
    asyncio.run(main())

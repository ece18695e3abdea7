"""A worker with Camunda's Python client, which blocks: `python -m tests.camunda_clients.worker`."""

from __future__ import annotations

from collections.abc import Callable

from camunda.external_task.external_task import ExternalTask, TaskResult
from camunda.external_task.external_task_worker import ExternalTaskWorker

from tests.camunda_clients.handlers import Handler, Handlers, listed, say
from tests.camunda_clients.options import told


def main() -> None:
    """Work until killed; the client has no other end."""
    options = told()
    worker = ExternalTaskWorker(options.worker_id, options.base_url, options.config)
    handlers = Handlers(options.base_url, options.log)

    def trespass(task: ExternalTask) -> TaskResult:
        client = worker.client
        answers = {
            task_id: {
                "complete": refusal(client.complete, task_id, {}),
                "failure": refusal(client.failure, task_id, "x", None, 0, 0),
                "bpmnError": refusal(client.bpmn_failure, task_id, "E1", "x"),
            }
            for task_id in listed(task, "ids")
        }
        return task.complete({"told": answers})

    def handler(name: str) -> Handler:
        return trespass if name == "trespass" else handlers.named(name)

    by_topic = {topic: handler(name) for topic, name in options.topics.items()}
    say("ready")
    worker.subscribe(list(by_topic), lambda task: by_topic[task.get_topic_name()](task))


def refusal(call: Callable[..., bool], *parameters: object) -> str:
    """How the client tells its caller that it was refused."""
    try:
        call(*parameters)
    except Exception as error:
        return str(error)
    return "done"


if __name__ == "__main__":
    main()

"""What the workers with Camunda's Python client do, as anybody would write it.

work      completes the task with its own variables, and writes its id to the log
types     completes it with a variable of every type; `path` names the file
echo      completes it with `seen`: all variables, with types, as the client showed them
flaky     fails with the `retries` and the `retryTimeout` that the variables say, and says
          `failed ID`; is told of the failure the next time, and completes with `told`
business  ends it with a BPMN error
download  completes it with the `content` of the variable `file`
trespass  tries every verb with each of `ids`, and completes with what it was `told`; the
          client's calls block or are awaited, so this one is with the worker
"""

from __future__ import annotations

import base64
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
from camunda.client.engine_client import EngineClient
from camunda.external_task.external_task import ExternalTask, TaskResult

Handler = Callable[[ExternalTask], TaskResult]


class Handlers:
    """The handlers of one worker, which remembers what it has met. `log` is a file or None."""

    def __init__(self, base_url: str, log: str | None) -> None:
        self._base_url = base_url
        self._log = log
        self._met: set[str] = set()

    def named(self, name: str) -> Handler:
        """One of them."""
        handler: Handler = getattr(self, name)
        return handler

    def work(self, task: ExternalTask) -> TaskResult:
        if self._log is not None:
            with Path(self._log).open("a", encoding="utf-8") as log:
                log.write(f"{task.get_task_id()}\n")
        return task.complete(task.get_variables())

    def types(self, task: ExternalTask) -> TaskResult:
        content = Path(task.get_variable("path")).read_bytes()
        return task.complete(TYPES | {"file": _file(content)})

    def echo(self, task: ExternalTask) -> TaskResult:
        names = task.get_variables()
        return task.complete({"seen": {name: task.get_variable(name, True) for name in names}})

    def flaky(self, task: ExternalTask) -> TaskResult:
        task_id = task.get_task_id()
        if task_id not in self._met:
            self._met.add(task_id)
            retries, retry_timeout = task.get_variable("retries"), task.get_variable("retryTimeout")
            say(f"failed {task_id}")
            return task.failure("no luck", "line 1\nline 2", retries, retry_timeout)
        told = {name: task._context[name] for name in ("retries", "errorMessage", "errorDetails")}
        return task.complete({"told": told})

    def business(self, task: ExternalTask) -> TaskResult:
        return task.bpmn_error("E1", "not today", {"left": 3})

    def download(self, task: ExternalTask) -> TaskResult:
        engine = EngineClient(self._base_url)
        content = engine.get_process_instance_variable(task.get_process_instance_id(), "file")
        return task.complete({"content": content})


TYPES: Final[dict[str, Any]] = {
    "nothing": None,
    "yes": True,
    "integer": 7,
    "long": 2**40,
    "double": 1.5,
    "text": "Grüße 🦊",
    "object": {"a": [1, {"b": None}]},
    "list": [1, "two"],
    "date": {"value": "2026-01-31T10:00:00.123+0000", "type": "Date"},
    "short": {"value": 8, "type": "short"},
    "smallLong": {"value": 9, "type": "Long", "valueInfo": {}},
    "wholeDouble": {"value": 3, "type": "Double", "valueInfo": None},
    "bytes": {"value": base64.b64encode(b"\x00\xff\x01").decode(), "type": "Bytes"},
    "xml": {"value": '<a b="c"/>', "type": "Xml"},
    "jsonText": {"value": '{"z": 1, "a": [2.50]}', "type": "json"},
    "jsonNumber": {"value": "5", "type": "Json"},
    "nullDate": {"value": None, "type": "Date"},
    "java": {
        "value": '{"n":1}',
        "type": "Object",
        "valueInfo": {"objectTypeName": "a.B", "serializationDataFormat": "application/json"},
    },
}
"""With a type where a Python worker has to say it."""


def _file(content: bytes) -> dict[str, Any]:
    about = {"filename": "file.txt", "mimetype": "text/plain", "encoding": "UTF-8"}
    return {"value": base64.b64encode(content).decode(), "type": "File", "valueInfo": about}


def listed(task: ExternalTask, name: str) -> list[str]:
    """A variable that is a list. The client leaves JSON as the text that it comes as."""
    return msgspec.json.decode(task.get_variable(name), type=list[str])


def say(line: str) -> None:
    """Tell the test."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()

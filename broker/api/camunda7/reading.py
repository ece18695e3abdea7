"""What the Camunda 7 dialect tells of tasks, one or many, and of the engine that it stands for."""

from __future__ import annotations

from typing import Final

import msgspec

from broker.api.camunda7 import answers
from broker.api.camunda7.filters import lock_flags, search_of_body, search_of_query
from broker.api.endpoint import Call, Reply, Verb
from broker.api.problem import NoSuchRoute
from broker.core import Core
from broker.errors import TaskNotFound
from broker.store import Search

ENGINE: Final = "default"
"""The one engine there is, by the name that Camunda gives its first."""

_VERSION: Final = b'{"version":"7.24.0"}'
"""Of the contract: Camunda's last one with features."""


def task_id(call: Call) -> str:
    """The id in the path. Raises `TaskNotFound` for a text that PostgreSQL cannot even compare."""
    given = call.parameters["id"]
    if "\0" in given:
        raise TaskNotFound("There is no task with this id.", {"taskId": given})
    return given


def of_engine(verb: Verb) -> Verb:
    """The same verb behind a path that names the engine, of which there is one."""

    async def of_named(call: Call) -> Reply:
        if call.parameters["engine"] != ENGINE:
            raise NoSuchRoute(
                f"Process engine with name {call.parameters['engine']} does not exist"
            )
        return await verb(call)

    return of_named


class Reading:
    """The verbs over one core."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._bytes_max = core.settings.body_bytes_max

    async def get_task(self, call: Call) -> Reply:
        return Reply(200, answers.task(await self._core.get_task(task_id(call))))

    async def error_details(self, call: Call) -> Reply:
        task = answers.native_task(await self._core.get_task(task_id(call)))
        if task.is_finished:
            raise TaskNotFound("The task is finished.", {"taskId": task.id})
        if task.error_details is None:
            return Reply(204)
        return Reply(200, task.error_details.encode(), content_type=b"text/plain")

    async def search(self, call: Call) -> Reply:
        return await self._found(search_of_query(call.query))

    async def search_by_body(self, call: Call) -> Reply:
        return await self._found(search_of_body(await call.body(self._bytes_max), call.query))

    async def _found(self, wish: Search) -> Reply:
        tasks = [each.task for each in await self._core.search(wish)]
        return Reply(200, answers.tasks(b"[%b]" % b",".join(tasks)))

    async def count(self, call: Call) -> Reply:
        return await self._counted(search_of_query(call.query))

    async def count_by_body(self, call: Call) -> Reply:
        return await self._counted(search_of_body(await call.body(self._bytes_max), call.query))

    async def _counted(self, wish: Search) -> Reply:
        return Reply(200, b'{"count":%d}' % await self._core.count(wish.filters))

    async def topics(self, call: Call) -> Reply:
        return Reply(200, msgspec.json.encode(await self._core.topics(lock_flags(call.query))))

    async def version(self, _call: Call) -> Reply:
        return Reply(200, _VERSION)

    async def engines(self, _call: Call) -> Reply:
        return Reply(200, msgspec.json.encode([{"name": ENGINE}]))

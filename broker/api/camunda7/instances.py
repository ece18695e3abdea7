"""Process instances and executions, as far as tasks know of them.

Fetchlock keeps no processes. A task that was created with a `processInstanceId`
is one of those with the same id; any other is its own process instance. Each is
its own execution. All variables of a task have one scope, so that local ones
are the same as the others.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import quote

from msgspec import Raw

from broker.api.camunda7 import answers, wire
from broker.api.camunda7.answers import NativeTask
from broker.api.camunda7.process_instances import activity_instances, historic_process_instance
from broker.api.camunda7.reading import task_id
from broker.api.camunda7.values import Note, file_of, plain
from broker.api.endpoint import Call, Headers, Reply
from broker.core import Core
from broker.errors import Invalid, TaskNotFound
from broker.store import NewVariables

_CHARSET: Final = re.compile(r"[A-Za-z0-9._:+-]{1,64}", re.ASCII)


class Instances:
    """The verbs over one core."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._depth_max = core.settings.json_depth_max
        self._modifications = wire.body_of(wire.Modifications, core.settings)

    # Process instances ------------------------------------------------------

    async def set_variables(self, call: Call) -> Reply:
        return await self._set(call, self._of_instance)

    async def variable(self, call: Call) -> Reply:
        value, note = _variable(await self._of_instance(call), call.parameters["name"])
        return Reply(200, answers.variable(value, note))

    async def variable_data(self, call: Call) -> Reply:
        return _data(await self._of_instance(call), call.parameters["name"])

    async def activity_instances(self, call: Call) -> Reply:
        return Reply(200, activity_instances(task_id(call), await self._of_instance(call)))

    async def historic_process_instance(self, call: Call) -> Reply:
        return Reply(200, historic_process_instance(task_id(call), await self._of_instance(call)))

    async def _of_instance(self, call: Call) -> list[NativeTask]:
        instance_id = task_id(call)
        try:
            found = await self._core.instance_tasks(instance_id)
        except TaskNotFound:
            # It was not a task that the caller asked for.
            raise TaskNotFound(f"Process instance with id {instance_id} does not exist") from None
        return [answers.native_task(body) for body, _ in found]

    # Executions -------------------------------------------------------------

    async def set_local_variables(self, call: Call) -> Reply:
        return await self._set(call, self._of_execution)

    async def local_variables(self, call: Call) -> Reply:
        tasks = [task for task in await self._of_execution(call) if not task.is_finished]
        if not tasks:
            raise _ended(call)
        return Reply(200, answers.variables(tasks[-1]))

    async def local_variable_data(self, call: Call) -> Reply:
        return _data(await self._of_execution(call), call.parameters["name"])

    async def _of_execution(self, call: Call) -> list[NativeTask]:
        """A task by its id. Some clients give the process instance's, whose main execution has
        that in Camunda."""
        try:
            return [answers.native_task(await self._core.get_task(task_id(call)))]
        except TaskNotFound:
            return await self._of_instance(call)

    async def _set(
        self, call: Call, tasks_of: Callable[[Call], Awaitable[list[NativeTask]]]
    ) -> Reply:
        """Set variables of those that are open."""
        wish, _ = await call.read(self._modifications)
        given = plain(wish.modifications or {}, depth_max=self._depth_max, pointer="/modifications")
        open_tasks = [task.id for task in await tasks_of(call) if not task.is_finished]
        if not open_tasks:
            raise _ended(call)
        deletions = wish.deletions or ()
        await self._core.variables(open_tasks, NewVariables(given.values, given.notes, deletions))
        return Reply(204)


def _ended(call: Call) -> TaskNotFound:
    return TaskNotFound(f"What has the id {task_id(call)} has ended.")


def _variable(tasks: list[NativeTask], name: str) -> tuple[Raw, Note | None]:
    """A variable of the youngest task that has it: of several it has the last word."""
    for task in reversed(tasks):
        values, notes = answers.shown_variables(task)
        if name in values:
            return values[name], notes.get(name)
    raise TaskNotFound(f"There is no variable '{name}'.")


def _data(tasks: list[NativeTask], name: str) -> Reply:
    found = file_of(*_variable(tasks, name))
    if found is None:
        raise Invalid(f"The value of variable '{name}' is not a binary value.")
    content_type = found.mimetype or "application/octet-stream"
    if found.encoding and _CHARSET.fullmatch(found.encoding):
        content_type += f"; charset={found.encoding}"
    # To be saved, not shown: nobody knows who wrote it, and a browser would run what is in it.
    disposition = "attachment"
    if found.filename:
        disposition += f"; filename*=UTF-8''{quote(found.filename, safe='')}"  # RFC 6266, 4.3
    headers: Headers = (
        (b"content-disposition", disposition.encode()),
        (b"x-content-type-options", b"nosniff"),
    )
    return Reply(200, found.data, headers, content_type.encode())

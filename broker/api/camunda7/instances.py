"""Process instances and executions, as far as tasks know of them.

Fetchlock keeps no processes. A task that was created with a `processInstanceId`
is one of those with the same id; any other is its own process instance. Each is
its own execution. All variables of a task have one scope, so that local ones
are the same as the others.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote

import msgspec
from msgspec import Raw

from broker.api.camunda7 import answers, wire
from broker.api.camunda7.answers import NativeTask
from broker.api.camunda7.process_instances import activity_instances, historic_process_instance
from broker.api.camunda7.reading import task_id
from broker.api.camunda7.values import Note, file_of, plain
from broker.api.endpoint import Call, Headers, Reply
from broker.core import Core
from broker.errors import Conflict, Invalid, TaskNotFound
from broker.store import NewVariables

Found = tuple[bytes | None, bytes | None]
"""A variable's value and note as JSON; no value where there is none of its name."""

_CHARSET: Final = re.compile(r"[A-Za-z0-9._:+-]{1,64}", re.ASCII)


class Instances:
    """The verbs over one core."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._depth_max = core.settings.json_depth_max
        self._modifications = wire.body_of(wire.Modifications, core.settings)

    # Process instances ------------------------------------------------------

    async def set_variables(self, call: Call) -> Reply:
        wish = await self._modified(call)
        await self._set_of_instance(call, wish)
        return Reply(204)

    async def variable(self, call: Call) -> Reply:
        return Reply(200, answers.variable(*_shown(call, await self._of_its_tasks(call))))

    async def variable_data(self, call: Call) -> Reply:
        return _data(call, await self._of_its_tasks(call))

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

    async def _set_of_instance(self, call: Call, wish: NewVariables) -> None:
        """Set variables of those of its tasks that are open by then."""
        found = [task.id for task in await self._of_instance(call)]
        try:
            await self._core.variables((), wish, found)
        except (Conflict, TaskNotFound):
            raise _ended(call) from None

    async def _of_its_tasks(self, call: Call) -> Found:
        """A variable: of several tasks that have it the youngest has the last word."""
        tasks = await self._of_instance(call)
        return await self._core.variable([task.id for task in tasks], _name(call))

    # Executions -------------------------------------------------------------

    async def set_local_variables(self, call: Call) -> Reply:
        wish = await self._modified(call)
        try:
            await self._core.variables([task_id(call)], wish)
        except TaskNotFound:
            await self._set_of_instance(call, wish)
        return Reply(204)

    async def local_variables(self, call: Call) -> Reply:
        try:
            task = await self._task(task_id(call))
        except TaskNotFound:
            opened = [task.id for task in await self._of_instance(call) if not task.is_finished]
            if not opened:
                raise _ended(call) from None
            task = await self._task(opened[-1])
        if task.is_finished:
            raise _ended(call)
        return Reply(200, answers.variables(task))

    async def local_variable_data(self, call: Call) -> Reply:
        try:
            found = await self._core.variable([task_id(call)], _name(call))
        except TaskNotFound:
            found = await self._of_its_tasks(call)
        return _data(call, found)

    async def _task(self, of_id: str) -> NativeTask:
        return answers.native_task(await self._core.get_task(of_id))

    async def _modified(self, call: Call) -> NewVariables:
        wish, _ = await call.read(self._modifications)
        given = plain(wish.modifications or {}, depth_max=self._depth_max, pointer="/modifications")
        return NewVariables(given.values, given.notes, wish.deletions or ())


def _ended(call: Call) -> TaskNotFound:
    return TaskNotFound(f"What has the id {task_id(call)} has ended.")


def _name(call: Call) -> str:
    """The name in the path. Raises `TaskNotFound` for one that PostgreSQL cannot even compare."""
    if "\0" in call.parameters["name"]:
        raise _no_variable(call)
    return call.parameters["name"]


def _shown(call: Call, found: Found) -> tuple[Raw, Note | None]:
    value, note = found
    if value is None:
        raise _no_variable(call)
    return Raw(value), None if note is None else msgspec.json.decode(note, type=Note)


def _no_variable(call: Call) -> TaskNotFound:
    return TaskNotFound(f"There is no variable '{call.parameters['name']}'.")


def _data(call: Call, variable: Found) -> Reply:
    name = call.parameters["name"]
    found = file_of(*_shown(call, variable))
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

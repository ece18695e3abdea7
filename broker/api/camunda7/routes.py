"""The Camunda 7 dialect's verbs: decode, ask the core, reply. No rule about tasks stands here.

All routes are in the table below, relative to the root. What Camunda's workers
say of tasks is in this file; what is read of them is in reading.py, and the
process instances and executions that they belong to are in instances.py.

Where Camunda means something else by a verb than the native dialect, that is a
parameter of the verb: late work is accepted, unlocking asks nobody who holds
the task, `usePriority` is a choice.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final
from uuid import uuid4

import msgspec

from broker.api.camunda7 import answers, wire
from broker.api.camunda7.errors import Act, not_yours
from broker.api.camunda7.filters import search_to_change
from broker.api.camunda7.instances import Instances
from broker.api.camunda7.reading import Reading, task_id
from broker.api.camunda7.subscriptions import order_of, subscriptions_of
from broker.api.camunda7.values import plain
from broker.api.endpoint import Call, Headers, Reply
from broker.api.problem import only_result
from broker.core import Core
from broker.errors import Conflict, Invalid, LockLost, TaskNotFound
from broker.store import Results

ROOT: Final = "/engine-rest"

_TASKS: Final = "/external-task"
_TASK: Final = "/external-task/{id}"
_INSTANCE: Final = "/process-instance/{id}"
_EXECUTION: Final = "/execution/{id}"

# The order is the router's: what workers live on comes first, and a fixed path before one that
# would take its last word for an id.
ROUTES: Final = (
    ("POST", f"{_TASKS}/fetchAndLock", "fetch_and_lock"),
    ("POST", f"{_TASK}/complete", "complete"),
    ("POST", f"{_TASK}/failure", "failure"),
    ("POST", f"{_TASK}/bpmnError", "bpmn_error"),
    ("POST", f"{_TASK}/extendLock", "extend_lock"),
    ("POST", f"{_TASK}/lock", "lock"),
    ("POST", f"{_TASK}/unlock", "unlock"),
    ("PUT", f"{_TASK}/retries", "retries"),
    ("PUT", f"{_TASK}/priority", "priority"),
    ("GET", f"{_TASK}/errorDetails", "error_details"),
    ("GET", f"{_TASKS}/count", "count"),
    ("POST", f"{_TASKS}/count", "count_by_body"),
    ("GET", f"{_TASKS}/topic-names", "topics"),
    ("PUT", f"{_TASKS}/retries", "bulk_retries"),
    ("POST", f"{_TASKS}/retries-async", "bulk_retries_async"),
    ("GET", _TASKS, "search"),
    ("POST", _TASKS, "search_by_body"),
    ("GET", _TASK, "get_task"),
    ("POST", f"{_INSTANCE}/variables", "set_instance_variables"),
    ("GET", f"{_INSTANCE}/variables/{{name}}", "instance_variable"),
    ("GET", f"{_INSTANCE}/variables/{{name}}/data", "instance_variable_data"),
    ("GET", f"{_INSTANCE}/activity-instances", "activity_instances"),
    ("GET", "/history/process-instance/{id}", "historic_process_instance"),
    ("POST", f"{_EXECUTION}/localVariables", "set_local_variables"),
    ("GET", f"{_EXECUTION}/localVariables", "local_variables"),
    ("GET", f"{_EXECUTION}/localVariables/{{name}}/data", "local_variable_data"),
    ("GET", "/version", "version"),
    ("GET", "/engine", "engines"),
)
"""Method, path below the root, and the name of the method below."""

_LATE: Final = {"acceptsLate": True}
"""What is done counts, though the lock has run out, until somebody else takes the task."""


class Camunda7:
    """The verbs over one core."""

    def __init__(self, core: Core) -> None:
        settings = core.settings
        self._core = core
        self._depth_max = settings.json_depth_max
        self._fetch_and_lock = wire.body_of(wire.FetchAndLock, settings)
        self._complete = wire.body_of(wire.Complete, settings)
        self._failure = wire.body_of(wire.Failure, settings)
        self._bpmn_error = wire.body_of(wire.BpmnError, settings)
        self._extend_lock = wire.body_of(wire.ExtendLock, settings)
        self._lock = wire.body_of(wire.Lock, settings)
        self._retries = wire.body_of(wire.Retries, settings)
        self._bulk_retries = wire.body_of(wire.BulkRetries, settings)
        self._priority = wire.body_of(wire.Priority, settings)
        # The verbs of the other files, with no call in between.
        reading = Reading(core)
        self.get_task = reading.get_task
        self.error_details = reading.error_details
        self.search = reading.search
        self.search_by_body = reading.search_by_body
        self.count = reading.count
        self.count_by_body = reading.count_by_body
        self.topics = reading.topics
        self.version = reading.version
        self.engines = reading.engines
        instances = Instances(core)
        self.set_instance_variables = instances.set_variables
        self.instance_variable = instances.variable
        self.instance_variable_data = instances.variable_data
        self.activity_instances = instances.activity_instances
        self.historic_process_instance = instances.historic_process_instance
        self.set_local_variables = instances.set_local_variables
        self.local_variables = instances.local_variables
        self.local_variable_data = instances.local_variable_data

    # Working ----------------------------------------------------------------

    async def fetch_and_lock(self, call: Call) -> Reply:
        wish, _ = await call.read(self._fetch_and_lock)
        if wish.max_tasks == 0:
            return Reply(200, b"[]")
        delivery = await self._core.dispatcher.fetch_and_lock(
            str(wish.worker_id),
            wish.max_tasks,
            max(0, int(wish.async_response_timeout or 0)),
            subscriptions_of(wish),
            call.caller,
            order_of(wish),
        )
        # A stopping server closes idle connections: the worker is told to use another.
        headers: Headers = ((b"connection", b"close"),) if self._core.is_draining else ()
        try:
            body = answers.locked_tasks(delivery.body)
        except BaseException:
            # A mistake of ours must not keep tasks locked for a worker that never heard of them.
            await delivery.give_back()
            raise
        return Reply(200, body, headers, if_lost=delivery.give_back)

    async def complete(self, call: Call) -> Reply:
        wish, _ = await call.read(self._complete)
        members = {
            **_LATE,
            **self._plain_members({**(wish.local_variables or {}), **(wish.variables or {})}),
        }
        return await self._say(call, "complete", self._core.complete, wish.worker_id, members)

    async def failure(self, call: Call) -> Reply:
        wish, _ = await call.read(self._failure)
        members = {
            "errorMessage": wish.error_message,
            "errorDetails": wish.error_details,
            "retries": wish.retries,
            "retryTimeoutMs": int(wish.retry_timeout or 0),
            **_LATE,
            **self._plain_members({**(wish.local_variables or {}), **(wish.variables or {})}),
        }
        return await self._say(call, "failure", self._core.fail, wish.worker_id, members)

    async def bpmn_error(self, call: Call) -> Reply:
        wish, _ = await call.read(self._bpmn_error)
        members = {
            "errorCode": str(wish.error_code),
            "errorMessage": wish.error_message,
            **_LATE,
            **self._plain_members(wish.variables or {}),
        }
        return await self._say(call, "bpmnError", self._core.bpmn_error, wish.worker_id, members)

    async def extend_lock(self, call: Call) -> Reply:
        wish, _ = await call.read(self._extend_lock)
        members = {"lockDurationMs": int(wish.new_duration)}
        return await self._say(call, "extendLock", self._core.extend_lock, wish.worker_id, members)

    async def lock(self, call: Call) -> Reply:
        wish, _ = await call.read(self._lock)
        task, worker_id = task_id(call), str(wish.worker_id)
        try:
            await self._core.lock(task, worker_id, int(wish.lock_duration))
        except LockLost as error:
            raise not_yours(error, "lock", task, worker_id) from None
        return Reply(204)

    async def unlock(self, call: Call) -> Reply:
        only_result(await self._core.unlock(_of_task({"id": task_id(call), "whoever": True})))
        return Reply(204)

    async def _say(
        self,
        call: Call,
        act: Act,
        verb: Callable[[str], Awaitable[Results]],
        given_worker_id: str | int,
        members: dict[str, Any],
    ) -> Reply:
        task, worker_id = task_id(call), str(given_worker_id)
        said = {"id": task, "workerId": worker_id, **members}
        try:
            only_result(await verb(_of_task(said)))
        except LockLost as error:
            raise not_yours(error, act, task, worker_id) from None
        return Reply(204)

    def _plain_members(self, variables: wire.Variables) -> dict[str, Any]:
        """Variables as members of a request to the core."""
        if not variables:
            return {}
        given = plain(variables, depth_max=self._depth_max, pointer="/variables")
        members = {"variables": msgspec.Raw(given.values.encode())}
        if given.notes != "{}":
            members["variableTypes"] = msgspec.Raw(given.notes.encode())
        return members

    # Operating --------------------------------------------------------------

    async def retries(self, call: Call) -> Reply:
        wish, _ = await call.read(self._retries)
        await self._core.retries([task_id(call)], wish.retries)
        return Reply(204)

    async def priority(self, call: Call) -> Reply:
        wish, _ = await call.read(self._priority)
        await self._core.priority(task_id(call), wish.priority)
        return Reply(204)

    async def bulk_retries(self, call: Call) -> Reply:
        await self._set_all_retries(call)
        return Reply(204)

    async def bulk_retries_async(self, call: Call) -> Reply:
        """Done at once, and all together: the batch that is told of is over already."""
        count = await self._set_all_retries(call)
        batch = {
            "id": str(uuid4()),
            "type": "set-external-task-retries",
            "totalJobs": count,
            "jobsCreated": count,
            "batchJobsPerSeed": count,
            "invocationsPerBatchJob": 1,
            "seedJobDefinitionId": None,
            "monitorJobDefinitionId": None,
            "batchJobDefinitionId": None,
            "tenantId": None,
            "suspended": False,
            "createUserId": None,
        }
        return Reply(200, msgspec.json.encode(batch))

    async def _set_all_retries(self, call: Call) -> int:
        wish, _ = await call.read(self._bulk_retries)
        for name, query in (
            ("processInstanceQuery", wish.process_instance_query),
            ("historicProcessInstanceQuery", wish.historic_process_instance_query),
        ):
            if bytes(query) != b"null":
                words = "There are no process instances here to be searched"
                raise Invalid(f"/{name}: {words}.", [(f"/{name}", words)])
        named, found = wish.external_task_ids or (), await self._found(wish)
        if not named and not found:
            raise _nobody_meant()
        try:
            await self._core.retries(named, wish.retries, found)
        except (Conflict, TaskNotFound):
            if named:
                raise
            # All that was found has been finished meanwhile.
            raise _nobody_meant() from None
        return len({*named, *found})

    async def _found(self, wish: wire.BulkRetries) -> list[str]:
        """The open tasks that are meant, but by no id of theirs."""
        found = []
        for instance in wish.process_instance_ids or ():
            for body, is_finished in await self._core.instance_tasks(instance):
                if not is_finished:
                    found.append(answers.native_task(body).id)
        if bytes(wish.external_task_query) != b"null":
            search = search_to_change(bytes(wish.external_task_query))
            found += [each.task_id for each in await self._core.search(search)]
        return found


def _nobody_meant() -> Invalid:
    return Invalid("externalTaskIds is empty", [("/externalTaskIds", "No task is meant")])


def _of_task(said: dict[str, Any]) -> str:
    return msgspec.json.encode({"tasks": [said]}).decode()

"""A process instance as far as its tasks tell of it.

The process runs elsewhere. What is seen of it here is its tasks: so it is
active while one of them is open, and ended when all are finished. Where a task
is its own process instance, that is the whole truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

import msgspec
from msgspec import Struct

from broker.api.camunda7.answers import NativeTask
from broker.api.camunda7.wire import camunda_date
from broker.errors import TaskNotFound

_MS: Final = timedelta(milliseconds=1)
_instant: Final = datetime.fromisoformat


class Incident(Struct, rename="camel"):
    """What a failed task is to Camunda, under the task's own id."""

    id: str
    activity_id: str | None


class ActivityInstance(Struct, rename="camel", kw_only=True):
    """The process itself, or a task in it."""

    id: str
    parent_activity_instance_id: str | None = None
    activity_id: str | None
    activity_name: None = None
    name: None = None
    activity_type: str
    process_instance_id: str
    process_definition_id: str | None
    child_activity_instances: list[ActivityInstance] = []
    child_transition_instances: list[Struct] = []
    execution_ids: list[str]
    incident_ids: list[str] = []
    incidents: list[Incident] = []


class HistoricProcessInstance(Struct, rename="camel", kw_only=True):
    """What was, or is still going on. What only the process engine knows is null."""

    id: str
    business_key: str | None
    process_definition_id: str | None
    process_definition_key: str | None
    process_definition_name: None = None
    process_definition_version: None = None
    start_time: str
    end_time: str | None = None
    removal_time: None = None
    duration_in_millis: int | None = None
    start_user_id: None = None
    start_activity_id: None = None
    delete_reason: str | None = None
    root_process_instance_id: str | None = None
    super_process_instance_id: None = None
    super_case_instance_id: None = None
    case_instance_id: None = None
    tenant_id: str | None
    state: str


def activity_instances(instance_id: str, tasks: Sequence[NativeTask]) -> bytes:
    """The tree of what is going on in the process instance these tasks are of.

    Raises:
        TaskNotFound: there are no tasks, or none of them is open.
    """
    children = [_activity(instance_id, task) for task in tasks if not task.is_finished]
    if not children:
        raise _unknown(instance_id)
    definition_id = children[0].process_definition_id
    return msgspec.json.encode(
        ActivityInstance(
            id=instance_id,
            activity_id=definition_id,
            activity_type="processDefinition",
            process_instance_id=instance_id,
            process_definition_id=definition_id,
            child_activity_instances=children,
            execution_ids=[instance_id],
        )
    )


def historic_process_instance(instance_id: str, tasks: Sequence[NativeTask]) -> bytes:
    """The process instance these tasks are of, from the first one's creation on.

    Raises:
        TaskNotFound: there are no tasks.
    """
    if not tasks:
        raise _unknown(instance_id)
    first = min(tasks, key=lambda task: _instant(task.created_at))
    told = HistoricProcessInstance(
        id=instance_id,
        business_key=first.business_key,
        process_definition_id=first.process_definition_id,
        process_definition_key=first.process_definition_key,
        start_time=camunda_date(first.created_at),
        # Of an instance in some engine nobody here knows whether another one started it.
        root_process_instance_id=None if first.process_instance_id else instance_id,
        tenant_id=first.tenant_id,
        state="ACTIVE",
    )
    ends = [(task.finished_at, task) for task in tasks if task.finished_at]
    if len(ends) == len(tasks):
        ended_at, last = max(ends, key=lambda end: _instant(end[0]))
        told.end_time = camunda_date(ended_at)
        told.duration_in_millis = (_instant(ended_at) - _instant(first.created_at)) // _MS
        told.state = "COMPLETED"
        if last.state == "CANCELLED":
            told.state = "EXTERNALLY_TERMINATED"
            told.delete_reason = last.error_message
    return msgspec.json.encode(told)


def _activity(instance_id: str, task: NativeTask) -> ActivityInstance:
    incidents = [Incident(task.id, task.activity_id)] if task.state == "FAILED" else []
    return ActivityInstance(
        id=task.id,
        parent_activity_instance_id=instance_id,
        activity_id=task.activity_id,
        activity_type="serviceTask",
        process_instance_id=instance_id,
        process_definition_id=task.process_definition_id,
        execution_ids=[task.id],
        incident_ids=[incident.id for incident in incidents],
        incidents=incidents,
    )


def _unknown(instance_id: str) -> TaskNotFound:
    return TaskNotFound(f"Process instance with id {instance_id} does not exist")

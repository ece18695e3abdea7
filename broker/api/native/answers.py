"""What the native dialect gives, for the OpenAPI document.

These types are never built: PostgreSQL writes the answers. They say what it
writes, and the tests hold the answers against them.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

State = Literal["CREATED", "LOCKED", "AWAITING", "COMPLETED", "BPMN_ERROR", "FAILED", "CANCELLED"]
JsonObject = dict[str, Any]
Types = dict[str, JsonObject]
Count = Annotated[int, Meta(ge=0)]


class Answer(Struct, rename="camel", kw_only=True):
    """What all answers have in common. New members may come: readers pass over what they do not know."""


class Progress(Answer):
    """How far the worker says it is."""

    percent: Annotated[float, Meta(ge=0, le=100)] | None
    subtext: str | None
    updated_at: datetime


class Task(Answer, kw_only=True):
    """A task. Instants are RFC 3339, by the database's clock."""

    id: str
    topic: str
    state: State
    priority: int
    business_key: str | None
    process_instance_id: str | None
    process_definition_id: str | None
    process_definition_key: str | None
    process_definition_version_tag: str | None
    activity_id: str | None
    tenant_id: str | None
    traceparent: str | None
    variables: JsonObject
    result: JsonObject | None
    retries: Annotated[Count, Meta(description="Failures it may still have.")]
    retries_set: Annotated[
        Literal[True] | UnsetType, Meta(description="Somebody said how many retries it has.")
    ] = UNSET
    failures: Annotated[Count, Meta(description="Times a worker said it could not be done.")]
    attempt: Annotated[Count, Meta(description="Times it was locked.")]
    worker_id: str | None
    lock_expires_at: datetime | None
    available_at: datetime | None
    created_at: datetime
    finished_at: datetime | None
    error_code: str | None
    error_message: str | None
    error_details: str | None
    started_at: Annotated[datetime | None, Meta(description="Of its last lock.")]
    times_out_at: datetime | None
    cancel_requested: bool
    callback_expires_at: Annotated[datetime | None, Meta(description="While it is AWAITING.")]
    progress: Progress | None
    checkpoint: Annotated[
        Any | UnsetType, Meta(description="Any JSON but null. Absent: there is none.")
    ] = UNSET

    variable_types: Annotated[
        Types | UnsetType, Meta(description="Of typed variables: what plain JSON does not show.")
    ] = UNSET
    result_types: Annotated[Types | UnsetType, Meta(description="The same of the result.")] = UNSET


class LockedTask(Task, kw_only=True):
    """A task as the worker sees it that has just locked it."""

    lock_token: Annotated[str, Meta(description="To be sent with what the worker says of it.")]


class TaskPage(Answer):
    """Tasks, newest first. `next` goes into `after`; null on the last page."""

    tasks: list[Task]
    next: str | None


class Failed(Answer):
    """What became of a task whose failure was recorded."""

    state: Annotated[
        Literal["CREATED", "FAILED", "CANCELLED"],
        Meta(description="CANCELLED: its cancellation had been requested."),
    ]
    retries: Count
    available_at: datetime | None


class Extended(Answer):
    """Until when the lock stands now."""

    lock_expires_at: datetime


class Rescheduled(Answer):
    """When the task is available now."""

    available_at: datetime


class Redriven(Answer):
    """The task with its new retries."""

    state: State
    retries: Count
    available_at: datetime | None


class Prioritized(Answer):
    """The task has this priority now."""

    priority: int


class Locked(Answer):
    """The lock that the worker has on the task."""

    lock_token: str
    lock_expires_at: datetime
    attempt: Count
    started_at: datetime


class Cancelled(Answer):
    """The task is cancelled, or will be: its worker is told with its next heartbeat."""

    state: Literal["CANCELLED", "LOCKED"]
    cancel_requested: Literal[True] | UnsetType = UNSET


class NotTaken(Answer):
    """One member of a heartbeat that was passed over. The lock was renewed all the same."""

    member: Literal["logs", "checkpoint", "sequence"]
    code: Literal["too_large", "too_many_requests"]
    detail: str


class Beat(Answer):
    """What a heartbeat came to for one task. It is done, or has a `code`."""

    id: str | UnsetType = UNSET
    outcome: Literal["done"] | UnsetType = UNSET
    lock_lost: bool | UnsetType = UNSET
    cancel_requested: Annotated[
        bool | UnsetType, Meta(description="Stop, clean up, and `unlock`: the lock is not renewed.")
    ] = UNSET
    lock_expires_at: datetime | UnsetType | None = UNSET
    refused: list[NotTaken] | UnsetType = UNSET
    code: str | UnsetType = UNSET
    detail: str | UnsetType = UNSET
    state: State | UnsetType = UNSET
    holder: str | UnsetType | None = UNSET
    errors: list[Complaint] | UnsetType = UNSET


class Beats(Answer):
    """One result per task of the heartbeat, in its order."""

    results: list[Beat]
    drain: Annotated[bool, Meta(description="The worker shall finish what it has, and end.")]


class LogLine(Answer):
    """One line of a task's log."""

    number: Annotated[int, Meta(ge=1)]
    logged_at: datetime
    line: str


class LogLines(Answer):
    """Lines in their order. None: there is nothing more yet."""

    lines: list[LogLine]
    next: Annotated[Count, Meta(description="Goes into `after`.")]


class CallbackAddress(Answer):
    """Where somebody else can say how the task ends. The address is a secret."""

    callback_url: str
    expires_at: datetime


class HandedOver(CallbackAddress):
    """`AWAITING`, or what the task came to by a callback that was faster."""

    state: State


class CalledBack(Answer):
    """What the task came to. `LOCKED`: the callback is applied once the task is handed over."""

    state: State
    retries: Count | UnsetType = UNSET
    available_at: datetime | UnsetType = UNSET


class Complaint(Answer):
    """One thing that is wrong with a request."""

    pointer: Annotated[str, Meta(description="RFC 6901: where in the body; or `/` and a name.")]
    message: str


class Result(Answer):
    """What became of one item: refused if it has a `code`, else done."""

    id: str | UnsetType = UNSET
    outcome: Literal["done"] | UnsetType = UNSET
    replayed: bool | UnsetType = UNSET
    code: str | UnsetType = UNSET
    detail: str | UnsetType = UNSET
    errors: list[Complaint] | UnsetType = UNSET


class ResultList(Answer):
    """One result per item of the request, in its order."""

    results: list[Result]


class Problem(Answer):
    """RFC 9457. `code` is stable; the texts are not."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    task_id: str | UnsetType = UNSET
    errors: list[Complaint] | UnsetType = UNSET
    state: Annotated[State | UnsetType, Meta(description="Of a finished task.")] = UNSET
    holder: Annotated[str | UnsetType, Meta(description="Who has the lock.")] = UNSET
    lock_expires_at: datetime | UnsetType = UNSET


class Health(Answer):
    """The broker, by its own account."""

    status: str

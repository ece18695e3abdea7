"""Native task JSON as Camunda shows it.

Both sides are typed structs, so that all but a few lines a task run in C: this
is what the dialect costs. Every key of Camunda's is always there, since Java
clients look for them; what a broker of tasks cannot know is null. A task is its
own execution and activity instance, and where nobody said of which process
instance it is, that too.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from broker.api.camunda7.values import Note, TypedOut, typed
from broker.api.camunda7.wire import camunda_date
from broker.errors import TaskNotFound
from broker.task import API_FINISHED

Values = dict[str, Raw]
Notes = dict[str, Note]


class NativeTask(Struct, rename="camel", gc=False, kw_only=True):
    """What is read of a native task. Instants are as PostgreSQL writes them in UTC."""

    id: str
    topic: str
    state: str
    priority: int
    created_at: str
    retries: int
    failures: int = 0
    retries_set: bool | None = None
    worker_id: str | None = None
    lock_expires_at: str | None = None
    finished_at: str | None = None
    business_key: str | None = None
    process_instance_id: str | None = None
    process_definition_id: str | None = None
    process_definition_key: str | None = None
    process_definition_version_tag: str | None = None
    activity_id: str | None = None
    tenant_id: str | None = None
    error_message: str | None = None
    error_details: str | None = None
    variables: Values = {}
    variable_types: Notes | None = None
    result: Values | None = None
    result_types: Notes | None = None

    @property
    def is_finished(self) -> bool:
        """Nothing leads out of its state. To Camunda it is then no more."""
        return self.state in API_FINISHED

    @property
    def retries_shown(self) -> int | None:
        """None until the first failure: so workers know that they are to choose."""
        if self.state == "FAILED":
            return 0
        return self.retries if self.failures or self.retries_set else None


class ExternalTask(Struct, rename="camel", gc=False):
    """A task as Camunda lists it. Instants by `camunda_date`."""

    activity_id: str | None
    activity_instance_id: str
    error_message: str | None
    execution_id: str
    id: str
    lock_expiration_time: str | None
    create_time: str
    process_definition_id: str | None
    process_definition_key: str | None
    process_definition_version_tag: str | None
    process_instance_id: str
    retries: int | None
    suspended: bool
    worker_id: str | None
    topic_name: str
    tenant_id: str | None
    priority: int
    business_key: str | None


class LockedExternalTask(ExternalTask):
    """A task as Camunda gives it to its worker."""

    error_details: str | None
    variables: dict[str, TypedOut]
    extension_properties: Raw = Raw(b"{}")


native_task: Final = msgspec.json.Decoder(NativeTask).decode
native_tasks: Final = msgspec.json.Decoder(list[NativeTask]).decode
_encode: Final = msgspec.json.Encoder().encode


def locked_tasks(body: bytes) -> bytes:
    """The answer to a fetch, from the array of native tasks."""
    return _encode(
        [
            LockedExternalTask(
                *_members(each, each.error_details, typed(each.variables, each.variable_types))
            )
            for each in native_tasks(body)
        ]
    )


def tasks(body: bytes) -> bytes:
    """The answer to a list, from the array of native tasks."""
    return _encode([ExternalTask(*_members(each)) for each in native_tasks(body)])


def task(body: bytes) -> bytes:
    """One task. Raises `TaskNotFound` where it is finished, and so none of Camunda's any more."""
    native = native_task(body)
    if native.is_finished:
        raise TaskNotFound("the task is finished", {"taskId": native.id, "state": native.state})
    return _encode(ExternalTask(*_members(native)))


def variables(native: NativeTask) -> bytes:
    """The typed variables of a task; of a finished one, with its result over them."""
    return _encode(typed(*shown_variables(native)))


def variable(value: Raw, note: Note | None) -> bytes:
    """One typed variable."""
    [told] = typed({"": value}, {"": note} if note else None).values()
    return _encode(told)


def shown_variables(native: NativeTask) -> tuple[Values, Notes]:
    """The plain variables and their notes; what the result says anew counts."""
    values, notes = native.variables, native.variable_types or {}
    if native.result:
        values = {**values, **native.result}
        # A name's old note tells nothing of its new value.
        kept = {name: note for name, note in notes.items() if name not in native.result}
        notes = {**kept, **(native.result_types or {})}
    return values, notes


def _members(native: NativeTask, *more: Any) -> tuple[Any, ...]:
    """What all forms of a task begin with, and what one of them has more, in their order."""
    locked_until = native.lock_expires_at
    return (
        native.activity_id,
        native.id,
        native.error_message,
        native.id,
        native.id,
        None if locked_until is None else camunda_date(locked_until),
        camunda_date(native.created_at),
        native.process_definition_id,
        native.process_definition_key,
        native.process_definition_version_tag,
        native.process_instance_id or native.id,
        native.retries_shown,
        False,
        native.worker_id,
        native.topic,
        native.tenant_id,
        native.priority,
        native.business_key,
        *more,
    )

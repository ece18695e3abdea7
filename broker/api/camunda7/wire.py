"""What the Camunda 7 dialect takes: its request bodies, and how it writes instants.

Camunda ignores members that it does not know, and takes an explicit null for
an absent member; clients rely on both. So does this file, except where a
member is needed. The limits are the native dialect's, at their fields; they
differ where clients could not live with them.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeVar

from msgspec import Meta, Raw, Struct

from broker.api.body import Body
from broker.api.bounds import Bound
from broker.api.camunda7.values import TypedValue
from broker.api.native import wire as native
from broker.api.native.wire import Name, Topic
from broker.settings import Settings

S = TypeVar("S", bound=Struct)

_LEVELS: Final = 2
"""Brackets that are here and not in the variables that are stored: the body's and a typed value's."""
_TEN_YEARS_MS: Final = 315_360_000_000
_ERROR_MESSAGE_LENGTH_MAX: Final = 666
"""Where Camunda cuts."""
_ERROR_DETAILS_LENGTH_MAX: Final = 65_536
"""What the store holds of it."""


def body_of(kind: type[S], settings: Settings) -> Body[S]:
    """How bodies of a kind are read: as Jackson reads them, to whom "10" is a number, too, and 1
    is true. Workers are configured by environments, whose values are strings."""
    return Body(kind, settings, levels=_LEVELS, is_strict=False)


class Request(Struct, rename="camel", kw_only=True):
    """What all request bodies have in common."""


# And to whom a number is a string: a process may call itself by its number, an error its code.
Number = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
WorkerId = native.WorkerId | Number
ErrorCode = native.ErrorCode | Number
# Clients that compute them send some with a fraction, which is cut off where they are used.
Milliseconds = float
# From one millisecond: some clients lock all there is for as short as they can, to see it.
LockDuration = Annotated[Milliseconds, Meta(ge=1), Bound(le="lock_duration_ms_max")]
Variables = dict[str, TypedValue]
Names = Annotated[list[Name], Meta(max_length=1_000)]
TaskIds = Annotated[list[str], Bound(max_length="batch_tasks_max")]
RetriesLeft = Annotated[int, Meta(ge=0, le=2**31 - 1)]
# Camunda's is a long, but the order of tasks is by the store's, which is an int.
TaskPriority = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]


class TopicWish(Request):
    """A wish for tasks of one topic. What is absent does not narrow it."""

    topic_name: Topic
    lock_duration: LockDuration
    variables: Annotated[list[str], Meta(max_length=1_000)] | None = None
    local_variables: bool | None = None
    business_key: Name | None = None
    process_definition_id: Name | None = None
    process_definition_id_in: Names | None = None
    process_definition_key: Name | None = None
    process_definition_key_in: Names | None = None
    process_definition_version_tag: Name | None = None
    without_tenant_id: bool | None = None
    tenant_id_in: Names | None = None
    process_variables: dict[str, Raw] | None = None
    deserialize_values: bool | None = None
    include_extension_properties: bool | None = None


class Sorting(Request):
    """An order beside the priority. Camunda knows this one."""

    sort_by: Literal["createTime"]
    sort_order: Literal["asc", "desc"]


class FetchAndLock(Request):
    """A wish for tasks, and how long it stands."""

    worker_id: WorkerId
    max_tasks: Annotated[int, Meta(ge=0), Bound(le="max_tasks_max")]
    use_priority: bool | None = None
    # Absent, zero and less all mean: answer at once.
    async_response_timeout: Annotated[Milliseconds, Bound(le="request_timeout_ms_max")] | None = (
        None
    )
    sorting: list[Sorting] | None = None
    topics: Annotated[list[TopicWish], Bound(max_length="subscriptions_max")] | None = None


class Complete(Request):
    """The task is done."""

    worker_id: WorkerId
    variables: Variables | None = None
    local_variables: Variables | None = None


class Failure(Request):
    """The task could not be done this time. No `retries` means none are left.

    The texts are cut where they are too long: who reports a failure with a long
    stack trace must not fail at that too.
    """

    worker_id: WorkerId
    error_message: str | None = None
    error_details: str | None = None
    retries: RetriesLeft | None = None
    retry_timeout: Annotated[Milliseconds, Meta(ge=0, le=_TEN_YEARS_MS)] | None = None
    variables: Variables | None = None
    local_variables: Variables | None = None

    def __post_init__(self) -> None:
        self.retries = self.retries or 0
        if self.error_message is not None:
            self.error_message = self.error_message[:_ERROR_MESSAGE_LENGTH_MAX]
        if self.error_details is not None:
            self.error_details = self.error_details[:_ERROR_DETAILS_LENGTH_MAX]


class BpmnError(Request):
    """The task ended with a business outcome."""

    worker_id: WorkerId
    error_code: ErrorCode
    error_message: str | None = None
    variables: Variables | None = None

    def __post_init__(self) -> None:
        if self.error_message is not None:
            self.error_message = self.error_message[:_ERROR_MESSAGE_LENGTH_MAX]


class ExtendLock(Request):
    """The lock shall last so many milliseconds from now."""

    worker_id: WorkerId
    new_duration: LockDuration


class Lock(Request):
    """This task, no other, shall be the worker's for so many milliseconds."""

    worker_id: WorkerId
    lock_duration: LockDuration


class Retries(Request):
    """So many failures are allowed from now on."""

    retries: RetriesLeft


class BulkRetries(Retries):
    """So many failures are allowed to each of these tasks from now on."""

    external_task_ids: TaskIds | None = None
    process_instance_ids: TaskIds | None = None
    external_task_query: Raw = Raw(b"null")
    process_instance_query: Raw = Raw(b"null")
    historic_process_instance_query: Raw = Raw(b"null")


class Priority(Request):
    """Where the task stands among those that wait."""

    priority: TaskPriority


class Modifications(Request):
    """Variables to set, and names of variables to forget."""

    modifications: Variables | None = None
    deletions: Annotated[list[str], Meta(max_length=1_000)] | None = None


def camunda_date(instant: str) -> str:
    """An instant as PostgreSQL writes it in UTC, as Camunda would: milliseconds and `+0000`.

    Of the microseconds the last three are dropped, never rounded: an instant must not
    move into the future.
    """
    if len(instant) == 32 and instant[19] == ".":
        return f"{instant[:23]}+0000"
    # PostgreSQL writes no zeros at the end, and no point before none.
    whole, _, fraction = instant[:-6].partition(".")
    return f"{whole}.{fraction[:3]:0<3}+0000"

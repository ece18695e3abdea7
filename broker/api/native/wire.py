"""What the native dialect takes: its request bodies, member by member.

A member that is not here is refused, so a typo never passes silently, and each
limit stands at its field. An explicit null is the same as leaving the member
out. The types are decoded to be checked; what goes on to the core is the JSON
text they came in, so nothing here may be looser than PostgreSQL's reading of
the same text.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from broker.api.bounds import Bound, IfEscaped
from broker.api.instant import Instant


class Request(Struct, rename="camel", forbid_unknown_fields=True, kw_only=True):
    """What all request bodies have in common."""


class Object(Struct):
    """Any JSON object. Decoding skips its members, but not without checking their syntax."""


# A thousand days of delay are somebody's reminder; a thousand years are a wrong unit.
_TEN_YEARS_MS = 315_360_000_000

Name = Annotated[str, Meta(max_length=255)]
WorkerId = Annotated[str, Meta(min_length=1, max_length=255, description="The worker's own name.")]
Topic = Annotated[
    str,
    Meta(min_length=1, description="Says which workers may do the task. No control characters."),
    Bound(max_length="topic_length_max"),
    IfEscaped(r"^[^\x00-\x1f]*\Z"),
]
Variables = Annotated[
    Object, Meta(description="Kept exactly: any Unicode but NUL, integers of any size.")
]
LockToken = Annotated[
    str,
    Meta(
        max_length=255,
        description="The lock's fence, from the fetch: an older attempt can then do nothing.",
    ),
]
LockDurationMs = Annotated[
    int,
    Meta(description="Milliseconds from now."),
    Bound(ge="lock_duration_ms_min", le="lock_duration_ms_max"),
]
PriorityNumber = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
DelayMs = Annotated[int, Meta(ge=0, le=_TEN_YEARS_MS)]
TimeoutMs = Annotated[
    int, Meta(ge=1_000, le=_TEN_YEARS_MS, description="The task is FAILED when it is over.")
]
# A stack trace may be long, but it is stored with each failure and shown in lists.
ErrorDetails = Annotated[str, Meta(max_length=65_536)]
ErrorMessage = Annotated[str, Meta(max_length=4_096)]
ErrorCode = Annotated[str, Meta(min_length=1, max_length=255)]
UniqueKey = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=255,
        description="The same key with the same body answers the first task again.",
    ),
]
RetriesLeft = Annotated[
    int,
    Meta(ge=0, le=1_000, description="Absent: the retry policy decides. 0: an incident."),
]
NewForNext = Annotated[Object, Meta(description="Set on the task, for its next attempt.")]
TraceParent = Annotated[
    str,
    Meta(pattern=r"^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}\Z", description="W3C."),
]


class VariableType(Request):
    """What workers that know types are told of a variable, where its JSON does not show it."""

    type: Annotated[str, Meta(min_length=1, max_length=255)]
    value_info: dict[str, str | bool | int] | None = None


class Create(Request):
    """A task to be done."""

    topic: Topic
    variables: Variables | None = None
    priority: PriorityNumber | None = None
    business_key: Name | None = None
    retries: Annotated[int, Meta(ge=1, le=1_000)] | None = None
    delay_ms: DelayMs | None = None
    available_at: Instant | None = None
    unique_key: UniqueKey | None = None
    process_instance_id: Name | None = None
    process_definition_id: Name | None = None
    process_definition_key: Name | None = None
    process_definition_version_tag: Name | None = None
    activity_id: Name | None = None
    tenant_id: Name | None = None
    variable_types: (
        Annotated[dict[str, VariableType], Meta(description="By name. See docs/camunda7.md.")]
        | None
    ) = None
    traceparent: TraceParent | None = None
    execution_timeout_ms: (
        Annotated[TimeoutMs, Meta(description="From its first lock, through all attempts.")] | None
    ) = None
    total_timeout_ms: (
        Annotated[TimeoutMs, Meta(description="From its creation, waiting included.")] | None
    ) = None


class CreateBatch(Request):
    """Tasks to be done. Each is created or refused alone."""

    tasks: Annotated[list[Create], Meta(min_length=1), Bound(max_length="batch_tasks_max")]


class Subscription(Request):
    """A wish for tasks of one topic."""

    topic: Topic
    # An empty list could mean all or none, so it means neither.
    process_definition_ids: (
        Annotated[list[Name], Meta(min_length=1, max_length=1_000, description="Absent: any.")]
        | None
    ) = None
    lock_duration_ms: LockDurationMs | None = None
    variables: (
        Annotated[list[str], Meta(max_length=1_000, description="Names wanted. Absent: all.")]
        | None
    ) = None


class FetchAndLock(Request):
    """A wish for tasks, and how long it stands."""

    worker_id: WorkerId
    max_tasks: Annotated[int, Meta(ge=1), Bound(le="max_tasks_max")]
    lock_duration_ms: LockDurationMs
    request_timeout_ms: Annotated[
        int,
        Meta(ge=0, description="How long to wait for the first task."),
        Bound(le="request_timeout_ms_max"),
    ]
    subscriptions: Annotated[
        list[Subscription], Meta(min_length=1), Bound(max_length="subscriptions_max")
    ]


class Complete(Request):
    """The task is done."""

    worker_id: WorkerId
    lock_token: LockToken | None = None
    variables: Variables | None = None


class CompleteItem(Request):
    """One task that is done."""

    id: str
    lock_token: LockToken | None = None
    variables: Variables | None = None


class Fail(Request):
    """The task could not be done this time."""

    worker_id: WorkerId
    error_message: ErrorMessage
    lock_token: LockToken | None = None
    error_details: ErrorDetails | None = None
    retries: RetriesLeft | None = None
    retry_timeout_ms: DelayMs | None = None
    variables: NewForNext | None = None


class FailItem(Request):
    """One task that could not be done this time."""

    id: str
    error_message: ErrorMessage
    lock_token: LockToken | None = None
    error_details: ErrorDetails | None = None
    retries: RetriesLeft | None = None
    retry_timeout_ms: DelayMs | None = None
    variables: NewForNext | None = None


class BpmnError(Request):
    """The task ended with a business outcome. It is not tried again."""

    worker_id: WorkerId
    error_code: ErrorCode
    lock_token: LockToken | None = None
    error_message: ErrorMessage | None = None
    variables: Variables | None = None


class ExtendLock(Request):
    """The lock shall last so long from now. It may become shorter."""

    worker_id: WorkerId
    lock_duration_ms: LockDurationMs
    lock_token: LockToken | None = None


class ExtendLockItem(Request):
    """One task whose lock shall last so long from now."""

    id: str
    lock_duration_ms: LockDurationMs
    lock_token: LockToken | None = None


class Unlock(Request):
    """The task goes back to the pool. No retry is used."""

    worker_id: WorkerId
    lock_token: LockToken | None = None


class CompleteBatch(Request):
    """Tasks that are done. Each is accepted or refused alone."""

    worker_id: WorkerId
    tasks: Annotated[list[CompleteItem], Meta(min_length=1), Bound(max_length="batch_tasks_max")]


class FailBatch(Request):
    """Tasks that could not be done this time. Each is accepted or refused alone."""

    worker_id: WorkerId
    tasks: Annotated[list[FailItem], Meta(min_length=1), Bound(max_length="batch_tasks_max")]


class ExtendLockBatch(Request):
    """Locks to extend. Each is accepted or refused alone."""

    worker_id: WorkerId
    tasks: Annotated[list[ExtendLockItem], Meta(min_length=1), Bound(max_length="batch_tasks_max")]


class RetryTimeout(Request):
    """A task that waits for its retry is due so long from now."""

    retry_timeout_ms: DelayMs


class Retries(Request):
    """So many failures are allowed from now on. A failed task goes back to the pool."""

    retries: Annotated[int, Meta(ge=1, le=1_000)]


class Priority(Request):
    """The task goes on among those of this priority."""

    priority: PriorityNumber


class Lock(Request):
    """This task and no other, for this worker. Of its own lock: to be renewed."""

    worker_id: WorkerId
    lock_duration_ms: LockDurationMs


class SetVariables(Request):
    """Variables that whoever locks the task next will find, and names of others to remove."""

    variables: Variables | None = None
    deletions: Annotated[list[str], Meta(max_length=1_000)] | None = None


class LateWork(Request):
    """Whether work is welcome after its lock ran out, while nobody else has taken the task."""

    is_accepted: bool


class Cancel(Request):
    """Nobody is to do the task any more."""

    reason: ErrorMessage | None = None

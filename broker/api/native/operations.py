"""What the OpenAPI document says of each verb, beside what its types say."""

from __future__ import annotations

from typing import Any, Final, NamedTuple, get_args

from msgspec import Struct

from broker.api.native import answers, wire
from broker.api.native import long_work_wire as long_wire
from broker.api.native.parameters import LINE_NUMBER_MAX, LINES_MAX, PAGE_MAX, WAIT_S_MAX

Json = dict[str, Any]

_HELD: Final = (404, 409)
_REPLAYED: Final = "Idempotency-Replayed"
_TEXT: Final[Json] = {"type": "string"}


def _parameter(place: str, name: str, schema: Json, **more: Any) -> Json:
    return {"name": name, "in": place, "schema": schema, **more}


_PREFER: Final = _parameter(
    "header",
    "Prefer",
    _TEXT,
    description=f"`wait=N`: wait up to N seconds (at most {WAIT_S_MAX}) for the task to finish.",
)
_IDEMPOTENCY_KEY: Final = _parameter(
    "header",
    "Idempotency-Key",
    {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]*$"},
)
IN_PATHS: Final = {
    "id": _parameter("path", "id", _TEXT, required=True),
    "workerId": _parameter(
        "path", "workerId", {"type": "string", "minLength": 1, "maxLength": 255}, required=True
    ),
    "topic": _parameter(
        "path", "topic", {"type": "string", "minLength": 1, "maxLength": 255}, required=True
    ),
    "token": _parameter("path", "token", _TEXT, required=True),
}
_SEARCH: Final[dict[str, Json]] = {
    "topic": {"type": "string"},
    "state": {"enum": list(get_args(answers.State))},
    "workerId": {"type": "string"},
    "businessKey": {"type": "string"},
    "processInstanceId": {"type": "string"},
    "createdAfter": {"type": "string", "format": "date-time"},
    "createdBefore": {"type": "string", "format": "date-time"},
    "limit": {"type": "integer", "minimum": 1, "maximum": PAGE_MAX, "default": 50},
    "after": {"type": "string", "description": "The `next` of the page before."},
}
_LOG: Final[dict[str, Json]] = {
    "after": {"type": "integer", "minimum": 0, "maximum": LINE_NUMBER_MAX, "default": 0},
    "limit": {"type": "integer", "minimum": 1, "maximum": LINES_MAX, "default": 200},
}


class Operation(NamedTuple):
    """What the document says of one verb, beside what its types say."""

    summary: str
    request: type[Struct] | None
    answers: dict[int, Any]
    refusals: tuple[int, ...] = ()
    tells: tuple[str, ...] = ()
    """Headers that successful answers may carry."""
    parameters: tuple[Json, ...] = ()
    """In headers and queries; those in paths are told by the path."""
    forms: tuple[type[Struct], ...] = ()
    """Of a body that may be any JSON: what means more than itself."""


OPERATIONS: Final = {
    "create": Operation(
        "Create a task",
        wire.Create,
        {200: answers.Task, 202: answers.Task},
        (409,),
        ("Location", "Preference-Applied", _REPLAYED),
        (_IDEMPOTENCY_KEY, _PREFER),
    ),
    "create_batch": Operation("Create many tasks", wire.CreateBatch, {202: answers.ResultList}),
    "list_tasks": Operation(
        "Search tasks, newest first",
        None,
        {200: answers.TaskPage},
        (422,),
        parameters=tuple(_parameter("query", name, schema) for name, schema in _SEARCH.items()),
    ),
    "get_task": Operation(
        "Look at a task, or wait until it is finished",
        None,
        {200: answers.Task, 304: None},
        (404,),
        ("ETag", "Cache-Control", "Preference-Applied"),
        (_parameter("header", "If-None-Match", _TEXT), _PREFER),
    ),
    "fetch_and_lock": Operation(
        "Lock tasks, waiting until there are some",
        wire.FetchAndLock,
        {200: list[answers.LockedTask]},
        (429,),
    ),
    "complete": Operation("Finish a task", wire.Complete, {204: None}, _HELD, (_REPLAYED,)),
    "complete_batch": Operation("Finish many tasks", wire.CompleteBatch, {200: answers.ResultList}),
    "fail": Operation("Report a failure", wire.Fail, {200: answers.Failed}, _HELD),
    "fail_batch": Operation("Report many failures", wire.FailBatch, {200: answers.ResultList}),
    "bpmn_error": Operation(
        "Finish a task with a business outcome", wire.BpmnError, {204: None}, _HELD, (_REPLAYED,)
    ),
    "extend_lock": Operation("Extend a lock", wire.ExtendLock, {200: answers.Extended}, _HELD),
    "extend_lock_batch": Operation(
        "Extend many locks", wire.ExtendLockBatch, {200: answers.ResultList}
    ),
    "unlock": Operation("Give a task back", wire.Unlock, {204: None}, _HELD),
    "retry_timeout": Operation(
        "Move a task that waits for its retry",
        wire.RetryTimeout,
        {200: answers.Rescheduled},
        _HELD,
    ),
    "retries": Operation(
        "Set the retries; redrive a failed task", wire.Retries, {200: answers.Redriven}, _HELD
    ),
    "priority": Operation(
        "Move a task to another priority", wire.Priority, {200: answers.Prioritized}, _HELD
    ),
    "lock": Operation("Lock one task", wire.Lock, {200: answers.Locked}, _HELD),
    "variables": Operation("Set variables of a task", wire.SetVariables, {204: None}, _HELD),
    "cancel": Operation(
        "Cancel a task, or ask its worker to", wire.Cancel, {200: answers.Cancelled}, _HELD
    ),
    "heartbeat": Operation(
        "Renew a worker's locks, and say what is new of its tasks",
        long_wire.Heartbeat,
        {200: answers.Beats},
    ),
    "subtext": Operation("Say how a task stands", long_wire.Subtext, {204: None}, _HELD),
    "log_lines": Operation(
        "Read a task's log",
        None,
        {200: answers.LogLines},
        (404, 422),
        parameters=tuple(_parameter("query", name, schema) for name, schema in _LOG.items()),
    ),
    "callback_url": Operation(
        "Get an address at which somebody else can say how the task ends",
        long_wire.CallbackUrl,
        {200: answers.CallbackAddress},
        _HELD,
    ),
    "hand_over": Operation(
        "Leave a task to a callback",
        long_wire.HandOver,
        {200: answers.HandedOver},
        _HELD,
        (_REPLAYED,),
    ),
    "callback": Operation(
        "Say how a task ended, by whoever was given this address",
        None,
        {200: answers.CalledBack},
        (403, 404, 409, 410),
        (_REPLAYED,),
        forms=(long_wire.ExternalEvent, long_wire.Envelope),
    ),
    "external_event": Operation(
        "Say how a task ended, by its id",
        long_wire.ExternalEvent,
        {200: answers.CalledBack},
        _HELD,
        (_REPLAYED,),
    ),
    "drain": Operation("Ask a worker to stop in good order", None, {204: None}, (422,)),
    "undrain": Operation("Ask that no more", None, {204: None}, (422,)),
    "late_work": Operation(
        "Say whether work on a topic is welcome after its lock ran out", wire.LateWork, {204: None}
    ),
    "forget_late_work": Operation(
        "Leave that to what the dialect is used to", None, {204: None}, (422,)
    ),
}
"""By the verb's name in `ROUTES`."""

"""Errors as Camunda writes them: `{"type", "message", "code"}`.

`type` is the simple name of the Java class that its clients would see. `code`
is 0, Camunda's word for "no special one", where the engine refuses (there is no
such task, it is not the caller's, the broker failed), and null where the request
never got that far.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec
from msgspec import Struct

from broker.api.endpoint import Headers, Reply
from broker.api.problem import MethodNotAllowed, NoSuchRoute
from broker.errors import (
    BrokerError,
    CallbackExpired,
    Conflict,
    Forbidden,
    Invalid,
    LockLost,
    Overloaded,
    TaskNotFound,
    TooLarge,
    TooManyRequests,
    Unauthenticated,
    Unavailable,
    UnsupportedMediaType,
)
from broker.task import API_FINISHED

Act = Literal["complete", "failure", "bpmnError", "extendLock", "lock"]

_ACTS: Final = {
    "complete": "External Task {0} cannot be completed by worker '{1}'.",
    "failure": "Failure of External Task {0} cannot be reported by worker '{1}'.",
    "bpmnError": "Bpmn error of External Task {0} cannot be reported by worker '{1}'.",
    "extendLock": "The lock of the External Task {0} cannot be extended by worker '{1}'.",
    "lock": "External Task {0} cannot be locked by worker '{1}'.",
}

_FORMS: Final[dict[type[BrokerError], tuple[int, str, int | None]]] = {
    Unauthenticated: (401, "RestException", None),
    Forbidden: (403, "AuthorizationException", 0),
    TaskNotFound: (404, "RestException", 0),
    LockLost: (400, "RestException", 0),
    Conflict: (400, "RestException", 0),
    CallbackExpired: (410, "RestException", 0),
    TooLarge: (413, "RestException", None),
    # JAX-RS's names: Camunda leaves these three to it.
    UnsupportedMediaType: (415, "NotSupportedException", None),
    NoSuchRoute: (404, "NotFoundException", None),
    MethodNotAllowed: (405, "NotAllowedException", None),
    Invalid: (400, "InvalidRequestException", None),
    # Camunda says 500 to both; a status that says to come back is worth more to a client.
    TooManyRequests: (429, "RestException", None),
    Unavailable: (503, "RestException", None),
}
"""Status, type and code of each error. What is not here is the broker's own failure."""

_FAILED: Final = (500, "ProcessEngineException", 0)


class _Told(Struct):
    type: str
    message: str
    code: int | None


def refusal(error: BrokerError) -> Reply:
    """The error's answer. A finished task is as unknown as one that never was."""
    status, kind, code = _FORMS.get(type(error), _FAILED)
    message = error.detail
    task_id = error.facts.get("taskId")
    if isinstance(error, TaskNotFound) or error.facts.get("state") in API_FINISHED:
        status, kind, code = _FORMS[TaskNotFound]
        if task_id is not None:
            message = f"External task with id {task_id} does not exist"
    headers: Headers = ()
    if isinstance(error, Overloaded):
        headers = ((b"retry-after", b"%d" % error.retry_after_s),)
    return Reply(status, msgspec.json.encode(_Told(kind, message, code)), headers)


def not_yours(error: LockLost, act: Act, task_id: str, worker_id: str) -> LockLost:
    """The same error in Camunda's words, which tell who wanted what, and who has the task."""
    holder = error.facts.get("holder")
    if holder is not None and holder != worker_id:
        reason = f"It is locked by worker '{holder}'."
    else:
        reason = f"{error.detail[:1].upper()}{error.detail[1:]}."
    said = _ACTS[act].format(task_id, worker_id)
    return LockLost(f"{said} {reason}", {**error.facts, "taskId": task_id})

"""Everything a caller can be told instead of an answer.

    BrokerError                        status  code
    ├── Unauthenticated                   401  unauthenticated
    ├── Forbidden                         403  forbidden
    ├── TaskNotFound                      404  task_not_found
    ├── LockLost                          409  lock_lost
    ├── Conflict                          409  conflict
    ├── CallbackExpired                   410  callback_expired
    ├── TooLarge                          413  too_large
    ├── UnsupportedMediaType              415  unsupported_media_type
    ├── Invalid                           422  invalid
    ├── TooManyRequests                   429  too_many_requests
    └── Unavailable                       503  unavailable

Codes are API: stable, one word a case, the same in every dialect and in the
SDK (a test holds both lists against each other). Texts are for people and may
change. An error carries facts, never HTTP: the dialects write them down.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar


class BrokerError(Exception):
    """A refusal with a stable code. `facts` are the extra members of the answer, in API names."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"

    def __init__(self, detail: str, facts: Mapping[str, Any] | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.facts = dict(facts or {})


class Unauthenticated(BrokerError):
    """No credentials, or none the broker knows."""

    status, code, title = 401, "unauthenticated", "Authentication required"


class Forbidden(BrokerError):
    """Known, but not allowed."""

    status, code, title = 403, "forbidden", "Not allowed"


class TaskNotFound(BrokerError):
    """No task has this id, or it is past its retention."""

    status, code, title = 404, "task_not_found", "No such task"


class LockLost(BrokerError):
    """The caller does not hold the task: expired, fetched by another, or finished.

    Facts: `state`, and `holder` and `lockExpiresAt` while somebody holds it.
    """

    status, code, title = 409, "lock_lost", "The lock is not yours"


class Conflict(BrokerError):
    """The task's state, or an earlier request with the same key, forbids it."""

    status, code, title = 409, "conflict", "Conflict"


class CallbackExpired(BrokerError):
    """The callback URL was for an attempt that is over, or its time is."""

    status, code, title = 410, "callback_expired", "The callback has expired"


class TooLarge(BrokerError):
    """The body has more bytes than the limit."""

    status, code, title = 413, "too_large", "Body too large"


class UnsupportedMediaType(BrokerError):
    """The body is not JSON by its own Content-Type."""

    status, code, title = 415, "unsupported_media_type", "Unsupported media type"


class Invalid(BrokerError):
    """The request breaks the contract. `errors` are (JSON Pointer, message) pairs."""

    status, code, title = 422, "invalid", "Invalid request"

    def __init__(self, detail: str, errors: Sequence[tuple[str, str]] = ()) -> None:
        listed = [{"pointer": pointer, "message": message} for pointer, message in errors]
        super().__init__(detail, {"errors": listed} if listed else None)


class Overloaded(BrokerError):
    """A refusal that passes: try again after `retry_after_s` seconds."""

    retry_after_s: int = 1


class TooManyRequests(Overloaded):
    """The caller asks for more than its share."""

    status, code, title = 429, "too_many_requests", "Too many requests"


class Unavailable(Overloaded):
    """The broker cannot answer now: its database is away, its queues are full, or it is stopping."""

    status, code, title = 503, "unavailable", "Unavailable"


BY_CODE = {
    error.code: error
    for error in (
        Unauthenticated,
        Forbidden,
        TaskNotFound,
        LockLost,
        Conflict,
        CallbackExpired,
        TooLarge,
        UnsupportedMediaType,
        Invalid,
        TooManyRequests,
        Unavailable,
    )
}
"""What a statement or a peer says by code, as a class."""

"""What the broker can say instead of an answer, as exceptions.

    FetchlockError                     status  code
    ├── ConnectionFailed                   –  connection_failed
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

The codes are the broker's own; a test holds both lists against each other. An
answer whose code is not in the list (a newer broker's, a proxy's) is a plain
`FetchlockError` with that status. Nothing here knows HTTP or JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final


class FetchlockError(Exception):
    """The root of everything the SDK raises about a request.

    `status` is the HTTP status, or None when there was no answer at all. `code` is the broker's
    stable word for the case. `facts` are the further members of the problem document in their API
    names, such as `holder` and `lockExpiresAt` of a lost lock. `retry_after_s` is how long the
    broker asked to be left alone, or None.
    """

    status: int | None = None
    code: str = "unexpected"

    def __init_subclass__(cls, *, code: str, status: int | None = None) -> None:
        cls.code, cls.status = code, status

    def __init__(
        self,
        detail: str,
        *,
        status: int | None = None,
        code: str | None = None,
        facts: Mapping[str, Any] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.status = self.status if status is None else status
        self.code = code or self.code
        self.facts: dict[str, Any] = dict(facts or {})
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        said = self.code if self.status is None else f"{self.status} {self.code}"
        return f"{said}: {self.detail}" if self.detail else said

    @property
    def is_transient(self) -> bool:
        """Whether the very same request may well succeed later."""
        return self.status is None or self.status in (408, 425, 429) or self.status >= 500


class ConnectionFailed(FetchlockError, code="connection_failed"):
    """No answer: the broker could not be reached, went away, or took too long.

    The request may or may not have been carried out. Everything a worker says about its lock can
    be said again: the lock token makes a repetition harmless.
    """


class Unauthenticated(FetchlockError, code="unauthenticated", status=401):
    """No credentials, or none the broker knows."""


class Forbidden(FetchlockError, code="forbidden", status=403):
    """Known, but not allowed."""


class TaskNotFound(FetchlockError, code="task_not_found", status=404):
    """No task has this id, or it is past its retention."""


class LockLost(FetchlockError, code="lock_lost", status=409):
    """The task is not the caller's any more: the lock expired, or the task is finished.

    Facts: `state`, and `holder` and `lockExpiresAt` while another worker has it.
    """


class Conflict(FetchlockError, code="conflict", status=409):
    """The task's state, or an earlier request with the same key, forbids it."""


class CallbackExpired(FetchlockError, code="callback_expired", status=410):
    """The callback URL was for an attempt that is over, or its time is."""


class TooLarge(FetchlockError, code="too_large", status=413):
    """The body has more bytes than the broker takes."""


class UnsupportedMediaType(FetchlockError, code="unsupported_media_type", status=415):
    """The broker does not take this kind of body."""


class Invalid(FetchlockError, code="invalid", status=422):
    """The request breaks the contract. `facts["errors"]` says where, as JSON Pointers."""


class TooManyRequests(FetchlockError, code="too_many_requests", status=429):
    """The caller asks for more than its share."""


class Unavailable(FetchlockError, code="unavailable", status=503):
    """The broker cannot answer now: its database is away, it is full, or it is stopping."""


BY_CODE: Final = {
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
"""The broker's codes, each with the class that is raised for it."""

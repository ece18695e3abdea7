"""How a handler says that a task did not simply succeed.

A handler returns its variables, or a `HandOver` when somebody else is to finish
the task, or raises. `Failure` and `BpmnError` are the two things it can raise on
purpose; whatever else comes out of it is a failure too, told with its traceback. All texts pass through `legible`: tracebacks hold
file names and values that JSON text may not, and a refusal of the failure
itself would leave the task to run out of its lock unexplained.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

# A little less than the broker takes: a text cut short tells more than one that is refused.
MESSAGE_CHARS_MAX = 4_000
DETAILS_CHARS_MAX = 60_000


class Failure(Exception):
    """It did not work, maybe later: `raise Failure("gateway timeout", retry_after=30)`.

    `retries` is how many more failures are allowed after this one: 0 makes it an incident, None
    leaves it to the topic's retry policy. `retry_after` (seconds or a timedelta) is the least wait
    before the next attempt; None leaves that to the policy, too. `details` is for the operator.
    `variables` are set on the task, for the next attempt.
    """

    def __init__(
        self,
        message: str,
        *,
        retries: int | None = None,
        retry_after: timedelta | float | None = None,
        details: str | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message: str = legible(message, MESSAGE_CHARS_MAX)
        self.retries = retries
        self.retry_after = retry_after
        self.details: str | None = None if details is None else legible(details, DETAILS_CHARS_MAX)
        self.variables = variables

    @property
    def retry_timeout_ms(self) -> int | None:
        """`retry_after` as the wire has it."""
        if self.retry_after is None:
            return None
        wait = self.retry_after
        return round((wait.total_seconds() if isinstance(wait, timedelta) else wait) * 1000)


class BpmnError(Exception):
    """A business outcome with a code, never retried: `raise BpmnError("CARD_DECLINED")`.

    `variables` are handed to whatever in the process catches the code.
    """

    def __init__(
        self, code: str, message: str | None = None, *, variables: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(code if message is None else f"{code}: {message}")
        self.code = code
        self.message: str | None = None if message is None else legible(message, MESSAGE_CHARS_MAX)
        self.variables = variables


class HandOver:
    """The handler has done its part, a callback is to end the task: `return task.hand_over()`.

    The callback's output is merged over `variables`, key by key. It is waited for until
    `timeout_s` is over; None leaves that to the broker.
    """

    def __init__(
        self, variables: Mapping[str, Any] | None = None, *, timeout_s: float | None = None
    ) -> None:
        self.variables = variables
        self.timeout_s = timeout_s
        self.timeout_ms: int | None = timeout_ms(timeout_s)


class Acknowledgement:
    """The handler has stopped because its task is to be cancelled. Only workers say this."""


ACKNOWLEDGED: Final = Acknowledgement()

Variables = Mapping[str, Any] | None
Result = Variables | HandOver
Outcome = Result | Failure | BpmnError | Acknowledgement


def timeout_ms(timeout_s: float | None) -> int | None:
    """A timeout as the wire has it. Raises ValueError for what is no time to wait."""
    if timeout_s is None:
        return None
    if not (timeout_s > 0 and math.isfinite(timeout_s)):
        raise ValueError(f"nothing can be waited for {timeout_s} seconds")
    return round(timeout_s * 1000)


def unforeseen(error: BaseException) -> Failure:
    """The failure that tells of any other exception: its message, and its traceback as details."""
    return Failure(
        "".join(traceback.format_exception_only(error)).strip(),
        details="".join(traceback.format_exception(error)),
    )


def legible(text: str, chars_max: int) -> str:
    """The text without what JSON text may not hold, cut in the middle when it is too long.

    Both ends stay: a traceback says at its top where it came from and at its bottom what happened.
    """
    clean = text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")
    if len(clean) <= chars_max:
        return clean
    half = (chars_max - 3) // 2
    return f"{clean[:half]}\n…\n{clean[-half:]}"

"""JSON in and out: the one place of the SDK that knows the encoding.

msgspec keeps integers of any size both ways and decodes straight into the
structs of `_task`. It has one habit that would corrupt silently: NaN and the
infinities, which JSON cannot say, become null. They are refused here instead.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar, cast

import msgspec

from worker_sdk._errors import BY_CODE, FetchlockError
from worker_sdk._task import Standing, Task

T = TypeVar("T")


class Page(msgspec.Struct):
    """The answer to a listing."""

    tasks: list[Task]
    next: str | None = None


class Results(msgspec.Struct):
    """The answer to a batch: one object per item, in order."""

    results: list[dict[str, Any]]


class Completed(msgspec.Struct, omit_defaults=True, rename="camel", gc=False):
    """An item of a batch of completions.

    Unknown to the garbage collector, which otherwise runs through the whole process with each
    batch: nothing ever refers to one of these.
    """

    id: str
    lock_token: str | None = None
    variables: Mapping[str, Any] | None = None


class Extended(msgspec.Struct, rename="camel"):
    """The answer to an extended lock."""

    lock_expires_at: datetime


class Postponed(msgspec.Struct, rename="camel"):
    """The answer to a changed retry timeout."""

    available_at: datetime


TASK = msgspec.json.Decoder(Task)
TASKS = msgspec.json.Decoder(list[Task])
PAGE = msgspec.json.Decoder(Page)
RESULTS = msgspec.json.Decoder(Results)
EXTENDED = msgspec.json.Decoder(Extended)
POSTPONED = msgspec.json.Decoder(Postponed)
STANDING = msgspec.json.Decoder(Standing)


def encode(body: object) -> bytes:
    """The body as JSON text. Raises TypeError or ValueError for what JSON cannot say."""
    try:
        text = msgspec.json.encode(body)
    except RecursionError:
        raise ValueError("the variables are nested too deeply, or contain themselves") from None
    # A NaN can only hide behind a null, so the slow look happens to few bodies.
    if b"null" in text:
        _refuse_nan(msgspec.to_builtins(body))
    return text


def _refuse_nan(value: object) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"JSON has no {value}")
    if isinstance(value, Mapping):
        value = cast("Mapping[str, object]", value).values()
    if isinstance(value, Iterable) and not isinstance(value, str):
        for inner in cast("Iterable[object]", value):
            _refuse_nan(inner)


def said(**members: object) -> dict[str, object]:
    """A request body of those members that have a value, under their API names."""
    return {name: value for name, value in members.items() if value is not None}


def decode(decoder: msgspec.json.Decoder[T], body: bytes, status: int) -> T:
    """The answer, typed. Raises FetchlockError when this is not the broker's kind of answer."""
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise FetchlockError(
            f"the answer is not what a Fetchlock broker says: {error}", status=status
        ) from error


def refusal(status: int, body: bytes, retry_after: str | None) -> FetchlockError:
    """What an answer that is no success means. Never raises: it may come from any proxy."""
    try:
        problem = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        problem = {"detail": body[:200].decode("utf-8", "replace")}
    # The other form of Retry-After, a date, would need the two clocks to agree.
    wait_s = float(retry_after) if retry_after and retry_after.isdecimal() else None
    return _told(problem, status, wait_s)


def item_refusals(results: Sequence[Mapping[str, Any]]) -> list[FetchlockError | None]:
    """Per item of a batch, in order: None where it is done, or what was said instead."""
    return [_told(item, None, None) if "code" in item else None for item in results]


def _told(
    problem: Mapping[str, Any], status: int | None, retry_after_s: float | None
) -> FetchlockError:
    facts = dict(problem)
    code, detail = facts.pop("code", None), facts.pop("detail", None) or facts.get("title")
    for known in ("type", "title", "status"):
        facts.pop(known, None)
    error = BY_CODE.get(code, FetchlockError) if isinstance(code, str) else FetchlockError
    return error(
        str(detail or ""), status=status, code=code, facts=facts, retry_after_s=retry_after_s
    )

"""Answers in, and the forms of requests that are not simply a task's own.

msgspec keeps integers of any size both ways and decodes straight into the
structs of `_task`. What goes out is encoded by `_json`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

import msgspec

from worker_sdk._callback import CallbackUrl, HandedOver
from worker_sdk._errors import BY_CODE, FetchlockError
from worker_sdk._news import News, Renewal
from worker_sdk._task import LogPage, Standing, Task

T = TypeVar("T")

_FOREIGN = "the answer is not what a Fetchlock broker says"


class Page(msgspec.Struct):
    """The answer to a listing."""

    tasks: list[Task]
    next: str | None = None


class Results(msgspec.Struct):
    """The answer to a batch: one object per item, in order."""

    results: list[dict[str, Any]]


class HeartbeatAnswer(Results):
    """The answer to a heartbeat."""

    drain: bool = False


class Completed(msgspec.Struct, omit_defaults=True, rename="camel", gc=False):
    """An item of a batch of completions.

    Unknown to the garbage collector, which otherwise runs through the whole process with each
    batch: nothing ever refers to one of these.
    """

    id: str
    lock_token: str | None = None
    variables: Mapping[str, Any] | None = None


class Beat(msgspec.Struct, omit_defaults=True, rename="camel", gc=False):
    """An item of a heartbeat: a task that is still worked on, and what is new of it."""

    id: str
    lock_token: str | None = None
    sequence: int | None = None
    percent: float | None = None
    subtext: str | None = None
    logs: Sequence[str] | None = None
    checkpoint: Any = None


class Extended(msgspec.Struct, rename="camel"):
    """The answer to an extended lock."""

    lock_expires_at: datetime


class Locked(Extended):
    """The answer to a lock on one task."""

    lock_token: str
    attempt: int
    started_at: datetime


class Postponed(msgspec.Struct, rename="camel"):
    """The answer to a changed retry timeout."""

    available_at: datetime


TASK = msgspec.json.Decoder(Task)
TASKS = msgspec.json.Decoder(list[Task])
PAGE = msgspec.json.Decoder(Page)
RESULTS = msgspec.json.Decoder(Results)
EXTENDED = msgspec.json.Decoder(Extended)
LOCKED = msgspec.json.Decoder(Locked)
POSTPONED = msgspec.json.Decoder(Postponed)
STANDING = msgspec.json.Decoder(Standing)
HEARTBEAT = msgspec.json.Decoder(HeartbeatAnswer)
LOG_PAGE = msgspec.json.Decoder(LogPage)
CALLBACK_URL = msgspec.json.Decoder(CallbackUrl)
HANDED_OVER = msgspec.json.Decoder(HandedOver)


def said(**members: object) -> dict[str, object]:
    """A request body of those members that have a value, under their API names."""
    return {name: value for name, value in members.items() if value is not None}


def decode(decoder: msgspec.json.Decoder[T], body: bytes, status: int) -> T:
    """The answer, typed. Raises FetchlockError when this is not the broker's kind of answer."""
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise FetchlockError(f"{_FOREIGN}: {error}", status=status) from error


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


def beat(task: Task, news: News | None) -> Beat:
    """What a heartbeat says about a task."""
    if news is None:
        return Beat(task.id, task.lock_token)
    return Beat(
        task.id,
        task.lock_token,
        news.sequence,
        news.percent,
        news.subtext,
        news.logs,
        news.checkpoint,
    )


def renewals(results: Sequence[Mapping[str, Any]], status: int) -> list[Renewal | FetchlockError]:
    """Per item of a heartbeat, in order: its renewal, or what was said instead."""
    try:
        return [
            msgspec.convert(item, Renewal) if refusal is None else refusal
            for item, refusal in zip(results, item_refusals(results), strict=True)
        ]
    except msgspec.MsgspecError as error:
        raise FetchlockError(f"{_FOREIGN}: {error}", status=status) from error


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

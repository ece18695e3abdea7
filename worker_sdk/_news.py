"""What a handler has to tell of a task it works on: how far it is, its log, its checkpoint.

Everything is checked where the handler says it, because that is where its mistake
is: what is refused by the broker later can only be noted in the worker's log.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, cast

import msgspec

from worker_sdk._json import encode

SUBTEXT_CHARS_MAX = 1_024
LINE_CHARS_MAX = 4_096
CHECKPOINT_BYTES_MAX = 65_536
# As deep as the broker keeps variables.
CHECKPOINT_LEVELS_MAX = 64
# Of one task in one heartbeat; the rest goes with the next.
LINES_MAX, LINES_BYTES_MAX = 1_000, 2**20

# Some end a line or steer a terminal; a lone surrogate is not a character at all.
_NOT_IN_A_LINE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class News(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """What is new of one task, for `Client.heartbeat`. What is left at None is not new.

    `sequence` numbers the news of one lock, from 1: of those that are not above the last ones
    taken nothing is applied again, so a heartbeat may be repeated. `checkpoint` is any JSON but
    null, kept for the task's next attempt.
    """

    sequence: int | None = None
    percent: float | None = None
    subtext: str | None = None
    logs: Sequence[str] | None = None
    checkpoint: Any = None


class Refusal(msgspec.Struct, frozen=True):
    """A member of the news that was not taken, though the lock was renewed: which, and why."""

    member: str
    code: str
    detail: str = ""


class Renewal(msgspec.Struct, frozen=True, rename="camel"):
    """What a heartbeat did for one task.

    With `cancel_requested` the lock was not renewed: what is left of it is for cleaning up.
    """

    lock_expires_at: datetime
    cancel_requested: bool = False
    refused: Sequence[Refusal] = ()


def progress_news(percent: float | None, subtext: str | None) -> News:
    """How far it is. Raises TypeError or ValueError for what the broker would refuse."""
    if percent is None and subtext is None:
        raise TypeError("progress is a percent, a subtext, or both")
    if percent is not None:
        if isinstance(percent, bool) or not isinstance(cast("object", percent), int | float):
            raise TypeError(f"percent is a number, not {type(percent).__name__}")
        if not 0 <= percent <= 100:  # So is a NaN.
            raise ValueError(f"percent is from 0 to 100, not {percent}")
    if subtext is not None:
        _check_subtext(subtext)
    return News(percent=percent, subtext=subtext)


def _check_subtext(subtext: str) -> None:
    if not isinstance(cast("object", subtext), str):
        raise TypeError(f"a subtext is a string, not {type(subtext).__name__}")
    if len(subtext) > SUBTEXT_CHARS_MAX:
        raise ValueError(
            f"a subtext has {SUBTEXT_CHARS_MAX} characters at most, not {len(subtext)}"
        )
    if found := _NOT_IN_A_LINE.search(subtext):
        raise ValueError(f"a subtext is one line without control characters, not {found[0]!r}")


def log_news(lines: Iterable[str]) -> News:
    """Lines for the log. Raises TypeError or ValueError for what is no line, or too long."""
    return News(logs=[_line(line) for line in lines])


def _line(line: str) -> str:
    if not isinstance(cast("object", line), str):
        raise TypeError(f"a log line is a string, not {type(line).__name__}")
    # A log shows what there is, so what JSON text may not hold is shown as well as can be.
    clean = line.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")
    if len(clean) > LINE_CHARS_MAX:
        raise ValueError(f"a log line has {LINE_CHARS_MAX} characters at most, not {len(clean)}")
    return clean


def checkpoint_news(data: object) -> News:
    """Where to go on. Raises TypeError or ValueError for what the broker could not keep."""
    if data is None:
        raise ValueError("a checkpoint is any JSON but null")
    text = encode(data)
    if len(text) > CHECKPOINT_BYTES_MAX:
        raise ValueError(
            f"a checkpoint has {CHECKPOINT_BYTES_MAX} bytes at most, not {len(text)}: "
            "keep the data elsewhere, and here where it is"
        )
    if b"\\u0000" in text or text.count(b"[") + text.count(b"{") > CHECKPOINT_LEVELS_MAX:
        _check_storable(msgspec.json.decode(text), CHECKPOINT_LEVELS_MAX)
    # As text: it is what the data was when it was said, whatever becomes of the object.
    return News(checkpoint=msgspec.Raw(text))


def _check_storable(value: object, levels: int) -> None:
    if isinstance(value, str):
        if "\0" in value:
            raise ValueError("a checkpoint has no NUL character in its strings")
    elif isinstance(value, dict | list):
        if levels == 0:
            raise ValueError(f"a checkpoint is nested {CHECKPOINT_LEVELS_MAX} levels at most")
        if isinstance(value, dict):
            members = cast("dict[str, object]", value)
            _check_storable("".join(members), levels)
            value = list(members.values())
        for inner in cast("list[object]", value):
            _check_storable(inner, levels - 1)


def bytes_bound(text: str) -> int:
    """How many bytes a text has as JSON, at most: a character may be an escape of six."""
    return 6 * len(text) + 3


def news_bytes_bound(news: News) -> int:
    """How many bytes these news have as JSON, at most. Their checkpoint is text already."""
    texts = [news.subtext or "", *(news.logs or ())]
    checkpoint_bytes = 0 if news.checkpoint is None else memoryview(news.checkpoint).nbytes
    # The names, the numbers, and whose news they are.
    return 300 + sum(map(bytes_bound, texts)) + checkpoint_bytes

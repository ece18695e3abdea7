"""What a handler may say, checked where it says it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker_sdk import News, Task
from worker_sdk._news import (
    CHECKPOINT_BYTES_MAX,
    CHECKPOINT_LEVELS_MAX,
    LINE_CHARS_MAX,
    checkpoint_news,
    log_news,
    news_bytes_bound,
    progress_news,
)
from worker_sdk._wire import beat


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize("percent", [0, 100, 0.5, 99.999])
def test_percent_is_from_0_to_100(percent: float) -> None:
    assert progress_news(percent, None) == News(percent=percent)


@pytest.mark.parametrize("percent", [-0.1, 100.1, float("nan"), float("inf"), 10**400])
def test_percent_out_of_range_is_refused(percent: float) -> None:
    with pytest.raises(ValueError, match="from 0 to 100"):
        progress_news(percent, None)


@pytest.mark.parametrize("percent", ["50", True, 5j])
def test_percent_is_a_number(percent: Any) -> None:
    with pytest.raises(TypeError, match="number"):
        progress_news(percent, None)


def test_progress_says_something() -> None:
    with pytest.raises(TypeError, match="or both"):
        progress_news(None, None)


@pytest.mark.parametrize("subtext", ["", "x" * 1024, "90/100 ✓ \U0001f600", "Jörg"])
def test_subtext_is_a_line(subtext: str) -> None:
    assert progress_news(None, subtext).subtext == subtext


@pytest.mark.parametrize(
    "subtext", ["x" * 1025, "a\nb", "\0", "\x7f", "\x85", "\u2028", "half a \ud83d"]
)
def test_subtext_of_several_lines_or_too_long_is_refused(subtext: str) -> None:
    with pytest.raises(ValueError, match="subtext"):
        progress_news(None, subtext)


@pytest.mark.parametrize("wrong", [b"bytes", 7])
def test_texts_are_strings(wrong: Any) -> None:
    with pytest.raises(TypeError, match="string"):
        progress_news(None, wrong)
    with pytest.raises(TypeError, match="string"):
        log_news([wrong])


def test_line_holds_whatever_can_be_shown() -> None:
    assert log_news(["a\nb\t\x1b[0m", "NUL \0", "half a \ud83d"]).logs == [
        "a\nb\t\x1b[0m",
        "NUL \\x00",
        "half a \\ud83d",
    ]


def test_line_that_is_too_long_is_refused() -> None:
    log_news(["x" * LINE_CHARS_MAX])
    with pytest.raises(ValueError, match="4096 characters"):
        log_news(["fine", "x" * (LINE_CHARS_MAX + 1)])


@pytest.mark.parametrize("data", [{}, [], "", 0, False, {"n": 10**40, "x": [None]}, nested(64)])
def test_checkpoint_is_any_json_but_null(data: Any) -> None:
    assert msgspec.json.decode(checkpoint_news(data).checkpoint) == data


def test_checkpoint_is_what_the_data_was_when_it_was_said() -> None:
    data = {"page": 1}
    news = checkpoint_news(data)
    data["page"] = 2
    assert bytes(news.checkpoint) == b'{"page":1}'


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (None, "but null"),
        ({"x": float("nan")}, "JSON has no nan"),
        ({"x": "\0"}, "NUL"),
        ({"\0": 1}, "NUL"),
        (["[" * 100, "\0"], "NUL"),
        ("\ud800", "surrogates"),
        (nested(CHECKPOINT_LEVELS_MAX + 1), "64 levels"),
        ("x" * (CHECKPOINT_BYTES_MAX - 1), "65536 bytes at most"),
    ],
)
def test_checkpoint_that_cannot_be_kept_is_refused(data: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        checkpoint_news(data)


def test_checkpoint_that_is_no_json_is_refused() -> None:
    with pytest.raises(TypeError):
        checkpoint_news({"x": object()})


def test_checkpoint_may_be_as_large_as_the_broker_takes() -> None:
    assert len(bytes(checkpoint_news("x" * (CHECKPOINT_BYTES_MAX - 2)).checkpoint)) == 65_536
    # What only looks like a NUL, and brackets that are text, are no trouble.
    checkpoint_news({"x": "\\u0000", "y": "[" * 100})


@given(st.lists(st.text(max_size=50)), st.text(max_size=50), st.text(max_size=50))
def test_news_are_never_larger_than_their_bound(
    lines: list[str], subtext: str, checkpoint: str
) -> None:
    news = News(
        sequence=10**12,
        percent=33.333333333333336,
        subtext=subtext,
        logs=log_news(lines).logs,
        checkpoint=msgspec.Raw(msgspec.json.encode(checkpoint)),
    )
    task = Task(id="0" * 36, topic="t", lock_token="0" * 36)
    assert len(msgspec.json.encode(beat(task, news))) <= news_bytes_bound(news)

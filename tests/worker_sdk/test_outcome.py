from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker_sdk import BpmnError, Failure, HandOver
from worker_sdk._outcome import DETAILS_CHARS_MAX, MESSAGE_CHARS_MAX, legible, unforeseen


@pytest.mark.parametrize(
    ("retry_after", "ms"),
    [(None, None), (0, 0), (1.5, 1500), (timedelta(minutes=2), 120_000), (0.0014, 1)],
)
def test_retry_after_becomes_milliseconds(
    retry_after: timedelta | float | None, ms: int | None
) -> None:
    assert Failure("no", retry_after=retry_after).retry_timeout_ms == ms


def test_both_read_well_in_a_log() -> None:
    assert str(Failure("gateway timeout", retries=0)) == "gateway timeout"
    assert str(BpmnError("CARD_DECLINED", "no funds")) == "CARD_DECLINED: no funds"
    assert str(BpmnError("CARD_DECLINED")) == "CARD_DECLINED"


def test_texts_are_what_the_wire_takes() -> None:
    failure = Failure("half a \ud83d", details="NUL \0")
    assert (failure.message, failure.details) == ("half a \\ud83d", "NUL \\x00")
    assert BpmnError("NO", "x" * 10_000).message == legible("x" * 10_000, MESSAGE_CHARS_MAX)


def test_hand_over_has_a_timeout_that_is_one() -> None:
    assert HandOver().timeout_ms is None
    assert HandOver(timeout_s=0.0015).timeout_ms == 2
    for wrong in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="nothing can be waited for"):
            HandOver(timeout_s=wrong)


def test_unforeseen_exception_tells_its_message_and_traceback() -> None:
    try:
        raise LookupError("no such order")
    except LookupError as error:
        failure = unforeseen(error)
    assert failure.message == "LookupError: no such order"
    assert failure.details is not None
    assert "test_outcome.py" in failure.details
    assert (failure.retries, failure.retry_after) == (None, None)


def test_long_texts_keep_both_ends() -> None:
    failure = unforeseen(ValueError("first" + "x" * 100_000 + "last"))
    assert failure.details is not None
    assert len(failure.message) <= MESSAGE_CHARS_MAX
    assert len(failure.details) <= DETAILS_CHARS_MAX
    assert failure.message.startswith("ValueError: first")
    assert failure.message.endswith("last")


@given(st.text(st.characters(exclude_categories=())), st.integers(5, 100))
def test_legible_text_is_what_the_wire_takes(text: str, chars_max: int) -> None:
    said = legible(text, chars_max)
    assert len(said) <= chars_max
    assert "\0" not in said
    said.encode()

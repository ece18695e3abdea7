"""The text checks against plain, slow readings of the same rules."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from broker.api.json_text import checked_text, with_surrogates_as_nul
from broker.errors import Invalid

DEPTH_MAX = 4

_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=12,
)


def _depth_of(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max(map(_depth_of, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(_depth_of, value), default=0)
    return 0


def _is_refused(body: bytes) -> str | None:
    try:
        checked_text(body, DEPTH_MAX)
    except Invalid as error:
        return error.detail
    return None


def _has_nul(value: object) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, list):
        return any(map(_has_nul, value))
    return isinstance(value, dict) and any(map(_has_nul, (*value, *value.values())))


@given(_values)
@example([[[["[[[["]]]])
@example([[[[[]]]]])
@example({"]": ["[", '"[', '\\"[', "\\"], "[": {"}": []}})
def test_refuses_nul_and_depth_and_nothing_else(value: object) -> None:
    refused = _is_refused(msgspec.json.encode(value))
    assert bool(refused) == (_has_nul(value) or _depth_of(value) > DEPTH_MAX)


@given(st.lists(st.sampled_from(["\\u", "\\", "u", "D8", "dc", "00", "41", "é", "n", '"', "{"])))
@example(["\\u", "D8", "00", "\\u", "dc", "00"])
@example(["\\u", "dc", "00", "\\u", "D8", "00"])
@example(["\\", "\\u", "00", "00"])
@example(["\\", "\\u", "D8", "00", "\\u", "dc", "00"])
def test_escapes_that_msgspec_can_read_are_judged_as_what_they_mean(pieces: list[str]) -> None:
    body = ('"' + "".join(pieces) + '"').encode()
    try:
        meant = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return  # Not JSON, or a lone surrogate: see below.
    assert bool(_is_refused(body)) == ("\0" in meant)


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (rb'"\u0000"', "NUL or a lone surrogate at byte 1."),
        (rb'"\\\u0000"', "NUL or a lone surrogate at byte 3."),
        (rb'{"\u0000":1}', "NUL or a lone surrogate at byte 2."),
        (rb'"\ud83d"', "NUL or a lone surrogate at byte 1."),
        (rb'"\uD83Dx\uDE00"', "NUL or a lone surrogate at byte 1."),
        (rb'"\ude00\ud83d"', "NUL or a lone surrogate at byte 1."),
        (rb'"\ud83d\ud83d\ude00"', "NUL or a lone surrogate at byte 1."),
        (rb'"ok \ud83d\ude00 \udbff"', "NUL or a lone surrogate at byte 17."),
        (rb'"\\\ud83d\\\ude00"', "NUL or a lone surrogate at byte 3."),
        (b'"\xff"', "Not UTF-8 at byte 1."),
        (b'"\xed\xa0\x80"', "Not UTF-8 at byte 1."),
        (b'"\xc0\x80"', "Not UTF-8 at byte 1."),
        (b"[[[[[]]]]]", "Nested deeper than 4 levels."),
        (b'{"a":[{"b":[{}]}]}', "Nested deeper than 4 levels."),
        (b'["]","]","]",[[[["["]]]]]', "Nested deeper than 4 levels."),
    ],
)
def test_says_what_and_where(body: bytes, detail: str) -> None:
    assert _is_refused(body) == detail


@pytest.mark.parametrize(
    "body",
    [
        rb'"\ud83d\ude00"',
        rb'"\uD83D\uDE00\u0001\u00e9"',
        rb'"\\u0000 \\ud83d"',
        rb'"\\\\u0000"',
        '"😀é"'.encode(),
        b'"\xf4\x8f\xbf\xbf"',
        b"[[[[]]]]" + b"," + b"[]" * 100,
        b'"[[[[[[[[[["',
        rb'"\"[[[[[[[[[["',
        rb'["\\",[[["[[[[[[[["]]]]',
    ],
)
def test_lets_pass_what_can_be_stored(body: bytes) -> None:
    assert checked_text(body, DEPTH_MAX) == body.decode()


@given(st.binary())
def test_any_bytes_are_text_or_refused(body: bytes) -> None:
    if _is_refused(body) is None:
        assert checked_text(body, DEPTH_MAX).encode() == body


@given(
    st.lists(
        st.sampled_from(
            [r"\ud83d", r"\ude00", r"\u0041", r"\\", r"\n", r"\u", "\\", "u", "d8", "é"]
        )
    )
)
def test_lone_surrogates_become_nul_and_nothing_else_changes(pieces: list[str]) -> None:
    text = "".join(pieces)
    replaced = with_surrogates_as_nul(text.encode()).decode()
    assert len(replaced) == len(text)
    assert bool(_is_refused(f'"{text}"'.encode())) == bool(_is_refused(f'"{replaced}"'.encode()))
    assert with_surrogates_as_nul(replaced.encode()).decode() == replaced


def test_what_follows_a_lone_surrogate_can_be_read() -> None:
    body = rb'["\\\ud83d\ud83d\ude00\ude00",1]'
    assert msgspec.json.decode(with_surrogates_as_nul(body)) == ["\\\0😀\0", 1]


@pytest.mark.parametrize(
    "number", ["1e400", "-1E+400", "1.5e309", "1" * 400 + ".5", "1" * 250 + "e99"]
)
def test_a_number_that_no_double_can_hold_is_refused(number: str) -> None:
    with pytest.raises(Invalid, match="double"):
        checked_text(b'{"a":[%b]}' % number.encode(), 64)


@pytest.mark.parametrize("number", ["1e308", "1e-400", "9" * 400, '"1e400"', "0.1e000000300"])
def test_every_other_number_is_none_of_its_business(number: str) -> None:
    body = b'{"a":[%b]}' % number.encode()
    assert checked_text(body, 64) == body.decode()

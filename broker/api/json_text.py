"""What a request's JSON text may hold, checked without building anything from it.

The broker never parses variables: msgspec skips them (checking their syntax),
and PostgreSQL takes the text apart. Between the two stand the things that
msgspec skips over and PostgreSQL chokes on, or that the contract forbids:
bytes that are not UTF-8, NUL characters, lone surrogates, deep nesting. And
numbers that workers could not read: PostgreSQL keeps 1e400 as it is, but to
most readers it is an error, which would cost them the whole answer to a fetch.

Must never do: run Python once per task, or accept a text that PostgreSQL then
refuses; each check is one pass in C over the whole body.
"""

from __future__ import annotations

import re
from array import array
from itertools import accumulate
from typing import Final

import msgspec

from broker.errors import Invalid

_STORABLE: Final = rb"""
    [^\\]*+
    (?:
        (?: \\ [^u]                                      # \n, \", and \\ : so `\\u0000` is no NUL
          | \\u (?! 0000 | [dD][89a-fA-F] ) ....         # one character
          | \\u [dD][89abAB].. \\u [dD][c-fC-F]..        # one character as two surrogates
        )
        [^\\]*+
    )*+"""
"""Text up to an escape that PostgreSQL cannot store; possessive, so it never backtracks."""

_STORABLE_TEXT: Final = re.compile(_STORABLE, re.VERBOSE | re.DOTALL)
_UNSTORABLE: Final = re.compile(
    rb"(" + _STORABLE + rb") (?: (\\u [dD][89a-fA-F][0-9a-fA-F]{2}) | .? )", re.VERBOSE | re.DOTALL
)

_REPLACED_MAX: Final = 10_000
"""Lone surrogates that are bothered about: each costs a microsecond in which nobody is served."""

_DIGITS_AS_0: Final = bytes.maketrans(b"123456789E", b"000000000e")
_HUGE_MARKS: Final = (b"0e000", b"0" * 200)
"""One of them is in every number beyond the range of a double, its digits and signs made alike:
an exponent of three digits, or so many digits that one of two suffices. Looked for in this way
because a regular expression takes ten times as long."""

_NOT_STRUCTURE: Final = bytes(set(range(256)) - set(b'{}[]"'))
_STEPS: Final = bytes.maketrans(b"{[}]", b"\x01\x01\xff\xff")
"""Opening is one step down, closing (255, a signed byte's -1) one step up."""


def checked_text(body: bytes, depth_max: int) -> str:
    """The body as text whose strings can be stored; its syntax is the decoder's to judge.

    Raises:
        Invalid: bytes that are not UTF-8, a NUL, a lone surrogate, a number that
            no double can hold, or nesting deeper than `depth_max` levels.
    """
    if b"\\" in body:
        _check_escapes(body)
    # No text nests deeper than it has opening brackets, and most have few.
    brackets = body.count(b"{") + body.count(b"[")
    if brackets > depth_max and _nests_deeper(body, depth_max):
        raise _refused(f"Nested deeper than {depth_max} levels")
    if _may_hold_huge(body):
        _check_numbers(body)
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise _refused(f"Not UTF-8 at byte {error.start}") from None


def with_surrogates_as_nul(body: bytes) -> bytes:
    """The body with a NUL for each lone surrogate: as little to be stored, but readable.

    The decoder loses its way at a lone surrogate. In a body of many tasks it shall find
    the ends of the others.
    """

    def replaced(match: re.Match[bytes]) -> bytes:
        return match[1] + rb"\u0000" if match[2] else match[0]

    return _UNSTORABLE.sub(replaced, body, count=_REPLACED_MAX)


def _check_escapes(body: bytes) -> None:
    match = _STORABLE_TEXT.match(body)
    stopped_at = match.end() if match else 0
    escape = body[stopped_at : stopped_at + 6].lower()
    # Any other stop is an escape cut short; the decoder says that better.
    if escape == rb"\u0000" or escape.startswith(rb"\ud"):
        raise _refused(f"NUL or a lone surrogate at byte {stopped_at}")


def _may_hold_huge(text: bytes) -> bool:
    alike = text.translate(_DIGITS_AS_0, b"+")
    return any(mark in alike for mark in _HUGE_MARKS)


def _check_numbers(body: bytes) -> None:
    # Many ids look like such numbers, but they are strings: every second piece between quotes.
    if b"\\" not in body and not _may_hold_huge(b" ".join(body.split(b'"')[::2])):
        return
    try:
        msgspec.json.decode(body)
    except msgspec.ValidationError:
        raise _refused("A number is beyond the range of a double") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return  # Not JSON: the decoder to come says where.


def _nests_deeper(body: bytes, depth_max: int) -> bool:
    """Whether at some place of the text more than `depth_max` brackets are open."""
    if b"\\" in body:
        # What an escape hides is removed first, so that each quote left begins or ends a string.
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    marks = body.translate(None, _NOT_STRUCTURE).replace(b'""', b"")
    if b'"' in marks:
        # Some string holds brackets: only every second piece between quotes is structure.
        marks = b"".join(marks.split(b'"')[::2])
    depths = accumulate(array("b", marks.translate(_STEPS)))
    return any(map(depth_max.__lt__, depths))


def _refused(what: str) -> Invalid:
    return Invalid(f"{what}.", [("", what)])

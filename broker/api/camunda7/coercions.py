"""A value that came with a type, as the plain JSON that is stored for it.

Camunda writes a value whose JSON kind does not fit its type as text and lets
Jackson read that text as the type: "5" is the Integer 5, and 5 the String "5".
The same is done here, text to text, so that a number never passes through a
float. What Java would read as something that JSON cannot say (NaN, the text of
a whole map) is refused.

Every function takes and gives the JSON text of one value that is not null, and
raises `ValueError` without a message where the value cannot be of the type.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from datetime import datetime
from math import isfinite
from typing import Final

import msgspec

Coercion = Callable[[bytes], bytes]

NULL: Final = b"null"
DATE: Final = re.compile(rb'"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d{4}"')
"""What a stored date looks like: a client whose reading fails over one would lose its batch."""

_DATE_IN: Final = re.compile(
    r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3})(?:UTC|GMT)?([+-]\d\d):?([0-5]\d)", re.ASCII
)
"""Java's pattern yyyy-MM-dd'T'HH:mm:ss.SSSZ. Of its zone names only the ones that mean no shift:
the others mean different things to different Javas."""
_DATE_UTC: Final = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3})(?:UTC|GMT)", re.ASCII)
_INTEGER: Final = re.compile(rb"[+-]?[0-9]{1,20}")
_DECIMAL: Final = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_JSON_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_TRUE: Final = frozenset({b"true", b"True", b"TRUE"})
_FALSE: Final = frozenset({b"false", b"False", b"FALSE"})
_URL_SAFE_AS_PLAIN: Final = str.maketrans("-_", "+/", " \t\r\n=")


def text_in(value: bytes) -> str:
    """The text that Java would read as the type. Raises ValueError for objects and arrays."""
    if value.startswith(b'"'):
        return msgspec.json.decode(value, type=str)
    if value.startswith((b"{", b"[")):
        raise ValueError
    return value.decode()


def as_boolean(value: bytes) -> bytes:
    text = text_in(value).strip().encode()
    if text in _TRUE:
        return b"true"
    if text in _FALSE:
        return b"false"
    return _nothing(text)


def as_whole(bits: int) -> Coercion:
    """For the integers that a signed number of so many bits holds."""
    limit = 1 << (bits - 1)

    def coercion(value: bytes) -> bytes:
        text = text_in(value).strip().encode()
        if not _INTEGER.fullmatch(text):
            return _nothing(text)
        number = int(text)
        if not -limit <= number < limit:
            raise ValueError
        return b"%d" % number

    return coercion


def as_double(value: bytes) -> bytes:
    if not value.startswith(b'"'):
        if value in (b"true", b"false"):
            raise ValueError
        return text_in(value).encode()
    text = text_in(value).strip()
    if not _DECIMAL.fullmatch(text):
        return _nothing(text.encode())
    number = float(text)
    if not isfinite(number):
        raise ValueError
    return text.encode() if _JSON_NUMBER.fullmatch(text) else repr(number).encode()


def as_number(value: bytes) -> bytes:
    """Number says no more than that: what kind it is, its text tells."""
    text = as_double(value)
    digits = text_in(value).strip().encode()
    return b"%d" % int(digits) if _INTEGER.fullmatch(digits) else text


def as_string(value: bytes) -> bytes:
    return value if value.startswith(b'"') else b'"%b"' % text_in(value).encode()


def as_date(value: bytes) -> bytes:
    """The offset stays what it was, written without its colon."""
    if DATE.fullmatch(value):
        text = value[1:-1].decode()
    else:
        text = _normalised(text_in(value).strip())
        if not text:
            return NULL
    datetime.fromisoformat(text)  # Raises ValueError for a 30th of February.
    return b'"%b"' % text.encode()


def as_base64(value: bytes) -> bytes:
    """Kept as it came where everybody can read it, else written the usual way."""
    if not value.startswith(b'"'):
        raise ValueError
    text = text_in(value)
    try:
        binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        # Camunda's reader takes line breaks, the alphabet for URLs, and text without padding.
        bare = text.translate(_URL_SAFE_AS_PLAIN)
        data = binascii.a2b_base64(bare + "=" * (-len(bare) % 4), strict_mode=True)
        return b'"%b"' % base64.b64encode(data)
    return value


def as_serialized(value: bytes) -> bytes:
    """What only the workers can read is a string, and not looked into."""
    if not value.startswith(b'"'):
        raise ValueError
    return value


def refused(value: bytes) -> bytes:
    """For the type that only null is of."""
    raise ValueError


def _normalised(text: str) -> str:
    if match := _DATE_IN.fullmatch(text):
        return "".join(match.groups())
    if match := _DATE_UTC.fullmatch(text):
        return f"{match[1]}+0000"
    if text:
        raise ValueError
    return text


def _nothing(text: bytes) -> bytes:
    """To Jackson a blank text is no value; any other that got here cannot be read."""
    if text:
        raise ValueError
    return NULL

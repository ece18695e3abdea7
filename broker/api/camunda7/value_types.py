"""Camunda's types: how a value becomes one, and which texts a client can read as one."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from msgspec import Raw

from broker.api.camunda7 import coercions
from broker.api.camunda7.coercions import DATE, NULL, Coercion


class Type(NamedTuple):
    """One type. `fits` tells whether a Java client can read a text (never `null`) under it."""

    java: str
    coerce: Coercion
    fits: Callable[[bytes], bool]


def type_of(value: bytes) -> str:
    """The type that the JSON text of a value shows by itself."""
    name = TYPE_BY_FIRST_BYTE[value[0]]
    return number_type(value) if name is NUMBER else name


def number_type(value: bytes) -> str:
    """The type that the text of a number shows by itself."""
    if value.isdigit() and len(value) < 10:
        return "Integer"
    if _FRACTION.search(value):
        return "Double"
    if len(value) > 20:  # The longest number of 64 bits has 19 digits and a sign.
        return "Json"
    number = int(value)
    if -(2**31) <= number < 2**31:
        return "Integer"
    return "Long" if -(2**63) <= number < 2**63 else "Json"


def fits(name: str, info: Mapping[str, Raw] | None, value: bytes) -> bool:
    """Whether a Java client can read this value, with this valueInfo, under this type."""
    kind = TYPES.get(name)
    if kind is None or name == NUMBER:
        return False
    if name in _INFO and complaint_of_info(name, info, value):
        return False
    return value == NULL or kind.fits(value)


def complaint_of_info(name: str, info: Mapping[str, Raw] | None, value: bytes) -> str | None:
    """The first member of valueInfo that Java, which takes it for a string, cannot use."""
    needed, possible = _INFO.get(name, _NO_INFO)
    if name == "Object" and value != NULL:
        # Of an object that is there, readers want to know what it is.
        needed = needed | possible
    given = info or {}
    for member in sorted(needed | possible):
        text = bytes(given[member]) if member in given else NULL
        if not _is_string(text) and (member in needed or text != NULL):
            return member
    return None


def _is_string(value: bytes) -> bool:
    return value.startswith(b'"')


def _is_number(value: bytes) -> bool:
    return TYPE_BY_FIRST_BYTE[value[0]] is NUMBER


def _is_boolean(value: bytes) -> bool:
    return value in (b"true", b"false")


def _is_short(value: bytes) -> bool:
    return _is_integer(value) and -(2**15) <= int(value) < 2**15


def _is_integer(value: bytes) -> bool:
    return _is_number(value) and number_type(value) == "Integer"


def _is_long(value: bytes) -> bool:
    return _is_number(value) and number_type(value) in ("Integer", "Long")


def _is_date(value: bytes) -> bool:
    return DATE.fullmatch(value) is not None


def _is_any(value: bytes) -> bool:
    return True


def _is_none(value: bytes) -> bool:
    return False


NUMBER: Final = "Number"
TYPES: Final = {
    "Null": Type("null", coercions.refused, _is_none),
    "Boolean": Type("java.lang.Boolean", coercions.as_boolean, _is_boolean),
    "Short": Type("java.lang.Short", coercions.as_whole(16), _is_short),
    "Integer": Type("java.lang.Integer", coercions.as_whole(32), _is_integer),
    "Long": Type("java.lang.Long", coercions.as_whole(64), _is_long),
    "Double": Type("java.lang.Double", coercions.as_double, _is_number),
    # Says too little to go out: no client reads it.
    NUMBER: Type("java.lang.Number", coercions.as_number, _is_none),
    "String": Type("java.lang.String", coercions.as_string, _is_string),
    "Date": Type("java.util.Date", coercions.as_date, _is_date),
    "Bytes": Type("[B", coercions.as_base64, _is_string),
    "File": Type("[B", coercions.as_base64, _is_string),
    "Xml": Type("java.lang.String", coercions.as_serialized, _is_string),
    "Object": Type("java.lang.String", coercions.as_serialized, _is_string),
    "Json": Type("java.lang.String", bytes, _is_any),
}
CANONICAL_NAMES: Final = {name.lower(): name for name in TYPES}
SERIALIZED: Final = frozenset({"Xml", "Object"})

TYPE_BY_FIRST_BYTE: Final = {
    **dict.fromkeys(b"-0123456789", NUMBER),
    **dict.fromkeys(b"tf", "Boolean"),
    **dict.fromkeys(b"{[", "Json"),
    ord('"'): "String",
    ord("n"): "Null",
}

_FRACTION: Final = re.compile(rb"[.eE]")
_NO_INFO: Final[tuple[frozenset[str], frozenset[str]]] = frozenset(), frozenset()
_INFO: Final = {
    "File": (frozenset({"filename"}), frozenset({"mimetype", "encoding"})),
    "Object": (frozenset({"serializationDataFormat"}), frozenset({"objectTypeName"})),
}
"""Members of valueInfo that Java casts to strings: those it cannot do without, and the others."""

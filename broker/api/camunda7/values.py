"""Variables: Camunda's typed values on one side, plain JSON with notes on the other.

Stored is plain JSON, which is what native clients see. A type that the plain
value does not show by itself, and every `valueInfo`, is kept beside it in a
note under the variable's name. Without a note the value speaks for itself:

    null → Null · true, false → Boolean · string → String · object, array → Json
    integer in int32 → Integer, in int64 → Long, beyond → Json
    number with a fraction or an exponent → Double

Values are cut out and put in as JSON text, so each number stays as it was
written. A note that no longer fits its value does not count: what a Java client
cannot read costs it the whole batch.

This module knows nothing of tasks.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec
from msgspec import Raw, Struct

from broker.api.camunda7 import coercions
from broker.api.camunda7.coercions import NULL
from broker.api.camunda7.value_types import (
    CANONICAL_NAMES,
    NUMBER,
    SERIALIZED,
    TYPE_BY_FIRST_BYTE,
    TYPES,
    complaint_of_info,
    fits,
    number_type,
    type_of,
)
from broker.api.json_text import checked_text, with_surrogates_as_nul
from broker.errors import Invalid

_SHOWN_MAX: Final = 100
"""Characters of a value that a refusal repeats: enough to find it."""


class TypedValue(Struct, rename="camel"):
    """A variable as it comes. `value_info` absent, null and empty are the same."""

    value: Raw = Raw(NULL)
    type: str | None = None
    value_info: dict[str, Raw] | None = None


class Note(Struct, rename="camel", omit_defaults=True):
    """What the plain value does not tell.

    `is_text`: a Json value whose JSON text is the plain string itself, since it is
    no JSON, or `null`, which as a value would be no text at all.
    """

    type: str
    value_info: dict[str, Raw] | None = None
    is_text: bool = False


class TypedOut(Struct, rename="camel", gc=False):
    """A variable as it goes out. `valueInfo` is always an object."""

    type: str
    value: Raw | str
    value_info: Raw | dict[str, Raw] = Raw(b"{}")


class Plain(NamedTuple):
    """Two JSON objects as text: the values, and the notes of those that need one."""

    values: str
    notes: str


class File(NamedTuple):
    """The content of a File or Bytes, and what its valueInfo says of it."""

    data: bytes
    mimetype: str | None
    filename: str | None
    encoding: str | None


_MIMETYPE: Final = re.compile(r"[!-~]+/[!-~]+(?: *; *[ -~]+)?")
"""Goes into a header, where a line break would begin another one."""

_PLAIN_INFO: Final = re.compile(rb'".*|true|false|null|-?[0-9]+', re.DOTALL)
"""What Camunda's are. Notes are stored as `jsonb`, which writes 1e308 out in full."""

_raw: Final = msgspec.json.Decoder(Raw)
_null: Final = Raw(NULL)


def plain(variables: Mapping[str, TypedValue], *, depth_max: int, pointer: str) -> Plain:
    """What is stored of variables that came in a checked body, at `pointer`.

    `depth_max` is how many levels the plain object may have, itself included; the
    values that came as JSON inside a string are held to it here.

    Raises:
        Invalid: a value, its type or its valueInfo cannot be read.
    """
    values: dict[str, Raw] = {}
    notes: dict[str, Note] = {}
    for name, given in variables.items():
        try:
            value, note = _as_stored(given, depth_max)
        except Invalid as error:
            [wrong] = error.facts["errors"]
            place = name.replace("~", "~0").replace("/", "~1")
            at, message = f"{pointer}/{place}{wrong['pointer']}", wrong["message"]
            raise Invalid(f"{at}: {message}.", [(at, message)]) from None
        values[name] = value
        if note is not None:
            notes[name] = note
    return Plain(msgspec.json.encode(values).decode(), msgspec.json.encode(notes).decode())


def typed(
    values: Mapping[str, Raw], notes: Mapping[str, Note] | None = None
) -> dict[str, TypedOut]:
    """Plain values under the types that their notes, or else they themselves, tell."""
    if not notes:
        return {name: _inferred(value) for name, value in values.items()}
    return {
        name: _noted(value, notes[name]) if name in notes else _inferred(value)
        for name, value in values.items()
    }


def file_of(value: Raw, note: Note | None) -> File | None:
    """The content of a File or Bytes; None where the value is neither. Null is an empty one."""
    text = bytes(value)
    if (
        note is None
        or note.type not in ("File", "Bytes")
        or not fits(note.type, note.value_info, text)
    ):
        return None
    info = note.value_info or {}
    try:
        data = b"" if text == NULL else binascii.a2b_base64(coercions.text_in(text))
    except ValueError:
        return None
    mimetype = _string(info.get("mimetype"))
    if mimetype is not None and not _MIMETYPE.fullmatch(mimetype):
        mimetype = None
    return File(data, mimetype, _string(info.get("filename")), _string(info.get("encoding")))


# In -------------------------------------------------------------------------


def _as_stored(given: TypedValue, depth_max: int) -> tuple[Raw, Note | None]:
    text = bytes(given.value)
    info = given.value_info or None
    name = type_of(text) if given.type is None else CANONICAL_NAMES.get(given.type.lower())
    if name is None:
        assert given.type is not None
        raise _wrong("/type", f"Unsupported value type '{given.type[:_SHOWN_MAX]}'")
    if info is None and (name == type_of(text) or (name == "Object" and text == NULL)):
        # As most values come: what they say is what they show. And an Object that is none, and
        # does not say how it would be written, is none of any type.
        return given.value, None
    _check_info(name, info, text)
    is_text = False
    if name == "Json" and text.startswith(b'"'):
        text, is_text = _parsed(text, depth_max)
    elif text != NULL:
        text = _coerced(name, text)
    shown = type_of(text)
    if name == NUMBER:
        name = shown
    needs_note = name != shown or info or is_text
    return Raw(text), Note(name, info, is_text) if needs_note else None


def _check_info(name: str, info: dict[str, Raw] | None, value: bytes) -> None:
    for member, said in (info or {}).items():
        if not _PLAIN_INFO.fullmatch(bytes(said)):
            raise _wrong("/valueInfo", f"'{member[:_SHOWN_MAX]}' is no string, boolean or integer")
    if missing := complaint_of_info(name, info, value):
        raise _wrong(f"/valueInfo/{missing}", f"A value of type '{name}' needs it as a string")


def _coerced(name: str, text: bytes) -> bytes:
    kind = TYPES[name]
    try:
        return kind.coerce(text)
    except ValueError:
        if name in SERIALIZED:
            raise _wrong(
                "/value",
                f"Must provide 'null' or String value for value of SerializableValue type '{name}'",
            ) from None
        shown = (coercions.text_in(text) if text.startswith(b'"') else text.decode())[:_SHOWN_MAX]
        raise _wrong(
            "/value", f"Cannot convert value '{shown}' of type '{name}' to java type {kind.java}"
        ) from None


def _parsed(value: bytes, depth_max: int) -> tuple[bytes, bool]:
    """The JSON in a string; or the string itself, and true, where its text is no value."""
    text = coercions.text_in(value).encode()
    try:
        inner = bytes(_raw.decode(text))
        checked_text(inner, depth_max - 1)
    except RecursionError:
        raise _wrong("/value", f"Nested deeper than {depth_max} levels") from None
    except Invalid as error:
        raise _wrong("/value", error.facts["errors"][0]["message"]) from None
    except msgspec.DecodeError:
        # The decoder loses its way at half a character; the text may be JSON but for that.
        if _is_json(with_surrogates_as_nul(text)):
            raise _wrong("/value", "A lone surrogate") from None
        return value, True
    return (value, True) if inner == NULL else (inner, False)


def _is_json(text: bytes) -> bool:
    try:
        _raw.decode(text)
    except msgspec.DecodeError:
        return False
    return True


def _wrong(pointer: str, message: str) -> Invalid:
    return Invalid(message, [(pointer, message)])


# Out ------------------------------------------------------------------------


def _inferred(value: Raw) -> TypedOut:
    text = bytes(value)
    name = TYPE_BY_FIRST_BYTE[text[0]]
    if name is NUMBER:
        name = number_type(text)
    return TypedOut(name, text.decode() if name == "Json" else value)


def _noted(value: Raw, note: Note) -> TypedOut:
    text = bytes(value)
    if not fits(note.type, note.value_info, text):
        return _inferred(value)
    shown: Raw | str = value
    if note.type == "File":
        shown = _null  # Fetched by its own endpoint: it may be large.
    elif note.type == "Json" and text != NULL and not (note.is_text and text.startswith(b'"')):
        shown = text.decode()
    return TypedOut(note.type, shown, note.value_info or {})


def _string(value: Raw | None) -> str | None:
    text = NULL if value is None else bytes(value)
    return coercions.text_in(text) if text.startswith(b'"') else None

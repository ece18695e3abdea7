"""Request bodies: from bytes to a checked request, or to an error that points at what is wrong.

A `Body` is one kind of request body. Reading it gives two things: the decoded
request, for the little the edge itself must know, and the JSON text, which
goes to PostgreSQL as it came. One pass of the decoder, in C, proves the text.
"""

from __future__ import annotations

import re
from typing import Final, Generic, TypeVar

import msgspec
from msgspec import Raw, Struct

from broker.api.bounds import bounded
from broker.api.instant import decode_instant
from broker.api.json_text import checked_text
from broker.errors import Invalid
from broker.settings import Settings

S = TypeVar("S", bound=Struct)
T = TypeVar("T")

_COMPLAINT: Final = re.compile(
    r"(?:Object (?P<what>contains unknown|missing required) field `(?P<field>.*?)`|(?P<text>.*?))"
    r"(?: - at `\$(?P<path>[^`]*)`)?",
    re.DOTALL,
)
_STEP: Final = re.compile(r"\.([^.\[]+)|\[(\d+)\]")
_FIELD_MESSAGES: Final = {
    "contains unknown": "Unknown field",
    "missing required": "Required field is missing",
}


class Body(Generic[S]):
    """One kind of request body.

    `levels` is how many brackets stand around the variables, whose own nesting is
    what the contract limits. Where it is not strict, a number or a boolean may also come
    as a string.
    """

    def __init__(
        self, kind: type[S], settings: Settings, *, levels: int = 1, is_strict: bool = True
    ) -> None:
        self.bytes_max = settings.body_bytes_max
        self.depth_max = settings.json_depth_max + levels
        self._plain = decoder_of(bounded(kind, settings, escapes=False), is_strict=is_strict)
        self._escaped = decoder_of(bounded(kind, settings), is_strict=is_strict)
        # A request of nothing but optional members may come as no body at all.
        needed = any(field.required for field in msgspec.structs.fields(kind))
        self._if_empty = b"" if needed else b"{}"

    def read(self, body: bytes) -> tuple[S, str]:
        """The request, and its JSON text.

        Raises:
            Invalid: the body breaks the contract. It tells the first place, by its pointer.
        """
        body = body or self._if_empty
        if not body:
            raise Invalid("A JSON body is required.", [("", "A JSON body is required")])
        text = checked_text(body, self.depth_max)
        return decode(self._escaped if b"\\" in body else self._plain, body), text


def decoder_of(kind: type[T], *, is_strict: bool = True) -> msgspec.json.Decoder[T]:
    """A decoder that knows the edge's own types."""
    return msgspec.json.Decoder(kind, dec_hook=decode_instant, strict=is_strict)


def decode(decoder: msgspec.json.Decoder[T], body: bytes | Raw) -> T:
    """Decode, or tell as `Invalid` what is wrong and where."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        pointer, message = located(str(error))
        raise Invalid(f"{pointer or 'The body'}: {message}.", [(pointer, message)]) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Invalid(f"Not JSON: {error}.", [("", str(error))]) from None
    except RecursionError:
        raise Invalid("Nested too deeply.", [("", "Nested too deeply")]) from None


def located(complaint: str) -> tuple[str, str]:
    """msgspec's complaint, which ends in a path like `$.tasks[3].id`, as JSON Pointer and message.

    A field that is unknown or missing is itself what the pointer names. Of a map msgspec does not
    tell the key, so there the pointer ends.
    """
    match = _COMPLAINT.fullmatch(complaint)
    if match is None:  # The pattern takes any text; this is for the type checker.
        return "", complaint
    path, in_map, _ = (match["path"] or "").partition("[...]")
    steps = [name or index for name, index in _STEP.findall(path)]
    if match["what"] and not in_map:
        steps.append(match["field"])
    # RFC 6901, section 3: these two characters have a meaning of their own in a pointer.
    pointer = "".join("/" + step.replace("~", "~0").replace("/", "~1") for step in steps)
    return pointer, _FIELD_MESSAGES.get(match["what"]) or match["text"]

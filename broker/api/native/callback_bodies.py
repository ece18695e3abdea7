"""The three forms in which outside parties say how a task ended, read into one.

1. VibeIQ's: an object with a `taskId` that is a string and a `status` that is
   SUCCESS or FAILURE.
2. Spiff's envelope: an object with a `command_response`.
3. Any other JSON is the result itself.

The form is told by what makes it one; within a form, what is wrong is refused.
But nobody is to lose a result for words beside it, since whoever sends it is a
program that cannot ask back: lines that are too long are cut, of too many the
last are kept, and the subtext becomes one line.

The result is kept as it was written: it is cut out of the body as text, and
checked like the variables of a task.
"""

from __future__ import annotations

import re
from typing import Any, Final, Literal

import msgspec
from msgspec import UNSET, Raw, Struct

from broker.api.body import decode, decoder_of
from broker.api.json_text import checked_text
from broker.api.native.long_work_wire import (
    CONTROLS,
    LINE_LENGTH_MAX,
    LINES_MAX,
    SUBTEXT_LENGTH_MAX,
    Envelope,
    ExternalEvent,
)
from broker.errors import Forbidden, Invalid

_ERROR_CODE_LENGTH_MAX: Final = 255
_ERROR_MESSAGE_LENGTH_MAX: Final = 4_096
_LEVELS_MAX: Final = 2
"""Brackets around the result, in the envelope."""

_JSON_TYPE: Final = re.compile(r"\s*application/(?:[\w.+-]+\+)?json\s*(?:;|\Z)", re.IGNORECASE)
_CONTROL: Final = re.compile(f"[{CONTROLS}]")


class Said(Struct, rename="camel", omit_defaults=True, kw_only=True):
    """How a task ended, as the core takes it: for one attempt, or for the current one."""

    lock_token: str | None = None
    expires_ms: int | None = None
    is_success: bool
    output: Raw = Raw(b"{}")
    error_code: str | None = None
    error_message: str | None = None
    logs: list[str] | None = None
    subtext: str | None = None

    def text(self) -> str:
        """The JSON text."""
        return msgspec.json.encode(self).decode()


class _EventMarks(Struct, rename="camel"):
    task_id: str
    status: Literal["SUCCESS", "FAILURE"]


class _EnvelopeMark(Struct):
    command_response: Raw


_any = msgspec.json.Decoder(Raw)
_event_marks = msgspec.json.Decoder(_EventMarks)
_envelope_mark = msgspec.json.Decoder(_EnvelopeMark)
_event = decoder_of(ExternalEvent)
_envelope = decoder_of(Envelope)


def read_callback(body: bytes, task_id: str, depth_max: int) -> Said:
    """What the body of a callback for this task says.

    Raises:
        Invalid: it is no JSON, or not what its form promises.
        Forbidden: it is about another task.
    """
    if not body:
        raise Invalid("A JSON body is required.", [("", "A JSON body is required")])
    checked_text(body, depth_max + _LEVELS_MAX)
    whole = decode(_any, body)
    if _has(_event_marks, whole):
        event = decode(_event, whole)
        if event.task_id.lower() != task_id:
            raise Forbidden("The body names another task than the callback URL is for.")
        return of_event(event, depth_max)
    if _has(_envelope_mark, whole):
        return _of_envelope(decode(_envelope, whole), depth_max)
    return Said(is_success=True, output=_as_object(whole, depth_max))


def of_event(event: ExternalEvent, depth_max: int) -> Said:
    """What VibeIQ's form says. Raises `Invalid` where the output nests too deeply."""
    said = Said(
        is_success=event.status == "SUCCESS",
        logs=_lines(event.logs),
        subtext=_one_line(event.subtext),
    )
    if not said.is_success:
        said.error_message = said.subtext or "The callback said FAILURE."
    elif event.output is not UNSET and bytes(event.output) != b"null":
        said.output = _as_object(event.output, depth_max)
    return said


def _of_envelope(envelope: Envelope, depth_max: int) -> Said:
    response, error = envelope.command_response, envelope.error
    status = response.http_status or 200
    said = Said(is_success=error is None and status < 300, logs=_lines(envelope.spiff__logs))
    if said.is_success:
        said.output = _as_object(_parsed(response.body, response.mimetype), depth_max)
    else:
        said.error_message = f"The callback said HTTP status {status}."
    if error is not None:
        said.error_code = (error.error_code or "")[:_ERROR_CODE_LENGTH_MAX] or None
        said.error_message = (error.message or "The callback said error.")[
            :_ERROR_MESSAGE_LENGTH_MAX
        ]
    return said


def _parsed(body: Raw, mimetype: str | None) -> Raw:
    """The body, or what is in it where it is the text of a JSON document."""
    if not bytes(body).startswith(b'"') or not _JSON_TYPE.match(mimetype or ""):
        return body
    try:
        return decode(_any, msgspec.json.decode(body, type=str).encode())
    except Invalid as error:
        [wrong] = error.facts["errors"]
        pointer = "/command_response/body"
        raise Invalid(f"{pointer}: {wrong['message']}.", [(pointer, wrong["message"])]) from None


def _as_object(json: Raw, depth_max: int) -> Raw:
    """A result is an object: what is none becomes the `value` of one."""
    text = bytes(json)
    if not text.startswith(b"{"):
        text = b'{"value":%b}' % text
    checked_text(text, depth_max)
    return Raw(text)


def _lines(logs: str | list[str] | None) -> list[str] | None:
    if logs is None:
        return None
    lines = [logs] if isinstance(logs, str) else logs
    return [line[:LINE_LENGTH_MAX] for line in lines[-LINES_MAX:]]


def _one_line(text: str | None) -> str | None:
    return None if text is None else _CONTROL.sub(" ", text)[:SUBTEXT_LENGTH_MAX]


def _has(marks: msgspec.json.Decoder[Any], json: Raw) -> bool:
    """Whether a text that is JSON has what these marks are."""
    try:
        marks.decode(json)
    except msgspec.ValidationError:
        return False
    return True

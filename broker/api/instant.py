"""Instants as callers write them: RFC 3339, with an offset.

msgspec's own datetimes would do, but for the instants that it reads and
PostgreSQL does not: offsets of sixteen hours and more, and years that leave
the calendar once they are in UTC.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

_OFFSET_MAX: Final = timedelta(hours=16)
_Zoned = Annotated[datetime, Meta(tz=True)]


class Instant(str):
    """The text of an instant that both sides of the broker read alike."""

    __slots__ = ()


def parse(text: str) -> datetime:
    """The instant, in UTC. Raises ValueError."""
    try:
        given: datetime = msgspec.convert(text, _Zoned)
        offset = given.utcoffset() or timedelta()
        if abs(offset) < _OFFSET_MAX:
            return given.astimezone(UTC)
    except (msgspec.ValidationError, OverflowError):
        pass
    raise ValueError("Expected an RFC 3339 instant, with an offset")


def decode_instant(kind: type, value: Any) -> Instant:
    """msgspec's hook for the one type that it does not know."""
    assert kind is Instant
    if not isinstance(value, str):
        raise ValueError("Expected `str`")
    parse(value)
    return Instant(value)

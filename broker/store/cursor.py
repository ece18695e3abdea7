"""Where a page of a search ends: ids are in the order of creation, so an id says it all.

The text is opaque to callers (base64url), so that what it holds may change.
"""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

from broker.errors import Invalid

LOWEST_ID: Final = UUID(int=0)
HIGHEST_ID: Final = UUID(int=2**128 - 1)

_MS_BITS: Final = 48  # RFC 9562, section 5.7: a UUIDv7 begins with the milliseconds since 1970.


class Cursor(NamedTuple):
    """The next page has the tasks below this id."""

    below_id: UUID

    def text(self) -> str:
        """What the caller gives back as `after`."""
        return urlsafe_b64encode(self.below_id.bytes).rstrip(b"=").decode()

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """The cursor of a text.

        Raises:
            Invalid: It is none of ours.
        """
        try:
            return cls(UUID(bytes=urlsafe_b64decode(text + "==")))
        except (ValueError, binascii.Error) as error:
            raise Invalid("not a cursor", [("/after", "not the `next` of a page")]) from error


def first_id(instant: datetime) -> UUID:
    """The lowest id that a task created at `instant` can have."""
    since_1970_ms = max(0, min(2**_MS_BITS - 1, int(instant.timestamp() * 1000)))
    return UUID(int=since_1970_ms << (128 - _MS_BITS))

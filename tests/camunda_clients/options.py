"""What a Python worker is told by the test: its one argument, as JSON."""

from __future__ import annotations

import sys
from typing import Any, Final

import msgspec

_SOON_S: Final = 0.05


class Options(msgspec.Struct, frozen=True, rename="camel"):
    """Where the broker is, and which handler is for which topic."""

    base_url: str
    worker_id: str
    topics: dict[str, str]
    lock_ms: int
    poll_ms: int
    log: str | None

    @property
    def config(self) -> dict[str, Any]:
        """For the client. By default it would sleep for five minutes after any error."""
        return {
            "maxTasks": 10,
            "lockDuration": self.lock_ms,
            "asyncResponseTimeout": self.poll_ms,
            "sleepSeconds": _SOON_S,
            "retryTimeout": 0,
        }


def told() -> Options:
    """This process's."""
    return msgspec.json.decode(sys.argv[1], type=Options)

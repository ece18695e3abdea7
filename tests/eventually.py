"""Waiting for what becomes true without saying so.

The one place where a test looks again and again. Whatever can be waited for
(an event, an answer, the end of a process) is waited for instead.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import anyio

_DEADLINE_S: Final = 20.0
"""Only so that what never comes fails the test: a loaded machine may take its time."""

_PAUSE_S: Final = 0.005

Seen = TypeVar("Seen")


async def eventually(look: Callable[[], Awaitable[Seen]], *, within_s: float = _DEADLINE_S) -> Seen:
    """What `look` sees, once it is something true."""
    seen = await look()
    with anyio.move_on_after(within_s):
        while not seen:
            await anyio.sleep(_PAUSE_S)
            seen = await look()
    assert seen, f"{look} saw {seen!r} for {within_s:.0f} s"
    return seen


def wait_until(holds: Callable[[], bool]) -> None:
    """Return once it holds. For tests without an event loop."""
    deadline = time.monotonic() + _DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline, f"it did not hold for {_DEADLINE_S:.0f} s"
        time.sleep(_PAUSE_S)

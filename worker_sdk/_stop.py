"""Why a running handler should stop, and a way to wait for that."""

from __future__ import annotations

import threading
from typing import Literal

StopReason = Literal["cancel_requested", "lock_lost", "worker_stopping"]
"""Somebody wants the task cancelled; it may be somebody else's by now; the worker must end."""


class StopRequest:
    """Whether a running handler should stop. Used like the `threading.Event` it makes at need.

    Every task has one and hardly any is ever waited for, while a real event costs as much as
    decoding the task it belongs to.
    """

    # In the class, not in the instance: to make one must cost nothing.
    _guard = threading.Lock()
    _reason: StopReason | None = None
    _event: threading.Event | None = None

    @property
    def reason(self) -> StopReason | None:
        """Why it was asked for; None as long as it was not."""
        return self._reason

    def is_set(self) -> bool:
        """Whether it was asked for."""
        return self._reason is not None

    def set(self, reason: StopReason = "worker_stopping") -> bool:
        """Ask for it. From any thread. Whether this was the first time: its reason stays."""
        with self._guard:
            is_first = self._reason is None
            if is_first:
                self._reason = reason
            if self._event is not None:
                self._event.set()
        return is_first

    def wait(self, timeout: float | None = None) -> bool:
        """Block this thread until it is asked for, for at most so many seconds. Whether it was."""
        with self._guard:
            if self._reason is not None:
                return True
            if self._event is None:
                self._event = threading.Event()
        return self._event.wait(timeout)

"""Below which position a lane has nothing left to find, as far as this process knows.

Locked and finished tasks leave dead entries at the head of a lane's index. As
long as any snapshot in the database is older than they are, PostgreSQL can
neither remove nor skip them, and every scan from the start reads all of them
again: throughput falls by half in minutes. So a scan starts where the last one
ended.

A floor is a hint, never a guarantee. What commits late or is rolled back lies
below it unseen, so about once a second a scan starts a second or two behind,
and once a minute from the very start. (A scan that is still on its way to the
end goes on before it goes back.) Correctness never depends on it: a floor
that is too high delays a task, and one that is too low costs a slow scan.
"""

from __future__ import annotations

import sys
from typing import Final

_REPROBE_S: Final = 1.0
"""A scan goes back this often, to where the floor was one to two such periods ago: most
transactions that were open then are over by now."""

_RESTART_S: Final = 60.0
"""A scan goes back to the very start this often, for transactions that hung for longer."""


class Floor:
    """The floor of one stretch (fresh or returned) of one lane. Pure: time is given."""

    __slots__ = ("_behind", "_came", "_held", "_position", "_reprobe_at_s", "_restart_at_s")

    def __init__(self, now_s: float) -> None:
        self._position = 0
        self._behind = 0
        self._came = sys.maxsize
        self._held = sys.maxsize
        self._reprobe_at_s = now_s + _REPROBE_S
        self._restart_at_s = now_s + _RESTART_S

    def scan_from(self, now_s: float) -> int:
        """Where the scan that starts now should start. `raise_to` says how far it came."""
        self._came = sys.maxsize
        return self.look_from(now_s)

    def look_from(self, now_s: float) -> int:
        """Where to look for anything at all."""
        if now_s >= self._restart_at_s:
            self._restart_at_s = now_s + _RESTART_S
            self._reprobe_at_s = now_s + _REPROBE_S
            self._position, self._behind = 0, self._position
        elif now_s >= self._reprobe_at_s:
            self._reprobe_at_s = now_s + _REPROBE_S
            back_to = min(self._behind, self._held - 1)
            self._held = sys.maxsize
            self._position, self._behind = back_to, self._position
        return self._position

    def raise_to(self, position: int) -> None:
        """The scan handed out everything it saw up to this position.

        What came while it ran it has not seen.
        """
        self._position = max(self._position, min(position, self._came - 1))

    def go_on(self, now_s: float) -> None:
        """The scan stopped short of the end with nothing, and the next goes on from there.

        To go back can wait, and then goes no further than to here: what lies at the end of a long
        lane would else be reached late, or never.
        """
        self._restart_at_s = now_s + _RESTART_S
        self._reprobe_at_s = now_s + _REPROBE_S
        self._behind = self._position

    def pass_over(self, position: int, *, goes_on: bool) -> None:
        """Somebody held what the scan wanted, and may let go of it without telling.

        A scan that goes on has others to find first: then it is for when it goes back.
        """
        if goes_on:
            self._held = min(self._held, position)
        else:
            self._position = min(self._position, position - 1)

    def lower_to(self, position: int) -> None:
        """A task at this position came (back)."""
        self._position = min(self._position, position - 1)
        self._behind = min(self._behind, position - 1)
        self._came = min(self._came, position)

"""When to look at the database's deadlines: lock expiries, retry timeouts, delayed starts.

Pure: times are local, monotonic seconds and are given. The deadlines this
process set itself are known to the tenth of a second; those of other processes
are found by the tick that comes every second in any case.
"""

from __future__ import annotations

import math
from heapq import heappop, heappush
from typing import Final

TICK_S: Final = 1.0
"""Without a known deadline, look this often. It bounds how late the lock of a worker is
recovered whose broker died with it."""

_BUCKETS_PER_S: Final = 10
"""Deadlines of a tenth of a second are dealt with together: ten statements a second at most."""


class Deadlines:
    """The deadlines that are known, a bucket each."""

    def __init__(self) -> None:
        self._heap: list[int] = []
        self._known: set[int] = set()

    def expect(self, at_s: float) -> bool:
        """Note a deadline; answer whether it is now the next one."""
        bucket = math.ceil(at_s * _BUCKETS_PER_S)
        if bucket in self._known:
            return False
        self._known.add(bucket)
        heappush(self._heap, bucket)
        return self._heap[0] == bucket

    def next_in_s(self, now_s: float) -> float:
        """How long to sleep until the next look."""
        if not self._heap:
            return TICK_S
        return min(TICK_S, max(0.0, self._heap[0] / _BUCKETS_PER_S - now_s))

    def forget_past(self, now_s: float) -> None:
        """Drop the deadlines that the look at `now_s` deals with."""
        while self._heap and self._heap[0] <= now_s * _BUCKETS_PER_S:
            self._known.discard(heappop(self._heap))

"""What is yet to be told of one held task, and in which parcels it is told.

Handlers may say more than anybody wants to hear, so news are collected: of percent,
subtext and checkpoint only the latest count, while log lines add up. They leave as
numbered parcels, one under way at a time. A parcel of which nobody knows whether it
has arrived is told again, unchanged and under its old number; what has come in since
has to wait for the next one.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable

import msgspec

from worker_sdk._news import LINES_BYTES_MAX, LINES_MAX, News, Refusal, bytes_bound

# News are told this long after they were said, together with whatever else there is by then.
NEWS_S = 1.0
# The broker counts a task's lines by the minute.
REFUSED_LINES_WAIT_S = 10.0
# A handler that logs without end while the broker is away shall not take the worker's memory.
LINES_KEPT_MAX = 10_000

_NOTHING = News()


class Notes:
    """The news of one task. Whoever calls holds the keeper's guard.

    `due_s` is the reading of the monotonic clock from which on they should be told; infinite when
    there is nothing to tell.
    """

    __slots__ = (
        "_is_last",
        "_latest",
        "_lines",
        "_lines_not_before_s",
        "_sequence",
        "_since_s",
        "_under_way",
        "_warned_of",
        "due_s",
    )

    def __init__(self) -> None:
        self.due_s = math.inf
        self._latest = _NOTHING
        self._lines: deque[str] = deque()
        self._lines_not_before_s = -math.inf
        self._sequence = 0
        self._since_s = 0.0
        self._under_way: News | None = None
        self._is_last = False
        self._warned_of: set[str] = set()

    @property
    def is_waiting(self) -> bool:
        """Whether there is anything the broker has not heard of, or may not have."""
        return self._under_way is not None or self._has_more

    @property
    def _has_more(self) -> bool:
        return self._latest != _NOTHING or bool(self._lines)

    def add(self, news: News, now_s: float) -> bool:
        """Note these. Returns whether lines had to be dropped, if that is to be warned of."""
        if not self._has_more:
            self._since_s = now_s
        latest = self._latest
        self._latest = News(
            percent=latest.percent if news.percent is None else news.percent,
            subtext=latest.subtext if news.subtext is None else news.subtext,
            checkpoint=latest.checkpoint if news.checkpoint is None else news.checkpoint,
        )
        self._lines.extend(news.logs or ())
        is_dropping = self._drop_lines() and self._is_new("kept lines")
        self._schedule()
        return is_dropping

    def hurry(self) -> None:
        """Let them be told at once, and for the last time: nothing more will be noted."""
        self._is_last, self.due_s = True, -math.inf

    def parcel(self, now_s: float) -> News | None:
        """What to tell now: the parcel that may not have arrived, or else a new one."""
        if self._under_way is None:
            lines = self._take_lines() if self._may_tell_lines(now_s) else None
            if lines or self._latest != _NOTHING:
                self._sequence += 1
                self._under_way = msgspec.structs.replace(
                    self._latest, sequence=self._sequence, logs=lines
                )
                self._latest = _NOTHING
        return self._under_way

    def settle(self, refused: Iterable[Refusal], now_s: float) -> list[Refusal]:
        """Note that the parcel has arrived. Returns the refusals that are to be warned of."""
        parcel, self._under_way = self._under_way, None
        dropped: list[Refusal] = []
        for refusal in refused:
            is_later = refusal.member == "logs" and refusal.code == "too_many_requests"
            if is_later and not self._is_last and parcel is not None:
                self._lines.extendleft(reversed(parcel.logs or ()))
                self._drop_lines()
                self._lines_not_before_s = now_s + REFUSED_LINES_WAIT_S
            elif self._is_new(refusal.member + refusal.code):
                dropped.append(refusal)
            if is_later and self._is_last:
                self._lines.clear()  # They would be refused as well, and there is no later.
        self._schedule()
        return dropped

    def forget(self) -> None:
        """Drop the parcel that was told last: it cannot be told."""
        self._under_way = None
        self._schedule()

    def _schedule(self) -> None:
        if self._under_way is not None:
            return  # It is due as it was.
        if not self._has_more:
            self.due_s = math.inf
        elif self._is_last:
            self.due_s = -math.inf
        else:
            self.due_s = self._since_s + NEWS_S
            if self._latest == _NOTHING:
                self.due_s = max(self.due_s, self._lines_not_before_s)

    def _may_tell_lines(self, now_s: float) -> bool:
        # The last time they are told in any case: then it is the broker who has refused them.
        return self._is_last or now_s >= self._lines_not_before_s

    def _take_lines(self) -> list[str] | None:
        lines: list[str] = []
        room = LINES_BYTES_MAX
        while self._lines and len(lines) < LINES_MAX:
            room -= bytes_bound(self._lines[0])
            if room < 0:
                break
            lines.append(self._lines.popleft())
        return lines or None

    def _drop_lines(self) -> bool:
        is_dropping = len(self._lines) > LINES_KEPT_MAX
        while len(self._lines) > LINES_KEPT_MAX:
            self._lines.popleft()
        return is_dropping

    def _is_new(self, complaint: str) -> bool:
        is_new = complaint not in self._warned_of
        self._warned_of.add(complaint)
        return is_new

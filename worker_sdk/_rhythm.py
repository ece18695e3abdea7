"""The leases of one duration, and what is to be said about them when. No I/O and no clock."""

from __future__ import annotations

import math
from collections.abc import Iterable

import anyio

from worker_sdk._lease import Lease
from worker_sdk._news import News, Refusal, news_bytes_bound
from worker_sdk._notes import Notes
from worker_sdk._task import Task

# Of one heartbeat. With a thousand tasks' ids and tokens its body stays below 4 MiB.
NEWS_BYTES_MAX = 15 * 2**18


class Rhythm:
    """What a keeper knows of one lock duration. It calls with its guard held.

    `whole_s` is when all leases are renewed next, and `quiet_until_s` until when no news are told
    in between. `awake_s` is when the keeper looks next without being woken.
    """

    def __init__(self, lock_duration_ms: int, now_s: float) -> None:
        self.lock_duration_ms = lock_duration_ms
        self.third_s = lock_duration_ms / 3000
        self.leases: dict[Task, Lease] = {}
        self.noted: dict[Lease, Notes] = {}
        self.whole_s = now_s + self.third_s
        self.quiet_until_s = -math.inf
        self.failures = 0
        self.news_bytes_max = NEWS_BYTES_MAX
        self.awake_s = -math.inf
        self.woken: anyio.Event | None = None

    def due_s(self) -> float:
        """When there is something to say next."""
        news_s = min((notes.due_s for notes in self.noted.values()), default=math.inf)
        return min(self.whole_s, max(self.quiet_until_s, news_s))

    def note(self, lease: Lease, news: News, now_s: float) -> bool:
        """Note what is new. Returns whether lines had to be dropped, if that is to be warned of."""
        if lease.notes is None:
            lease.notes = Notes()
        self.noted[lease] = lease.notes
        return lease.notes.add(news, now_s)

    def discard(self, lease: Lease) -> bool:
        """Forget the lease and its news. Whether it was known."""
        if lease.notes is not None:
            self.noted.pop(lease, None)
        return self.leases.pop(lease.task, None) is not None

    def pop_over(self, leases: Iterable[Lease], now_s: float) -> list[Lease]:
        """Forget those of these leases that are over."""
        over = [lease for lease in leases if lease.trusted_until_s <= now_s]
        for lease in over:
            self.discard(lease)
        return over

    def renewed(self) -> list[Lease]:
        """The leases to keep."""
        return [lease for lease in self.leases.values() if lease.is_renewed]

    def parcels_of(self, leases: Iterable[Lease], now_s: float) -> dict[Lease, News]:
        """What to tell of these leases: first what is due longest, and as much as fits."""
        parcels: dict[Lease, News] = {}
        room = self.news_bytes_max
        noted = [(lease, self.noted[lease]) for lease in leases if lease in self.noted]
        for lease, notes in sorted(noted, key=lambda pair: pair[1].due_s):
            parcel = notes.parcel(now_s)
            if parcel is None:
                continue
            room -= news_bytes_bound(parcel)
            if room < 0 and parcels:
                break
            parcels[lease] = parcel
        return parcels

    def due_leases(self, now_s: float) -> list[Lease]:
        """Whose news are to be told now: those of ended handlers, and all once one's are due."""
        is_time = any(
            notes.due_s <= now_s for lease, notes in self.noted.items() if lease.flushed is None
        )
        return [lease for lease in self.noted if is_time or lease.flushed is not None]

    def settle(self, lease: Lease, refused: Iterable[Refusal], now_s: float) -> list[Refusal]:
        """Note that the lease's parcel was heard of. Returns the refusals to be warned of."""
        notes = self.noted[lease]
        dropped = notes.settle(refused, now_s)
        if not notes.is_waiting:
            del self.noted[lease]
        return dropped

    def forget_parcel(self, lease: Lease) -> None:
        """Drop the lease's parcel: it cannot be told."""
        if notes := self.noted.get(lease):
            notes.forget()
            if not notes.is_waiting:
                del self.noted[lease]

    def make_smaller(self, parcels: Iterable[News]) -> None:
        """Tell less at a time: these were too much together."""
        bound = sum(map(news_bytes_bound, parcels))
        self.news_bytes_max = min(bound, self.news_bytes_max) // 2

    def grow(self) -> None:
        """Tell more at a time again: what was told got through."""
        self.news_bytes_max = min(2 * self.news_bytes_max, NEWS_BYTES_MAX)

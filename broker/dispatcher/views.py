"""What this process believes of the lanes, and who waits for what on them.

A lane looks different through different filters: what has nothing for one
group of waiters may be full of tasks for another. So a view of a lane has a
`Look` for each filter through which it is looked at, with floors of its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from heapq import nsmallest
from typing import Final, NamedTuple

from broker.dispatcher.floors import Floor
from broker.dispatcher.waiter import Order, RowFilter, Subscription, Waiter
from broker.store import Lane, Lanes

IDLE_LOOKS_MAX: Final = 16
"""Looks of a lane that are kept though nobody waits: a worker that polls again goes on from where
its last poll came to. All of them hear of all news, so they must stay few."""

IDLE_LOOK_S: Final = 60.0
"""How long they are kept: a filter may be large."""

STIRRED_MAX: Final = 10
"""Groups that filter by what only rows tell, and are looked for on one lane where there may be
something. Each would need a claim of its own, and most likely all of them for nothing."""


class Through(NamedTuple):
    """What tells one look from another. The plain one is through nothing."""

    row_filter: RowFilter
    newest_first: bool


class Look:
    """What looking at one lane through one filter has shown."""

    __slots__ = ("dry_until_s", "fresh", "groups", "idle_since_s", "returned")

    def __init__(self, now_s: float) -> None:
        self.fresh = Floor(now_s)
        self.returned = Floor(now_s)
        self.dry_until_s = 0.0
        self.groups: set[Group] = set()
        self.idle_since_s: float | None = None

    def floor(self, *, returned: bool) -> Floor:
        """That of one stretch."""
        return self.returned if returned else self.fresh


class View:
    """What this process believes of one lane."""

    __slots__ = (
        "_asked",
        "_idle",
        "_looks",
        "_news_asked",
        "groups",
        "is_claimed",
        "news",
        "plain",
        "was_filtered",
    )

    def __init__(self, now_s: float) -> None:
        self.plain = Look(now_s)
        """Without a filter. Where it is dry, so are all others."""
        self._looks: dict[Through, Look] = {}
        self._idle: dict[Through, Look] = {}
        self.groups: set[Group] = set()
        self.is_claimed = False
        self.was_filtered = False
        """Whether the last claim filtered by what only rows tell."""
        self.news = 0
        """Counts the wake-ups: what came while a claim ran is not settled by it."""
        self._news_asked = 0
        """How many there were at the last `look_from`."""
        self._asked: list[Look] = []

    def join(self, group: Group, through: Through | None, now_s: float) -> Look:
        """Let a group wait here; what it looks at. To say it again changes nothing."""
        self.groups.add(group)
        look = self.plain
        if through is not None:
            known = self._looks.get(through) or self._idle.pop(through, None)
            look = self._looks[through] = known or Look(now_s)
            look.idle_since_s = None
        look.groups.add(group)
        return look

    def part(self, group: Group, through: Through | None) -> None:
        """Let a group go."""
        self.groups.discard(group)
        if through is None:
            self.plain.groups.discard(group)
            return
        look = self._looks[through]
        look.groups.discard(group)
        if not look.groups:
            self._idle[through] = self._looks.pop(through)
            if len(self._idle) > IDLE_LOOKS_MAX:
                del self._idle[next(iter(self._idle))]

    def forget_idle(self, now_s: float) -> None:
        """Forget the looks through which nobody has looked for long."""
        for through, look in list(self._idle.items()):
            if look.idle_since_s is None:
                look.idle_since_s = now_s
            elif now_s - look.idle_since_s > IDLE_LOOK_S:
                del self._idle[through]

    def lower_to(self, position: int, *, returned: bool) -> None:
        """A task at this position came (back)."""
        self.plain.floor(returned=returned).lower_to(position)
        for look in self._filtered():
            look.floor(returned=returned).lower_to(position)

    def stir(self) -> None:
        """There may be something, through whatever filter."""
        self.news += 1
        self.plain.dry_until_s = 0.0
        for look in self._filtered():
            look.dry_until_s = 0.0

    def stir_some(self) -> list[Group]:
        """There may be something, nobody knows where: those to look for it.

        Those whose lanes tell all, and of the others who have not been looked for for longest.
        """
        self.news += 1
        self.plain.dry_until_s = 0.0
        filtered = (group for group in self.groups if group.has_row_filter)
        stirred = nsmallest(STIRRED_MAX, filtered, key=lambda group: group.turn)
        for look in self._filtered():
            if not look.groups.isdisjoint(stirred):
                look.dry_until_s = 0.0
        return [*stirred, *(group for group in self.groups if not group.has_row_filter)]

    def look_from(self, now_s: float) -> int:
        """Beyond which position anything fresh is of interest to somebody who waits here."""
        self._news_asked = self.news
        self._asked = [*self._looks.values()]
        if self.plain.groups:
            self._asked.append(self.plain)
        return min(look.fresh.look_from(now_s) for look in self._asked)

    def found_dry(self, until_s: float) -> None:
        """A look from there found nothing: there is nothing for those who waited then."""
        if self.news == self._news_asked:
            for look in self._asked:
                look.dry_until_s = until_s

    def _filtered(self) -> Iterator[Look]:
        return itertools.chain(self._looks.values(), self._idle.values())


class Place(NamedTuple):
    """One lane of a group: its rank there, for which of the wishes, and how it looks."""

    lane: Lane
    rank: int
    wish: Subscription
    view: View
    look: Look

    def is_dry(self, now_s: float) -> bool:
        """Whether a claim would find nothing here."""
        return self.look.dry_until_s > now_s or self.view.plain.dry_until_s > now_s


class Group:
    """The waiters with the same subscriptions and order, in the order they came."""

    __slots__ = (
        "_not_before", "has_row_filter", "impatient", "is_due", "is_plain", "order", "places",
        "subscriptions", "waiters",
    )  # fmt: skip

    def __init__(self, subscriptions: tuple[Subscription, ...], order: Order) -> None:
        self.subscriptions = subscriptions
        self.order = order
        self.has_row_filter = any(wish.row_filter is not None for wish in subscriptions)
        """Whether the lanes do not tell all."""
        self.is_plain = not order.newest_first and not self.has_row_filter
        """It takes whatever its lanes have, the oldest first."""
        self.places: list[Place] = []
        self.waiters: dict[Waiter, None] = {}
        self.impatient: set[Waiter] = set()
        """Those of the waiters who want to know what there is now, and do not park."""
        self.is_due = False
        self._not_before = 0

    @property
    def first(self) -> Waiter:
        """Who has waited longest."""
        return next(iter(self.waiters))

    @property
    def turn(self) -> int:
        """When it is this group's turn: the lowest is next."""
        return max(self.first.arrival, self._not_before)

    @property
    def lane_ids(self) -> set[int]:
        """All on which it waits."""
        return {place.lane.lane_id for place in self.places}

    def let_pass(self, arrival: int) -> None:
        """It had its turn for nothing, and lets those pass who have come until now.

        It looks at tasks that others may take, and may have to look for long or again with each
        new one: by the arrival of its first waiter it would always be the next.
        """
        self._not_before = arrival

    def gives_way(self) -> bool:
        """Whether the others on one of its lanes are to have the next claim.

        Of many groups that filter by what only rows tell, each needs a claim of its own: who
        comes after all of them would hardly ever have one.
        """
        return self.has_row_filter and any(
            place.view.was_filtered
            and any(other.is_due and not other.has_row_filter for other in place.view.plain.groups)
            for place in self.places
        )

    def resolve(self, lanes: Lanes, views: dict[int, View], now_s: float) -> None:
        """Find the lanes and their ranks: the highest priority is visited first."""
        found: dict[int, tuple[Lane, Subscription]] = {}
        for wish in self.subscriptions:
            for lane in lanes.of_topic(wish.topic):
                if lane.lane_id not in found and wish.takes(lane):
                    found[lane.lane_id] = lane, wish
        by_priority = self.order.by_priority
        priorities = sorted({lane.priority for lane, _ in found.values()}, reverse=True)
        rank = {priority: place * by_priority for place, priority in enumerate(priorities)}
        self.places = []
        for lane, wish in found.values():
            view = views[lane.lane_id]
            look = view.join(self, self._through(wish), now_s)
            self.places.append(Place(lane, rank[lane.priority], wish, view, look))

    def leave_lanes(self) -> None:
        """Nobody is left in it."""
        for _, _, wish, view, _ in self.places:
            view.part(self, self._through(wish))

    def _through(self, wish: Subscription) -> Through | None:
        row_filter = wish.row_filter
        return None if row_filter is None else Through(row_filter, self.order.newest_first)

"""Parked polls and what is known of their lanes: which of them should look now, and for what.

Everything here is synchronous and does no I/O: the state is the groups of
waiters and a view of each lane (next door), and every method leaves it
consistent. The dispatcher next door asks `next_claim`, runs the statement it describes, and
tells the outcome to `settle`.

Waiters with equal subscriptions form a group, and a claim is made for a group:
first come, first served within it, one claim at a time. Groups that share a
lane take turns, the one whose first waiter came earliest first, so that no
waiter is overtaken on any lane. (A group that filters by what only rows tell
may find nothing of what is there: it then lets the others pass for once. As many
of these may wait on a lane, at most every second claim there is theirs while
others wait, too. And a claim that fails lets the others pass.)

A lane is *dry* once a look found nothing and until news of it comes. A group
all of whose lanes are dry is not looked for: that is how ten thousand parked
polls cost nothing. Who is told of no news (NOTIFY is off, or the connection is
broken) may trust dryness only as long as somebody looks: `DRY_FOR_S`.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from heapq import heappop, heappush
from typing import Final

from broker.dispatcher.claims import RunningClaim, claim_of
from broker.dispatcher.views import Group, View
from broker.dispatcher.waiter import FIRST_IN_FIRST_OUT, Order, Subscription, Waiter
from broker.errors import BrokerError
from broker.store import Granted, Lanes

CLAIM_TASKS_MAX: Final = 1_000
"""Tasks locked by one statement, whoever waits: beyond, its latency grows and nothing is saved."""

CLAIM_WAITERS_MAX: Final = 100
"""Waiters served by one statement: one created task must not cost ten thousand waiters a look."""

IMPATIENT_FOR_S: Final = 1.0
"""How long tasks are looked at for who does not park. A later poll goes on where this one ended."""

OFFER_GROUPS_MAX: Final = 100
"""Groups on one topic or lane among whom the first is looked for, before every create."""

DRY_FOR_S: Final = 1.5
"""How long a lane that nobody looks at is believed to be dry."""


class Waiters:
    """All parked polls of one process."""

    def __init__(self, lanes: Lanes) -> None:
        self._lanes = lanes
        self._groups: dict[tuple[tuple[Subscription, ...], Order], Group] = {}
        self._by_topic: defaultdict[str, set[Group]] = defaultdict(set)
        self._views: dict[int, View] = {}
        self._due: list[tuple[int, int, Group]] = []
        self._arrivals = itertools.count(1)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    # Coming and going -------------------------------------------------------

    def add(
        self,
        waiter: Waiter,
        subscriptions: tuple[Subscription, ...],
        now_s: float,
        order: Order = FIRST_IN_FIRST_OUT,
    ) -> None:
        """Park a waiter behind those that wait for the same."""
        self.learn_lanes(now_s)
        group = self._groups.get((subscriptions, order))
        if group is None:
            group = self._groups[subscriptions, order] = Group(subscriptions, order)
            for wish in subscriptions:
                self._by_topic[wish.topic].add(group)
            group.resolve(self._lanes, self._views, now_s)
        waiter.arrival = next(self._arrivals)
        waiter.looks_until_s = now_s + IMPATIENT_FOR_S
        group.waiters[waiter] = None
        if waiter.is_impatient:
            group.impatient.add(waiter)
        self._count += 1
        if waiter.is_impatient and not group.places:
            self._remove(group, waiter)
        elif not self._is_dry(group, now_s):
            self._make_due(group)

    def leave(
        self,
        waiter: Waiter,
        subscriptions: tuple[Subscription, ...],
        order: Order = FIRST_IN_FIRST_OUT,
    ) -> None:
        """Let go of a waiter. One that is in a claim is settled with what the claim brings."""
        waiter.is_leaving = True
        if not waiter.in_claim and not waiter.settled.is_set():
            self._remove(self._groups[subscriptions, order], waiter)

    def _remove(self, group: Group, waiter: Waiter) -> None:
        del group.waiters[waiter]
        group.impatient.discard(waiter)
        self._count -= 1
        waiter.settle()
        if not group.waiters:
            del self._groups[group.subscriptions, group.order]
            for wish in group.subscriptions:
                self._by_topic[wish.topic].discard(group)
                if not self._by_topic[wish.topic]:
                    del self._by_topic[wish.topic]
            group.leave_lanes()

    def release_all(self) -> None:
        """Answer everybody with what they have: the process is about to end."""
        for group in list(self._groups.values()):
            for waiter in list(group.waiters):
                self.leave(waiter, group.subscriptions, group.order)

    # News -------------------------------------------------------------------

    def learn_lanes(self, now_s: float) -> None:
        """Look at the lanes that became known, by whatever way, for all who wait there."""
        lanes = self._lanes.since(len(self._views))
        for lane in lanes:
            self._views[lane.lane_id] = View(now_s)
        # Once each, whatever has come: it goes through all lanes of all its topics.
        topics = {lane.topic for lane in lanes}
        for group in {group for topic in topics for group in self._by_topic.get(topic, ())}:
            group.resolve(self._lanes, self._views, now_s)
            self._make_due(group)

    def wake(self, lane_id: int, position: int, *, returned: bool, now_s: float) -> bool:
        """A lane got work at this position. Answers whether the lane is known here.

        Who learns of a lane later looks at it from the start.
        """
        self.learn_lanes(now_s)
        view = self._views.get(lane_id)
        if view is None:
            return False
        view.lower_to(position, returned=returned)
        self._stir(view)
        return True

    def look_at(self, lane_ids: Sequence[int]) -> None:
        """There may be work on these lanes, nobody knows where."""
        for lane_id in lane_ids:
            if view := self._views.get(lane_id):
                for group in view.stir_some():
                    self._make_due(group)

    def look_everywhere(self) -> None:
        """News may have been missed."""
        for view in self._views.values():
            self._stir(view)

    def _stir(self, view: View) -> None:
        view.stir()
        for group in view.groups:
            self._make_due(group)

    def watched_floors(self, now_s: float) -> dict[int, int]:
        """The lanes somebody waits for, and where to look for something fresh."""
        self.learn_lanes(now_s)
        for view in self._views.values():
            view.forget_idle(now_s)
        return {
            lane_id: view.look_from(now_s) for lane_id, view in self._views.items() if view.groups
        }

    def found_dry(self, lane_ids: Iterable[int], now_s: float) -> None:
        """The look at these of the `watched_floors` found nothing."""
        for lane_id in lane_ids:
            self._views[lane_id].found_dry(now_s + DRY_FOR_S)

    # Claims -----------------------------------------------------------------

    def _make_due(self, group: Group) -> None:
        if group.waiters and not group.is_due:
            group.is_due = True
            heappush(self._due, (group.turn, id(group), group))

    def next_claim(self, now_s: float) -> RunningClaim | None:
        """The claim to run next, if any can run now."""
        passed = []
        awaited: set[int] = set()
        yielded: set[int] = set()
        yielding: list[Group] = []
        running = None
        while self._due and running is None:
            turn, _, group = heappop(self._due)
            self._drop_gone(group)
            if not group.waiters or self._is_dry(group, now_s):
                group.is_due = False
            elif group.turn != turn:
                heappush(self._due, (group.turn, id(group), group))
            elif _is_blocked(group, awaited):
                passed.append(group)
                # It keeps its turn on all of its lanes, or others might pass it for ever.
                awaited.update(group.lane_ids)
            elif group.gives_way() or (group.has_row_filter and group.lane_ids & yielded):
                passed.append(group)
                yielding.append(group)
                # To the plain ones, on whatever lane; not to others of its kind.
                yielded.update(group.lane_ids)
            else:
                running = self._start(group, now_s)
        for group in passed:
            heappush(self._due, (group.turn, id(group), group))
        return running or self._start_yielding(yielding, awaited, now_s)

    def _start_yielding(
        self, groups: list[Group], awaited: set[int], now_s: float
    ) -> RunningClaim | None:
        """Whom these gave way to has found its lanes dry or its clients gone."""
        for group in groups:
            if not _is_blocked(group, awaited):
                return self._start(group, now_s)
            awaited.update(group.lane_ids)
        return None

    def offer(self, topics: Iterable[str], tasks: int, now_s: float) -> RunningClaim | None:
        """A claim on so many tasks that are about to be created on these topics, if anybody can
        make it.

        Only who would be served first by a look at any of its lanes can: nobody came to one of
        them before, and as far as is known nothing is there. The create makes sure of that. Nor
        can who wishes for more than lanes tell: the create does not look at that.
        """
        for topic in topics:
            groups = self._by_topic.get(topic, ())
            if not 0 < len(groups) <= OFFER_GROUPS_MAX:
                continue
            group = min(groups, key=lambda group: group.first.arrival)
            can_offer = group.is_plain and group.places and not group.is_due
            if can_offer and self._is_dry(group, now_s):
                views = [place.view for place in group.places]
                if all(not view.is_claimed and _is_first(group, view) for view in views):
                    return self._start(group, now_s, tasks)
        return None

    def _is_dry(self, group: Group, now_s: float) -> bool:
        """Whether a claim would find nothing, and nobody needs to be told so."""
        return not group.impatient and all(place.is_dry(now_s) for place in group.places)

    def _drop_gone(self, group: Group) -> None:
        """Nobody has a turn by the arrival of a client that has left."""
        while group.waiters and group.first.caller.is_gone and not group.first.in_claim:
            self._remove(group, group.first)

    def _start(self, group: Group, now_s: float, offered: int | None = None) -> RunningClaim | None:
        group.is_due = False
        waiters = self._take_turns(group, offered or CLAIM_TASKS_MAX)
        if not waiters:
            return None
        news, looks = {}, {}
        for lane, _, _, view, look in group.places:
            view.is_claimed = True
            view.was_filtered = group.has_row_filter
            news[lane.lane_id], looks[lane.lane_id] = view.news, look
        claim = claim_of(group, waiters, self._lanes, now_s)
        is_offer = offered is not None
        return RunningClaim(claim, group, waiters, list(group.impatient), news, looks, is_offer)

    def _take_turns(self, group: Group, wanted: int) -> list[Waiter]:
        """Those whom the next claim serves. Nothing is locked for a client that has left."""
        waiters: list[Waiter] = []
        tasks = 0
        for waiter in list(itertools.islice(group.waiters, CLAIM_WAITERS_MAX)):
            if waiter.caller.is_gone:
                self._remove(group, waiter)
                continue
            if waiters and (tasks >= wanted or tasks + waiter.tasks_max > CLAIM_TASKS_MAX):
                break
            tasks += waiter.tasks_max
            waiter.in_claim = True
            waiters.append(waiter)
        if group.waiters and not waiters:
            self._make_due(group)  # All of these had left; there are others behind them.
        return waiters

    def settle(self, running: RunningClaim, granted: Granted, now_s: float) -> None:
        """Hand out what a claim brought, and remember what it says of its lanes."""
        self._raise_floors(running, granted, now_s)
        for place, waiter in enumerate(running.waiters):
            waiter.body, waiter.tasks = granted.bodies.get(place, (b"[]", 0))
        # A claim that got all it wanted may have left some. Of what an offer left, news will come.
        is_all = running.is_offer or granted.seen < sum(running.claim.tasks_max)
        is_drained = is_all and granted.seen == granted.locked and not granted.has_more
        for lane_id, news in running.news.items():
            is_dry = is_drained and self._views[lane_id].news == news
            running.looks[lane_id].dry_until_s = now_s + DRY_FOR_S if is_dry else 0.0
        for waiter in running.impatient:
            # It may be far behind those served, but there was nothing left for it. Or it has had
            # its turn: what another broker is locking just now is not there for it.
            if granted.has_more:
                waiter.is_leaving |= now_s >= waiter.looks_until_s
            else:
                waiter.is_leaving |= is_drained or waiter in running.waiters
        if not (granted.locked or running.group.is_plain):
            running.group.let_pass(next(self._arrivals))
        self._end(running)
        if not self._is_dry(running.group, now_s):
            self._make_due(running.group)

    def _raise_floors(self, running: RunningClaim, granted: Granted, now_s: float) -> None:
        if running.group.order.newest_first:
            return
        for lane_id, returned, position in granted.tips:
            floor = running.looks[lane_id].floor(returned=returned)
            floor.raise_to(position)
            if granted.has_more and not granted.locked:
                floor.go_on(now_s)
        for lane_id, returned, position in granted.held:
            floor = running.looks[lane_id].floor(returned=returned)
            floor.pass_over(position, goes_on=granted.has_more)

    def fail(
        self, running: RunningClaim, error: BrokerError, *, may_be_its_own: bool = False
    ) -> None:
        """A claim did not run: who does not park is told, the others try again.

        Where the trouble may be the claim's own, whoever filters by what only rows tell is told,
        too: its filter may be too much each time, and hold up the others on its lanes each time.
        """
        told = set(running.impatient)
        if may_be_its_own and running.group.has_row_filter:
            told.update(running.waiters)
        for waiter in told:
            if not waiter.settled.is_set():
                waiter.error = error
                waiter.is_leaving = True
        running.group.let_pass(next(self._arrivals))
        self.withdraw(running)

    def withdraw(self, running: RunningClaim) -> None:
        """A claim brought nothing, and says nothing of its lanes."""
        self._end(running)
        self._make_due(running.group)

    def _end(self, running: RunningClaim) -> None:
        for lane_id in running.news:
            self._views[lane_id].is_claimed = False
        for waiter in running.waiters:
            waiter.in_claim = False
        for waiter in {*running.waiters, *running.impatient}:
            if (waiter.tasks or waiter.is_leaving) and not waiter.settled.is_set():
                self._remove(running.group, waiter)


def _is_blocked(group: Group, awaited: set[int]) -> bool:
    """Whether one of its lanes is being looked at, or waited for by others before it."""
    return any(place.view.is_claimed or place.lane.lane_id in awaited for place in group.places)


def _is_first(group: Group, view: View) -> bool:
    """Whether nobody has waited longer on this lane."""
    return len(view.groups) <= OFFER_GROUPS_MAX and all(
        group.first.arrival <= other.first.arrival for other in view.groups
    )

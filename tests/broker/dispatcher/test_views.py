"""Lanes that look different through different filters, without any I/O."""

from __future__ import annotations

from broker.dispatcher import Order
from broker.dispatcher.views import IDLE_LOOKS_MAX
from broker.dispatcher.waiter import FIRST_IN_FIRST_OUT, Waiter
from broker.dispatcher.waiters import LOOKED_AT_MAX, READ_MAX, RunningClaim, Waiters
from broker.store import Granted, Lanes
from tests.factories import Client, lane, subscribe

X = subscribe(business_key="x")
NEWEST_FIRST = Order(newest_first=True)


def known(lanes: int = 1) -> Waiters:
    registry = Lanes()
    registry.add([lane(number, priority=number) for number in range(1, lanes + 1)])
    return Waiters(registry)


class Parked:
    """One that waits on the topic `t`, and how it can leave."""

    def __init__(
        self, waiters: Waiters, key: str | None = None, order: Order = FIRST_IN_FIRST_OUT
    ) -> None:
        self._waiters = waiters
        self._of = subscribe(business_key=key), order
        self.waiter = Waiter("w", 1, Client(), is_impatient=False)
        waiters.add(self.waiter, self._of[0], 0.0, order)

    def leave(self) -> None:
        self._waiters.leave(self.waiter, *self._of)


def claim(waiters: Waiters, now_s: float = 0.0) -> RunningClaim:
    running = waiters.next_claim(now_s)
    assert running is not None
    return running


def nothing(*tips: tuple[int, bool, int], has_more: bool = False) -> Granted:
    """All that was looked at was not for them."""
    return Granted({}, 0, 0, list(tips), has_more)


def floor(running: RunningClaim) -> int:
    """Beyond which position its first lane is looked at for something fresh."""
    return next(scan.floor for scan in running.claim.scans if not scan.returned)


async def test_what_is_dry_through_a_filter_is_not_dry_for_others() -> None:
    waiters = known()
    Parked(waiters, "x")
    waiters.settle(claim(waiters), nothing((1, False, 7)), 0.0)
    assert waiters.watched_floors(0.1) == {1: 7}
    others = [Parked(waiters), Parked(waiters, "y")]
    waiters.found_dry([1], 0.1)
    for other in others:
        running = claim(waiters, 0.1)
        assert running.waiters == [other.waiter]
        assert floor(running) == 0
        waiters.settle(running, Granted({0: (b"[1]", 1)}, 1, 1, [(1, False, 2)]), 0.1)


async def test_what_is_dry_without_a_filter_is_dry_for_all() -> None:
    waiters = known()
    Parked(waiters)
    waiters.settle(claim(waiters), nothing(), 0.0)
    Parked(waiters, "x")
    assert waiters.next_claim(0.1) is None
    waiters.wake(1, 5, returned=False, now_s=0.2)
    assert claim(waiters, 0.2)


async def test_news_lowers_the_floors_of_all() -> None:
    waiters = known()
    for key in ("x", "y"):
        Parked(waiters, key)
        waiters.settle(claim(waiters), nothing((1, False, 8)), 0.0)
    waiters.wake(1, 5, returned=False, now_s=0.0)
    for _ in range(2):
        running = claim(waiters)
        assert floor(running) == 4
        waiters.settle(running, nothing((1, False, 8)), 0.0)
    assert waiters.next_claim(0.0) is None


async def test_who_comes_again_goes_on_but_hears_of_what_came_meanwhile() -> None:
    waiters = known()
    for expected in (0, 8, 4):
        parked = Parked(waiters, "x")
        waiters.look_everywhere()
        running = claim(waiters)
        assert floor(running) == expected
        waiters.settle(running, nothing((1, False, 8)), 0.0)
        parked.leave()
        if expected == 8:
            waiters.wake(1, 5, returned=False, now_s=0.0)


async def test_only_so_many_looks_are_kept_for_who_comes_again() -> None:
    waiters = known()
    for number in range(IDLE_LOOKS_MAX + 1):
        parked = Parked(waiters, f"{number}")
        waiters.settle(claim(waiters), nothing((1, False, 8)), 0.0)
        parked.leave()
    assert len(waiters._views[1]._idle) == IDLE_LOOKS_MAX
    Parked(waiters, "0")
    assert floor(claim(waiters)) == 0


async def test_a_claim_goes_on_while_there_is_more() -> None:
    waiters = known()
    Parked(waiters, "x")
    for position in range(100):
        running = claim(waiters)
        assert floor(running) == position
        waiters.settle(running, nothing((1, False, position + 1), has_more=True), 0.0)
    waiters.settle(claim(waiters), nothing((1, False, 200)), 0.0)
    assert waiters.next_claim(0.0) is None


async def test_a_lane_that_takes_minutes_to_look_through_has_an_end() -> None:
    waiters = known()
    Parked(waiters, "x")
    position, now_s = 0, 0.0
    while now_s < 200.0:
        running = claim(waiters, now_s)
        position = max(position, floor(running) + 1)
        waiters.settle(running, nothing((1, False, floor(running) + 1), has_more=True), now_s)
        now_s += 0.1
    # Half of the time goes into going back a second.
    assert position > 900


async def test_who_found_nothing_lets_those_pass_who_came_meanwhile() -> None:
    waiters = known()
    filtered = Parked(waiters, "x")
    first = claim(waiters)
    plain = [Parked(waiters) for _ in range(2)]
    assert first.waiters == [filtered.waiter]
    waiters.settle(first, nothing((1, False, 8), has_more=True), 0.0)
    second = claim(waiters)
    assert second.waiters == [each.waiter for each in plain]
    Parked(waiters)
    waiters.settle(second, Granted({0: (b"[1]", 1), 1: (b"[2]", 1)}, 2, 2, [(1, False, 2)]), 0.0)
    assert claim(waiters).waiters == [filtered.waiter]


async def test_the_newest_first_has_no_floors_and_raises_none() -> None:
    waiters = known()
    Parked(waiters, order=NEWEST_FIRST)
    running = claim(waiters)
    assert running.claim.filtered == ([None] * 2, [None] * 2, True, 1)
    waiters.settle(running, Granted({0: (b"[1]", 1)}, 1, 1, [(1, False, 8)]), 0.0)
    Parked(waiters)
    running = claim(waiters)
    assert running.claim.filtered is None
    assert floor(running) == 0


async def test_a_filter_with_the_newest_first_is_another_view() -> None:
    waiters = known()
    Parked(waiters, "x", NEWEST_FIRST)
    waiters.settle(claim(waiters), nothing((1, False, 8)), 0.0)
    Parked(waiters, "x")
    assert floor(claim(waiters)) == 0


async def test_nothing_is_offered_past_who_looks_at_rows() -> None:
    for key, order in (("x", FIRST_IN_FIRST_OUT), (None, NEWEST_FIRST)):
        waiters = known()
        filtered = Parked(waiters, key, order)
        Parked(waiters)
        while running := waiters.next_claim(0.0):
            waiters.settle(running, nothing(), 0.0)
        assert waiters.offer(["t"], 1, 0.0) is None
        filtered.leave()
        assert waiters.offer(["t"], 1, 0.0)


async def test_of_many_lanes_fewer_tasks_are_looked_at() -> None:
    for lanes in (1, 50):
        waiters = known(lanes)
        Parked(waiters, "x")
        filtered = claim(waiters).claim.filtered
        assert filtered is not None
        assert filtered.business_keys == ["x"] * 2 * lanes
        assert filtered.looked_at_max == min(LOOKED_AT_MAX, READ_MAX // (2 * lanes))


async def test_without_priorities_all_lanes_are_of_one_rank() -> None:
    waiters = known(3)
    Parked(waiters, order=Order(by_priority=False))
    running = claim(waiters)
    assert {scan.rank for scan in running.claim.scans} == {0}
    assert running.claim.filtered is None

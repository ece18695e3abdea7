"""Lanes that look different through different filters, without any I/O."""

from __future__ import annotations

from broker.dispatcher import Order
from broker.dispatcher.claims import LOOKED_AT_MAX, READ_MAX, RunningClaim
from broker.dispatcher.views import IDLE_LOOK_S, IDLE_LOOKS_MAX, STIRRED_MAX
from broker.dispatcher.waiter import FIRST_IN_FIRST_OUT, Waiter
from broker.dispatcher.waiters import CLAIM_WAITERS_MAX, IMPATIENT_FOR_S, Waiters
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
        self,
        waiters: Waiters,
        key: str | None = None,
        order: Order = FIRST_IN_FIRST_OUT,
        *,
        is_impatient: bool = False,
    ) -> None:
        self._waiters = waiters
        self._of = subscribe(business_key=key), order
        self.waiter = Waiter("w", 1, Client(), is_impatient=is_impatient)
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
    assert position >= 2_000


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


async def test_of_many_who_look_at_rows_none_keeps_the_others_waiting() -> None:
    """Each new task is news to all of them, and a worker that polls again comes after them."""
    waiters = known()
    for number in range(20):
        Parked(waiters, f"{number}")
    served = []
    for position in range(10):
        waiters.wake(1, position + 1, returned=False, now_s=0.0)
        plain = Parked(waiters)
        while True:
            running = claim(waiters)
            served.append(running.waiters == [plain.waiter])
            if served[-1]:
                waiters.settle(running, Granted({0: (b"[1]", 1)}, 1, 1, []), 0.0)
                break
            waiters.settle(running, nothing(), 0.0)
    assert served == [False, True] * 10


async def test_who_gave_way_to_nobody_has_the_claim() -> None:
    waiters = known()
    for key in ("x", "y"):
        Parked(waiters, key)
    plain = Parked(waiters)
    waiters.settle(claim(waiters), nothing(), 0.0)
    client = plain.waiter.caller
    assert isinstance(client, Client)
    client.leave()
    assert claim(waiters).claim.filtered is not None
    assert plain.waiter.settled.is_set()


async def test_where_something_may_be_only_some_look_for_it() -> None:
    """And the next time the others."""
    waiters = known()
    for number in range(2 * STIRRED_MAX):
        Parked(waiters, f"{number}")
    while running := waiters.next_claim(0.0):
        waiters.settle(running, nothing(), 0.0)
    keys = set()
    for looks in (1, 2):
        waiters.look_at([1])
        while running := waiters.next_claim(1.0):
            assert running.claim.filtered is not None
            keys.add(running.claim.filtered.business_keys[0])
            waiters.settle(running, nothing(), 1.0)
        assert len(keys) == looks * STIRRED_MAX
    waiters.look_everywhere()
    assert len(waiters._due) == 2 * STIRRED_MAX


async def test_who_does_not_park_is_not_looked_for_for_ever() -> None:
    waiters = known()
    impatient = [Parked(waiters, "x", is_impatient=True) for _ in range(CLAIM_WAITERS_MAX + 1)]
    parked = Parked(waiters, "x")
    now_s = 0.0
    while not impatient[0].waiter.settled.is_set():
        assert now_s < 2 * IMPATIENT_FOR_S
        waiters.settle(claim(waiters, now_s), nothing((1, False, 8), has_more=True), now_s)
        now_s += IMPATIENT_FOR_S / 8
    assert now_s > IMPATIENT_FOR_S
    assert all(each.waiter.settled.is_set() for each in impatient)
    assert not parked.waiter.settled.is_set()


async def test_what_somebody_held_is_looked_at_again() -> None:
    waiters = known()
    Parked(waiters, "x")
    held = Granted({}, 1, 0, [(1, False, 8)], held=[(1, False, 5)])
    waiters.settle(claim(waiters), held, 0.0)
    running = claim(waiters)
    assert floor(running) == 4
    # One that goes on comes to it when it goes back.
    waiters.settle(running, held._replace(has_more=True), 0.0)
    running = claim(waiters)
    assert floor(running) == 8
    waiters.settle(running, nothing((1, False, 9)), 0.0)
    assert waiters.watched_floors(1.1) == {1: 4}


async def test_a_look_of_nobody_is_forgotten_after_a_while() -> None:
    for away_s, expected in ((IDLE_LOOK_S - 2, 8), (IDLE_LOOK_S + 2, 0)):
        waiters = known()
        parked = Parked(waiters, "x")
        waiters.settle(claim(waiters), nothing((1, False, 8)), 0.0)
        parked.leave()
        for now_s in (0.5, away_s):
            waiters.watched_floors(now_s)
        Parked(waiters, "x")
        assert waiters.watched_floors(0.0) == {1: expected}


async def test_the_newest_first_has_no_floors_and_raises_none() -> None:
    waiters = known()
    Parked(waiters, order=NEWEST_FIRST)
    running = claim(waiters)
    assert running.claim.filtered == ([None] * 2, [None] * 2, True, 1, [])
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
    for lanes in (1, 50, 1_000):
        waiters = known(lanes)
        Parked(waiters, "x")
        filtered = claim(waiters).claim.filtered
        assert filtered is not None
        assert filtered.business_keys == ["x"] * 2 * lanes
        assert filtered.looked_at_max == max(20, min(LOOKED_AT_MAX, READ_MAX // (2 * lanes)))


async def test_without_priorities_all_lanes_are_of_one_rank() -> None:
    waiters = known(3)
    Parked(waiters, order=Order(by_priority=False))
    running = claim(waiters)
    assert {scan.rank for scan in running.claim.scans} == {0}
    assert running.claim.filtered is None

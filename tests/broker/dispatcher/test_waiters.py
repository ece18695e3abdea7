"""Parked polls, without any I/O: cases that deserve a name. Random ones are in the walk next door."""

from __future__ import annotations

from typing import Any

import pytest

from broker.dispatcher.views import Group
from broker.dispatcher.waiter import Waiter
from broker.dispatcher.waiters import CLAIM_TASKS_MAX, Waiters
from broker.errors import Unavailable
from broker.store import Granted, Lanes
from tests.factories import Client, lane, subscribe


def parked_on(
    waiters: Waiters, tasks_max: int = 1, *topics: str, is_impatient: bool = False
) -> Waiter:
    waiter = Waiter("w", tasks_max, Client(), is_impatient=is_impatient)
    waiters.add(waiter, subscribe(*topics), 0.0)
    return waiter


def known(*lanes: Any) -> Waiters:
    registry = Lanes()
    registry.add(lanes)
    return Waiters(registry)


NOTHING = Granted({}, 0, 0, [])


async def test_a_dry_lane_makes_no_claims() -> None:
    waiters = known(lane(1))
    parked_on(waiters)
    running = waiters.next_claim(0.0)
    assert running is not None
    waiters.settle(running, NOTHING, 0.0)
    for _ in range(100):
        parked_on(waiters)
    assert waiters.next_claim(0.1) is None
    # News ends it, and the first claim that finds nothing begins it again for everybody.
    parked_on(waiters, 1, "t", "u")
    waiters.wake(1, 10, returned=False, now_s=0.2)
    running = waiters.next_claim(0.2)
    assert running is not None
    waiters.settle(running, NOTHING, 0.2)
    assert waiters.next_claim(0.2) is None


async def test_who_does_not_park_looks_at_a_dry_lane_too() -> None:
    waiters = known(lane(1))
    parked_on(waiters)
    running = waiters.next_claim(0.0)
    assert running is not None
    waiters.settle(running, NOTHING, 0.0)
    impatient = parked_on(waiters, is_impatient=True)
    running = waiters.next_claim(0.1)
    assert running is not None
    waiters.settle(running, NOTHING, 0.1)
    assert impatient.settled.is_set()
    assert len(waiters) == 1


async def test_who_does_not_park_is_answered_even_if_the_claim_was_full() -> None:
    waiters = known(lane(1))
    parked_on(waiters, CLAIM_TASKS_MAX)
    impatient = parked_on(waiters, is_impatient=True)
    while running := waiters.next_claim(0.0):
        waiters.settle(running, NOTHING, 0.0)
    assert impatient.settled.is_set()


async def test_who_does_not_park_on_an_unknown_topic_is_answered_at_once() -> None:
    waiters = known()
    assert parked_on(waiters, is_impatient=True).settled.is_set()
    assert waiters.next_claim(0.0) is None


async def test_a_client_that_leaves_while_its_claim_runs_is_settled_by_the_claim() -> None:
    """Also where the lane gets news meanwhile, so that its group is looked at again."""
    waiters = known(lane(1))
    waiter = parked_on(waiters)
    running = waiters.next_claim(0.0)
    assert running is not None
    assert isinstance(waiter.caller, Client)
    waiter.caller.leave()
    waiters.wake(1, 5, returned=False, now_s=0.0)
    assert waiters.next_claim(0.0) is None
    waiters.settle(running, Granted({0: (b"[1]", 1)}, 1, 1, [(1, False, 5)]), 0.0)
    assert waiter.tasks == 1
    assert len(waiters) == 0


async def test_a_waiter_on_several_lanes_is_not_passed_for_ever() -> None:
    """While its lanes are claimed in turn, it is never free of all of them by chance."""
    waiters = known(lane(1, "a"), lane(2, "b"))
    parked_on(waiters, 1, "a")
    first = waiters.next_claim(0.0)
    assert first is not None
    both = parked_on(waiters, 1, "a", "b")
    parked_on(waiters, 1, "b")
    assert waiters.next_claim(0.0) is None
    waiters.settle(first, NOTHING, 0.0)
    second = waiters.next_claim(0.0)
    assert second is not None
    assert second.waiters == [both]


async def test_what_came_while_a_claim_ran_is_above_the_floor_of_the_next() -> None:
    waiters = known(lane(1))
    parked_on(waiters, 1)
    parked_on(waiters, 1)
    running = waiters.next_claim(0.0)
    assert running is not None
    waiters.wake(1, 5, returned=True, now_s=0.0)
    tips = [(1, True, 8), (1, False, 10)]
    waiters.settle(running, Granted({0: (b"[1,2]", 2)}, 2, 2, tips), 0.0)
    again = waiters.next_claim(0.0)
    assert again is not None
    assert {scan.returned: scan.floor for scan in again.claim.scans} == {True: 4, False: 10}


async def test_a_look_that_was_overtaken_by_news_does_not_dry_the_lane() -> None:
    waiters = known(lane(1))
    parked_on(waiters)
    floors = waiters.watched_floors(0.0)
    waiters.wake(1, 5, returned=False, now_s=0.0)
    running = waiters.next_claim(0.0)
    assert running is not None
    # One of many: the others are left for whoever comes next.
    waiters.settle(running, Granted({0: (b"[1]", 1)}, 1, 1, [(1, False, 5)]), 0.0)
    waiters.found_dry(floors.keys(), 0.0)
    parked_on(waiters)
    assert waiters.next_claim(0.0) is not None


async def test_a_lane_that_another_verb_learned_of_is_looked_at() -> None:
    registry = Lanes()
    waiters = Waiters(registry)
    first = parked_on(waiters, 1, "t")
    registry.add([lane(1)])
    # A group that knows the lane from its start must not hide it from the older one.
    parked_on(waiters, 1, "t", "u")
    running = waiters.next_claim(0.0)
    assert running is not None
    assert running.waiters == [first]
    registry.add([lane(2, priority=3)])
    assert set(waiters.watched_floors(0.1)) == {1, 2}


async def test_a_claim_visits_the_highest_priority_first_and_the_returned_with_the_fresh() -> None:
    waiters = known(lane(1), lane(2, priority=7), lane(3, "u", 7), lane(4, "other"))
    parked_on(waiters, 3, "t", "u")
    running = waiters.next_claim(0.0)
    assert running is not None
    assert sorted((scan.lane_id, scan.rank, scan.returned) for scan in running.claim.scans) == [
        (lane_id, rank, returned)
        for lane_id, rank in ((1, 1), (2, 0), (3, 0))
        for returned in (False, True)
    ]


async def test_a_claim_that_fails_lets_the_others_pass() -> None:
    waiters = known(lane(1), lane(2, "u"))
    first = parked_on(waiters, 1, "t", "u")
    running = waiters.next_claim(0.0)
    assert running is not None
    assert running.waiters == [first]
    second = parked_on(waiters)
    waiters.fail(running, Unavailable("too slow"), may_be_its_own=True)
    running = waiters.next_claim(0.0)
    assert running is not None
    assert running.waiters == [second]
    waiters.settle(running, NOTHING, 0.0)
    assert not first.settled.is_set()


async def test_whose_filter_may_be_too_much_is_told() -> None:
    for may_be_its_own in (True, False):
        waiters = known(lane(1))
        waiter = Waiter("w", 1, Client(), is_impatient=False)
        waiters.add(waiter, subscribe(business_key="x"), 0.0)
        running = waiters.next_claim(0.0)
        assert running is not None
        waiters.fail(running, Unavailable("too slow"), may_be_its_own=may_be_its_own)
        assert (waiter.error is not None) == waiter.settled.is_set() == may_be_its_own


async def test_lanes_that_come_together_are_learned_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry = Lanes()
    waiters = Waiters(registry)
    parked_on(waiters, 1, "t", "u")
    resolved = []
    resolve = Group.resolve

    def count(self: Group, *args: Any) -> None:
        resolved.append(self)
        resolve(self, *args)

    monkeypatch.setattr(Group, "resolve", count)
    registry.add([lane(number, "tu"[number % 2], number) for number in range(1, 100)])
    waiters.learn_lanes(0.0)
    assert len(resolved) == 1
    running = waiters.next_claim(0.0)
    assert running is not None
    assert len(running.claim.scans) == 2 * 99


async def test_everybody_is_released_at_the_end() -> None:
    waiters = known(lane(1), lane(2, "u"))
    served = parked_on(waiters, 1, "t")
    running = waiters.next_claim(0.0)
    assert running is not None
    others = [parked_on(waiters, 1, topic) for topic in ("t", "u", "nowhere")]
    waiters.release_all()
    assert all(waiter.settled.is_set() for waiter in others)
    assert not served.settled.is_set()
    waiters.settle(running, Granted({0: (b"[1]", 1)}, 1, 1, [(1, False, 5)]), 0.0)
    assert served.settled.is_set()
    assert served.tasks == 1
    assert len(waiters) == 0

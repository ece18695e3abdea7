"""Parked polls against a made-up database, without any I/O.

A random walk parks and lets go of waiters, creates and returns tasks with and
without wake-ups, and runs claims in pieces, so that everything can happen
while one is in flight. The claims are answered by a model of the database
that follows the claim to the letter: its floors, ranks, shares and filters.
A task's position says what its business key is.
"""

from __future__ import annotations

import itertools
import sys
from typing import Any, ClassVar, cast

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from broker.dispatcher import claims as claims_module
from broker.dispatcher.claims import RunningClaim
from broker.dispatcher.waiter import FIRST_IN_FIRST_OUT, Order, Subscription, Waiter
from broker.dispatcher.waiters import CLAIM_TASKS_MAX, CLAIM_WAITERS_MAX, Waiters
from broker.errors import Unavailable
from broker.store import Granted, Lanes
from tests.broker.dispatcher.wishing import LANES, Parked, takes, wants
from tests.factories import Client, decoded, subscribe

SUBSCRIPTIONS = [
    subscribe("a"),
    subscribe("b"),
    subscribe("a", "b"),
    subscribe("b", "c"),
    subscribe("b", process_definition_ids=("x",)),
    subscribe("nowhere"),
    subscribe("a", business_key="odd"),
    subscribe("b", business_key="even") + subscribe("a"),
    subscribe("a", "b", business_key="odd"),
]
ORDERS = [FIRST_IN_FIRST_OUT] * 3 + [Order(by_priority=False), Order(newest_first=True)]
RESTART_S = 61.0
LOOKED_AT_MAX = 3


class InFlight:
    """A claim between its start and its settling."""

    def __init__(self, running: RunningClaim) -> None:
        self.running = running
        self.granted: Granted | None = None


class WaitersMachine(RuleBasedStateMachine):
    """Everything that can happen to the waiters of one process."""

    creations = Bundle("creations")
    wishes: ClassVar = SUBSCRIPTIONS

    @initialize(known=st.integers(0, len(LANES)))
    def start(self, known: int) -> None:
        self.now_s = 1_000.0
        self.lanes = Lanes()
        self.lanes.add(LANES[:known])
        self.waiters = Waiters(self.lanes)
        self.parked: list[Parked] = []
        self.in_flight: list[InFlight] = []
        self.positions = itertools.count(1)
        self.ready: set[tuple[int, int, bool]] = set()
        """lane, position, returned: what a claim could find."""
        self.untold: set[tuple[int, int, bool]] = set()
        """Those of which no news came."""
        self.delivered: list[tuple[int, int]] = []
        self.handed_out: list[tuple[int, int]] = []

    # Waiters

    @rule(
        subscriptions=st.runner().flatmap(lambda self: st.sampled_from(self.wishes)),
        order=st.sampled_from(ORDERS),
        tasks_max=st.sampled_from([1, 2, 5, 700]),
        is_impatient=st.booleans(),
    )
    def park(
        self,
        subscriptions: tuple[Subscription, ...],
        order: Order,
        tasks_max: int,
        is_impatient: bool,
    ) -> None:
        waiter = Waiter(f"w{len(self.parked)}", tasks_max, Client(), is_impatient=is_impatient)
        self.waiters.add(waiter, subscriptions, self.now_s, order)
        self.parked.append(Parked(waiter, subscriptions, order))

    @precondition(lambda self: any(parked.is_waiting for parked in self.parked))
    @rule(data=st.data(), is_told=st.booleans())
    def go(self, data: Any, is_told: bool) -> None:
        """A client's connection ends, or its time is up."""
        parked = data.draw(st.sampled_from([p for p in self.parked if p.is_waiting]))
        if is_told:
            self.waiters.leave(parked.waiter, parked.subscriptions, parked.order)
        else:
            parked.client.leave()

    # Tasks

    @rule(target=creations, lane_id=st.integers(1, len(LANES)))
    def begin_creation(self, lane_id: int) -> tuple[int, int]:
        """A transaction takes a position; others may commit before it."""
        return lane_id, next(self.positions)

    @rule(creation=consumes(creations), is_told=st.booleans())
    def commit_creation(self, creation: tuple[int, int], is_told: bool) -> None:
        lane_id, position = creation
        self._come(lane_id, position, is_told=is_told, returned=False)

    @precondition(lambda self: self.delivered)
    @rule(data=st.data(), is_told=st.booleans())
    def give_back(self, data: Any, is_told: bool) -> None:
        lane_id, position = data.draw(st.sampled_from(self.delivered))
        self.delivered.remove((lane_id, position))
        self._come(lane_id, position, is_told=is_told, returned=True)

    def _come(self, lane_id: int, position: int, *, is_told: bool, returned: bool) -> None:
        self.ready.add((lane_id, position, returned))
        if is_told:
            self.waiters.wake(lane_id, position, returned=returned, now_s=self.now_s)
        if not is_told or self.lanes.get(lane_id) is None:
            self.untold.add((lane_id, position, returned))

    @rule(known=st.integers(0, len(LANES)))
    def hear_of_lanes(self, known: int) -> None:
        """Some other verb has loaded the lanes: nobody tells the waiters."""
        self.lanes.add(LANES[:known])

    # Claims

    @rule()
    def start_claim(self) -> None:
        running = self.waiters.next_claim(self.now_s)
        if running is None:
            return
        claimed = {scan.lane_id for scan in running.claim.scans}
        assert claimed
        for other in self.in_flight:
            assert claimed.isdisjoint(scan.lane_id for scan in other.running.claim.scans)
        self._check_turns(running, claimed)
        self.in_flight.append(InFlight(running))

    def _check_turns(self, running: RunningClaim, claimed: set[int]) -> None:
        """Nobody who came earlier, and can still be served, is passed on any lane."""
        assert len(running.waiters) <= CLAIM_WAITERS_MAX
        assert len(running.waiters) == 1 or sum(running.claim.tasks_max) <= CLAIM_TASKS_MAX
        assert not any(waiter.caller.is_gone for waiter in running.waiters)
        arrivals = [waiter.arrival for waiter in running.waiters]
        assert arrivals == sorted(arrivals)
        for parked in self.parked:
            waiter = parked.waiter
            if not parked.is_waiting or waiter in running.waiters or waiter.in_claim:
                continue
            group = self.waiters._groups[parked.subscriptions, parked.order]
            if group is running.group:
                assert waiter.arrival > arrivals[-1]
            elif group.turn > running.group.turn:
                continue  # It has let others pass.
            elif group.has_row_filter and not running.group.has_row_filter:
                continue  # The claim before was one like its own.
            elif waiter.arrival < arrivals[0] and any(
                takes(parked.subscriptions, lane_id) for lane_id in claimed
            ):
                # It is not due: nothing of which news came is there for it. (Its lanes need not
                # be dry for that: a claim that another lane filled has not looked them through.)
                assert not waiter.is_impatient
                assert not group.is_due
                for lane_id, position, _ in self.ready - self.untold:
                    assert parked.may_miss or not wants(parked.subscriptions, lane_id, position)

    @precondition(lambda self: any(claim.granted is None for claim in self.in_flight))
    @rule(data=st.data(), by_others=st.integers(0, 2), are_held=st.booleans())
    def execute_claim(self, data: Any, by_others: int, are_held: bool) -> None:
        """The database sees what is committed by now. Another broker may be faster, or somebody
        holds a row for some other reason, and lets go of it without telling.
        """
        claims = [claim for claim in self.in_flight if claim.granted is None]
        claim = data.draw(st.sampled_from(claims))
        are_held &= claim.running.claim.filtered is not None
        claim.granted = self._grant(claim.running, by_others, are_held=are_held)

    def _grant(
        self, running: RunningClaim, by_others: int = 0, *, are_held: bool = False
    ) -> Granted:
        demand = sum(running.claim.tasks_max)
        filtered = running.claim.filtered
        age = -1 if filtered and filtered.newest_first else 1
        found = sorted(
            (scan.rank, age * position, position, scan.lane_id, scan.returned)
            for scan in running.claim.scans
            for lane_id, position, returned in self.ready
            if (lane_id, returned) == (scan.lane_id, scan.returned) and position > scan.floor
        )
        looked_at = [task[2:] for task in found[: filtered.looked_at_max if filtered else demand]]
        subscriptions = running.group.subscriptions
        wanted = [task for task in looked_at if wants(subscriptions, task[1], task[0])]
        head = wanted[:demand]
        if len(head) == demand:
            looked_at = looked_at[: looked_at.index(head[-1]) + 1]
        locked, skipped = head[by_others:], head[:by_others]
        held: dict[tuple[int, bool], int] = {}
        for known in self.ready, self.untold:
            known -= {(lane_id, position, returned) for position, lane_id, returned in head}
        for position, lane_id, returned in skipped if filtered else ():
            held[lane_id, returned] = min(position, held.get((lane_id, returned), position))
            if are_held:
                self.ready.add((lane_id, position, returned))
                self.untold.add((lane_id, position, returned))
        tips: dict[tuple[int, bool], int] = {}
        for position, lane_id, returned in looked_at if filtered else locked:
            tips[lane_id, returned] = max(position, tips.get((lane_id, returned), 0))
        has_more = filtered is not None and age == 1 and len(found) > len(looked_at)
        bodies = {}
        left = locked
        for place, tasks_max in enumerate(running.claim.tasks_max):
            share, left = left[:tasks_max], left[tasks_max:]
            if share:
                body = ",".join(f"[{lane_id},{position}]" for position, lane_id, _ in share)
                bodies[place] = (f"[{body}]".encode(), len(share))
        self.handed_out += [(lane_id, position) for position, lane_id, _ in locked]
        stops = [(*key, tip) for key, tip in tips.items()]
        stayed = [(*key, position) for key, position in held.items()]
        return Granted(bodies, len(head), len(locked), stops, has_more, stayed)

    @precondition(lambda self: any(claim.granted for claim in self.in_flight))
    @rule(data=st.data())
    def settle_claim(self, data: Any) -> None:
        claims = [claim for claim in self.in_flight if claim.granted]
        self._settle(data.draw(st.sampled_from(claims)))

    def _settle(self, claim: InFlight) -> None:
        assert claim.granted is not None
        self.in_flight.remove(claim)
        self.waiters.settle(claim.running, claim.granted, self.now_s)
        for waiter in claim.running.waiters:
            for task in decoded(waiter.body):
                lane_id, position = cast("tuple[int, int]", task)
                self.handed_out.remove((lane_id, position))
                self.delivered.append((lane_id, position))
            if waiter.tasks:
                assert waiter.settled.is_set()
                assert waiter.tasks <= waiter.tasks_max
        # Each locked task has reached a waiter.
        assert not self.handed_out or any(c.granted for c in self.in_flight)

    @precondition(lambda self: any(claim.granted is None for claim in self.in_flight))
    @rule(data=st.data())
    def fail_claim(self, data: Any) -> None:
        claim = data.draw(st.sampled_from([c for c in self.in_flight if c.granted is None]))
        self.in_flight.remove(claim)
        self.waiters.fail(claim.running, Unavailable("away"))
        for waiter in claim.running.waiters:
            assert waiter.settled.is_set() == (waiter.is_impatient or waiter.is_leaving)

    # Looks and time

    @rule(seconds=st.sampled_from([0.1, 1.0, 2.0, RESTART_S]))
    def pass_time(self, seconds: float) -> None:
        self.now_s += seconds

    @rule()
    def look_again(self) -> None:
        floors = self.waiters.watched_floors(self.now_s)
        ready = {
            lane_id
            for lane_id, position, returned in self.ready
            if lane_id in floors and (returned or position > floors[lane_id])
        }
        self.waiters.found_dry(floors.keys() - ready, self.now_s)
        self.waiters.look_at(list(ready))

    @rule()
    def miss_news(self) -> None:
        """The connection for wake-ups was away."""
        self.waiters.look_everywhere()

    # What must hold

    @rule()
    def come_to_rest(self) -> None:
        """With no time passing, nobody waits beside a task of which news came."""
        self._run_all_claims()
        for lane_id, position, _ in self.ready - self.untold:
            for parked in self.parked:
                self._check_served(parked, lane_id, position)

    def _check_served(self, parked: Parked, lane_id: int, position: int) -> None:
        if parked.is_waiting and not parked.may_miss:
            assert not wants(parked.subscriptions, lane_id, position), (
                f"{parked.waiter.worker_id} waits beside {lane_id, position}"
            )

    def _run_all_claims(self) -> None:
        for rounds in itertools.count():
            assert rounds < 1_000
            for claim in list(self.in_flight):
                claim.granted = claim.granted or self._grant(claim.running)
                self._settle(claim)
            self.start_claim()
            if not self.in_flight:
                break
        for parked in self.parked:
            assert not parked.is_waiting or not parked.waiter.is_impatient

    @invariant()
    def all_waiters_are_counted(self) -> None:
        assert len(self.waiters) == sum(
            not parked.waiter.settled.is_set() for parked in self.parked
        )

    @invariant()
    def no_lane_is_claimed_twice(self) -> None:
        claimed = [lane_id for claim in self.in_flight for lane_id in claim.running.news]
        assert len(claimed) == len(set(claimed))

    def teardown(self) -> None:
        """Even without any news, everything that can be found is found in the end."""
        if not hasattr(self, "waiters") or sys.exc_info()[0] is not None:
            return  # It has failed before the end.
        self.lanes.add(LANES)
        for _ in range(4):
            self._run_all_claims()
            self.pass_time(RESTART_S)
            self.look_again()
        self._run_all_claims()
        for lane_id, position, _ in self.ready:
            for parked in self.parked:
                self._check_served(parked, lane_id, position)
        for parked in self.parked:
            self.waiters.leave(parked.waiter, parked.subscriptions, parked.order)
        assert len(self.waiters) == 0
        assert not self.waiters._groups
        assert not self.waiters._by_topic


@pytest.mark.timeout(600)  # To make a counterexample short takes its time; to find none does not.
async def test_whatever_happens_no_waiter_is_passed_forgotten_or_served_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(claims_module, "LOOKED_AT_MAX", LOOKED_AT_MAX)
    walk(WaitersMachine)


def walk(machine: type[WaitersMachine]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=200,
            stateful_step_count=60,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )

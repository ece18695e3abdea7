"""What is asked of the database for those whose turn it is."""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from broker.dispatcher.views import Group, Look
from broker.dispatcher.waiter import Waiter
from broker.store import Claim, Filtered, Lanes, Scan

LOOKED_AT_MAX: Final = 2_000
"""Tasks that one statement looks at for a group that filters by what only rows tell: some 20 ms. A
claim goes on where the last one ended, but with the newest first these are all that are found."""

READ_MAX: Final = 20_000
"""Tasks that it reads to find these: to merge by age it reads as many from each of its scans."""

LOOKED_AT_MIN: Final = 20
"""So many are looked at whatever has to be read for it: with thousands of lanes it would else be
two or three a claim."""


class RunningClaim(NamedTuple):
    """A claim in flight: what to run, for which waiters, and what was known when it started."""

    claim: Claim
    group: Group
    waiters: list[Waiter]
    impatient: list[Waiter]
    news: dict[int, int]
    looks: dict[int, Look]
    is_offer: bool
    """The tasks it claims are yet to be created."""


def claim_of(group: Group, waiters: list[Waiter], lanes: Lanes, now_s: float) -> Claim:
    """What to run for these waiters of a group."""
    scans = []
    for lane, rank, wish, _, look in group.places:
        names = None if wish.variables is None else msgspec.json.encode(wish.variables).decode()
        about = wish.lock_duration_ms, names, lanes.members_json(lane.lane_id)
        for returned in (True, False):
            # With the newest first, the oldest are left: no floor rises.
            from_ = (
                0 if group.order.newest_first else look.floor(returned=returned).scan_from(now_s)
            )
            scans.append(Scan(lane.lane_id, rank, returned, from_, *about))
    worker_ids = [waiter.worker_id for waiter in waiters]
    tasks_max = [waiter.tasks_max for waiter in waiters]
    filtered = None if group.is_plain else _filtered(group, sum(tasks_max))
    return Claim(scans, worker_ids, tasks_max, filtered)


def _filtered(group: Group, demand: int) -> Filtered:
    wishes = [place.wish for place in group.places for _ in range(2)]
    looked_at_max = demand
    if group.has_row_filter:
        affordable = max(LOOKED_AT_MIN, READ_MAX // len(wishes))
        looked_at_max = max(demand, min(LOOKED_AT_MAX, affordable))
    texts = [wish.any_variables for wish in wishes]
    filters = list(dict.fromkeys(text for text in texts if text is not None))
    numbers = {text: number for number, text in enumerate(filters, 1)}
    return Filtered(
        [wish.business_key for wish in wishes],
        [None if text is None else numbers[text] for text in texts],
        group.order.newest_first,
        looked_at_max,
        filters,
    )

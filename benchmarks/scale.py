"""How much of everything: enough to be believed, or just enough to see that it works."""

from __future__ import annotations

from typing import Final, NamedTuple


class Scale(NamedTuple):
    """Counts are of tasks unless the name says otherwise."""

    repetitions: int
    warm_up: int
    """Created and drained before what is measured: connections are open, statements prepared."""

    bulk: int
    singles: dict[int, int]
    """By concurrency."""
    drains: dict[int, int]
    """By tasks per request."""
    drain: int
    slow_drain: int
    """Of a contender with a `rate_max`."""

    pickups: int
    steady_s: float
    steady_settle_s: float
    """At the begin, not counted."""

    flow_s: float
    flow_window_s: float
    """The first and the last part of a flow, which are compared."""

    backlog: int
    fetches: int

    limit: int
    limit_clients: tuple[int, ...]

    polls: int
    settle_s: float
    """PostgreSQL's backends tell what they did at the latest after ten seconds."""
    idle_s: float


FULL: Final = Scale(
    repetitions=3,
    warm_up=500,
    bulk=50_000,
    singles={1: 1_000, 8: 4_000, 64: 12_000},
    drains={1: 5_000, 10: 20_000, 100: 50_000, 500: 50_000},
    drain=50_000,
    slow_drain=5_000,
    pickups=500,
    steady_s=20.0,
    steady_settle_s=4.0,
    flow_s=300.0,
    flow_window_s=60.0,
    backlog=1_000_000,
    fetches=2_000,
    limit=48_000,
    limit_clients=(1, 2, 4, 8),
    polls=10_000,
    settle_s=11.0,
    idle_s=20.0,
)

QUICK: Final = Scale(
    repetitions=1,
    warm_up=100,
    bulk=5_000,
    singles={1: 100, 8: 500, 64: 1_000},
    drains={1: 500, 10: 2_000, 100: 5_000, 500: 10_000},
    drain=10_000,
    slow_drain=200,
    pickups=30,
    steady_s=1.0,
    steady_settle_s=0.2,
    flow_s=6.0,
    flow_window_s=2.0,
    backlog=20_000,
    fetches=100,
    limit=8_000,
    limit_clients=(2,),
    polls=1_000,
    settle_s=11.0,
    idle_s=2.0,
)

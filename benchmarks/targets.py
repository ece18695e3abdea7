"""What Fetchlock is to reach, against what was measured beside it in the same run.

A target whose figures are missing is neither met nor missed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Final, Literal, NamedTuple

from benchmarks.contenders import (
    GRAPHILE,
    HTTP,
    PEERS,
    PG_BOSS,
    PGQUEUER,
    POLLS,
    PROCRASTINATE,
    SDK,
)
from benchmarks.figures import Figure, Run
from benchmarks.workloads.camunda7 import BOTH, CAMUNDA7, COMPLETING, NATIVE
from benchmarks.workloads.limiting import SAME_PROMISE

Need = Literal["≥", "≤"]


class Measured(NamedTuple):
    """A ratio or a value: by medians, and how far the repetitions could bend it."""

    value: float
    low: float
    high: float
    is_disturbed: bool


class Target(NamedTuple):
    """What `measure` finds in a run must be at least, or at most, `bound`."""

    workload: str
    what: str
    need: Need
    bound: float
    unit: str
    measure: Callable[[Run], Measured | None]

    def is_met(self, measured: Measured) -> bool:
        """By the median."""
        return measured.value >= self.bound if self.need == "≥" else measured.value <= self.bound


_500 = f"{HTTP.name}, 500 a request"
_1 = f"{HTTP.name}, 1 a request"
_PEERS = tuple(peer.name for peer in PEERS)


def _value(workload: str, contender: str, measure: str) -> Callable[[Run], Measured | None]:
    def find(run: Run) -> Measured | None:
        if (figure := run.find(workload, contender, measure)) is None:
            return None
        return Measured(figure.median, figure.low, figure.high, figure.is_disturbed)

    return find


def _ratio(
    ours: tuple[str, str], theirs: tuple[str, Iterable[str]], measure: str = "rate"
) -> Callable[[Run], Measured | None]:
    """Ours over the best of theirs."""

    def find(run: Run) -> Measured | None:
        top = run.find(*ours, measure)
        found = [run.find(theirs[0], name, measure) for name in theirs[1]]
        others = [figure for figure in found if figure is not None]
        return None if top is None or not others else over(top, best(others))

    return find


def best(figures: list[Figure]) -> Figure:
    """The one with the best median."""
    choose = max if figures[0].better == "higher" else min
    return choose(figures, key=lambda figure: figure.median)


def over(top: Figure, bottom: Figure) -> Measured:
    """The ratio of two figures."""
    return Measured(
        _divide(top.median, bottom.median),
        _divide(top.low, bottom.high),
        _divide(top.high, bottom.low),
        top.is_disturbed or bottom.is_disturbed,
    )


def _divide(top: float, bottom: float) -> float:
    # A latency may be too short to be seen.
    return top / bottom if bottom else math.inf


def _drain_over(ours: str, theirs: str) -> Callable[[Run], Measured | None]:
    return _ratio(("drain", ours), ("drain", [theirs]))


def _camunda7_over_native(part: str) -> Callable[[Run], Measured | None]:
    return _ratio(("camunda7", part.format(CAMUNDA7)), ("camunda7", [part.format(NATIVE)]))


def _cpu_ratio(run: Run) -> Measured | None:
    top, bottom = (run.find("drain", who, "CPU broker") for who in (_500, _1))
    return over(top, bottom) if top and bottom else None


def _polls_ratio(run: Run) -> Measured | None:
    top, bottom = (
        run.find("idle-polls", POLLS.name, f"create to poll p50, {polls}")
        for polls in ("all polls", "1 poll")
    )
    return over(top, bottom) if top and bottom else None


TARGETS: Final = (
    Target("drain", f"{_500} ÷ {GRAPHILE.name}", "≥", 1.0, "×", _drain_over(_500, GRAPHILE.name)),
    Target("drain", f"{_500} ÷ {PG_BOSS.name}", "≥", 1.0, "×", _drain_over(_500, PG_BOSS.name)),
    Target("drain", f"{_500} ÷ {PGQUEUER.name}", "≥", 2.0, "×", _drain_over(_500, PGQUEUER.name)),
    Target(
        "drain", f"{_500} ÷ {SAME_PROMISE}", "≥", 0.7, "×",
        _drain_over(_500, SAME_PROMISE),
    ),
    Target(
        "drain", f"{SDK.name} ÷ {PGQUEUER.name}", "≥", 1.0, "×",
        _drain_over(SDK.name, PGQUEUER.name),
    ),
    Target(
        "drain", f"{SDK.name} ÷ {PROCRASTINATE.name}", "≥", 15.0, "×",
        _drain_over(SDK.name, PROCRASTINATE.name),
    ),
    Target("drain", "broker CPU per task, 500 ÷ 1 a request", "≤", 0.2, "×", _cpu_ratio),
    Target(
        "drain", f"WAL per task, {_500}", "≤", 1.5, "KiB",
        _value("drain", _500, "WAL of a lifecycle"),
    ),
    Target(
        "create-bulk", f"{HTTP.name} ÷ best peer", "≥", 1.0, "×",
        _ratio(("create-bulk", HTTP.name), ("create-bulk", _PEERS)),
    ),
    Target(
        "create-64", f"{HTTP.name} at 64 ÷ best peer at 8", "≥", 2.0, "×",
        _ratio(("create-64", HTTP.name), ("create-8", _PEERS)),
    ),
    *(
        Target(
            "camunda7", f"{part.format(CAMUNDA7)} ÷ {NATIVE}", "≥", bound, "×",
            _camunda7_over_native(part),
        )
        for part, bound in ((BOTH, 0.6), (COMPLETING, 0.8))
    ),
    *(
        Target(
            "pickup", f"{SDK.name} {p} ÷ best peer's", "≤", 1.0, "×",
            _ratio(("pickup", SDK.name), ("pickup", _PEERS), p),
        )
        for p in ("p50", "p99")
    ),
    Target(
        "steady-500", f"{HTTP.name} p50", "≤", 5.0, "ms", _value("steady-500", HTTP.name, "p50")
    ),
    Target(
        "steady-500", f"{HTTP.name} p99", "≤", 25.0, "ms", _value("steady-500", HTTP.name, "p99")
    ),
    Target(
        "steady-500", f"{HTTP.name} p99 ÷ best peer's", "≤", 1.0, "×",
        _ratio(("steady-500", HTTP.name), ("steady-500", _PEERS), "p99"),
    ),
    Target(
        "held-snapshot", "rate, last minute ÷ first", "≥", 0.9, "×",
        _value("held-snapshot", HTTP.name, "rate, last over first"),
    ),
    Target(
        "backlog", "fetch p99, backlog ÷ empty lane", "≤", 1.5, "×",
        _value("backlog", HTTP.name, "fetch p99, backlog over empty"),
    ),
    Target(
        "idle-polls", "statements while idle", "≤", 2.0, "per s",
        _value("idle-polls", POLLS.name, "statements while idle"),
    ),
    Target(
        "idle-polls", "memory of a poll", "≤", 60.0, "KiB",
        _value("idle-polls", POLLS.name, "memory of a poll"),
    ),
    Target("idle-polls", "create to poll p50, all polls ÷ one", "≤", 1.2, "×", _polls_ratio),
)  # fmt: skip

"""What is measured, and who takes part in it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple

from benchmarks.cell import Cell
from benchmarks.contenders import HTTP, ONE_BY_ONE, PEERS, POLLS, RAW_SQL, SDK, Contender
from benchmarks.workloads.backlog import backlog
from benchmarks.workloads.camunda7 import BY_100, CAMUNDA7, NATIVE, by_100, one_by_one
from benchmarks.workloads.creating import bulk, single
from benchmarks.workloads.draining import drain, scaling
from benchmarks.workloads.holding import held_snapshot
from benchmarks.workloads.idling import idle_polls
from benchmarks.workloads.limiting import limits
from benchmarks.workloads.waiting import pickup, steady


class Entrant(NamedTuple):
    """A contender in a workload, under the name that its figures get there."""

    contender: Contender
    label: str
    options: dict[str, Any]
    processes: int = 1
    measure: Callable[[Cell], Awaitable[None]] | None = None
    """Instead of the workload's."""


class Workload(NamedTuple):
    """`measure` is called once for each entrant and repetition, in a cell of its own."""

    name: str
    title: str
    entrants: Sequence[Entrant]
    measure: Callable[[Cell], Awaitable[None]]
    needs_home: bool = False
    """It looks into the database or starts brokers, so it cannot be done behind a URL."""
    repeats_itself: bool = False
    """It has rounds of its own, because what it needs takes long to set up."""


def _all(*contenders: Contender, **options: Any) -> list[Entrant]:
    return [Entrant(contender, contender.name, options) for contender in contenders]


def _create(concurrency: int) -> Workload:
    return Workload(
        f"create-{concurrency}",
        f"Single creates, concurrency {concurrency}",
        _all(HTTP, SDK, *PEERS, concurrency=concurrency),
        single,
    )


def _steady(rate: int) -> Workload:
    return Workload(
        f"steady-{rate}",
        f"Steady {rate:,} tasks/s: create begun → completion committed",
        _all(HTTP, *PEERS, rate=rate),
        steady,
    )


WORKLOADS: Final = (
    Workload("create-bulk", "Bulk create", _all(HTTP, SDK, *PEERS), bulk),
    _create(1),
    _create(8),
    _create(64),
    Workload(
        "drain",
        "Drain: fetch, do nothing, complete",
        [
            *(
                Entrant(HTTP, f"fetchlock http, {k} a request", {"per_request": k})
                for k in (1, 10, 100, 500)
            ),
            *_all(SDK, *PEERS),
            Entrant(RAW_SQL, RAW_SQL.name, {}, measure=limits),
        ],
        drain,
    ),
    Workload(
        "camunda7",
        "Camunda 7 workers beside native ones",
        [
            Entrant(ONE_BY_ONE, NATIVE, {"dialect": "native"}),
            Entrant(ONE_BY_ONE, CAMUNDA7, {"dialect": "camunda7"}),
            Entrant(HTTP, BY_100, {}, measure=by_100),
        ],
        one_by_one,
    ),
    Workload(
        "pickup", "Pickup on an idle topic: create committed → handler running",
        _all(SDK, HTTP, *PEERS), pickup,
    ),
    _steady(500),
    _steady(2_000),
    Workload(
        "held-snapshot", "Full load under a held snapshot",
        _all(HTTP), held_snapshot, needs_home=True,
    ),
    Workload(
        "backlog", "Fetching from a deep backlog", _all(HTTP), backlog, repeats_itself=True
    ),
    Workload("idle-polls", "Idle long polls on one broker", _all(POLLS), idle_polls),
    Workload(
        "scaling",
        "Broker processes on one port",
        [Entrant(HTTP, f"fetchlock http, {n} process{'es'[: 2 * (n > 1)]}", {}, n) for n in (1, 2, 4)],
        scaling,
        needs_home=True,
    ),
)  # fmt: skip

"""Runs that nobody has run, for tests of what is made of them."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.figures import Absence, Better, Figure, Machine, Participant, Run, Series

MACHINE = Machine("a processor", 2, 2**33, "an OS", {"python": "3.11"}, {"fsync": "on"})


def figure(
    values: Sequence[float],
    *,
    workload: str = "drain",
    contender: str = "fetchlock http",
    measure: str = "rate",
    better: Better = "higher",
    other_cpu: float = 0.0,
) -> Figure:
    """A figure with one value for each repetition."""
    others = [other_cpu] * len(values)
    return Figure(workload, contender, measure, "tasks/s", better, list(values), others)


def run(
    *figures: Figure,
    machine: Machine = MACHINE,
    participants: Sequence[Participant] = (),
    absences: Sequence[Absence] = (),
    series: Sequence[Series] = (),
) -> Run:
    """A run that brought these figures."""
    return Run(
        begun_at="2026-01-02T03:04:05+00:00",
        seconds=60.0,
        is_quick=False,
        is_whole=True,
        url=None,
        machine=machine,
        scale={"repetitions": 3, "drains": {"500": 50_000}},
        participants=list(participants),
        workloads={figure.workload: f"The {figure.workload}" for figure in figures},
        figures=list(figures),
        series=list(series),
        absences=list(absences),
    )

"""A run as grids, one a workload: a row for each contender, a column for each measure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from benchmarks.contenders import PEERS
from benchmarks.figures import Absence, Figure, Run
from benchmarks.targets import best, over


class Row(NamedTuple):
    """A contender. `against_best` is its first measure over the best peer's."""

    contender: str
    figures: list[Figure | None]
    against_best: float | None


class Grid(NamedTuple):
    """A workload, and who is missing in it."""

    name: str
    title: str
    columns: list[tuple[str, str]]
    """Measure and unit."""
    rows: list[Row]
    absences: list[Absence]

    @property
    def has_peers(self) -> bool:
        """Whether there is anything to compare with."""
        return any(row.against_best is not None for row in self.rows)


def grids(run: Run) -> Iterator[Grid]:
    """Every workload of the run, in its order."""
    for name, title in run.workloads.items():
        figures = [figure for figure in run.figures if figure.workload == name]
        columns = list(dict.fromkeys((each.measure, each.unit) for each in figures))
        contenders = dict.fromkeys(each.contender for each in figures)
        rows = [_row(run, name, contender, columns) for contender in contenders]
        absences = [each for each in run.absences if each.workload == name]
        yield Grid(name, title, columns, rows, absences)


def _row(run: Run, workload: str, contender: str, columns: list[tuple[str, str]]) -> Row:
    figures = [run.find(workload, contender, measure) for measure, _ in columns]
    return Row(contender, figures, _against_best(run, workload, figures[0], columns[0][0]))


def _against_best(run: Run, workload: str, top: Figure | None, measure: str) -> float | None:
    found = [run.find(workload, peer.name, measure) for peer in PEERS]
    peers = [figure for figure in found if figure is not None]
    return over(top, best(peers)).value if top is not None and peers else None

"""What changed between two runs beyond noise.

The rule. A figure has changed if the ranges of its repetitions do not overlap,
and its medians differ by more than 5 % and by more than either range is wide,
as a share of its median. Of a single repetition nobody knows how much it
wavers: its range is taken to be 30 % wide. Everything else is the same, which
does not mean equal: it means that these runs cannot tell.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final, Literal, NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks.figures import Figure, Key, Run
from benchmarks.report import words

NOISE_MIN: Final = 0.05
"""Below it nobody should care."""

NOISE_OF_ONE: Final = 0.30

Verdict = Literal["better", "worse", "same"]


class Change(NamedTuple):
    """A figure of both runs."""

    before: Figure
    after: Figure
    verdict: Verdict

    @property
    def factor(self) -> float:
        """After over before, by medians."""
        return _factor(self.before, self.after)


def changes(before: Run, after: Run) -> Iterator[Change]:
    """Every figure that both have, in the order of the later run."""
    earlier = {figure.key: figure for figure in before.figures}
    for figure in after.figures:
        if figure.key in earlier:
            yield Change(earlier[figure.key], figure, judge(earlier[figure.key], figure))


def judge(before: Figure, after: Figure) -> Verdict:
    """Whether the figure changed, by the rule."""
    if before.low <= after.high and after.low <= before.high:
        return "same"
    factor = _factor(before, after)
    noise = max(NOISE_MIN, _spread(before), _spread(after))
    # Judged alike in both directions: half is as far from one as double.
    if 1 / (1 + noise) <= factor <= 1 + noise:
        return "same"
    return "better" if (factor > 1) == (after.better == "higher") else "worse"


def unlike(before: Run, after: Run) -> list[str]:
    """What makes the runs no fair comparison, one line each."""
    found = []
    for what, ours, theirs in (
        ("CPU", before.machine.cpu, after.machine.cpu),
        ("cores", before.machine.cores, after.machine.cores),
        ("memory", before.machine.memory_bytes >> 30, after.machine.memory_bytes >> 30),
        ("system", before.machine.system, after.machine.system),
        ("counts", before.scale, after.scale),
        ("database", before.machine.database_settings, after.machine.database_settings),
        ("versions", _without_ours(before), _without_ours(after)),
    ):
        if ours != theirs:
            found.append(f"{what}: {_difference(ours, theirs)}")
    return found


def only_in(one: Run, other: Run) -> list[Key]:
    """Figures that the other run does not have."""
    known = {figure.key for figure in other.figures}
    return [figure.key for figure in one.figures if figure.key not in known]


def show(before: Run, after: Run, console: Console) -> None:
    """Print the changes."""
    for line in unlike(before, after):
        console.print(f"[yellow]not alike[/]: {line}", highlight=False)
    all_changes = list(changes(before, after))
    changed = [change for change in all_changes if change.verdict != "same"]
    if changed:
        console.print(_table(before, after, changed))
    same = len(all_changes) - len(changed)
    console.print(
        f"{len(changed)} changed beyond noise, {same} did not; {len(only_in(before, after))} only "
        f"before, {len(only_in(after, before))} only after. {words.DISTURBED} others used the machine."
    )


def _table(before: Run, after: Run, changed: list[Change]) -> Table:
    table = Table("workload", "contender", "measure", title_justify="left")
    for run in (before, after):
        table.add_column(run.begun_at[:16].replace("T", " "), justify="right")
    table.add_column("factor", justify="right")
    table.add_column("")
    for change in changed:
        colour = "green" if change.verdict == "better" else "red"
        table.add_row(
            *change.after.key[:2],
            f"{change.after.measure}, {change.after.unit}",
            words.figure(change.before),
            words.figure(change.after),
            words.number(change.factor),
            f"[{colour}]{change.verdict}",
        )
    return table


def _factor(before: Figure, after: Figure) -> float:
    if before.median == after.median:
        return 1.0
    return after.median / before.median if before.median else math.inf


def _spread(figure: Figure) -> float:
    if len(figure.values) == 1:
        return NOISE_OF_ONE
    return (figure.high - figure.low) / figure.median if figure.median else math.inf


def _without_ours(run: Run) -> dict[str, str]:
    return {name: text for name, text in run.machine.versions.items() if name != "fetchlock"}


def _difference(ours: object, theirs: object) -> str:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        names = [name for name in ours | theirs if ours.get(name) != theirs.get(name)]
        return ", ".join(f"{name} {ours.get(name)} → {theirs.get(name)}" for name in names)
    return f"{ours} → {theirs}"

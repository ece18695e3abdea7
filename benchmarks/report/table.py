"""A run on the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.figures import OTHER_CPU_MAX, Absence, Figure, Machine, Run
from benchmarks.report import words
from benchmarks.report.grid import Grid, grids
from benchmarks.targets import TARGETS

_CPU = "CPU "
_COLOURS = {"met": "green", "missed": "red"}


def show(run: Run, console: Console) -> None:
    """Print every workload, and the targets last: that is where the eye ends."""
    console.print(_headline(run), highlight=False)
    _show_absences([absence for absence in run.absences if not absence.workload], console)
    for grid in grids(run):
        if grid.rows:
            console.print(_table(grid))
        _show_absences(grid.absences, console)
    console.print(_targets(run))
    console.print(
        f"Median (lowest–highest) of {run.scale['repetitions']}. {words.DISTURBED} others used more "
        f"than {OTHER_CPU_MAX:.0%} of the machine.",
        highlight=False,
    )


def _show_absences(absences: Iterable[Absence], console: Console) -> None:
    for absence in absences:
        said = f"[yellow]without {escape(absence.contender)}[/]: {escape(absence.reason)}"
        console.print(said, highlight=False, soft_wrap=True)


def _machine_line(machine: Machine) -> str:
    """The machine in a line."""
    gib = machine.memory_bytes / 2**30
    return f"{machine.cores} × {machine.cpu}, {gib:.0f} GiB, {machine.system}"


def _headline(run: Run) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in run.machine.versions.items())
    settings = run.machine.database_settings.items()
    database = ", ".join(f"{name}={value}" for name, value in settings) or f"behind {run.url}"
    cut = "" if run.is_whole else "[yellow]Stopped before its end.[/]\n"
    return f"\n{cut}{_machine_line(run.machine)}\n{versions}\nPostgreSQL: {escape(database)}\n"


def _table(grid: Grid) -> Table:
    """The CPU columns become one, by medians: a terminal is narrow. The page has them apart."""
    table = Table(title=grid.title, title_justify="left", title_style="bold")
    table.add_column("", no_wrap=True)
    cpu = [at for at, (measure, _) in enumerate(grid.columns) if measure.startswith(_CPU)]
    others = [at for at in range(len(grid.columns)) if at not in cpu]
    for at in others:
        measure, unit = grid.columns[at]
        table.add_column(f"{measure}\n[dim]{unit}", justify="right", overflow="fold")
    if cpu:
        roles = " + ".join(grid.columns[at][0].removeprefix(_CPU) for at in cpu)
        table.add_column(f"CPU {roles}\n[dim]{grid.columns[cpu[0]][1]}", justify="right")
    if grid.has_peers:
        table.add_column("÷ best\npeer", justify="right")
    for row in grid.rows:
        cells = [_figure(row.figures[at]) for at in others]
        if cpu:
            cells.append(_cpu([row.figures[at] for at in cpu]))
        if grid.has_peers:
            cells.append("" if row.against_best is None else words.number(row.against_best))
        table.add_row(escape(row.contender), *cells)
    return table


def _figure(found: Figure | None) -> str:
    return "" if found is None else words.figure(found)


def _cpu(found: Sequence[Figure | None]) -> str:
    medians = ["–" if figure is None else words.number(figure.median) for figure in found]
    return "" if not any(found) else " + ".join(medians)


def _targets(run: Run) -> Table:
    table = Table(title="Targets", title_justify="left", title_style="bold")
    for column in ("workload", "what", "target", "measured", ""):
        table.add_column(column, justify="right" if column in ("target", "measured") else "left")
    for target in TARGETS:
        found = target.measure(run)
        verdict = words.verdict(target, found)
        table.add_row(
            target.workload,
            target.what,
            f"{target.need} {words.number(target.bound)} {target.unit}",
            words.measured(found),
            f"[{_COLOURS.get(verdict, 'dim')}]{verdict}",
        )
    return table

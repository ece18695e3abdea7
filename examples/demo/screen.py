"""What a person sees: a few lines, a bar, a table, and one sentence at the end.

Where the output is no terminal there is no bar, but a line every few seconds.
"""

from __future__ import annotations

import io
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from examples.demo.run import Death, Watcher
from examples.demo.verdict import Verdict

_LINE_S: Final = 2.0
_PROBLEMS_SHOWN: Final = 10


class Screen:
    """One run of the demo, as it is told."""

    def __init__(self) -> None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            # Somebody's terminal may know less than ours: a question mark will do.
            sys.stdout.reconfigure(errors="replace")
        self._console = Console(highlight=False, emoji=False, markup=False)

    def title(self, text: str) -> None:
        self._console.print()
        self._console.print(Text(text, style="bold"))
        self._console.print()

    def say(self, text: str, style: str = "") -> None:
        self._console.print(Text(f"  {text}", style=style), soft_wrap=True)

    @contextmanager
    def watching(self, total: int) -> Iterator[Watcher]:
        """Tell how the tasks end: with a bar, or with lines."""
        if self._console.is_terminal:
            with self._bar() as bar:
                yield _Bar(self, bar, total)
        else:
            yield _Lines(self, total)

    def _bar(self) -> Progress:
        return Progress(
            TextColumn("  {task.description}"),
            BarColumn(bar_width=40),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
        )

    def table(
        self,
        verdict: Verdict,
        *,
        files: int,
        workers: int,
        death: Death | None,
        pickups_ms: Sequence[float],
    ) -> None:
        """The figures, and below them what they mean."""
        cuts = statistics.quantiles(pickups_ms, n=100)
        killed = "none was killed: all was done too soon"
        if death is not None:
            killed = f"1 of them killed while it held {_locks(death)}"
        table = Table(box=None, show_header=False, padding=(0, 2))
        table.add_column(style="bold")
        table.add_column()
        table.add_row("tasks", f"{files:,} created, {verdict.completed:,} completed")
        table.add_row("workers", f"{workers}, {killed}")
        table.add_row("locks", f"{verdict.expiries} expired, {verdict.recovered} recovered")
        table.add_row("results", f"{verdict.right:,} of {files:,} verified")
        table.add_row("throughput", f"{verdict.per_s:,.0f} tasks/s ¹")
        table.add_row("pickup", f"p50 {cuts[49]:.1f} ms, p99 {cuts[98]:.1f} ms ²")
        self._console.print()
        self._console.print(table)
        self._console.print()
        for note in (
            f"¹ What {workers} Python workers do with these files; for the broker's limits: make bench.",
            "  From the first creation to the last completion, without the tasks whose locks had to",
            f"  run out first. With them the work took {verdict.duration_s:.1f} s.",
            f"² From a producer's request to the handler's first line: {len(pickups_ms)} tasks,",
            "  one after the other, each on an idle topic.",
        ):
            self.say(note, "dim")
        self._console.print()

    def verdict(self, problems: Sequence[str], files: int) -> None:
        """The last sentence."""
        if not problems:
            self.say(f"✔ {files:,} files, each done exactly once, and right.", "bold green")
            self._console.print()
            return
        for problem in problems[:_PROBLEMS_SHOWN]:
            self.say(problem, "red")
        if len(problems) > _PROBLEMS_SHOWN:
            self.say(f"… and {len(problems) - _PROBLEMS_SHOWN} more", "red")
        self.say(f"✘ {_count(len(problems), 'problem')}: see above.", "bold red")
        self._console.print()


class _Lines:
    def __init__(self, screen: Screen, total: int) -> None:
        self._screen = screen
        self._total = total
        self._said_s = time.monotonic()

    def progress(self, ended: int) -> None:
        if ended == self._total or time.monotonic() - self._said_s >= _LINE_S:
            self._said_s = time.monotonic()
            self._screen.say(f"{ended:,} of {self._total:,} files are done")

    def killed(self, death: Death) -> None:
        self._screen.say(
            f"{death.name} is killed (SIGKILL) while it holds {_locks(death)}", "yellow"
        )


class _Bar(_Lines):
    def __init__(self, screen: Screen, bar: Progress, total: int) -> None:
        super().__init__(screen, total)
        self._bar = bar
        self._task = bar.add_task("fingerprinting", total=total)

    def progress(self, ended: int) -> None:
        self._bar.update(self._task, completed=ended)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _locks(death: Death) -> str:
    return _count(death.locks, "lock")

"""What a person sees while it runs: which measurement, how far it is, how long it has taken."""

from __future__ import annotations

from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class Screen:
    """Two bars: the whole run, and what is being done just now."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._whole = self._progress.add_task("starting", total=None)
        self._current = self._progress.add_task("", total=None, visible=False)
        self._begun = 0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def begin(self, cells: int) -> None:
        """So many measurements are to come."""
        self._progress.update(self._whole, description="measurements", total=cells)

    def cell(self, title: str, label: str, repetition: int, repetitions: int) -> None:
        """The next one."""
        said = f"{title} · {label} · {repetition} of {repetitions}"
        self._progress.update(self._whole, completed=self._begun, description=said)
        self._progress.update(self._current, visible=False)
        self._begun += 1
        if not self._console.is_terminal:
            self._console.print(said)  # A log has no bars.

    def progressed(self, do: str, done: int, total: int) -> None:
        """How far it is."""
        self._progress.update(
            self._current, visible=True, description=f"  {do}", completed=done, total=total or None
        )

    def absent(self, label: str, reason: str) -> None:
        """It will not come."""
        self._console.print(f"[yellow]without {escape(label)}[/]: {escape(reason)}", soft_wrap=True)

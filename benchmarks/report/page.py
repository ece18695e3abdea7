"""A run as one HTML page that needs nothing else: no script, no font, no network.

What contenders say of themselves and why they are missing comes from other
people's programs, so everything is escaped.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from benchmarks.figures import OTHER_CPU_MAX, Run
from benchmarks.report import words
from benchmarks.report.grid import grids
from benchmarks.report.plots import draw
from benchmarks.targets import TARGETS

_TEMPLATES: Final = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters |= {
    "number": words.number,
    "figure": words.figure,
    "measured": words.measured,
    "counts": words.counts,
}


def write(run: Run, path: Path) -> None:
    """Write the page."""
    path.write_text(render(run), encoding="utf-8")


def render(run: Run) -> str:
    """The page's text."""
    judged = [(target, target.measure(run)) for target in TARGETS]
    sections = [
        (grid, draw(grid, [one for one in run.series if one.workload == grid.name]))
        for grid in grids(run)
    ]
    return _TEMPLATES.get_template("page.html").render(
        run=run,
        sections=sections,
        targets=[(target, found, words.verdict(target, found)) for target, found in judged],
        other_cpu_max=f"{OTHER_CPU_MAX:.0%}",
        star=words.DISTURBED,
    )

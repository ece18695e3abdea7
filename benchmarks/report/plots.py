"""The pictures of a run, as SVG that needs nothing from anywhere."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any, Final

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import NullFormatter

from benchmarks.figures import Figure, Series
from benchmarks.report import words
from benchmarks.report.grid import Grid, Row
from benchmarks.workloads.limiting import BARE, SAME_PROMISE

_WIDTH_IN: Final = 9.0
_ROW_IN: Final = 0.34
_OURS: Final = "#0f766e"
_OTHERS: Final = "#94a3b8"
_LIMITS: Final = "#e2e8f0"
_INK: Final = "#334155"
_PERCENTILES: Final = {"p50": "#5eead4", "p95": "#0d9488", "p99": "#134e4a"}
_ROLES: Final = {"postgres": "#334155", "broker": "#0f766e", "program": "#cbd5e1"}

_STYLE: Final[dict[Any, Any]] = {
    "svg.hashsalt": "fetchlock",  # The same run makes the same page.
    "text.parse_math": False,
    "svg.fonttype": "none",  # Text stays text: small, and sharp at any size.
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": "#cbd5e1",
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
}


def draw(grid: Grid, series: Sequence[Series]) -> list[str]:
    """The pictures of a workload, each as the `src` of an image."""
    pictures = []
    measures = [measure for measure, _ in grid.columns]
    with rc_context(_STYLE):
        if "rate" in measures:
            pictures.append(_bars(grid, measures.index("rate")))
        if "p50" in measures:
            pictures.append(_percentiles(grid))
        if "CPU program" in measures:
            pictures.append(_cpu(grid))
        if series:
            pictures.append(_lines(series))
    return pictures


def _bars(grid: Grid, column: int) -> str:
    rows = [row for row in grid.rows if row.figures[column] is not None]
    canvas, axes = _canvas(rows)
    for at, row in enumerate(rows):
        figure = row.figures[column]
        assert figure is not None
        axes.barh(at, figure.median, color=_colour(row.contender), height=0.62)
        axes.plot([figure.low, figure.high], [at, at], color="#0f172a", linewidth=1)
        axes.annotate(
            words.number(figure.median),
            (figure.high, at),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
        )
    axes.set_xlabel(grid.columns[column][1])
    axes.margins(x=0.12)
    return _image(canvas)


def _percentiles(grid: Grid) -> str:
    canvas, axes = _canvas(grid.rows)
    columns = {measure: at for at, (measure, _) in enumerate(grid.columns)}
    for name, colour in _PERCENTILES.items():
        if name not in columns:
            continue
        found = [(row.figures[columns[name]], at) for at, row in enumerate(grid.rows)]
        points = [(figure, at) for figure, at in found if figure is not None]
        for figure, at in points:
            axes.plot([figure.low, figure.high], [at, at], color=colour, linewidth=2, alpha=0.5)
        axes.scatter(
            [figure.median for figure, _ in points],
            [at for _, at in points],
            color=colour, s=42, label=name, zorder=3,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("ms, logarithmic")
    axes.legend(frameon=False, ncols=3, loc="lower right", bbox_to_anchor=(1, 1))
    return _image(canvas)


def _cpu(grid: Grid) -> str:
    columns = {measure: at for at, (measure, _) in enumerate(grid.columns)}
    rows = [row for row in grid.rows if row.figures[columns["CPU program"]] is not None]
    canvas, axes = _canvas(rows)
    left = [0.0] * len(rows)
    for role, colour in _ROLES.items():
        if (column := columns.get(f"CPU {role}")) is None:
            continue
        medians = [_median(row.figures[column]) for row in rows]
        axes.barh(range(len(rows)), medians, left=left, color=colour, height=0.62, label=role)
        left = [sum(pair) for pair in zip(left, medians, strict=True)]
    axes.set_xlabel("CPU ms per 1,000 tasks")
    axes.legend(frameon=False, ncols=3, loc="lower right", bbox_to_anchor=(1, 1))
    return _image(canvas)


def _lines(series: Sequence[Series]) -> str:
    canvas = Canvas(figsize=(_WIDTH_IN, 2.6), layout="constrained")
    axes = canvas.add_subplot()
    for one in series:
        axes.plot(*zip(*one.points, strict=True), color=_OURS, alpha=0.35 + 0.2 * one.repetition,
                  label=f"repetition {one.repetition + 1}")  # fmt: skip
    axes.set_ylim(bottom=0)
    axes.set_xlabel("s")
    axes.set_ylabel(series[0].unit)
    axes.grid(axis="y", color="#e2e8f0")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.legend(frameon=False, ncols=3, loc="lower right", bbox_to_anchor=(1, 1))
    return _image(canvas)


def _canvas(rows: Sequence[Row]) -> tuple[Canvas, Axes]:
    canvas = Canvas(figsize=(_WIDTH_IN, 0.9 + _ROW_IN * len(rows)), layout="constrained")
    axes = canvas.add_subplot()
    axes.set_yticks(range(len(rows)), [row.contender for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#e2e8f0")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.6g}")
    return canvas, axes


def _median(figure: Figure | None) -> float:
    return 0.0 if figure is None else figure.median


def _colour(contender: str) -> str:
    if contender in (BARE, SAME_PROMISE):
        return _LIMITS
    return _OURS if contender.startswith("fetchlock") else _OTHERS


def _image(canvas: Canvas) -> str:
    buffer = io.BytesIO()
    canvas.savefig(buffer, format="svg", metadata={"Date": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(buffer.getvalue()).decode()}"

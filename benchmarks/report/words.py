"""How numbers are written, on the terminal and on the page alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.figures import Figure
from benchmarks.targets import Measured, Target

DISTURBED = "*"


def number(value: float) -> str:
    """Three digits that mean something, or all of a large number."""
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.2f}"


def figure(found: Figure) -> str:
    """The median, the range, and a star where others used the machine."""
    star = DISTURBED if found.is_disturbed else ""
    if len(found.values) == 1:
        return f"{number(found.median)}{star}"
    return f"{number(found.median)} ({number(found.low)}–{number(found.high)}){star}"


def counts(scale: Mapping[str, Any]) -> str:
    """How many of everything there was."""
    return ", ".join(f"{name.replace('_', ' ')} {_count(value)}" for name, value in scale.items())


def _count(value: object) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{_count(count)} at {at}" for at, count in value.items()) + ")"
    return f"{value:,g}" if isinstance(value, int | float) else str(value)


def measured(found: Measured | None) -> str:
    """Likewise."""
    if found is None:
        return "not measured"
    star = DISTURBED if found.is_disturbed else ""
    if found.low == found.high:
        return f"{number(found.value)}{star}"
    return f"{number(found.value)} ({number(found.low)}–{number(found.high)}){star}"


def verdict(target: Target, found: Measured | None) -> str:
    """Met, or not; by the median."""
    if found is None:
        return "–"
    return "met" if target.is_met(found) else "missed"

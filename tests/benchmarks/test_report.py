"""What people are shown of a run."""

from __future__ import annotations

import io
import re
from html.parser import HTMLParser

import pytest
from rich.console import Console

from benchmarks.contenders import GRAPHILE, HTTP, PGQUEUER
from benchmarks.figures import Absence, Figure, Participant, Run, Series
from benchmarks.report import page, table
from benchmarks.targets import TARGETS
from tests.benchmarks.runs import figure, run

_OURS = f"{HTTP.name}, 500 a request"
_NASTY = "<script src='https://example.org/x.js'>alert(1)</script>[red]&"


class _Page(HTMLParser):
    """Notes the elements, and everything that could fetch something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: set[str] = set()
        self.sources: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href", "srcset")]


@pytest.fixture
def nasty() -> Run:
    """A run in which everything has a name that a page must not take at its word."""
    return run(
        figure([1, 2, 3], contender=_NASTY),
        figure([4, 5, 6], contender=_NASTY, measure="CPU program"),
        figure([0.5], contender=_NASTY, measure="p50", workload=_NASTY),
        participants=[Participant(_NASTY, _NASTY, _NASTY, _NASTY)],
        absences=[Absence("drain", _NASTY, _NASTY), Absence("", _NASTY, _NASTY)],
        series=[Series("drain", _NASTY, "rate", _NASTY, 0, [(0.0, 1.0), (5.0, 2.0)])],
    )


def test_the_page_needs_nothing_else_and_believes_nobody(nasty: Run) -> None:
    text = page.render(nasty)
    seen = _Page(text)
    assert not {"script", "link", "iframe", "object", "base"} & seen.elements
    assert seen.sources, "no pictures"
    assert all(source.startswith("data:image/svg+xml;base64,") for source in seen.sources)
    assert not re.search(r"@import|url\(", text)
    assert text.count("&lt;script src=") >= 7


def test_the_same_run_makes_the_same_page(nasty: Run) -> None:
    assert page.render(nasty) == page.render(nasty)


def test_the_terminal_shows_what_was_measured_and_who_is_missing(nasty: Run) -> None:
    text = _printed(nasty)
    assert text.count(f"without {_NASTY}: {_NASTY}") == 2
    assert "2.00 (1.00–3.00)" in text


def test_targets_are_judged_by_medians_and_never_without_figures() -> None:
    assert _verdicts(run(figure([100], contender=_OURS)))["÷ graphile-worker"] == "–"
    both = [figure([90, 100, 300], contender=_OURS), figure([99, 99, 99], contender=GRAPHILE.name)]
    assert _verdicts(run(*both))["÷ graphile-worker"] == "met"
    both[0] = figure([90, 98, 300], contender=_OURS)
    assert _verdicts(run(*both))["÷ graphile-worker"] == "missed"


def test_a_ratio_is_taken_over_the_best_peer() -> None:
    def bulk(contender: str, rate: float) -> Figure:
        return figure([rate], workload="create-bulk", contender=contender)

    shown = _printed(run(bulk(HTTP.name, 100), bulk(PGQUEUER.name, 50), bulk(GRAPHILE.name, 80)))
    assert re.search(r"fetchlock http +│ +100 +│ +1\.25", shown)
    assert re.search(r"best peer +│ +≥ 1\.00 × │ +1\.25 │ met", shown)


def test_a_repetition_that_others_disturbed_is_marked() -> None:
    assert "100*" in _printed(run(figure([100], other_cpu=0.5)))
    assert "100*" not in _printed(run(figure([100], other_cpu=0.01)))


def test_every_target_is_of_a_workload_that_there_is() -> None:
    from benchmarks.workloads import WORKLOADS

    assert {target.workload for target in TARGETS} <= {workload.name for workload in WORKLOADS}


def _printed(shown: Run) -> str:
    out = io.StringIO()
    table.show(shown, Console(file=out, width=300))
    return out.getvalue()


def _verdicts(shown: Run) -> dict[str, str]:
    return {
        target.what.removeprefix(f"{_OURS} "): verdict
        for target, verdict in zip(TARGETS, _last_column(_printed(shown)), strict=True)
    }


def _last_column(text: str) -> list[str]:
    rows = text[text.index("Targets") :].splitlines()
    return [row.split("│")[-2].strip() for row in rows if row.startswith("│")]

"""The rule by which two runs differ."""

from __future__ import annotations

import io

from hypothesis import assume, given
from hypothesis import strategies as st
from rich.console import Console

from benchmarks.figures import Better
from benchmarks.report.compare import NOISE_MIN, changes, judge, only_in, show, unlike
from tests.benchmarks.runs import MACHINE, figure, run

VALUES = st.lists(st.floats(0.001, 1e6), min_size=1, max_size=5)
BETTER = st.sampled_from(["higher", "lower"])
_OPPOSITE = {"better": "worse", "worse": "better", "same": "same"}


@given(VALUES)
def test_a_run_does_not_differ_from_itself(values: list[float]) -> None:
    assert judge(figure(values), figure(values)) == "same"


@given(VALUES, VALUES, BETTER)
def test_what_is_better_is_worse_the_other_way_round(
    before: list[float], after: list[float], better: Better
) -> None:
    one, other = figure(before, better=better), figure(after, better=better)
    assert judge(other, one) == _OPPOSITE[judge(one, other)]


@given(VALUES, VALUES)
def test_higher_is_better_where_lower_is_worse(before: list[float], after: list[float]) -> None:
    as_rate = judge(figure(before), figure(after))
    as_latency = judge(figure(before, better="lower"), figure(after, better="lower"))
    assert as_latency == _OPPOSITE[as_rate]


@given(VALUES, VALUES)
def test_ranges_that_overlap_cannot_tell(before: list[float], after: list[float]) -> None:
    assume(min(before) <= max(after))
    assume(min(after) <= max(before))
    assert judge(figure(before), figure(after)) == "same"


@given(st.floats(0.01, 1e6), st.floats(1.001, 1 + NOISE_MIN * 0.99))
def test_a_few_percent_are_noise_however_steady(value: float, factor: float) -> None:
    assert judge(figure([value] * 3), figure([value * factor] * 3)) == "same"


@given(st.floats(0.01, 1e6), st.floats(1 + NOISE_MIN * 1.01, 100.0))
def test_more_is_a_change_if_steady(value: float, factor: float) -> None:
    assert judge(figure([value] * 3), figure([value * factor] * 3)) == "better"


def test_a_change_must_exceed_the_wavering() -> None:
    wavering = figure([80, 100, 120])
    assert judge(wavering, figure([121, 122, 123])) == "same"
    assert judge(wavering, figure([150, 151, 152])) == "better"


def test_one_repetition_wavers_as_much_as_nobody_knows() -> None:
    assert judge(figure([100]), figure([125])) == "same"
    assert judge(figure([100]), figure([135])) == "better"


def test_nothing_is_a_change_too() -> None:
    assert judge(figure([0, 0]), figure([0, 0])) == "same"
    assert judge(figure([0, 0], better="lower"), figure([5, 6], better="lower")) != "better"


def test_figures_are_matched_by_what_they_are() -> None:
    ours, theirs = figure([100] * 3), figure([10] * 3, contender="pgqueuer")
    before, after = run(ours, theirs), run(figure([200] * 3), figure([1], measure="p99"))
    assert [(change.after.key, change.verdict) for change in changes(before, after)] == [
        (ours.key, "better")
    ]
    assert only_in(before, after) == [theirs.key]
    assert [key.measure for key in only_in(after, before)] == ["p99"]


def test_another_machine_is_told() -> None:
    other = MACHINE.__class__("another", 4, MACHINE.memory_bytes, "an OS", {"python": "3.13"}, {})
    told = unlike(run(machine=MACHINE), run(machine=other))
    assert [line.split(":")[0] for line in told] == ["CPU", "cores", "database", "versions"]
    assert unlike(run(), run()) == []


def test_it_prints_what_changed_and_what_is_not_alike() -> None:
    out = io.StringIO()
    other = MACHINE.__class__("another", 2, MACHINE.memory_bytes, "an OS", {"python": "3.11"}, {})
    before, after = run(figure([100] * 3)), run(figure([50] * 3), machine=other)
    show(before, after, Console(file=out, width=200))
    assert "a processor → another" in out.getvalue()
    assert "worse" in out.getvalue()
    assert "1 changed beyond noise, 0 did not" in out.getvalue()

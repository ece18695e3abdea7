"""A run as JSON: what is written is what is read."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.figures import (
    OTHER_CPU_MAX,
    Absence,
    Figure,
    Machine,
    NotARun,
    Participant,
    Series,
    read,
    write,
)
from tests.benchmarks.runs import figure, run

FINITE = st.floats(allow_nan=False, allow_infinity=False)
FIGURES = st.builds(Figure, values=st.lists(FINITE), other_cpu=st.lists(FINITE))
SERIES = st.builds(Series, points=st.lists(st.tuples(FINITE, FINITE)))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(FIGURES, max_size=3),
    st.lists(SERIES, max_size=2),
    st.lists(st.builds(Participant), max_size=2),
    st.lists(st.builds(Absence), max_size=2),
    st.builds(Machine),
)
def test_a_run_survives_its_file(
    tmp_path: Path,
    figures: list[Figure],
    series: list[Series],
    participants: list[Participant],
    absences: list[Absence],
    machine: Machine,
) -> None:
    made = run(
        *figures, series=series, participants=participants, absences=absences, machine=machine
    )
    write(made, tmp_path / "run.json")
    again = read(tmp_path / "run.json")
    assert again == made


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    with pytest.raises(NotARun, match="No such file"):
        read(path)
    path.write_text("{}")
    with pytest.raises(NotARun, match="begun_at"):
        read(path)
    write(msgspec.structs.replace(run(), format=2), path)
    with pytest.raises(NotARun, match="format 2"):
        read(path)


def test_a_figure_knows_its_middle_and_who_disturbed_it() -> None:
    quiet, loud = figure([3, 1, 2]), figure([3], other_cpu=OTHER_CPU_MAX + 0.01)
    assert (quiet.low, quiet.median, quiet.high, quiet.is_disturbed) == (1, 2, 3, False)
    assert loud.is_disturbed
    assert run(quiet).find(*quiet.key) is quiet
    assert run(quiet).find("drain", "nobody", "rate") is None

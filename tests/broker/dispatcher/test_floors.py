"""A floor only ever hides for a while what it should not have hidden."""

from __future__ import annotations

import pytest

from broker.dispatcher.floors import Floor


def test_a_scan_starts_where_the_last_one_ended() -> None:
    floor = Floor(0.0)
    assert floor.scan_from(0.0) == 0
    floor.raise_to(10)
    assert floor.scan_from(0.1) == 10
    floor.raise_to(7)
    assert floor.scan_from(0.2) == 10


def test_what_comes_below_it_lowers_it() -> None:
    floor = Floor(0.0)
    floor.raise_to(10)
    floor.lower_to(20)
    assert floor.scan_from(0.1) == 10
    floor.lower_to(4)
    assert floor.scan_from(0.2) == 3


def test_what_came_while_a_scan_ran_is_not_passed() -> None:
    floor = Floor(0.0)
    floor.scan_from(0.0)
    floor.lower_to(5)
    floor.raise_to(10)
    assert floor.scan_from(0.1) == 4
    # The next scan has seen it.
    floor.raise_to(10)
    assert floor.scan_from(0.2) == 10


def test_a_look_beside_a_running_scan_does_not_hide_what_came() -> None:
    floor = Floor(0.0)
    floor.scan_from(0.0)
    floor.lower_to(5)
    assert floor.look_from(0.1) == 0
    floor.raise_to(10)
    assert floor.scan_from(0.2) == 4


def test_about_once_a_second_it_goes_back_to_where_it_was() -> None:
    """What was committed late, by another process and with no wake-up, is found by then."""
    floor = Floor(0.0)
    went_back_to = []
    for tenth in range(1, 100):
        floor.raise_to(tenth * 10)
        start = floor.scan_from(tenth / 10)
        if start < tenth * 10:
            went_back_to.append((tenth, start))
    assert [tenth for tenth, _ in went_back_to] == list(range(10, 100, 10))
    # To where it was a second or two ago: not to the start, which dead rows would make slow.
    assert all(10 <= tenth - start / 10 <= 20 for tenth, start in went_back_to)


def test_a_scan_that_goes_on_does_not_go_back_before_it_ends() -> None:
    floor = Floor(0.0)
    for tenth in range(1, 100):
        assert floor.scan_from(tenth / 10) == tenth - 1
        floor.raise_to(tenth)
        floor.go_on(tenth / 10)
    # It has come to the end: it goes back no further than where the last part began.
    floor.scan_from(10.0)
    floor.raise_to(105)
    assert floor.scan_from(10.5) == 105
    assert floor.scan_from(11.1) == 99


def test_what_somebody_held_is_seen_again() -> None:
    floor = Floor(0.0)
    floor.raise_to(10)
    floor.pass_over(7, goes_on=False)
    assert floor.scan_from(0.1) == 6
    floor.raise_to(10)
    floor.scan_from(1.1)
    floor.raise_to(12)
    floor.scan_from(2.2)
    floor.raise_to(20)
    floor.pass_over(15, goes_on=True)
    floor.pass_over(9, goes_on=True)
    assert floor.scan_from(2.3) == 20
    assert floor.scan_from(3.3) == 8


@pytest.mark.parametrize("step_s", [0.01, 0.5, 5.0])
def test_about_once_a_minute_it_goes_back_to_the_start(step_s: float) -> None:
    floor = Floor(0.0)
    starts = []
    for step in range(1, int(130 / step_s)):
        floor.raise_to(1_000 + step)
        if floor.scan_from(step * step_s) == 0:
            starts.append(round(step * step_s))
    # At the very start there is nothing yet to go back to, so the first second counts, too.
    assert [start for start in starts if start > 5] == pytest.approx([60, 120], abs=6)

"""When to sweep: at the known deadlines, and once a second in any case."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from broker.dispatcher.deadlines import TICK_S, Deadlines

_BUCKET_S = 0.1


def test_without_a_deadline_it_ticks() -> None:
    assert Deadlines().next_in_s(123.0) == TICK_S


def test_a_deadline_comes_before_the_tick() -> None:
    deadlines = Deadlines()
    assert deadlines.expect(10.3)
    assert 0.3 <= deadlines.next_in_s(10.0) <= 0.3 + _BUCKET_S
    assert deadlines.next_in_s(10.5) == 0
    deadlines.forget_past(10.5)
    assert deadlines.next_in_s(10.5) == TICK_S


def test_only_what_moves_the_next_deadline_is_news() -> None:
    deadlines = Deadlines()
    assert deadlines.expect(10.5)
    assert not deadlines.expect(10.9)
    assert not deadlines.expect(10.5)
    assert deadlines.expect(10.1)


@given(st.lists(st.floats(0, 1_000)), st.floats(0, 1_000))
def test_no_deadline_is_slept_through(expected: list[float], now_s: float) -> None:
    deadlines = Deadlines()
    for at_s in expected:
        deadlines.expect(at_s)
    deadlines.forget_past(now_s)
    wakes_at_s = now_s + deadlines.next_in_s(now_s)
    ahead = [at_s for at_s in expected if at_s > now_s]
    if ahead:
        # Dealt with together with those of the same tenth of a second, never before its time.
        assert wakes_at_s <= min(ahead) + _BUCKET_S + 1e-6
    assert wakes_at_s <= now_s + TICK_S


@given(st.lists(st.floats(0, 10)))
def test_deadlines_of_a_tenth_of_a_second_are_one(expected: list[float]) -> None:
    deadlines = Deadlines()
    for at_s in expected:
        deadlines.expect(at_s)
    looks = 0
    now_s = 0.0
    while now_s < 11:
        deadlines.forget_past(now_s)
        now_s += deadlines.next_in_s(now_s)
        looks += 1
    assert looks <= 11 / _BUCKET_S + 12

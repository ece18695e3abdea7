"""How news are collected and leave, by a clock that the test holds."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from worker_sdk import News
from worker_sdk._news import LINES_BYTES_MAX, Refusal, checkpoint_news, news_bytes_bound
from worker_sdk._notes import LINES_KEPT_MAX, NEWS_S, REFUSED_LINES_WAIT_S, Notes

TOO_MANY = Refusal("logs", "too_many_requests", "1000 lines a minute")
TOO_LARGE = Refusal("logs", "too_large", "10000 lines")


def lines(count: int, *, start: int = 0) -> list[str]:
    return [f"line {number}" for number in range(start, start + count)]


def logged(*said: str) -> News:
    return News(logs=said)


def told(notes: Notes, now_s: float = 0.0, *refused: Refusal) -> News | None:
    """The next parcel, which arrives."""
    parcel = notes.parcel(now_s)
    if parcel is not None:
        notes.settle(refused, now_s)
    return parcel


def test_nothing_said_is_nothing_told() -> None:
    notes = Notes()
    assert not notes.is_waiting
    assert notes.parcel(0) is None
    assert notes.due_s == math.inf


def test_latest_counts_and_lines_add_up() -> None:
    notes = Notes()
    for news in (
        News(percent=10, subtext="ten"),
        logged("a"),
        News(percent=20),
        checkpoint_news({"page": 1}),
        logged("b", "c"),
        checkpoint_news({"page": 2}),
    ):
        notes.add(news, 0)
    parcel = told(notes)
    assert parcel is not None
    assert (parcel.sequence, parcel.percent, parcel.subtext) == (1, 20, "ten")
    assert parcel.logs == ["a", "b", "c"]
    assert bytes(parcel.checkpoint) == b'{"page":2}'
    assert not notes.is_waiting


def test_news_are_due_a_second_after_the_first_of_them() -> None:
    notes = Notes()
    notes.add(News(percent=1), 5.0)
    notes.add(News(percent=2), 5.9)
    assert notes.due_s == 5.0 + NEWS_S
    told(notes, 6.0)
    assert notes.due_s == math.inf
    notes.add(News(percent=3), 7.0)
    assert notes.due_s == 7.0 + NEWS_S


def test_parcel_that_may_not_have_arrived_is_told_again_unchanged() -> None:
    notes = Notes()
    notes.add(News(percent=1), 0)
    first = notes.parcel(0)
    notes.add(News(percent=2), 0)
    notes.add(logged("a"), 0)
    assert notes.parcel(9) is first
    notes.settle((), 9)
    assert notes.is_waiting
    second = told(notes, 9)
    assert second is not None
    assert (second.sequence, second.percent, second.logs) == (2, 2, ["a"])


def test_parcel_under_way_stays_due() -> None:
    notes = Notes()
    notes.add(News(percent=1), 0)
    notes.parcel(1)
    notes.add(News(percent=2), 50)
    assert notes.due_s == NEWS_S


def test_news_that_came_meanwhile_are_due_after_their_own_second() -> None:
    notes = Notes()
    notes.add(News(percent=1), 0)
    notes.parcel(1)
    notes.add(News(percent=2), 1.5)
    notes.settle((), 2)
    assert notes.due_s == 1.5 + NEWS_S


def test_more_lines_than_one_heartbeat_takes_go_with_the_next() -> None:
    notes = Notes()
    notes.add(logged(*lines(2_500)), 0)
    parcels = [told(notes, 1) for _ in range(3)]
    assert [len(parcel.logs or ()) for parcel in parcels if parcel] == [1000, 1000, 500]
    assert [parcel.sequence for parcel in parcels if parcel] == [1, 2, 3]
    assert not notes.is_waiting


def test_lines_of_one_parcel_have_a_bound_in_bytes() -> None:
    notes = Notes()
    notes.add(logged(*["\x1b" * 4096] * 100), 0)
    count = 0
    while parcel := told(notes, 1):
        assert news_bytes_bound(parcel) <= LINES_BYTES_MAX + 500
        count += len(parcel.logs or ())
    assert count == 100


def test_oldest_lines_are_dropped_with_one_warning() -> None:
    notes = Notes()
    assert not notes.add(logged(*lines(LINES_KEPT_MAX)), 0)
    assert notes.add(logged("one too many"), 0)
    assert not notes.add(logged("and another"), 0)
    parcel = told(notes)
    assert parcel is not None
    assert parcel.logs is not None
    assert parcel.logs[0] == "line 2"


def test_lines_that_come_too_fast_are_told_later_and_in_order() -> None:
    notes = Notes()
    notes.add(logged("a"), 0)
    assert notes.parcel(1)
    notes.add(logged("b"), 1)
    assert notes.settle([TOO_MANY], 2) == []
    assert notes.is_waiting
    assert notes.due_s == 2 + REFUSED_LINES_WAIT_S
    assert notes.parcel(11.9) is None
    parcel = told(notes, 12)
    assert parcel is not None
    assert (parcel.sequence, parcel.logs) == (2, ["a", "b"])


def test_other_news_do_not_wait_for_lines_that_came_too_fast() -> None:
    notes = Notes()
    notes.add(logged("a"), 0)
    told(notes, 1, TOO_MANY)
    notes.add(News(percent=5), 2)
    assert notes.due_s <= 2 + NEWS_S
    parcel = told(notes, 3)
    assert parcel is not None
    assert (parcel.percent, parcel.logs) == (5, None)
    assert notes.due_s == 1 + REFUSED_LINES_WAIT_S


def test_lines_put_back_do_not_exceed_what_is_kept() -> None:
    notes = Notes()
    notes.add(logged("first"), 0)
    notes.parcel(1)
    notes.add(logged(*lines(LINES_KEPT_MAX)), 1)
    notes.settle([TOO_MANY], 2)
    parcel = notes.parcel(99)
    assert parcel is not None
    assert parcel.logs is not None
    assert parcel.logs[0] == "line 0"


def test_what_is_too_large_is_dropped_with_one_warning() -> None:
    notes = Notes()
    for warned in ([TOO_LARGE], []):
        notes.add(logged("a"), 0)
        notes.parcel(1)
        assert notes.settle([TOO_LARGE], 1) == warned
        assert not notes.is_waiting
    notes.add(checkpoint_news(1), 0)
    notes.parcel(1)
    too_large = Refusal("checkpoint", "too_large")
    assert notes.settle([too_large], 1) == [too_large]


def test_last_news_are_due_at_once_and_do_not_come_back() -> None:
    notes = Notes()
    notes.add(logged(*lines(3_000)), 0)
    told(notes, 1, TOO_MANY)
    notes.hurry()
    assert notes.due_s == -math.inf
    assert notes.parcel(1)
    # Told once more, though it is early; but refused once more they are lost, all of them.
    assert notes.settle([TOO_MANY], 1) == [TOO_MANY]
    assert not notes.is_waiting


def test_last_news_stay_due_until_all_are_told() -> None:
    notes = Notes()
    notes.add(logged(*lines(1_500)), 0)
    notes.hurry()
    told(notes)
    assert notes.due_s == -math.inf
    told(notes)
    assert not notes.is_waiting


def test_forgotten_parcel_is_not_told_again() -> None:
    notes = Notes()
    notes.add(News(percent=1), 0)
    notes.parcel(1)
    notes.forget()
    assert not notes.is_waiting
    notes.add(News(percent=2), 3)
    parcel = told(notes, 4)
    assert parcel is not None
    assert (parcel.sequence, parcel.percent) == (2, 2)


@given(st.lists(st.integers(0, 30) | st.sampled_from(["told", "lost", "busy"]), max_size=60))
def test_every_line_arrives_once_and_in_order(moves: list[int | str]) -> None:
    notes, arrived, said = Notes(), list[str](), 0
    numbers: list[int] = []

    def tell(refused: tuple[Refusal, ...]) -> None:
        if parcel := notes.parcel(1e9):
            assert parcel.sequence is not None
            numbers.append(parcel.sequence)
            if not refused:
                arrived.extend(parcel.logs or ())
            notes.settle(refused, -1e9)

    for move in moves:
        if isinstance(move, int):
            notes.add(logged(*lines(move, start=said)), 0)
            said += move
        elif move == "lost":
            notes.parcel(1e9)
        else:
            tell((TOO_MANY,) if move == "busy" else ())
    while notes.is_waiting:
        tell(())
    assert arrived == lines(said)
    assert numbers == sorted(set(numbers))

"""What of all news is told now, by a clock that the test holds."""

from __future__ import annotations

import time

from worker_sdk import News, Task
from worker_sdk._lease import Lease
from worker_sdk._rhythm import NEWS_BYTES_MAX, Rhythm

DURATION_MS = 30_000


def rhythm_of(*names: str) -> tuple[Rhythm, list[Lease]]:
    rhythm = Rhythm(DURATION_MS, 0)
    leases = [Lease(Task(id=name, topic="t"), DURATION_MS, time.monotonic()) for name in names]
    rhythm.leases = {lease.task: lease for lease in leases}
    return rhythm, leases


def ids(leases: object) -> list[str]:
    assert isinstance(leases, list | dict)
    return [lease.task.id for lease in leases]


def test_leases_are_due_every_third() -> None:
    rhythm, _ = rhythm_of("a")
    assert rhythm.due_s() == 10


def test_news_are_due_after_a_second_and_not_while_it_is_quiet() -> None:
    rhythm, [a] = rhythm_of("a")
    rhythm.note(a, News(percent=1), 3)
    assert rhythm.due_s() == 4
    rhythm.quiet_until_s = 7
    assert rhythm.due_s() == 7


def test_once_news_are_due_all_are_told() -> None:
    rhythm, [a, b, _] = rhythm_of("a", "b", "c")
    rhythm.note(a, News(percent=1), 0)
    rhythm.note(b, News(percent=1), 0.9)
    assert rhythm.due_leases(0.99) == []
    assert ids(rhythm.due_leases(1)) == ["a", "b"]


def test_news_of_an_ended_handler_do_not_take_others_along() -> None:
    rhythm, [a, b] = rhythm_of("a", "b")
    rhythm.note(a, News(percent=1), 0)
    rhythm.note(b, News(percent=1), 0)
    b.flushed = lambda: None
    rhythm.noted[b].hurry()
    assert rhythm.due_s() < 0
    assert ids(rhythm.due_leases(0.5)) == ["b"]


def test_first_are_told_those_that_wait_longest_as_many_as_fit() -> None:
    rhythm, leases = rhythm_of(*"abcdef")
    for number, lease in enumerate(reversed(leases)):
        rhythm.note(lease, News(logs=["x" * 4096] * 40), number)
    told = rhythm.parcels_of(leases, 99)
    assert ids(told) == ["f", "e", "d"]
    for lease in told:
        rhythm.settle(lease, (), 99)
    assert ids(rhythm.parcels_of(leases, 99)) == ["c", "b", "a"]


def test_one_that_is_too_large_for_the_room_is_told_alone() -> None:
    rhythm, leases = rhythm_of("a", "b")
    for lease in leases:
        rhythm.note(lease, News(logs=["x" * 4096]), 0)
    rhythm.news_bytes_max = 1
    assert ids(rhythm.parcels_of(leases, 99)) == ["a"]


def test_what_is_told_together_shrinks_by_halves_and_grows_again() -> None:
    rhythm, _ = rhythm_of()
    parcels = [News(logs=["x" * 1000])] * 4
    rhythm.make_smaller(parcels)
    smaller = rhythm.news_bytes_max
    assert smaller < NEWS_BYTES_MAX / 100
    rhythm.make_smaller(parcels)
    assert rhythm.news_bytes_max == smaller // 2
    for _ in range(20):
        rhythm.grow()
    assert rhythm.news_bytes_max == NEWS_BYTES_MAX


def test_neither_the_ended_nor_the_cancelled_are_renewed() -> None:
    rhythm, [_, ended, cancelled, stopping] = rhythm_of("a", "ended", "cancelled", "stopping")
    ended.flushed = lambda: None
    cancelled.cancel()
    stopping.task.stop_requested.set("worker_stopping")
    assert ids(rhythm.renewed()) == ["a", "stopping"]


def test_discarded_lease_has_no_news() -> None:
    rhythm, [a] = rhythm_of("a")
    rhythm.note(a, News(percent=1), 0)
    assert rhythm.discard(a)
    assert not rhythm.discard(a)
    assert (rhythm.leases, rhythm.noted) == ({}, {})


def test_over_are_those_whose_time_has_come() -> None:
    rhythm, [a, b] = rhythm_of("a", "b")
    a.trusted_until_s = 5
    b.trusted_until_s = 6
    assert rhythm.pop_over(rhythm.leases.values(), 5) == [a]
    assert list(rhythm.leases.values()) == [b]

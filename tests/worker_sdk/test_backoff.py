from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from worker_sdk._backoff import BASE_S, CAP_S, full_jitter_s, pause_s
from worker_sdk._errors import Unavailable


@given(st.integers(1, 10**9))
def test_jitter_stays_within_its_doubling_bound(failures: int) -> None:
    assert 0 <= full_jitter_s(failures) <= min(CAP_S, BASE_S * 2.0 ** min(failures, 32))


def test_jitter_uses_the_whole_range() -> None:
    waits = [full_jitter_s(30) for _ in range(1000)]
    assert min(waits) < CAP_S / 10
    assert max(waits) > CAP_S * 9 / 10


def test_retry_after_is_waited_out_before_the_jitter() -> None:
    assert all(7 <= pause_s(1, Unavailable("", retry_after_s=7)) <= 7 + CAP_S for _ in range(100))

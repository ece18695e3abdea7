"""The arithmetic of trust. Leases are aged, the clock is the real one.

What the keeper does with a broker is in test_session.py.
"""

from __future__ import annotations

import asyncio
import time

import anyio
import anyio.to_thread
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker_sdk import Task
from worker_sdk._lease import Lease, Pulse, trusted_s


def lease(*, lock_duration_ms: int = 30_000, age_s: float = 0.0) -> Lease:
    return Lease(Task(id="1", topic="t"), lock_duration_ms, time.monotonic() - age_s)


@given(st.integers(1_000, 86_400_000))
def test_trust_ends_before_the_lock_and_not_much_before(lock_duration_ms: int) -> None:
    duration_s = lock_duration_ms / 1000
    assert duration_s * 0.95 - 1e-6 <= trusted_s(lock_duration_ms) < duration_s
    assert duration_s - trusted_s(lock_duration_ms) <= 1.0 + 1e-6


@pytest.mark.parametrize(("age_s", "is_over"), [(0, False), (28, False), (29.5, True), (99, True)])
async def test_lease_is_over_by_its_age(age_s: float, is_over: bool) -> None:
    assert lease(age_s=age_s).is_over is is_over


async def test_renewal_counts_from_when_it_was_asked_for() -> None:
    held = lease(age_s=40)
    held.renew(time.monotonic() - 10)
    assert 18 < held.remaining_s <= 19


@pytest.mark.parametrize("thread", ["its own", "another"])
async def test_lost_lease_is_over_and_stops_its_attempt(thread: str) -> None:
    held = lease()
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        held.attempt = group.create_task(anyio.sleep_forever())
        if thread == "another":
            await anyio.to_thread.run_sync(held.lose)
        else:
            held.lose()
    assert held.attempt.cancelled()
    assert held.is_over
    assert held.task.cancelled


async def test_answer_is_dated_by_the_request_when_the_loop_was_awake_before() -> None:
    pulse = Pulse(30_000)
    asked_s = time.monotonic()
    assert pulse.received_after(asked_s) == asked_s


async def test_answer_to_a_long_poll_is_dated_by_the_pulse() -> None:
    pulse, asked_s = Pulse(1_000), time.monotonic()
    with anyio.move_on_after(0.3):
        await pulse.beat()
    assert asked_s < pulse.received_after(asked_s) <= time.monotonic()


def test_answer_found_after_a_stall_is_dated_before_it() -> None:
    pulse, asked_s = Pulse(1_000), time.monotonic()
    pulse.note()
    pulse.note()
    stalled_s = time.monotonic()
    # Here the loop stands still, and the answer comes in. Then the pulse may be first to go on.
    pulse.note()
    assert asked_s <= pulse.received_after(asked_s) <= stalled_s


async def test_cancelled_lease_stops_its_attempt_and_lasts() -> None:
    held = lease()
    end_s = held.trusted_until_s
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        held.attempt = group.create_task(anyio.sleep_forever())
        assert held.cancel()
    assert held.attempt.cancelled()
    assert (held.task.stop_reason, held.is_renewed) == ("cancel_requested", False)
    assert held.trusted_until_s == end_s


@pytest.mark.parametrize("stops", [("cancel", "lose"), ("lose", "lose"), ("lose", "cancel")])
async def test_handler_is_cancelled_once_so_that_it_can_clean_up(stops: tuple[str, str]) -> None:
    held, cancellations = lease(), 0

    async def handler() -> None:
        nonlocal cancellations
        for _ in range(2):
            try:
                with anyio.move_on_after(0.05):
                    await anyio.sleep_forever()
            except asyncio.CancelledError:
                cancellations += 1

    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        held.attempt = group.create_task(handler())
        await asyncio.sleep(0)
        for stop in stops:
            getattr(held, stop)()
    assert cancellations == 1
    assert held.task.stop_reason == ("cancel_requested" if stops[0] == "cancel" else "lock_lost")

from __future__ import annotations

import time

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker_sdk import Task
from worker_sdk._lease import Lease
from worker_sdk._slots import Slots


def lease() -> Lease:
    return Lease(Task(id="1", topic="t"), 30_000, time.monotonic())


async def test_taken_slot_is_not_free_until_done() -> None:
    slots, held = Slots(2), lease()
    slots.take(held)
    assert slots.free == 1
    with slots.until_done(held):
        assert slots.held == {held}
    assert slots.free == 2


async def test_work_cut_off_is_still_held() -> None:
    slots, held = Slots(1), lease()
    slots.take(held)
    with pytest.raises(KeyboardInterrupt), slots.until_done(held):
        raise KeyboardInterrupt
    assert slots.held == {held}


async def test_waiting_ends_as_soon_as_one_is_free() -> None:
    slots, held, counts = Slots(1), lease(), []
    slots.take(held)

    async def wait() -> None:
        counts.append(await slots.wait_free())

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        assert counts == []
        with slots.until_done(held):
            pass
    assert counts == [1]


async def test_idle_means_no_slot_is_taken() -> None:
    slots, one, other = Slots(2), lease(), lease()
    slots.take(one)
    slots.take(other)
    async with anyio.create_task_group() as group:
        group.start_soon(slots.wait_idle)
        await anyio.wait_all_tasks_blocked()
        for held in (one, other):
            with slots.until_done(held):
                pass
    assert slots.free == 2


@given(st.integers(1, 20), st.lists(st.booleans(), max_size=100))
def test_free_and_held_always_add_up(size: int, takes: list[bool]) -> None:
    async def play() -> None:
        slots, taken = Slots(size), list[Lease]()
        for take in takes:
            if take and slots.free:
                taken.append(lease())
                slots.take(taken[-1])
            elif taken:
                with slots.until_done(taken.pop(0)):
                    pass
            assert slots.held == set(taken)
            assert slots.free == size - len(taken)

    anyio.run(play)

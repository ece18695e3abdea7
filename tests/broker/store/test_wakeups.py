"""Hints between processes: sent together, heard by the others only, and lost without harm."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import asyncpg
import pytest

from broker.store import Wake, Wakeups
from tests.eventually import eventually

Connection = asyncpg.Connection


class Ear:
    """A process that listens."""

    def __init__(self, database_url: str) -> None:
        self.wakeups = Wakeups(database_url)
        self.heard: list[Wake] = []
        self.times_heard = 0
        self.times_connected = 0

    def hear(self, wakes: list[Wake]) -> None:
        self.heard += wakes
        self.times_heard += 1

    def connect(self) -> None:
        self.times_connected += 1

    async def run(self) -> None:
        await self.wakeups.run(self.hear, self.connect)

    async def listens(self) -> bool:
        return self.wakeups.is_listening


@asynccontextmanager
async def listening(*ears: Ear) -> AsyncIterator[None]:
    async with anyio.create_task_group() as group:
        for ear in ears:
            group.start_soon(ear.run)
        for ear in ears:
            await eventually(ear.listens)
        yield
        group.cancel_scope.cancel()


@pytest.fixture
def ears(database_url: str) -> tuple[Ear, Ear]:
    return Ear(database_url), Ear(database_url)


async def test_the_others_hear_and_the_sender_does_not(ears: tuple[Ear, Ear]) -> None:
    one, other = ears
    async with listening(one, other):
        one.wakeups.send([Wake(3, 17, returned=False), Wake(4, 2, returned=True)])

        async def is_heard() -> bool:
            return len(other.heard) == 2

        await eventually(is_heard)
        other.wakeups.send([Wake(5, 1, returned=False)])

        async def is_answered() -> bool:
            return bool(one.heard)

        await eventually(is_answered)
    assert other.heard == [Wake(3, 17, False), Wake(4, 2, True)]
    assert one.heard == [Wake(5, 1, False)]
    assert one.times_connected == other.times_connected == 1


async def test_many_at_once_travel_together_with_the_lowest_position(
    ears: tuple[Ear, Ear],
) -> None:
    one, other = ears
    async with listening(one, other):
        for position in range(1_000, 0, -1):
            one.wakeups.send([Wake(1, position, returned=False), Wake(1, 5, returned=True)])

        async def is_heard() -> bool:
            return bool(other.heard)

        await eventually(is_heard)
    assert other.heard == [Wake(1, 1, False), Wake(1, 5, True)]
    assert other.times_heard == 1


async def test_more_than_a_payload_can_hold_are_several(ears: tuple[Ear, Ear]) -> None:
    one, other = ears
    sent = {Wake(lane_id, 2**62 + lane_id, returned=False) for lane_id in range(2_000)}
    async with listening(one, other):
        one.wakeups.send(sent)

        async def is_heard() -> bool:
            return len(other.heard) == len(sent)

        await eventually(is_heard)
    assert set(other.heard) == sent
    assert 5 < other.times_heard < 30


async def test_a_broken_connection_is_made_again_and_told(
    ears: tuple[Ear, Ear], connection: Connection
) -> None:
    one, other = ears
    async with listening(one, other):
        await connection.execute(
            """
            SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
            WHERE application_name = 'fetchlock wake-ups' AND datname = current_database()
            """
        )

        async def is_back() -> bool:
            return one.times_connected == other.times_connected == 2

        await eventually(is_back)
        one.wakeups.send([Wake(1, 1, returned=False)])

        async def is_heard() -> bool:
            return bool(other.heard)

        await eventually(is_heard)


async def test_without_a_connection_nothing_is_kept(ears: tuple[Ear, Ear]) -> None:
    one, _ = ears
    one.wakeups.send([Wake(1, 1, returned=False)])
    assert not one.wakeups._unsent


async def test_what_others_say_on_the_channel_is_passed_over(
    ears: tuple[Ear, Ear], connection: Connection
) -> None:
    one, other = ears
    async with listening(one, other):
        for payload in ("", "x", "x 1:2", "x 1:2:f:3", "x a:b:r", "x 1:2:f,", "x ,"):
            await connection.execute("SELECT pg_notify('fetchlock_wake', $1)", payload)
        one.wakeups.send([Wake(1, 1, returned=False)])

        async def is_heard() -> bool:
            return bool(other.heard)

        await eventually(is_heard)
    assert other.heard == [Wake(1, 1, False)]

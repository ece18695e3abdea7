"""Two brokers on one database: what comes in at one is taken at the other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Final

import anyio
import pytest

from tests.acceptance.scene import metric, parked_polls
from tests.eventually import eventually
from tests.processes import BrokerProcess
from worker_sdk import Client, NewTask, Subscription, Task

pytestmark = pytest.mark.acceptance

ROUNDS: Final = 20
POLL_MS: Final = 60_000


@pytest.fixture
def two_brokers(database_url: str, request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """Their base URLs. A parameter says whether they NOTIFY each other."""
    with ExitStack() as stack:
        one, two = (
            stack.enter_context(BrokerProcess(database_url, notify=request.param)) for _ in range(2)
        )
        yield one.base_url, two.base_url


@pytest.mark.parametrize("two_brokers", ["true"], indirect=True)
async def test_notify_wakes_polls_of_another_broker(two_brokers: tuple[str, str]) -> None:
    for _ in range(ROUNDS):
        # On a slow machine a second look may come first by chance, but hardly every time.
        if await _looks_until_handed_over(two_brokers) == 0:
            return
    pytest.fail(f"{ROUNDS} times it was found only by looking again")


@pytest.mark.parametrize("two_brokers", ["false"], indirect=True)
async def test_second_look_finds_it_without_notify(two_brokers: tuple[str, str]) -> None:
    # The first time the other broker has yet to learn that there is such a topic.
    for _ in range(2):
        assert await _looks_until_handed_over(two_brokers) > 0


async def _looks_until_handed_over(brokers: tuple[str, str]) -> float:
    """A poll parked at one broker gets the task that is created at the other, after so many looks.

    A second look is what a broker does once a second on its own account.
    """
    async with Client(brokers[0]) as taker, Client(brokers[1]) as giver:
        taken: list[Task] = []
        async with anyio.create_task_group() as group:
            group.start_soon(_take, taker, taken)
            await eventually(lambda: parked_polls(brokers[0]))
            looks_before = await _second_looks(brokers[0])
            created = await giver.create(NewTask("handover"))
        looks = await _second_looks(brokers[0]) - looks_before
        assert [task.id for task in taken] == [created.id]
        await giver.complete(taken[0])
        return looks


async def _take(client: Client, taken: list[Task]) -> None:
    taken += await client.fetch_and_lock(
        "taker", [Subscription("handover")], request_timeout_ms=POLL_MS
    )


async def _second_looks(base_url: str) -> float:
    return await metric(base_url, "fetchlock_db_query_seconds_count", query="ready_lanes")

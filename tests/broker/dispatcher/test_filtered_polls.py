"""Long polls that wish for more than a lane tells: by a business key, by variables, the newest.

They look at tasks that are not theirs, so what is tested besides is how often.
"""

from __future__ import annotations

from functools import partial
from typing import Final

import anyio
import asyncpg
import pytest

from broker.core import Core
from broker.dispatcher import Order, Subscription
from broker.dispatcher.claims import LOOKED_AT_MAX
from tests.broker.conftest import Statements
from tests.broker.dispatcher.polls import Polls, create, listening, parked
from tests.eventually import eventually
from tests.factories import decoded, held, poll, request, subscribe

Connection = asyncpg.Connection

FILTERED: Final = "fetch_and_lock filtered"
X: Final = subscribe(business_key="x")

_WITH_X: Final = {"businessKey": "x", "variables": {"a": 1}}
_WISHES: Final = [X, subscribe(any_variables='[["z",0],["a",1]]')]


async def fill(core: Core, tasks: int) -> None:
    """Tasks that nobody here wishes for."""
    for begin in range(0, tasks, 1_000):
        count = min(1_000, tasks - begin)
        others = ({"businessKey": f"{begin}-{number}"} for number in range(count))
        await create(core, *others)


async def ids(core: Core, tasks_max: int = 1, *, wish: tuple[Subscription, ...] = X) -> list[str]:
    """What a poll that does not wait brings."""
    delivery = await poll(core.dispatcher, tasks_max, timeout_ms=0, subscriptions=wish)
    return [task["id"] for task in decoded(delivery.body)]


async def settled(statements: Statements, core: Core) -> int:
    """How many filtered claims there were, once there are no more for some ticks."""

    async def is_quiet() -> bool:
        calls = await statements.calls()
        return calls.get("release_due", 0) >= 3

    await statements.forget()
    await eventually(is_quiet)
    return (await statements.calls()).get(FILTERED, 0)


# Behind others ----------------------------------------------------------------


@pytest.mark.parametrize("wish", _WISHES, ids=["business key", "variables"])
async def test_one_among_10_000_others_is_found(
    core: Core, statements: Statements, wish: tuple[Subscription, ...]
) -> None:
    await fill(core, 10_000)
    created = await create(core, _WITH_X)
    await statements.forget()
    assert await ids(core, wish=wish) == created
    # A second may pass meanwhile, after which a scan goes back for once.
    assert (await statements.calls())[FILTERED] <= 2 * (10_000 // LOOKED_AT_MAX + 1)


async def test_who_does_not_park_is_told_that_there_is_none(
    core: Core, statements: Statements
) -> None:
    await fill(core, LOOKED_AT_MAX + 1)
    await statements.forget()
    assert await ids(core) == []
    assert (await statements.calls())[FILTERED] in (2, 3, 4)


async def test_the_next_poll_goes_on_where_the_last_one_ended(
    core: Core, statements: Statements
) -> None:
    await fill(core, 3 * LOOKED_AT_MAX)
    assert await ids(core) == []
    await statements.forget()
    assert await ids(core) == []
    created = await create(core, _WITH_X)
    assert await ids(core) == created
    # Each would be four from the start. (A second may pass meanwhile: one goes back for once.)
    assert (await statements.calls())[FILTERED] <= 5


# Waiting ----------------------------------------------------------------------


@pytest.mark.parametrize("wish", _WISHES, ids=["business key", "variables"])
async def test_a_task_wakes_a_filtered_poll_at_another_broker(
    only_woken: None, core: Core, other_core: Core, wish: tuple[Subscription, ...]
) -> None:
    await fill(core, 10)
    await other_core.dispatcher._learn_lanes()
    await listening(core, other_core)
    polls = Polls()
    async with anyio.create_task_group() as group:
        group.start_soon(polls.run, other_core, "w1", 1, wish)
        await parked(other_core, 1)
        await fill(core, 10)
        created = await create(core, _WITH_X)
    assert polls.ids == created


async def test_a_task_that_comes_back_wakes_a_filtered_poll(only_woken: None, core: Core) -> None:
    created = await create(core, _WITH_X, {}, {})
    [task] = decoded((await poll(core.dispatcher, subscriptions=X)).body)
    polls = Polls()
    async with anyio.create_task_group() as group:
        group.start_soon(polls.run, core, "w1", 1, X)
        await parked(core, 1)
        await core.unlock(request("w1", held(task)))
    assert polls.ids == created[:1]


async def test_without_news_the_second_look_finds_it(
    core: Core, connection: Connection, statements: Statements
) -> None:
    """Also below what was looked at: its transaction took long."""
    late, _ = await create(core, {"delayMs": 3_600_000} | _WITH_X, {})
    polls = Polls()
    async with anyio.create_task_group() as group:
        group.start_soon(polls.run, core, "w1", 1, X)
        await parked(core, 1)
        await connection.execute(
            "UPDATE fetchlock.open_task SET state = 'ready', returned = false WHERE id = $1", late
        )
    assert polls.ids == [late]


async def test_what_somebody_held_without_taking_it_is_found(
    core: Core, connection: Connection
) -> None:
    """Nobody tells that it was let go of."""
    created = await create(core, *[_WITH_X] * 3)
    polls = Polls()
    async with anyio.create_task_group() as group:
        async with connection.transaction():
            await connection.execute(
                "SELECT FROM fetchlock.open_task WHERE id = $1 FOR UPDATE", created[0]
            )
            assert await ids(core, 3, wish=X) == created[1:]
            group.start_soon(polls.run, core, "w1", 1, X)
            await eventually(partial(_is_parked, core))
        with anyio.fail_after(10):
            await eventually(partial(_is_parked, core, 0))
    assert polls.ids == created[:1]


async def _is_parked(core: Core, polls: int = 1) -> bool:
    return len(core.dispatcher._waiters) == polls


async def test_a_herd_of_filtered_polls_leaves_the_others_their_share(
    core: Core, statements: Statements
) -> None:
    await fill(core, 100)
    async with anyio.create_task_group() as group:
        for number in range(200):
            wish = subscribe(business_key=f"none-{number}")
            group.start_soon(partial(poll, core.dispatcher, timeout_ms=60_000, subscriptions=wish))
        await eventually(partial(_is_parked, core, 200))
        await statements.forget()
        for _ in range(20):
            core.dispatcher._look_everywhere()
            assert (await poll(core.dispatcher)).tasks == 1
        # It would be some 200 for each, and a few come before and behind.
        assert (await statements.calls())[FILTERED] < 1_000
        core.begin_shutdown()


async def test_tasks_of_others_leave_it_parked_at_rest(core: Core, statements: Statements) -> None:
    await fill(core, LOOKED_AT_MAX + 1)
    async with anyio.create_task_group() as group:
        group.start_soon(partial(poll, core.dispatcher, timeout_ms=60_000, subscriptions=X))
        await parked(core, 1)
        await fill(core, 10)
        await parked(core, 1)
        # What came last is looked at once more, as for everybody.
        assert await settled(statements, core) <= 4
        assert await settled(statements, core) <= 2
        assert len(core.dispatcher._waiters) == 1
        core.begin_shutdown()


async def test_a_new_task_costs_a_parked_filtered_poll_one_statement(
    only_woken: None, core: Core, statements: Statements
) -> None:
    await fill(core, 10)
    async with anyio.create_task_group() as group:
        group.start_soon(partial(poll, core.dispatcher, timeout_ms=60_000, subscriptions=X))
        await parked(core, 1)
        await statements.forget()
        for _ in range(5):
            await create(core, {})
            await parked(core, 1)
        assert (await statements.calls())[FILTERED] in range(5, 8)
        core.begin_shutdown()


# Beside others ----------------------------------------------------------------


async def test_a_filtered_poll_does_not_hold_up_the_others(only_woken: None, core: Core) -> None:
    """It came first and is looked for again with each new task."""
    await fill(core, 3 * LOOKED_AT_MAX)
    async with anyio.create_task_group() as group:
        group.start_soon(partial(poll, core.dispatcher, timeout_ms=60_000, subscriptions=X))
        with anyio.fail_after(20):
            for _ in range(50):
                assert (await poll(core.dispatcher, 10)).tasks == 10
                await fill(core, 10)
        core.begin_shutdown()


async def test_the_others_do_not_hold_up_a_filtered_poll(core: Core) -> None:
    await fill(core, 2 * LOOKED_AT_MAX)
    created = await create(core, _WITH_X)
    await fill(core, 1_000)
    brought: list[str] = []

    async def drain() -> None:
        while not brought:
            assert (await poll(core.dispatcher, 10)).tasks

    async def wait() -> None:
        delivery = await poll(core.dispatcher, subscriptions=X)
        brought.extend(task["id"] for task in decoded(delivery.body))

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(drain)
        group.start_soon(wait)
    assert brought == created


async def test_what_a_filtered_poll_leaves_the_others_find(only_woken: None, core: Core) -> None:
    """That there is nothing for one says nothing to the others."""
    created = await create(core, {}, {"businessKey": "y"})
    async with anyio.create_task_group() as group:
        group.start_soon(partial(poll, core.dispatcher, timeout_ms=60_000, subscriptions=X))
        await parked(core, 1)
        for wish, expected in ((subscribe(business_key="y"), created[1:]), (None, created[:1])):
            delivery = await poll(core.dispatcher, 5, subscriptions=wish)
            assert [task["id"] for task in decoded(delivery.body)] == expected
        core.begin_shutdown()


async def test_of_two_that_wait_the_first_is_served(only_woken: None, core: Core) -> None:
    await create(core, {})
    await poll(core.dispatcher)
    for wishes in ((X, None), (None, X)):
        polls = Polls()
        async with anyio.create_task_group() as group:
            for place, wish in enumerate(wishes):
                group.start_soon(polls.run, core, f"w{place}", 1, wish)
                await parked(core, place + 1)
            await create(core, _WITH_X)
            await parked(core, 1)
            await anyio.wait_all_tasks_blocked()
            assert [worker_id for worker_id, _ in polls.deliveries] == ["w0"]
            await create(core, _WITH_X)


@pytest.mark.parametrize("order", [Order(newest_first=True), Order(by_priority=False)])
async def test_a_poll_with_another_order_is_woken(
    only_woken: None, core: Core, order: Order
) -> None:
    await create(core, {})
    await poll(core.dispatcher)
    brought: list[str] = []

    async def wait() -> None:
        delivery = await poll(core.dispatcher, order=order)
        brought.extend(task["id"] for task in decoded(delivery.body))

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await parked(core, 1)
        created = await create(core, {}, {"priority": 0})
    assert brought == ([created[1]] if order.newest_first else [created[0]])


async def test_the_newest_first_does_not_hide_the_older(core: Core) -> None:
    created = await create(core, {}, {}, {})
    for order, place in ((Order(newest_first=True), 2), (Order(), 0), (Order(), 1)):
        delivery = await poll(core.dispatcher, timeout_ms=0, order=order)
        assert [task["id"] for task in decoded(delivery.body)] == [created[place]]

"""Many long polls over real databases: their order, their tasks, and what they cost."""

from __future__ import annotations

import time
from collections import Counter
from functools import partial

import anyio
import asyncpg

from broker.core import Core
from tests.broker.conftest import Statements
from tests.broker.dispatcher.polls import Polls, create, parked
from tests.eventually import eventually
from tests.factories import decoded, poll, subscribe

Connection = asyncpg.Connection


async def test_polls_are_served_in_the_order_they_came(only_woken: None, core: Core) -> None:
    await create(core, {})
    await poll(core.dispatcher)
    polls = Polls()
    created = []
    async with anyio.create_task_group() as group:
        for number in range(30):
            group.start_soon(polls.run, core, f"w{number}")
            await parked(core, number + 1)
        for _ in range(3):
            created += await create(core, *({} for _ in range(10)))
    brought = {worker_id: decoded(delivery.body) for worker_id, delivery in polls.deliveries}
    assert [brought[f"w{number}"][0]["id"] for number in range(30)] == created


async def test_polls_of_other_groups_on_the_same_lane_wait_their_turn(
    only_woken: None, core: Core
) -> None:
    for topic in ("t", "u"):
        await create(core, {"topic": topic})
        await poll(core.dispatcher, subscriptions=subscribe(topic))
    served: list[int] = []

    async def wait(number: int) -> None:
        topics = (("t",), ("t", "u"), ("u", "t"))[number % 3]
        await poll(core.dispatcher, 1, f"w{number}", subscriptions=subscribe(*topics))
        served.append(number)

    async with anyio.create_task_group() as group:
        for number in range(12):
            group.start_soon(wait, number)
            await parked(core, number + 1)
        for number in range(12):
            await create(core, {})
            await parked(core, 11 - number)
    assert served == list(range(12))


async def test_200_polls_at_once_lock_10_000_tasks_once_each(
    core: Core, other_core: Core, connection: Connection
) -> None:
    created: list[str] = []
    for _ in range(10):
        created += await create(core, *({} for _ in range(1_000)))
    fetched: Counter[str] = Counter()
    tokens: set[tuple[str, str]] = set()

    async def work(number: int) -> None:
        dispatcher = (core, other_core)[number % 2].dispatcher
        while True:
            delivery = await poll(dispatcher, 1 + number % 20, f"w{number}", timeout_ms=0)
            tasks = decoded(delivery.body)
            assert {task["workerId"] for task in tasks} <= {f"w{number}"}
            fetched.update(task["id"] for task in tasks)
            tokens.update((task["id"], task["lockToken"]) for task in tasks)
            if not tasks and fetched.total() >= len(created):
                break

    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            for number in range(200):
                group.start_soon(work, number)
    assert fetched == Counter(created)
    attempts = await connection.fetch("SELECT DISTINCT attempt, state FROM fetchlock.open_task")
    assert [tuple(row) for row in attempts] == [(1, "locked")]
    held_now = await connection.fetch("SELECT id::text, lock_token::text FROM fetchlock.open_task")
    assert {tuple(row) for row in held_now} == tokens


async def test_parked_polls_cost_no_statements(core: Core, statements: Statements) -> None:
    """Two a second, however many polls: the sweep, and one second look for all of them."""
    topics = [f"topic-{number}" for number in range(20)]
    await create(core, *({"topic": topic, "delayMs": 3_600_000} for topic in topics))
    async with anyio.create_task_group() as group:
        for number in range(200):
            wish = subscribe(topics[number % 20], topics[(number + 1) % 20])
            group.start_soon(
                partial(poll, core.dispatcher, 10, timeout_ms=60_000, subscriptions=wish)
            )
        await parked(core, 200)
        started_at = time.monotonic()
        await statements.forget()

        async def has_ticked() -> dict[str, int]:
            calls = await statements.calls()
            return calls if calls.get("release_due", 0) >= 4 else {}

        calls = await eventually(has_ticked)
        elapsed_s = time.monotonic() - started_at
        core.begin_shutdown()
    assert set(calls) <= {"release_due", "ready_lanes"}
    # Looks are up to a fifth of a second early.
    assert sum(calls.values()) <= 2.3 * elapsed_s + 2

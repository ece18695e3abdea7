"""Tasks for tests: made and locked by the broker's own statements, aged by hand.

Nobody fakes a clock. PostgreSQL's decides, so a deadline comes early where a
test moves the row instead: `expire_lock` and `make_due` put it at this very
instant and no further back, because a sweep does not look for deadlines that
an earlier one must have dealt with.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import anyio
import msgspec

from broker.dispatcher import Delivery, Dispatcher, Order, Subscription
from broker.dispatcher.waiter import FIRST_IN_FIRST_OUT, Waiter
from broker.dispatcher.waiters import Waiters
from broker.store import Batch, Lane, Store
from broker.task import FINISHED, State
from tests.eventually import eventually

Answer = TypeVar("Answer")

TaskJson = dict[str, Any]

StoreVerb = Callable[[Sequence[str]], Awaitable[Batch]]


class Client:
    """A client's end of a connection, as the dispatcher sees it: it stays until it `leave`s."""

    def __init__(self) -> None:
        self._gone = anyio.Event()

    def leave(self) -> None:
        self._gone.set()

    @property
    def is_gone(self) -> bool:
        return self._gone.is_set()

    async def wait_gone(self) -> None:
        await self._gone.wait()


# Requests and answers ---------------------------------------------------------


def creation(*tasks: TaskJson) -> str:
    """A request that creates tasks, each on the topic `t` if it says nothing else."""
    return msgspec.json.encode({"tasks": [{"topic": "t"} | task for task in tasks]}).decode()


def request(worker_id: str | None, *tasks: TaskJson, **members: Any) -> str:
    """A worker's request about tasks."""
    return msgspec.json.encode({"workerId": worker_id, "tasks": tasks, **members}).decode()


def answers(batch: Batch) -> list[TaskJson]:
    """What a batch of one request was told, an object a task."""
    [result] = batch.results
    told: list[TaskJson] = msgspec.json.decode(result.body)
    assert result.refused == sum("code" in answer for answer in told)
    return told


async def ask(verb: StoreVerb, worker_id: str | None, *tasks: TaskJson) -> list[TaskJson]:
    """The answers of a verb to one request."""
    return answers(await verb([request(worker_id, *tasks)]))


def held(task: TaskJson, **members: Any) -> TaskJson:
    """A locked task as its worker names it in a request."""
    return {"id": task["id"], "lockToken": task["lockToken"], **members}


async def beat(
    store: Store, *tasks: TaskJson, worker_id: str = "w1", lock_duration_ms: int = 30_000
) -> list[TaskJson]:
    """The answers to one heartbeat about tasks."""
    said = request(worker_id, *tasks, lockDurationMs=lock_duration_ms)
    return answers(await store.heartbeat([said]))


def called_back(task: TaskJson, **members: Any) -> str:
    """A request of an outside party that was given a task: it succeeded, if nothing else is said."""
    return request(None, held(task, **({"isSuccess": True} | members)))


# Making and locking -----------------------------------------------------------


async def create(store: Store, *tasks: TaskJson) -> list[str]:
    """Create tasks; their ids."""
    return [answer["id"] for answer in answers(await store.create([creation(*tasks)]))]


def subscribe(
    *topics: str, lock_duration_ms: int = 60_000, **filters: Any
) -> tuple[Subscription, ...]:
    """Subscriptions to topics, alike in all else."""
    return tuple(Subscription(topic, lock_duration_ms, **filters) for topic in topics or ("t",))


async def lock(
    store: Store,
    tasks_max: int = 1,
    worker_id: str = "w1",
    subscriptions: tuple[Subscription, ...] | None = None,
    order: Order = FIRST_IN_FIRST_OUT,
) -> list[TaskJson]:
    """One claim for one worker, as the dispatcher would make it; the locked tasks."""
    waiters = Waiters(store.lanes)
    waiter = Waiter(worker_id, tasks_max, Client(), is_impatient=True)
    waiters.add(waiter, subscriptions or subscribe(), time.monotonic(), order)
    running = waiters.next_claim(time.monotonic())
    assert running is not None
    granted = await store.fetch_and_lock(running.claim)
    waiters.settle(running, granted, time.monotonic())
    return decoded(waiter.body)


async def poll(
    dispatcher: Dispatcher,
    tasks_max: int = 1,
    worker_id: str = "w1",
    *,
    timeout_ms: int = 20_000,
    subscriptions: tuple[Subscription, ...] | None = None,
    client: Client | None = None,
    order: Order = FIRST_IN_FIRST_OUT,
) -> Delivery:
    """A long poll. It has an end only so that what never comes fails the test."""
    return await dispatcher.fetch_and_lock(
        worker_id, tasks_max, timeout_ms, subscriptions or subscribe(), client or Client(), order
    )


def is_at_rest(dispatcher: Dispatcher) -> bool:
    """Whether nothing is under way for the polls that are parked, nor about to be."""
    return not dispatcher._waiters._due and not dispatcher._running


def decoded(body: bytes) -> list[TaskJson]:
    """A JSON array of tasks."""
    tasks: list[TaskJson] = msgspec.json.decode(body)
    return tasks


def lane(lane_id: int, topic: str = "t", priority: int = 0, definition: str = "") -> Lane:
    """A lane that no database knows."""
    return Lane(lane_id, topic, definition, priority)


# Ageing and looking, from a connection of the test's own ----------------------


async def expire_lock(connection: Any, *task_ids: str) -> None:
    """Let locks run out now, as if they had been taken earlier."""
    status = await connection.execute(
        """
        UPDATE fetchlock.open_task
        SET locked_at = locked_at - (lock_expires_at - clock_timestamp()),
            lock_expires_at = clock_timestamp()
        WHERE id = ANY ($1::uuid[]) AND state = 'locked'
        """,
        task_ids,
    )
    assert status == f"UPDATE {len(task_ids)}"


async def make_due(connection: Any, *task_ids: str) -> None:
    """Let delays end now."""
    status = await connection.execute(
        """
        UPDATE fetchlock.open_task SET available_at = clock_timestamp()
        WHERE id = ANY ($1::uuid[]) AND state = 'delayed'
        """,
        task_ids,
    )
    assert status == f"UPDATE {len(task_ids)}"


async def run_out(connection: Any, *task_ids: str) -> None:
    """Let the time for callbacks of tasks that were handed over end now."""
    status = await connection.execute(
        """
        UPDATE fetchlock.open_task SET lock_expires_at = clock_timestamp()
        WHERE id = ANY ($1::uuid[]) AND state = 'awaiting'
        """,
        task_ids,
    )
    assert status == f"UPDATE {len(task_ids)}"


async def overrun(connection: Any, *task_ids: str) -> None:
    """Let the timeouts of tasks come now."""
    status = await connection.execute(
        """
        UPDATE fetchlock.open_task SET deadline_at = statement_timestamp(),
            total_expires_at = CASE WHEN total_expires_at = deadline_at THEN statement_timestamp()
                                    ELSE total_expires_at END
        WHERE id = ANY ($1::uuid[]) AND deadline_at IS NOT NULL
        """,
        task_ids,
    )
    assert status == f"UPDATE {len(task_ids)}"


async def state_of(connection: Any, task_id: str) -> State | None:
    """The one state a task is in, or None where there is no such task."""
    rows = await connection.fetch(
        """
        SELECT state::text FROM fetchlock.open_task WHERE id = $1
        UNION ALL SELECT state::text FROM fetchlock.outcome WHERE id = $1
        """,
        task_id,
    )
    assert len(rows) <= 1, f"{task_id} is in several states"
    return State(rows[0]["state"]) if rows else None


async def row_of(connection: Any, task_id: str) -> dict[str, Any]:
    """A task's row of `open_task` or of `outcome`, as the state says."""
    state = await state_of(connection, task_id)
    table = "outcome" if state in FINISHED else "open_task"
    return dict(
        await connection.fetchrow(f"SELECT * FROM fetchlock.{table} WHERE id = $1", task_id)  # noqa: S608
    )


async def everything(connection: Any) -> list[Any]:
    """All rows of all tasks, to see that a refused verb has changed none."""
    return [
        list(await connection.fetch(f"SELECT t.*, xmin FROM fetchlock.{table} t ORDER BY t::text"))  # noqa: S608
        for table in ("task", "open_task", "outcome", "progress", "log_line", "callback")
    ]


async def shown(store: Store, task_id: str) -> TaskJson:
    """A task as the API shows it."""
    [(body, _)] = (await store.get_tasks([task_id])).values()
    task: TaskJson = msgspec.json.decode(body)
    return task


async def are_blocked(connection: Any, wanted: int) -> bool:
    """Whether so many statements in this database wait for another one's lock."""
    blocked: int = await connection.fetchval(
        """
        SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock'
        """
    )
    return blocked == wanted


async def is_blocked(connection: Any) -> bool:
    """Whether a statement in this database waits for another one's lock."""
    return not await are_blocked(connection, 0)


async def behind(connection: Any, watcher: Any, ask_now: Callable[[], Awaitable[Answer]]) -> Answer:
    """What is answered to who has to wait for the transaction that `connection` is in."""
    told: list[Answer] = []

    async def ask_and_wait() -> None:
        told.append(await ask_now())

    async with anyio.create_task_group() as group:
        group.start_soon(ask_and_wait)
        await eventually(lambda: is_blocked(watcher))
        await connection.execute("COMMIT")
    return told[0]

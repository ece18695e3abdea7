"""Long work that meets what is rare: large results, and what happens in between two statements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import asyncpg
import msgspec
import pytest

from broker.errors import Unavailable
from broker.settings import Settings
from broker.store import Store
from broker.store.shapes import Settled
from broker.task import State
from tests.factories import (
    TaskJson,
    ask,
    called_back,
    create,
    held,
    lock,
    row_of,
    run_out,
    state_of,
)

Connection = asyncpg.Connection

_KEYS: int = 20_000
"""Quadratic, these take minutes; sorted, a twentieth of a second."""


@pytest.fixture
async def awaiting(store: Store) -> TaskJson:
    """A task that was handed over."""
    await create(store, {})
    [task] = await lock(store)
    await ask(store.hand_over, "w1", held(task))
    return task


class Overtaken(Store):
    """A store between whose two statements a sweep is faster."""

    async def settle_due(
        self, look_back_ms: float | None, task_ids: Sequence[str] | None = None
    ) -> Settled:
        await super().settle_due(None)
        return await super().settle_due(look_back_ms, task_ids)


class Slow(Store):
    """A store that can only settle few tasks at once."""

    async def _settle(
        self, task_ids: Sequence[str] | None, look_back_ms: float | None, tasks_max: int
    ) -> list[Any]:
        if tasks_max > 10:
            raise Unavailable("the statement took too long")
        return await super()._settle(task_ids, look_back_ms, tasks_max)


async def test_results_of_many_members_are_merged(store: Store, connection: Connection) -> None:
    await connection.execute("SET statement_timeout = '20s'")
    own, theirs = ({f"{side}{n}": n for n in range(_KEYS)} | {"both": side} for side in "ab")
    merged = await connection.fetchval(
        "SELECT fetchlock.merged($1::json, $2::json)",
        msgspec.json.encode(own).decode(),
        msgspec.json.encode(theirs).decode(),
    )
    assert msgspec.json.decode(merged) == own | theirs


async def test_a_fetch_that_cannot_see_the_progress_yet_is_still_json(
    store: Store, connection: Connection
) -> None:
    """The flag is the row's latest, read under its lock; the progress is the snapshot's."""
    await create(store, {})
    await connection.execute("UPDATE fetchlock.open_task SET reported = true")
    [task] = await lock(store)
    assert task["progress"] is None


async def test_who_is_overtaken_by_a_sweep_tells_what_became_of_it(
    store: Store, settings: Settings, awaiting: TaskJson
) -> None:
    overtaken = Overtaken(store._pool, settings)
    [result] = (await overtaken.callback([called_back(awaiting, output={"a": 1})])).results
    [answer] = msgspec.json.decode(result.body)
    assert (answer["outcome"], answer["state"]) == ("done", "COMPLETED")


async def test_what_is_too_much_at_once_is_settled_by_and_by(
    store: Store, settings: Settings, awaiting: TaskJson, connection: Connection
) -> None:
    await run_out(connection, awaiting["id"])
    settled = await Slow(store._pool, settings).settle_due(None)
    assert list(settled.by_id) == [awaiting["id"]]


async def test_a_hand_over_that_cannot_be_seen_yet_is_left_to_the_next_sweep(
    store: Store, awaiting: TaskJson, connection: Connection
) -> None:
    """Else what its worker had by itself would be lost."""
    await connection.execute("UPDATE fetchlock.callback SET own_result = NULL")
    await run_out(connection, awaiting["id"])
    assert not (await store.settle_due(None)).by_id
    await connection.execute("UPDATE fetchlock.callback SET own_result = '{}'")
    assert (await store.settle_due(None)).by_id
    assert await state_of(connection, awaiting["id"]) != State.AWAITING


async def test_a_hand_over_after_its_url_has_expired_has_the_default_time(
    store: Store, settings: Settings, connection: Connection
) -> None:
    await create(store, {})
    [task] = await lock(store)
    await ask(store.callback_url, "w1", held(task, timeoutMs=1_000))
    await connection.execute("UPDATE fetchlock.callback SET expires_at = now()")
    await ask(store.hand_over, "w1", held(task))
    row = await row_of(connection, task["id"])
    now = await connection.fetchval("SELECT now()")
    left_ms = (row["lock_expires_at"] - now).total_seconds() * 1000
    assert settings.hand_over_timeout_ms - 60_000 < left_ms <= settings.hand_over_timeout_ms


async def test_a_page_of_the_log_has_a_megabyte(store: Store) -> None:
    await create(store, {})
    [task] = await lock(store)
    line = "é" * 4_096
    request = {"workerId": "w1", "lockDurationMs": 60_000, "tasks": [held(task, logs=[line] * 900)]}
    await store.heartbeat([msgspec.json.encode(request).decode()])
    read = 0
    while page := msgspec.json.decode(await store.log_lines(task["id"], read, 1_000))["lines"]:
        assert [each["number"] for each in page] == [*range(read + 1, read + 1 + len(page))]
        assert sum(len(each["line"].encode()) for each in page) <= 2**20 + 2 * 4_096
        read += len(page)
    assert read == 900


async def test_who_handed_it_over_is_told_of_a_finished_task(
    store: Store, awaiting: TaskJson, connection: Connection
) -> None:
    await store.callback([called_back(awaiting)])
    assert (await row_of(connection, awaiting["id"]))["worker_id"] == "w1"

"""Heartbeats: locks renewed and news taken, each once and in order, in one statement."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import Any
from uuid import uuid4

import anyio
import asyncpg
import msgspec
import pytest

from broker.store import Store, queries
from broker.store.database import SHARD
from broker.task import State
from tests.broker.conftest import Statements
from tests.eventually import eventually
from tests.factories import (
    TaskJson,
    answers,
    are_blocked,
    ask,
    beat,
    behind,
    called_back,
    create,
    everything,
    expire_lock,
    held,
    lock,
    request,
    row_of,
    shown,
    state_of,
)

Connection = asyncpg.Connection

LIMITS = (65_536, 10_000, 1_000)
"""Of checkpoints and logs, as the statement takes them."""


@pytest.fixture
async def task(store: Store) -> TaskJson:
    """A task that is locked by the worker w1."""
    await create(store, {})
    return (await lock(store))[0]


def told_of(task: TaskJson, **members: Any) -> str:
    """A heartbeat about one task."""
    return request("w1", held(task, **members), lockDurationMs=30_000)


async def begin(connection: Connection, said: str) -> None:
    """A heartbeat in a transaction that takes its time."""
    await connection.execute("BEGIN")
    [row] = await connection.fetch(queries.HEARTBEAT, SHARD, [said], *LIMITS)
    assert row["refused"] == 0


async def lines_of(store: Store, task: TaskJson) -> list[tuple[int, str]]:
    told = msgspec.json.decode(await store.log_lines(task["id"], 0, 1_000))
    return [(line["number"], line["line"]) for line in told["lines"]]


# The lock ---------------------------------------------------------------------


async def test_it_renews_the_lock(store: Store, task: TaskJson, connection: Connection) -> None:
    for duration_ms in (5_000, 500_000):
        batch = await store.heartbeat([request("w1", held(task), lockDurationMs=duration_ms)])
        [answer] = answers(batch)
        row = await row_of(connection, task["id"])
        now = await connection.fetchval("SELECT clock_timestamp()")
        assert batch.due_in_ms == duration_ms
        assert batch.wakes == []
        left_ms = (row["lock_expires_at"] - now).total_seconds() * 1_000
        assert duration_ms - 5_000 < left_ms <= duration_ms
        assert datetime.fromisoformat(answer.pop("lockExpiresAt")) == row["lock_expires_at"]
        assert answer == {
            "id": task["id"], "outcome": "done", "lockLost": False, "cancelRequested": False,
        }  # fmt: skip
        assert not row["reported"]


async def test_a_thousand_tasks_with_news_are_one_statement(
    store: Store, statements: Statements, connection: Connection
) -> None:
    await create(store, *({} for _ in range(1_000)))
    tasks = await lock(store, 1_000)
    await statements.forget()
    told = await beat(
        store,
        *(held(task, sequence=1, percent=50, logs=["a"], checkpoint={}) for task in tasks),
    )
    assert await statements.calls() == {"heartbeat": 1}
    assert {answer["lockLost"] for answer in told} == {False}
    assert [answer["id"] for answer in told] == [task["id"] for task in tasks]
    for table in ("progress", "log_line"):
        assert await connection.fetchval(f"SELECT count(*) FROM fetchlock.{table}") == 1_000  # noqa: S608


async def test_without_tasks_it_is_a_sign_of_life(store: Store, statements: Statements) -> None:
    batch = await store.heartbeat([request("w1", lockDurationMs=30_000)])
    assert [(result.body, result.refused) for result in batch.results] == [(b"[]", 0)]
    assert batch.due_in_ms is None
    assert (await statements.calls())["heartbeat"] == 1


async def test_the_requests_of_a_batch_are_told_apart(store: Store, task: TaskJson) -> None:
    await create(store, {}, {})
    second, third = await lock(store, 2, worker_id="w2")
    batch = await store.heartbeat(
        [
            request("w1", held(task), held(second), lockDurationMs=5_000),
            request("w3", lockDurationMs=5_000),
            request("w2", held(third), held(second), lockDurationMs=9_000),
        ]
    )
    told = [msgspec.json.decode(result.body) for result in batch.results]
    assert [[(each["id"], each["lockLost"]) for each in of] for of in told] == [
        [(task["id"], False), (second["id"], True)],
        [],
        [(third["id"], False), (second["id"], False)],
    ]
    assert [result.refused for result in batch.results] == [1, 0, 0]
    assert batch.due_in_ms == 5_000


async def test_who_does_not_hold_the_lock_is_told_so_and_changes_nothing(
    store: Store, task: TaskJson, connection: Connection
) -> None:
    ids = await create(store, {}, {}, {}, {})
    expired, ended, away, failed = await lock(store, 4)
    assert {each["id"] for each in (expired, ended, away, failed)} == set(ids)
    await expire_lock(connection, expired["id"])
    await ask(store.complete, "w1", held(ended))
    await ask(store.hand_over, "w1", held(away))
    await ask(store.fail, "w1", held(failed, errorMessage="e", retries=0))
    unknown = str(uuid4())
    before = await everything(connection)
    news = {"sequence": 1, "percent": 1, "subtext": "s", "logs": ["l"], "checkpoint": 1}
    told = await beat(
        store,
        held(task, **news) | {"lockToken": str(uuid4())},
        {"id": task["id"]} | news,
        held(expired, **news),
        held(ended, **news),
        held(away, **news),
        held(failed, **news),
        {"id": unknown, "lockToken": task["lockToken"]} | news,
        {"id": "é", "lockToken": ""} | news,
    )
    [stranger] = await beat(store, held(task, **news), worker_id="w2")
    assert await everything(connection) == before
    assert all(answer["lockLost"] and answer["detail"] for answer in [*told, stranger])
    assert [(answer["code"], answer.get("state")) for answer in told] == [
        ("lock_lost", "LOCKED"),
        ("lock_lost", "LOCKED"),
        ("lock_lost", "LOCKED"),
        ("lock_lost", "COMPLETED"),
        ("lock_lost", "AWAITING"),
        ("lock_lost", "FAILED"),
        ("task_not_found", None),
        ("task_not_found", None),
    ]
    assert (stranger["code"], stranger["holder"]) == ("lock_lost", "w1")


async def test_a_cancellation_is_told_and_the_lock_not_renewed(
    store: Store, task: TaskJson, connection: Connection
) -> None:
    """The worker has until the end of its lock. Its news are still taken."""
    before = (await row_of(connection, task["id"]))["lock_expires_at"]
    await store.cancel(task["id"], "reason")
    for number in (1, 2):
        [answer] = await beat(store, held(task, percent=number), lock_duration_ms=500_000)
        assert answer["cancelRequested"] is True
        assert answer["lockLost"] is False
        assert datetime.fromisoformat(answer["lockExpiresAt"]) == before
        assert (await row_of(connection, task["id"]))["lock_expires_at"] == before
        assert (await shown(store, task["id"]))["progress"]["percent"] == number


async def test_it_goes_on_after_an_early_callback(store: Store, task: TaskJson) -> None:
    await ask(store.callback_url, "w1", held(task))
    await store.callback([called_back(task)])
    [answer] = await beat(store, held(task, percent=1))
    assert (answer["lockLost"], answer["cancelRequested"]) == (False, False)
    assert (await shown(store, task["id"]))["progress"]["percent"] == 1


# News -------------------------------------------------------------------------


async def test_news_are_shown_and_what_is_not_said_stays(
    store: Store, task: TaskJson, connection: Connection
) -> None:
    await beat(store, held(task, percent=33.5, subtext="halfway", checkpoint={"n": 1}))
    seen = await shown(store, task["id"])
    assert (seen["progress"]["percent"], seen["progress"]["subtext"]) == (33.5, "halfway")
    updated_at = datetime.fromisoformat(seen["progress"]["updatedAt"])
    assert seen["checkpoint"] == {"n": 1}
    await beat(store, held(task, percent=0))
    seen = await shown(store, task["id"])
    assert (seen["progress"]["percent"], seen["progress"]["subtext"]) == (0, "halfway")
    assert datetime.fromisoformat(seen["progress"]["updatedAt"]) > updated_at
    assert seen["checkpoint"] == {"n": 1}
    await beat(store, held(task, subtext=""))
    seen = await shown(store, task["id"])
    assert (seen["progress"]["percent"], seen["progress"]["subtext"]) == (0, None)
    assert (await row_of(connection, task["id"]))["reported"]


async def test_the_next_worker_is_told_of_them(store: Store, task: TaskJson) -> None:
    other = (await create(store, {}))[0]
    await beat(store, held(task, percent=10, subtext="s", checkpoint=[1]))
    seen = await shown(store, task["id"])
    await ask(store.unlock, "w1", held(task))
    first, second = await lock(store, 2, worker_id="w2")
    assert (first["id"], first["progress"], first["checkpoint"]) == (
        task["id"], seen["progress"], [1],
    )  # fmt: skip
    assert (second["id"], second["progress"]) == (other, None)
    assert "checkpoint" not in second


async def test_numbered_news_are_taken_once_and_in_order(store: Store, task: TaskJson) -> None:
    for sequence, percent, shows in ((2, 20, 20), (2, 21, 20), (1, 10, 20), (3, 30, 30)):
        [answer] = await beat(
            store, held(task, sequence=sequence, percent=percent, logs=[f"{sequence}"])
        )
        assert (answer["lockLost"], answer.get("refused")) == (False, None)
        assert (await shown(store, task["id"]))["progress"]["percent"] == shows
    assert await lines_of(store, task) == [(1, "2"), (2, "3")]


async def test_what_is_old_still_renews_the_lock(
    store: Store, task: TaskJson, connection: Connection
) -> None:
    await beat(store, held(task, sequence=2, percent=1), lock_duration_ms=5_000)
    before = await row_of(connection, task["id"])
    await beat(store, held(task, sequence=1, percent=2), lock_duration_ms=500_000)
    after = await row_of(connection, task["id"])
    assert (after["lock_expires_at"] - before["lock_expires_at"]).total_seconds() > 400


async def test_news_without_a_number_are_always_taken(store: Store, task: TaskJson) -> None:
    await beat(store, held(task, sequence=2, percent=2))
    await beat(store, held(task, percent=1))
    assert (await shown(store, task["id"]))["progress"]["percent"] == 1
    await beat(store, held(task, sequence=2, percent=3))
    assert (await shown(store, task["id"]))["progress"]["percent"] == 1


async def test_a_number_without_news_is_not_used_up(store: Store, task: TaskJson) -> None:
    await beat(store, held(task, sequence=1))
    await beat(store, held(task, sequence=1, percent=1))
    assert (await shown(store, task["id"]))["progress"]["percent"] == 1


async def test_the_next_lock_counts_from_the_start(store: Store, task: TaskJson) -> None:
    await beat(store, held(task, sequence=7, percent=7))
    await ask(store.unlock, "w1", held(task))
    [again] = await lock(store)
    await beat(store, held(again, percent=5))  # News without a number do not go on with the old.
    await beat(store, held(again, sequence=1, percent=1))
    assert (await shown(store, task["id"]))["progress"]["percent"] == 1


async def test_of_two_news_of_a_task_in_a_batch_the_first_are_taken(
    store: Store, task: TaskJson, connection: Connection
) -> None:
    """They are one statement, which can write a row once. The second worker says it again."""
    first, second, third = [
        held(task),
        held(task, sequence=1, percent=1, logs=["a"]),
        held(task, sequence=2, percent=2, logs=["b"]),
    ]
    batch = await store.heartbeat(
        [
            request("w1", each, lockDurationMs=duration_ms)
            for each, duration_ms in ((first, 5_000), (second, 6_000), (third, 500_000))
        ]
    )
    told = [msgspec.json.decode(result.body)[0] for result in batch.results]
    assert [answer["lockLost"] for answer in told] == [False] * 3
    assert ["refused" in answer for answer in told] == [False, False, True]
    [refused] = told[2]["refused"]
    assert (refused["member"], refused["code"]) == ("sequence", "too_many_requests")
    assert (await shown(store, task["id"]))["progress"]["percent"] == 1
    row = await row_of(connection, task["id"])
    assert datetime.fromisoformat(told[2]["lockExpiresAt"]) == row["lock_expires_at"]
    assert "refused" not in (await beat(store, third))[0]
    assert await lines_of(store, task) == [(1, "a"), (2, "b")]


# Races ------------------------------------------------------------------------


async def test_behind_a_completion_the_lock_is_lost(
    store: Store, task: TaskJson, connection: Connection, watcher: Connection
) -> None:
    await connection.execute("BEGIN")
    await connection.fetch(queries.COMPLETE, SHARD, [request("w1", held(task))])
    [answer] = await behind(connection, watcher, lambda: beat(store, held(task, percent=1)))
    assert (answer["lockLost"], answer["state"]) == (True, "COMPLETED")
    assert (await shown(store, task["id"]))["progress"] is None


async def test_a_completion_behind_it_succeeds_and_keeps_the_news(
    store: Store, task: TaskJson, connection: Connection, watcher: Connection
) -> None:
    await begin(connection, told_of(task, percent=99))
    said = partial(ask, store.complete, "w1", held(task))
    [answer] = await behind(connection, watcher, said)
    assert answer["outcome"] == "done"
    seen = await shown(store, task["id"])
    assert (seen["state"], seen["progress"]["percent"]) == ("COMPLETED", 99)


async def test_it_saves_the_lock_from_a_sweep_that_comes_while_it_commits(
    store: Store, task: TaskJson, connection: Connection, watcher: Connection
) -> None:
    await connection.execute("BEGIN")
    await connection.execute("SELECT now()")
    await expire_lock(watcher, task["id"])
    [row] = await connection.fetch(queries.HEARTBEAT, SHARD, [told_of(task)], *LIMITS)
    assert row["refused"] == 0
    assert (await store.release_due(None, 0)).wakes == []
    await connection.execute("COMMIT")
    assert (await store.release_due(None, 0)).wakes == []
    assert await state_of(connection, task["id"]) == State.LOCKED


async def test_of_the_first_two_news_at_once_one_is_refused_and_said_again(
    store: Store, task: TaskJson, connection: Connection, watcher: Connection
) -> None:
    """A row that was inserted while a statement waited is not seen by it: it must not guess."""
    await begin(connection, told_of(task, sequence=1, logs=["a", "b"], checkpoint="first"))
    second = held(task, sequence=2, logs=["c"], checkpoint="second")
    [answer] = await behind(connection, watcher, lambda: beat(store, second))
    assert (answer["lockLost"], [each["member"] for each in answer["refused"]]) == (
        False, ["sequence"],
    )  # fmt: skip
    assert (await shown(store, task["id"]))["checkpoint"] == "first"
    assert "refused" not in (await beat(store, second))[0]
    assert await lines_of(store, task) == [(1, "a"), (2, "b"), (3, "c")]
    assert (await shown(store, task["id"]))["checkpoint"] == "second"


async def test_a_later_two_at_once_are_both_taken(
    store: Store, task: TaskJson, connection: Connection, watcher: Connection
) -> None:
    await beat(store, held(task, sequence=1, logs=["a"]))
    await begin(connection, told_of(task, sequence=2, logs=["b", "c"]))
    third = held(task, sequence=3, percent=3, logs=["d"])
    [answer] = await behind(connection, watcher, lambda: beat(store, third))
    assert "refused" not in answer
    assert await lines_of(store, task) == [(1, "a"), (2, "b"), (3, "c"), (4, "d")]


async def test_one_that_is_repeated_while_it_commits_is_not_taken_twice(
    store: Store, task: TaskJson, connection: Connection, watcher: Connection
) -> None:
    await beat(store, held(task, sequence=1, logs=["a"]))
    await begin(connection, told_of(task, sequence=2, logs=["b"]))
    again = held(task, sequence=2, logs=["b"])
    [answer] = await behind(connection, watcher, lambda: beat(store, again))
    assert "refused" not in answer
    assert await lines_of(store, task) == [(1, "a"), (2, "b")]


async def test_batches_that_name_the_same_tasks_do_not_deadlock(
    store: Store, connection: Connection, watcher: Connection
) -> None:
    await create(store, {}, {})
    tasks = sorted(await lock(store, 2), key=lambda task: str(task["id"]))
    told: list[TaskJson] = []

    async def beat_for(order: list[TaskJson]) -> None:
        told.extend(await beat(store, *(held(task, percent=1) for task in order)))

    async with anyio.create_task_group() as group:
        await connection.execute("BEGIN")
        last = "SELECT FROM fetchlock.open_task WHERE id = $1 FOR UPDATE"
        await connection.fetch(last, tasks[1]["id"])
        for wanted, order in ((1, tasks[::-1]), (2, tasks)):
            group.start_soon(beat_for, order)
            await eventually(partial(are_blocked, watcher, wanted))
        await connection.execute("COMMIT")
    assert [answer["lockLost"] for answer in told] == [False] * 4

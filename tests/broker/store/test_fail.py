"""Failures: who decides about the retry, and when there is none left."""

from __future__ import annotations

from datetime import datetime

import asyncpg
import msgspec
import pytest

from broker.settings import Settings
from broker.store import Store
from broker.task import State
from tests.broker.conftest import Statements
from tests.factories import (
    TaskJson,
    answers,
    ask,
    create,
    everything,
    held,
    lock,
    make_due,
    request,
    row_of,
    shown,
)

Connection = asyncpg.Connection


@pytest.fixture
async def task(store: Store) -> TaskJson:
    """A task that is locked by the worker w1."""
    await create(store, {})
    return (await lock(store))[0]


async def test_the_worker_may_decide(store: Store, task: TaskJson, connection: Connection) -> None:
    said = held(task, errorMessage="m", errorDetails="d", retries=7, retryTimeoutMs=5_000)
    batch = await store.fail([request("w1", said)])
    [answer] = answers(batch)
    row = await row_of(connection, task["id"])
    assert row["state"] == State.DELAYED
    assert (row["retries"], row["failures"], row["expiries"]) == (7, 1, 0)
    assert (row["error_message"], row["error_details"], row["error_code"]) == ("m", "d", None)
    assert row["worker_id"] is row["lock_token"] is row["lock_expires_at"] is None
    assert datetime.fromisoformat(answer.pop("availableAt")) == row["available_at"]
    assert answer == {"id": task["id"], "outcome": "done", "state": "CREATED", "retries": 7}
    assert batch.due_in_ms == 5_000
    assert batch.wakes == []


async def test_without_a_timeout_to_wait_it_is_ready_at_once(
    store: Store, task: TaskJson, connection: Connection
) -> None:
    batch = await store.fail([request("w1", held(task, errorMessage="m", retryTimeoutMs=0))])
    row = await row_of(connection, task["id"])
    assert row["state"] == State.READY
    assert [tuple(wake) for wake in batch.wakes] == [(row["lane_id"], row["position"], True)]
    assert batch.due_in_ms is None


async def test_without_retries_it_is_an_incident(
    store: Store, task: TaskJson, connection: Connection
) -> None:
    batch = await store.fail([request("w1", held(task, errorMessage="m", retries=0))])
    assert answers(batch)[0]["state"] == "FAILED"
    assert (await row_of(connection, task["id"]))["state"] == State.FAILED
    assert (batch.wakes, batch.due_in_ms) == ([], None)
    assert await lock(store) == []


async def test_what_the_worker_leaves_open_the_policy_decides(
    store: Store, settings: Settings, connection: Connection
) -> None:
    """One retry fewer each time, and a random wait up to a bound that doubles."""
    created = await create(store, *({} for _ in range(100)))
    for failures in range(settings.retry_attempts):
        tasks = await lock(store, 100)
        assert len(tasks) == 100
        now = await connection.fetchval("SELECT clock_timestamp()")
        told = answers(
            await store.fail([request("w1", *(held(task, errorMessage="m") for task in tasks))])
        )
        left = settings.retry_attempts - failures - 1
        assert {answer["retries"] for answer in told} == {left}
        if left:
            bound_s = settings.retry_base_ms / 1000 * settings.retry_factor**failures
            waits = [
                (datetime.fromisoformat(answer["availableAt"]) - now).total_seconds()
                for answer in told
            ]
            # Full jitter: a hundred draws from all of the range, the shortest and the longest too.
            assert max(waits) <= bound_s + 1
            assert max(waits) - min(waits) > bound_s / 2
            waiting = [answer["id"] for answer in told if answer["state"] == "CREATED"]
            delayed = await connection.fetch(
                "SELECT id::text FROM fetchlock.open_task WHERE state = 'delayed'"
            )
            assert len(waiting) == 100
            await make_due(connection, *(row["id"] for row in delayed))
            await store.release_due(None, 0)
    assert {(await row_of(connection, task_id))["state"] for task_id in created} == {State.FAILED}


async def test_no_wait_is_longer_than_the_cap(
    store: Store, settings: Settings, task: TaskJson, connection: Connection
) -> None:
    await connection.execute("UPDATE fetchlock.open_task SET failures = 1000000")
    batch = await store.fail([request("w1", held(task, errorMessage="m"))])
    assert batch.due_in_ms is None or batch.due_in_ms <= settings.retry_cap_ms


async def test_the_policy_never_makes_retries_negative(
    store: Store, task: TaskJson, connection: Connection
) -> None:
    await store.retries([task["id"]], 0)
    [answer] = await ask(store.fail, "w1", held(task, errorMessage="m"))
    assert (answer["state"], answer["retries"]) == ("FAILED", 0)
    assert (await row_of(connection, task["id"]))["retries"] == 0


async def test_each_task_gets_what_was_said_of_it(store: Store, connection: Connection) -> None:
    created = await create(store, *({} for _ in range(3)))
    tasks = await lock(store, 3)
    await store.fail(
        [
            request(
                "w1",
                held(tasks[2], errorMessage='"c"\\', errorDetails="", retries=3, retryTimeoutMs=0),
                held(tasks[0], errorMessage="a", retries=1, retryTimeoutMs=0),
            ),
            request("w1", held(tasks[1], errorMessage="☃", retries=2, retryTimeoutMs=0)),
        ]
    )
    rows = [await row_of(connection, task_id) for task_id in created]
    assert [(row["error_message"], row["error_details"], row["retries"]) for row in rows] == [
        ("a", None, 1), ("☃", None, 2), ('"c"\\', "", 3),
    ]  # fmt: skip


async def test_twice_in_one_request_it_is_one_failure(
    store: Store, task: TaskJson, connection: Connection
) -> None:
    told = await ask(
        store.fail, "w1", held(task, errorMessage="a", retries=2),
        held(task, errorMessage="b", retries=0),
    )  # fmt: skip
    assert [answer.get("code") for answer in told] == [None, "lock_lost"]
    row = await row_of(connection, task["id"])
    assert (row["failures"], row["error_message"], row["retries"]) == (1, "a", 2)


async def test_twice_in_one_batch_it_is_one_failure(
    store: Store, task: TaskJson, connection: Connection
) -> None:
    batch = await store.fail([request("w1", held(task, errorMessage=text)) for text in "ab"])
    told = [msgspec.json.decode(result.body)[0] for result in batch.results]
    assert [answer.get("code") for answer in told] == [None, "lock_lost"]
    assert (await row_of(connection, task["id"]))["failures"] == 1


async def test_what_it_failed_of_is_told_to_the_next_worker(store: Store, task: TaskJson) -> None:
    said = held(task, errorMessage="m", errorDetails="d", retries=1, retryTimeoutMs=0)
    await ask(store.fail, "w1", said)
    [again] = await lock(store, worker_id="w2")
    assert (again["errorMessage"], again["errorDetails"], again["retries"]) == ("m", "d", 1)
    assert again["attempt"] == 2


# Variables ----------------------------------------------------------------------


async def test_variables_are_set_for_the_next_attempt(
    store: Store, statements: Statements, connection: Connection
) -> None:
    await create(store, {"variables": {"kept": 1, "changed": 1}})
    [task] = await lock(store)
    await statements.forget()
    said = held(
        task, errorMessage="m", retryTimeoutMs=0, variables={"changed": 2, "new": 3},
        variableTypes={"new": {"type": "Short"}},
    )  # fmt: skip
    assert (await ask(store.fail, "w1", said))[0]["outcome"] == "done"
    assert await statements.calls() == {"fail": 1}
    [again] = await lock(store)
    assert again["variables"] == {"kept": 1, "changed": 2, "new": 3}
    assert again["variableTypes"] == {"new": {"type": "Short"}}
    assert again["result"] is None


@pytest.mark.parametrize("members", [{}, {"variables": None}])
async def test_without_variables_nothing_is_said_of_it(
    store: Store, task: TaskJson, connection: Connection, members: TaskJson
) -> None:
    await ask(store.fail, "w1", held(task, errorMessage="m", **members))
    row = await row_of(connection, task["id"])
    assert (row["reported"], row["size_bytes"]) == (False, 2)
    assert await connection.fetchval("SELECT count(*) FROM fetchlock.progress") == 0


async def test_an_incident_has_them_too(store: Store, task: TaskJson) -> None:
    said = held(task, errorMessage="m", retries=0, variables={"a": 1})
    await ask(store.fail, "w1", said)
    assert (await shown(store, task["id"]))["variables"] == {"a": 1}


async def test_a_cancelled_task_needs_none(
    store: Store, task: TaskJson, connection: Connection
) -> None:
    await store.cancel(task["id"], None)
    [answer] = await ask(store.fail, "w1", held(task, errorMessage="m", variables={"a": 1}))
    assert answer["state"] == "CANCELLED"
    assert (await shown(store, task["id"]))["variables"] == {}


async def test_who_does_not_hold_it_sets_none(
    store: Store, task: TaskJson, connection: Connection
) -> None:
    before = await everything(connection)
    [answer] = await ask(store.fail, "w2", held(task, errorMessage="m", variables={"a": 1}))
    assert answer["code"] == "lock_lost"
    assert await everything(connection) == before


async def test_variables_have_only_so_many_bytes(
    store: Store, settings: Settings, task: TaskJson, connection: Connection
) -> None:
    before = await everything(connection)
    large = {"a": "x" * settings.variables_bytes_max}
    told = await ask(
        store.fail, "w1", held(task, errorMessage="m", variables=large),
        held(task, errorMessage="m", variables=large),
    )  # fmt: skip
    assert [answer["code"] for answer in told] == ["too_large", "too_large"]
    assert str(settings.variables_bytes_max) in told[0]["detail"]
    assert await everything(connection) == before
    # Beside it, one that says less is taken.
    told = await ask(
        store.fail, "w1", held(task, errorMessage="m", variables=large),
        held(task, errorMessage="m", retryTimeoutMs=0, variables={"a": 1}),
    )  # fmt: skip
    assert [answer.get("code") for answer in told] == ["too_large", None]
    assert (await lock(store))[0]["variables"] == {"a": 1}

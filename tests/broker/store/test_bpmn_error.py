"""A business outcome: finished with a code, never retried."""

from __future__ import annotations

import asyncpg
import pytest

from broker.store import Store
from broker.task import State
from tests.factories import TaskJson, ask, create, held, lock, row_of

Connection = asyncpg.Connection


@pytest.fixture
async def task(store: Store) -> TaskJson:
    """A task that is locked by the worker w1."""
    await create(store, {})
    return (await lock(store))[0]


async def test_it_finishes_the_task(store: Store, task: TaskJson, connection: Connection) -> None:
    said = held(task, errorCode="CARD", errorMessage="declined", variables={"limit": 5})
    assert await ask(store.bpmn_error, "w1", said) == [{"id": task["id"], "outcome": "done"}]
    row = await row_of(connection, task["id"])
    assert row["state"] == State.BPMN_ERROR
    assert (row["error_code"], row["error_message"]) == ("CARD", "declined")
    assert row["result"] == '{"limit":5}'
    assert str(row["lock_token"]) == task["lockToken"]
    assert await lock(store) == []


async def test_said_again_it_is_a_replay(store: Store, task: TaskJson) -> None:
    said = held(task, errorCode="CARD")
    await ask(store.bpmn_error, "w1", said)
    assert await ask(store.bpmn_error, "w1", said) == [
        {"id": task["id"], "outcome": "done", "replayed": True}
    ]


@pytest.mark.parametrize(
    "changed", [{"errorCode": "OTHER"}, {"errorMessage": "m"}, {"variables": {"a": 1}}]
)
async def test_what_differs_is_no_replay(store: Store, task: TaskJson, changed: TaskJson) -> None:
    said = held(task, errorCode="CARD")
    await ask(store.bpmn_error, "w1", said)
    [answer] = await ask(store.bpmn_error, "w1", said | changed)
    assert (answer["code"], answer["state"]) == ("lock_lost", "BPMN_ERROR")


async def test_twice_in_one_request_it_is_done_once(
    store: Store, task: TaskJson, connection: Connection
) -> None:
    told = await ask(
        store.bpmn_error, "w1", held(task, errorCode="A"), held(task, errorCode="A"),
        held(task, errorCode="B"),
    )  # fmt: skip
    assert [answer.get("replayed", answer.get("code")) for answer in told] == [
        None, True, "lock_lost",
    ]  # fmt: skip
    assert (await row_of(connection, task["id"]))["error_code"] == "A"

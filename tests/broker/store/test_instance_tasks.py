"""What is known of a process instance by its tasks: what they are, and one variable of them."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import asyncpg
import msgspec
import pytest

from broker.errors import TaskNotFound
from broker.store import NewVariables, Store
from broker.task import FINISHED, State
from tests.broker.conftest import Statements
from tests.broker.store.test_operator_verbs import in_state
from tests.factories import ask, create, held, lock, request, shown

Connection = asyncpg.Connection

_LARGE = {"variables", "result", "errorDetails", "variableTypes", "resultTypes", "progress"}


async def told(store: Store, instance: str, tasks_max: int = 10) -> list[tuple[Any, bool]]:
    tasks = await store.instance_tasks(instance, tasks_max)
    return [(msgspec.json.decode(body), is_finished) for body, is_finished in tasks]


@pytest.mark.parametrize("state", list(State))
async def test_a_task_is_shown_as_everywhere_but_for_what_may_be_large(
    store: Store, state: State
) -> None:
    task_id = await in_state(store, state)
    whole = await shown(store, task_id)
    [(task, is_finished)] = await told(store, task_id)
    assert task == {name: whole[name] for name in task}
    assert task.keys() >= {
        "id", "topic", "state", "businessKey", "processInstanceId", "processDefinitionId",
        "processDefinitionKey", "activityId", "tenantId", "createdAt", "finishedAt", "errorMessage",
    }  # fmt: skip
    assert not task.keys() & _LARGE
    assert is_finished == (state in FINISHED)


async def test_they_are_in_the_order_of_creation_and_only_so_many(store: Store) -> None:
    [own] = await create(store, {})
    ids = await create(store, *({"processInstanceId": own} for _ in range(5)))
    await create(store, {"processInstanceId": "other"})
    assert [task["id"] for task, _ in await told(store, own)] == [own, *ids]
    # The one that is the instance itself is beside those.
    assert [task["id"] for task, _ in await told(store, own, 3)] == [own, *ids[:3]]
    # Who is a part of another instance is none by itself.
    assert await told(store, ids[0]) == []
    assert await told(store, "") == []


async def test_one_statement_that_reads_no_variables(
    store: Store, connection: Connection, statements: Statements
) -> None:
    await create(store, {"processInstanceId": "i"})
    await store.instance_tasks("i", 10)
    await statements.forget()
    await store.instance_tasks("i", 10)
    of_small = await statements.buffers("instance_tasks")
    large = {
        "processInstanceId": "j",
        "variables": {"a": "".join(str(uuid4()) for _ in range(9_999))},
    }
    await create(store, large)
    await statements.forget()
    await store.instance_tasks("j", 10)
    assert await statements.calls() == {"instance_tasks": 1}
    assert await statements.buffers("instance_tasks") < of_small + 10


# One variable -----------------------------------------------------------------


async def found(store: Store, name: str, *ids: str) -> tuple[Any, Any]:
    value, note = await store.variable(ids, name)
    return value, None if note is None else msgspec.json.decode(note)


async def test_of_several_tasks_the_youngest_that_has_it_tells(store: Store) -> None:
    ids = await create(
        store,
        {"variables": {"a": 1, "b": 1, "n": None}},
        {"variables": {"a": 2, "b": 2}},
        {"variables": {"a": 3}},
    )
    for order in (ids, ids[::-1]):
        assert await found(store, "a", *order) == (b"3", None)
        assert await found(store, "b", *order) == (b"2", None)
        assert await found(store, "n", *order) == (b"null", None)
    assert await found(store, "none", *ids) == (None, None)
    assert await found(store, "a", ids[0], str(uuid4()), "no id") == (b"1", None)


@pytest.mark.parametrize("unknown", ["", "no id", "019aa5f0-7c1e-7b44-9d2a-3f5c8e1b6a01"])
async def test_of_no_task_there_is_no_variable(store: Store, unknown: str) -> None:
    with pytest.raises(TaskNotFound):
        await store.variable([unknown], "a")


async def test_a_note_is_that_of_the_value(store: Store) -> None:
    """The result of a finished task counts, and what was set last, each with its own notes."""
    [task_id] = await create(store, {"variables": {"a": 1, "b": 1, "c": 1}})
    short, long = {"type": "Short"}, {"type": "Long"}

    async def notes() -> list[Any]:
        return [await found(store, name, task_id) for name in "abc"]

    assert await notes() == [(b"1", None)] * 3
    types = msgspec.json.encode({"a": short, "b": short}).decode()
    await store.variables([task_id], NewVariables('{"a":2,"b":2}', types))
    assert await notes() == [(b"2", short), (b"2", short), (b"1", None)]
    [task] = await lock(store)
    result = {"variables": {"a": 3, "c": 3}, "variableTypes": {"c": long}}
    await store.complete([request("w1", held(task, **result))])
    assert await notes() == [(b"3", None), (b"2", short), (b"3", long)]


async def test_numbers_and_texts_are_told_to_the_letter(store: Store) -> None:
    [task_id] = await create(store, {"variables": {"n": msgspec.Raw(b"1.50"), "é": "\u2028"}})
    assert await store.variable([task_id], "n") == (b"1.50", None)
    value, _ = await store.variable([task_id], "é")
    assert value is not None
    assert msgspec.json.decode(value) == "\u2028"


async def test_a_failed_task_keeps_its_variables(store: Store) -> None:
    [task_id] = await create(store, {"variables": {"a": 1}})
    [task] = await lock(store)
    await ask(store.fail, "w1", held(task, errorMessage="e", retries=0, variables={"b": 2}))
    assert await found(store, "a", task_id) == (b"1", None)
    assert await found(store, "b", task_id) == (b"2", None)

"""Reading tasks by their ids, whatever has become of them."""

from __future__ import annotations

from uuid import uuid4

import msgspec
import pytest

from broker.store import Store
from broker.task import API_STATES, FINISHED, State
from tests.broker.conftest import Statements
from tests.broker.store.test_operator_verbs import in_state
from tests.factories import TaskJson, create, lock

MEMBERS = {
    "id", "topic", "state", "priority", "businessKey", "processInstanceId", "processDefinitionId",
    "processDefinitionKey", "processDefinitionVersionTag", "activityId", "tenantId", "traceparent",
    "variables", "result", "retries", "failures", "attempt", "workerId", "lockExpiresAt", "callbackExpiresAt", "availableAt",
    "createdAt", "startedAt", "timesOutAt", "finishedAt", "cancelRequested", "errorCode",
    "errorMessage", "errorDetails", "progress",
}  # fmt: skip


@pytest.mark.parametrize("state", list(State))
async def test_a_task_shows_its_state(store: Store, state: State) -> None:
    task_id = await in_state(store, state)
    [(body, is_finished)] = (await store.get_tasks([task_id])).values()
    task: TaskJson = msgspec.json.decode(body)
    assert set(task) == MEMBERS
    assert task["state"] == API_STATES[state]
    assert is_finished == (state in FINISHED)
    assert (task["finishedAt"] is not None) == is_finished
    assert (task["lockExpiresAt"] is not None) == (state is State.LOCKED)
    assert (task["callbackExpiresAt"] is not None) == (state is State.AWAITING)
    assert task["timesOutAt"] is task["progress"] is None
    assert task["cancelRequested"] is False
    assert task["attempt"] == (0 if state in (State.DELAYED, State.READY) else 1)


async def test_the_token_is_only_for_the_worker_that_fetched(store: Store) -> None:
    await create(store, {})
    [task] = await lock(store)
    assert set(task) == MEMBERS | {"lockToken"}
    [(body, _)] = (await store.get_tasks([task["id"]])).values()
    assert task["lockToken"].encode() not in body


async def test_many_at_once_are_one_statement(store: Store, statements: Statements) -> None:
    created = await create(store, *({} for _ in range(10)))
    await statements.forget()
    tasks = await store.get_tasks(created[::-1])
    assert await statements.calls() == {"get_tasks": 1}
    assert list(tasks) == created[::-1]


async def test_unknown_ids_are_left_out(store: Store) -> None:
    [task_id] = await create(store, {})
    assert list(await store.get_tasks([str(uuid4()), "é", "", task_id])) == [task_id]
    assert await store.get_tasks(["no id"]) == {}

"""The guards that the verbs of a lock's holder share.

Each is tried against each verb: the refusal says why, with its facts, and
nothing in the database has changed.
"""

from __future__ import annotations

from datetime import datetime
from functools import partial
from uuid import uuid4

import anyio
import asyncpg
import msgspec
import pytest

from broker.store import Store
from tests.broker.conftest import Statements
from tests.eventually import eventually
from tests.factories import (
    StoreVerb,
    TaskJson,
    answers,
    are_blocked,
    ask,
    create,
    everything,
    expire_lock,
    held,
    is_blocked,
    lock,
    request,
    state_of,
)

Connection = asyncpg.Connection

MEMBERS: dict[str, TaskJson] = {
    "complete": {"variables": {"a": 1}},
    "bpmn_error": {"errorCode": "E", "errorMessage": "m", "variables": {}},
    "fail": {"errorMessage": "m", "retries": 2, "retryTimeoutMs": 0},
    "extend_lock": {"lockDurationMs": 5_000},
    "unlock": {},
    "callback_url": {"timeoutMs": 5_000},
    "hand_over": {"timeoutMs": 5_000, "variables": {"a": 1}},
}
"""The verbs that need a lock, and what a request of theirs says of a task."""

pytestmark = pytest.mark.parametrize("name", list(MEMBERS))


def verb_of(store: Store, name: str) -> StoreVerb:
    verb: StoreVerb = getattr(store, name)
    return verb


@pytest.fixture
async def task(store: Store) -> TaskJson:
    """A task that is locked by the worker w1."""
    await create(store, {})
    return (await lock(store))[0]


async def refusal(
    store: Store, name: str, connection: Connection, task: TaskJson, worker_id: str | None = "w1"
) -> TaskJson:
    """The one refusal that a request for a task gets, having changed nothing."""
    before = await everything(connection)
    [answer] = await ask(verb_of(store, name), worker_id, MEMBERS[name] | task)
    assert await everything(connection) == before
    assert answer.pop("detail")
    return answer


async def test_the_lock_holder_is_obeyed_in_one_statement(
    store: Store, name: str, task: TaskJson, statements: Statements
) -> None:
    await statements.forget()
    [answer] = await ask(verb_of(store, name), "w1", held(task, **MEMBERS[name]))
    assert (answer["id"], answer["outcome"]) == (task["id"], "done")
    assert await statements.calls() == {name: 1}


async def test_without_a_token_the_worker_id_decides(
    store: Store, name: str, task: TaskJson
) -> None:
    [answer] = await ask(verb_of(store, name), "w1", {"id": task["id"]} | MEMBERS[name])
    assert answer["outcome"] == "done"


async def test_a_worker_id_may_stand_with_each_task(
    store: Store, name: str, task: TaskJson
) -> None:
    [answer] = await ask(verb_of(store, name), None, held(task, workerId="w1", **MEMBERS[name]))
    assert answer["outcome"] == "done"


async def test_another_worker_is_refused(
    store: Store, name: str, task: TaskJson, connection: Connection
) -> None:
    answer = await refusal(store, name, connection, {"id": task["id"]}, "w2")
    assert datetime.fromisoformat(answer.pop("lockExpiresAt")) == datetime.fromisoformat(
        task["lockExpiresAt"]
    )
    assert answer == {"id": task["id"], "code": "lock_lost", "state": "LOCKED", "holder": "w1"}


async def test_another_worker_is_refused_even_with_the_token(
    store: Store, name: str, task: TaskJson, connection: Connection
) -> None:
    assert (await refusal(store, name, connection, held(task), "w2"))["code"] == "lock_lost"


async def test_nobody_is_refused(
    store: Store, name: str, task: TaskJson, connection: Connection
) -> None:
    assert (await refusal(store, name, connection, held(task), None))["code"] == "lock_lost"


async def test_a_foreign_token_is_refused(
    store: Store, name: str, task: TaskJson, connection: Connection
) -> None:
    for token in (str(uuid4()), "", "not a token"):
        answer = await refusal(store, name, connection, {"id": task["id"], "lockToken": token})
        assert (answer["code"], answer["holder"]) == ("lock_lost", "w1")


async def test_the_token_of_an_earlier_attempt_is_refused(
    store: Store, name: str, task: TaskJson, connection: Connection
) -> None:
    await ask(store.unlock, "w1", held(task))
    [again] = await lock(store)
    assert again["id"] == task["id"]
    assert (await refusal(store, name, connection, held(task)))["code"] == "lock_lost"


async def test_an_expired_lock_is_refused_even_before_the_sweep(
    store: Store, name: str, task: TaskJson, connection: Connection
) -> None:
    await expire_lock(connection, task["id"])
    answer = await refusal(store, name, connection, held(task))
    assert (answer["code"], answer["state"], answer["holder"]) == ("lock_lost", "LOCKED", "w1")


async def test_a_task_that_is_not_locked_is_refused(
    store: Store, name: str, task: TaskJson, connection: Connection
) -> None:
    [ready, delayed] = await create(store, {}, {"delayMs": 60_000})
    await ask(store.fail, "w1", held(task, errorMessage="e", retries=0))
    for task_id, state in ((ready, "CREATED"), (delayed, "CREATED"), (task["id"], "FAILED")):
        answer = await refusal(store, name, connection, {"id": task_id})
        assert answer == {"id": task_id, "code": "lock_lost", "state": state}


async def test_a_finished_task_is_refused(
    store: Store, name: str, task: TaskJson, connection: Connection
) -> None:
    await create(store, {}, {})
    second, third = await lock(store, 2)
    await ask(store.complete, "w1", held(task, variables={"other": 1}))
    await ask(store.bpmn_error, "w1", held(second, errorCode="other"))
    await store.cancel(third["id"], "reason")
    await ask(store.unlock, "w1", held(third))
    for of, state in ((task, "COMPLETED"), (second, "BPMN_ERROR"), (third, "CANCELLED")):
        answer = await refusal(store, name, connection, held(of))
        assert answer == {"id": of["id"], "code": "lock_lost", "state": state}


async def test_an_id_that_no_task_has_is_not_found(
    store: Store, name: str, connection: Connection
) -> None:
    some = str(uuid4())
    for task_id in (some, "", "1", "é", "x" * 300, some[:-1], f"{some} ", some.replace("-", "")):
        answer = await refusal(store, name, connection, {"id": task_id})
        assert answer == {"id": task_id, "code": "task_not_found"}


async def test_a_refused_task_does_not_refuse_its_neighbours(
    store: Store, name: str, task: TaskJson, connection: Connection
) -> None:
    await create(store, {}, {})
    second, third = await lock(store, 2)
    members = MEMBERS[name]
    unknown = str(uuid4())
    batch = await verb_of(store, name)(
        [
            request("w1", held(task, **members), {"id": unknown} | members),
            request("w2", held(second, **members)),
            request("w1"),
            request("w1", held(third, **members)),
        ]
    )
    told = [msgspec.json.decode(result.body) for result in batch.results]
    outcomes = [[answer.get("outcome", answer.get("code")) for answer in of] for of in told]
    assert outcomes == [["done", "task_not_found"], ["lock_lost"], [], ["done"]]
    assert [result.refused for result in batch.results] == [1, 1, 0, 0]
    assert [answer["id"] for of in told for answer in of] == [
        task["id"], unknown, second["id"], third["id"],
    ]  # fmt: skip
    assert await state_of(connection, second["id"]) == "locked"


async def test_of_two_at_once_the_second_is_refused(
    store: Store, name: str, task: TaskJson, connection: Connection, watcher: Connection
) -> None:
    """A statement that waits for the row judges what it finds afterwards, not what it saw."""
    told: list[TaskJson] = []

    async def ask_now() -> None:
        told.extend(await ask(verb_of(store, name), "w1", held(task, **MEMBERS[name])))

    await connection.execute("BEGIN")
    # As `release_due` does it, in a transaction that takes its time.
    await connection.execute(
        """
        UPDATE fetchlock.open_task SET state = 'ready', expiries = 1, worker_id = NULL,
            lock_token = NULL, locked_at = NULL, lock_expires_at = NULL WHERE id = $1
        """,
        task["id"],
    )
    async with anyio.create_task_group() as group:
        group.start_soon(ask_now)
        await eventually(lambda: is_blocked(watcher))
        await connection.execute("COMMIT")
    assert [(answer["code"], answer["state"]) for answer in told] == [("lock_lost", "CREATED")]
    assert await state_of(connection, task["id"]) == "ready"


async def test_a_stale_mention_beside_it_does_not_cost_the_holder_its_own(
    store: Store, name: str, task: TaskJson
) -> None:
    """They come from different requests, which happen to meet in a batch."""
    batch = await verb_of(store, name)(
        [
            request("w2", held(task, **MEMBERS[name])),
            request("w1", held(task, **(MEMBERS[name] | {"lockToken": str(uuid4())}))),
            request("w1", held(task, **MEMBERS[name])),
        ]
    )
    assert [result.refused for result in batch.results] == [1, 1, 0]


async def test_batches_that_name_the_same_tasks_do_not_deadlock(
    store: Store, name: str, connection: Connection, watcher: Connection
) -> None:
    """Each locks its rows in the order of the ids, whatever the order of the request."""
    await create(store, {}, {})
    tasks = sorted(await lock(store, 2), key=lambda task: str(task["id"]))
    done: list[str] = []

    async def ask_for(order: list[TaskJson]) -> None:
        said = [held(task, **MEMBERS[name]) for task in order]
        told = await ask(verb_of(store, name), "w1", *said)
        done.extend(answer["id"] for answer in told if "replayed" not in answer)

    async with anyio.create_task_group() as group:
        await connection.execute("BEGIN")
        last = "SELECT FROM fetchlock.open_task WHERE id = $1 FOR UPDATE"
        await connection.fetch(last, tasks[1]["id"])
        for wanted, order in ((1, tasks[::-1]), (2, tasks)):
            group.start_soon(ask_for, order)
            await eventually(partial(are_blocked, watcher, wanted))
        await connection.execute("COMMIT")
    assert set(done) == {task["id"] for task in tasks}


async def test_a_task_taken_by_another_worker_meanwhile_is_refused(
    store: Store, name: str, task: TaskJson, connection: Connection
) -> None:
    await expire_lock(connection, task["id"])
    await store.release_due(None, 0)
    [taken] = await lock(store, worker_id="w2")
    assert taken["id"] == task["id"]
    answer = await refusal(store, name, connection, held(task))
    assert (answer["code"], answer["holder"]) == ("lock_lost", "w2")


async def test_answers_of_a_batch_are_one_a_request(store: Store, name: str) -> None:
    [only] = (await verb_of(store, name)([request("w1")])).results
    assert (only.body, only.refused) == (b"[]", 0)
    assert answers(await verb_of(store, name)([request("w1")])) == []

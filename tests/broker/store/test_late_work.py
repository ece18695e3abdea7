"""Work after its lock ran out: welcome while nobody else has taken the task, where somebody says so."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import asyncpg
import pytest

from broker.settings import Settings
from broker.store import Store, queries
from broker.store.database import SHARD
from broker.task import State
from tests.broker.conftest import Statements
from tests.factories import (
    TaskJson,
    ask,
    behind,
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

SAID: Final[dict[str, TaskJson]] = {
    "complete": {"variables": {"a": 1}},
    "bpmn_error": {"errorCode": "E"},
    "fail": {"errorMessage": "m", "retries": 2, "retryTimeoutMs": 60_000},
}
ENDS: Final = {
    "complete": State.COMPLETED,
    "bpmn_error": State.BPMN_ERROR,
    "fail": State.DELAYED,
}
FAIL_ARGS: Final = (0.0, 1.0, 0.0, 1_000_000)

pytestmark = pytest.mark.parametrize("verb", list(SAID))


@pytest.fixture(params=[False, True], ids=["before the sweep", "after the sweep"])
async def late(store: Store, connection: Connection, request: pytest.FixtureRequest) -> TaskJson:
    """A task whose lock has run out, as its worker w1 knows it."""
    await create(store, {})
    [task] = await lock(store)
    await expire_lock(connection, task["id"])
    if request.param:
        await store.release_due(None, 0)
    return task


async def say(store: Store, verb: str, task: TaskJson, **members: Any) -> TaskJson:
    worker_id = members.pop("worker_id", "w1")
    said = {"acceptsLate": True} | members
    [answer] = await ask(getattr(store, verb), worker_id, held(task, **SAID[verb], **said))
    return answer


async def assert_refused(
    store: Store, connection: Connection, verb: str, task: TaskJson, **members: Any
) -> None:
    before = await everything(connection)
    answer = await say(store, verb, task, **members)
    assert answer["code"] == "lock_lost"
    assert await everything(connection) == before


async def test_it_is_welcome(
    store: Store, connection: Connection, late: TaskJson, verb: str, statements: Statements
) -> None:
    await statements.forget()
    assert (await say(store, verb, late))["outcome"] == "done"
    assert await statements.calls() == {verb: 1}
    row = await row_of(connection, late["id"])
    assert (row["state"], row["attempt"]) == (ENDS[verb], 1)
    if verb != "fail":
        assert (str(row["lock_token"]), row["worker_id"]) == (late["lockToken"], "w1")


async def test_the_name_alone_will_do(store: Store, late: TaskJson, verb: str) -> None:
    bare = {"id": late["id"], "acceptsLate": True, **SAID[verb]}
    assert (await ask(getattr(store, verb), "w1", bare))[0]["outcome"] == "done"


async def test_it_is_refused_where_nobody_says_so(
    store: Store, connection: Connection, late: TaskJson, verb: str
) -> None:
    await assert_refused(store, connection, verb, late, acceptsLate=False)
    await assert_refused(store, connection, verb, late, acceptsLate=None)


async def test_the_topic_has_the_last_word(
    store: Store, connection: Connection, late: TaskJson, verb: str, statements: Statements
) -> None:
    await statements.forget()
    await store.late_work("t", is_accepted=False)
    assert await statements.calls() == {"late_work": 1}
    await assert_refused(store, connection, verb, late)
    await store.late_work("another", is_accepted=True)
    await assert_refused(store, connection, verb, late)
    await store.late_work("t", is_accepted=None)
    await assert_refused(store, connection, verb, late, acceptsLate=None)
    await store.late_work("t", is_accepted=True)
    assert (await say(store, verb, late, acceptsLate=None))["outcome"] == "done"


async def test_an_open_question_is_left_to_the_request(
    store: Store, late: TaskJson, verb: str
) -> None:
    await store.late_work("t", is_accepted=False)
    await store.late_work("t", is_accepted=None)
    await store.late_work("t", is_accepted=None)
    assert (await say(store, verb, late))["outcome"] == "done"


async def test_only_by_who_held_it_last(
    store: Store, connection: Connection, late: TaskJson, verb: str
) -> None:
    await assert_refused(store, connection, verb, late, worker_id="w2")
    other = late | {"lockToken": "5b1f0c9e-3d52-4c0e-8a37-0c6c1f8e2d11"}
    await assert_refused(store, connection, verb, other)


async def _fetched(store: Store, task: TaskJson) -> None:
    await store.release_due(None, 0)
    await lock(store, worker_id="w2")


async def _fetched_and_given_back(store: Store, task: TaskJson) -> None:
    await _fetched(store, task)
    await ask(store.unlock, "w2", {"id": task["id"]})


async def _fetched_and_failed(store: Store, task: TaskJson) -> None:
    await _fetched(store, task)
    await ask(store.fail, "w2", {"id": task["id"], "errorMessage": "m", "retryTimeoutMs": 0})


async def _locked(store: Store, task: TaskJson) -> None:
    await store.lock(task["id"], "w2", 60_000)


async def _locked_and_given_back(store: Store, task: TaskJson) -> None:
    await _locked(store, task)
    await ask(store.unlock, "w2", {"id": task["id"]})


async def _unlocked(store: Store, task: TaskJson) -> None:
    told = await ask(store.unlock, None, {"id": task["id"], "whoever": True})
    assert told[0]["outcome"] == "done"


async def _redriven(store: Store, task: TaskJson) -> None:
    await store.release_due(None, 0)
    await store.retries([task["id"]], 0)
    await store.retries([task["id"]], 3)


async def _failed(store: Store, task: TaskJson) -> None:
    assert (await say(store, "fail", task))["outcome"] == "done"


async def _failed_for_now(store: Store, task: TaskJson) -> None:
    said = held(task, errorMessage="m", retries=2, retryTimeoutMs=0, acceptsLate=True)
    assert (await ask(store.fail, "w1", said))[0]["outcome"] == "done"


async def _cancelled(store: Store, task: TaskJson) -> None:
    await store.cancel(task["id"], None)


@pytest.mark.parametrize(
    "meanwhile",
    [
        *(_fetched, _fetched_and_given_back, _fetched_and_failed),
        *(_locked, _locked_and_given_back, _unlocked),
        *(_redriven, _failed, _failed_for_now, _cancelled),
    ],
)
async def test_it_is_too_late_once_the_task_went_on(
    store: Store,
    connection: Connection,
    late: TaskJson,
    verb: str,
    meanwhile: Callable[[Store, TaskJson], Any],
) -> None:
    await meanwhile(store, late)
    await assert_refused(store, connection, verb, late)
    await assert_refused(store, connection, verb, late, lockToken=None)


async def test_it_is_too_late_for_poison(
    store: Store, connection: Connection, settings: Settings, verb: str
) -> None:
    [task_id] = await create(store, {})
    task: TaskJson = {}
    for _ in range(settings.max_expiries):
        [task] = await lock(store)
        await expire_lock(connection, task_id)
        await store.release_due(None, 0)
    assert await state_of(connection, task_id) == State.FAILED
    await assert_refused(store, connection, verb, task)
    # Nor has it come back for its last worker once it is sent again.
    await store.retries([task_id], 3)
    await assert_refused(store, connection, verb, task)
    await assert_refused(store, connection, verb, task, lockToken=None)


async def test_other_numbers_of_retries_change_nothing(
    store: Store, late: TaskJson, verb: str
) -> None:
    await store.retries([late["id"]], 7)
    assert (await say(store, verb, late))["outcome"] == "done"


async def test_said_again_it_is_a_replay(store: Store, late: TaskJson, verb: str) -> None:
    first, again = await say(store, verb, late), await say(store, verb, late)
    assert "replayed" not in first
    if verb == "fail":
        assert again["code"] == "lock_lost"
    else:
        assert again == {"id": late["id"], "outcome": "done", "replayed": True}


async def test_twice_in_one_batch_it_is_done_once(store: Store, late: TaskJson, verb: str) -> None:
    said = held(late, acceptsLate=True, **SAID[verb])
    told = await ask(getattr(store, verb), "w1", said, said)
    assert told[0]["outcome"] == "done"
    assert "code" in told[1] or told[1]["replayed"]


async def test_a_cancelled_one_is_done_or_let_go(
    store: Store, connection: Connection, verb: str
) -> None:
    """Its worker may still say how it ended, until the sweep has cancelled it."""
    [task_id] = await create(store, {})
    [task] = await lock(store)
    await store.cancel(task_id, None)
    await expire_lock(connection, task_id)
    assert (await say(store, verb, task))["outcome"] == "done"
    assert (await row_of(connection, task_id))["state"] == {
        **ENDS,
        "fail": State.CANCELLED,
    }[verb]


# Races --------------------------------------------------------------------------


def _statement(verb: str, task: TaskJson) -> tuple[str, tuple[Any, ...]]:
    said = request("w1", held(task, acceptsLate=True, **SAID[verb]))
    args = FAIL_ARGS if verb == "fail" else ()
    return getattr(queries, verb.upper()), (SHARD, [said], *args)


async def _swept(store: Store, connection: Connection) -> TaskJson:
    await create(store, {})
    [task] = await lock(store)
    await expire_lock(connection, task["id"])
    await store.release_due(None, 0)
    return task


async def test_a_fetch_passes_over_what_is_just_being_ended(
    store: Store, connection: Connection, verb: str
) -> None:
    task = await _swept(store, connection)
    query, args = _statement(verb, task)
    await connection.execute("BEGIN")
    await connection.fetch(query, *args)
    assert await lock(store, worker_id="w2") == []
    await connection.execute("COMMIT")
    assert await lock(store, worker_id="w2") == []
    assert await state_of(connection, task["id"]) == ENDS[verb]


async def test_behind_another_lock_it_is_refused(
    store: Store, connection: Connection, watcher: Connection, verb: str
) -> None:
    task = await _swept(store, connection)
    await connection.execute("BEGIN")
    await connection.fetch(queries.LOCK, SHARD, task["id"], "w2", 60_000, 5)
    answer = await behind(connection, watcher, partial(say, store, verb, task))
    assert (answer["code"], answer["holder"]) == ("lock_lost", "w2")


async def test_a_lock_behind_it_is_refused(
    store: Store, connection: Connection, watcher: Connection, verb: str
) -> None:
    task = await _swept(store, connection)
    query, args = _statement(verb, task)

    async def lock_it() -> Any:
        with pytest.raises(Exception, match="state") as refusal:
            await store.lock(task["id"], "w2", 60_000)
        return refusal.value

    await connection.execute("BEGIN")
    await connection.fetch(query, *args)
    await behind(connection, watcher, lock_it)
    assert await state_of(connection, task["id"]) == ENDS[verb]


async def test_behind_the_sweep_it_is_still_welcome(
    store: Store, connection: Connection, watcher: Connection, verb: str
) -> None:
    await create(store, {})
    [task] = await lock(store)
    await expire_lock(connection, task["id"])
    await connection.execute("BEGIN")
    await connection.fetch(queries.RELEASE_DUE, SHARD, None, 10, 5, 0.0)
    answer = await behind(connection, watcher, partial(say, store, verb, task))
    assert answer["outcome"] == "done"
    assert await state_of(connection, task["id"]) == ENDS[verb]


async def test_it_shows_as_any_other(store: Store, late: TaskJson, verb: str) -> None:
    await say(store, verb, late)
    task = await shown(store, late["id"])
    assert task["attempt"] == 1
    assert task["result"] == {"complete": {"a": 1}, "bpmn_error": {}, "fail": None}[verb]

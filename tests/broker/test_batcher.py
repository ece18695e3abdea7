"""Group commit: who is answered when, and what one request can do to the others."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import asyncpg
import pytest
from anyio.abc import TaskGroup

from broker import batcher as batcher_module
from broker.batcher import BYTES_MAX, REQUESTS_MAX, Batcher
from broker.core import Core
from broker.errors import Invalid, Unavailable
from broker.store import Batch, Results, Retryable, Store
from tests.broker.conftest import Statements
from tests.eventually import eventually
from tests.factories import creation, decoded, is_blocked

Connection = asyncpg.Connection


class Statement:
    """Stands for a statement: it answers each request with itself, when it is let."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.may_end = anyio.Event()
        self.may_end.set()
        self.errors: list[Exception] = []
        self.done: list[Batch] = []

    async def run(self, requests: Sequence[str]) -> Batch:
        self.batches.append(list(requests))
        await self.may_end.wait()
        if self.errors:
            raise self.errors.pop(0)
        if any("bad" in request for request in requests):
            raise Invalid("refused")
        return Batch([Results(request.encode(), 0) for request in requests], [], None)


@pytest.fixture
def statement() -> Statement:
    return Statement()


@pytest.fixture
def batcher(statement: Statement) -> Batcher:
    return Batcher(statement.run, statement.done.append)


async def submit_all(batcher: Batcher, requests: Sequence[str]) -> list[Results | Exception]:
    """What became of requests that were all sent at once."""
    results: dict[int, Results | Exception] = {}

    async def submit(place: int, request: str) -> None:
        try:
            results[place] = await batcher.submit(request)
        except Exception as error:
            results[place] = error

    async with anyio.create_task_group() as server:
        server.start_soon(batcher.serve)
        async with anyio.create_task_group() as group:
            for place, request in enumerate(requests):
                group.start_soon(submit, place, request)
        server.cancel_scope.cancel()
    return [results[place] for place in range(len(requests))]


async def test_each_request_gets_its_own_answer(batcher: Batcher, statement: Statement) -> None:
    requests = [f"request {number}" for number in range(10)]
    results = await submit_all(batcher, requests)
    assert results == [Results(request.encode(), 0) for request in requests]
    assert statement.batches == [requests]
    assert len(statement.done) == 1


async def test_what_comes_while_a_statement_runs_is_the_next_batch(
    batcher: Batcher, statement: Statement
) -> None:
    statement.may_end = anyio.Event()

    async def has_begun() -> bool:
        return bool(statement.batches)

    async with anyio.create_task_group() as server:
        server.start_soon(batcher.serve)
        async with anyio.create_task_group() as group:
            group.start_soon(batcher.submit, "first")
            await eventually(has_begun)
            for number in range(5):
                group.start_soon(batcher.submit, f"{number}")
            await anyio.wait_all_tasks_blocked()
            assert statement.batches == [["first"]]
            statement.may_end.set()
        server.cancel_scope.cancel()
    assert statement.batches == [["first"], ["0", "1", "2", "3", "4"]]


@pytest.mark.parametrize("size", [BYTES_MAX - 1, BYTES_MAX])
async def test_only_a_full_batch_is_sent_beside_another(
    batcher: Batcher, statement: Statement, size: int
) -> None:
    statement.may_end = anyio.Event()
    waiting = "w" * size

    async def has_begun() -> bool:
        return bool(statement.batches)

    async with anyio.create_task_group() as server:
        server.start_soon(batcher.serve)
        async with anyio.create_task_group() as group:
            group.start_soon(batcher.submit, "first")
            await eventually(has_begun)
            group.start_soon(batcher.submit, waiting)
            await anyio.wait_all_tasks_blocked()
            assert len(statement.batches) == (2 if size == BYTES_MAX else 1)
            group.start_soon(batcher.submit, waiting)
            await anyio.wait_all_tasks_blocked()
            # However much waits, there are two at once.
            assert statement.batches == [["first"], [waiting]]
            statement.may_end.set()
        server.cancel_scope.cancel()
    assert [len(batch) for batch in statement.batches] == [1, 1, 1]


async def test_a_batch_is_bounded_by_requests(batcher: Batcher, statement: Statement) -> None:
    await submit_all(batcher, ["r"] * (REQUESTS_MAX + 10))
    assert [len(batch) for batch in statement.batches] == [REQUESTS_MAX, 10]


async def test_a_batch_is_bounded_by_bytes(batcher: Batcher, statement: Statement) -> None:
    large = "x" * (BYTES_MAX // 2)
    huge = "x" * (BYTES_MAX * 2)
    results = await submit_all(batcher, [large, large, large, huge, "small", huge])
    assert not any(isinstance(result, Exception) for result in results)
    assert [len(batch) for batch in statement.batches] == [2, 1, 1, 1, 1]
    assert [request for batch in statement.batches for request in batch] == [
        large, large, large, huge, "small", huge,
    ]  # fmt: skip


@pytest.mark.parametrize("bad", [[0], [9], [3, 4], [0, 5, 9], list(range(10))])
async def test_a_bad_request_fails_alone(
    batcher: Batcher, statement: Statement, bad: list[int]
) -> None:
    requests = [f"bad {number}" if number in bad else f"{number}" for number in range(10)]
    results = await submit_all(batcher, requests)
    failed = [place for place, result in enumerate(results) if isinstance(result, Invalid)]
    assert failed == bad
    good = [request for request in requests if "bad" not in request]
    assert [result.body.decode() for result in results if isinstance(result, Results)] == good
    # Nobody is answered twice, so nothing is done twice.
    assert sum(len(batch.results) for batch in statement.done) == len(good)


async def test_a_deadlock_is_tried_again(batcher: Batcher, statement: Statement) -> None:
    statement.errors = [Retryable("deadlock"), Retryable("serialization")]
    assert await submit_all(batcher, ["a", "b"]) == [Results(b"a", 0), Results(b"b", 0)]
    assert statement.batches == [["a", "b"]] * 3
    assert len(statement.done) == 1


async def test_a_deadlock_that_stays_is_told(batcher: Batcher, statement: Statement) -> None:
    statement.errors = [Retryable("deadlock")] * 100
    [result] = await submit_all(batcher, ["a"])
    assert isinstance(result, Unavailable)
    assert len(statement.batches) < 10


@pytest.mark.parametrize("error", [Unavailable("away"), ZeroDivisionError()])
async def test_an_error_is_told_and_the_next_batch_goes_on(
    batcher: Batcher, statement: Statement, error: Exception
) -> None:
    statement.errors = [error]
    requests = ["r"] * (REQUESTS_MAX + 1)
    results = await submit_all(batcher, requests)
    assert results == [error] * REQUESTS_MAX + [Results(b"r", 0)]


async def test_a_caller_that_goes_away_takes_nobody_with_it(
    batcher: Batcher, statement: Statement
) -> None:
    statement.may_end = anyio.Event()
    scope = anyio.CancelScope()
    results: list[Results] = []

    async def go_away() -> None:
        with scope:
            await batcher.submit("gone")

    async def stay() -> None:
        results.append(await batcher.submit("stayed"))

    async with anyio.create_task_group() as server:
        server.start_soon(batcher.serve)
        async with anyio.create_task_group() as group:
            group.start_soon(go_away)
            group.start_soon(stay)
            await anyio.wait_all_tasks_blocked()
            scope.cancel()
            await anyio.wait_all_tasks_blocked()
            statement.may_end.set()
        assert await batcher.submit("later") == Results(b"later", 0)
        server.cancel_scope.cancel()
    assert results == [Results(b"stayed", 0)]
    assert statement.batches[0] == ["gone", "stayed"]


@pytest.mark.parametrize("limit", ["WAITING_MAX", "WAITING_BYTES_MAX"])
async def test_a_full_batcher_refuses_at_once(
    batcher: Batcher, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(batcher_module, limit, 3)
    async with anyio.create_task_group() as group:
        for number in range(3):
            group.start_soon(batcher.submit, f"{number}")
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(Unavailable) as refusal:
            await batcher.submit("one more")
        group.cancel_scope.cancel()
    assert refusal.value.retry_after_s > 0


# With a real database ---------------------------------------------------------


async def test_nobody_is_answered_before_the_commit(
    core: Core, connection: Connection, watcher: Connection
) -> None:
    """Whatever was answered is there for everybody else."""
    await core.create(creation({}))
    answered = anyio.Event()

    async def create(group: TaskGroup) -> None:
        results = await core.create(creation({"uniqueKey": "k"}))
        assert decoded(results.body)[0]["id"]
        answered.set()
        assert await watcher.fetchval("SELECT count(*) FROM fetchlock.open_task") == 2
        group.cancel_scope.cancel()

    await connection.execute("BEGIN")
    await connection.execute("LOCK TABLE fetchlock.unique_key IN EXCLUSIVE MODE")
    async with anyio.create_task_group() as group:
        group.start_soon(create, group)
        await eventually(lambda: is_blocked(watcher))
        assert not answered.is_set()
        await connection.execute("COMMIT")
        await anyio.sleep_forever()
    assert answered.is_set()


async def test_requests_at_once_share_a_statement(core: Core, statements: Statements) -> None:
    await core.create(creation({}))
    await statements.forget()
    async with anyio.create_task_group() as group:
        for _ in range(200):
            group.start_soon(core.create, creation({}))
    calls = await statements.calls()
    assert calls["create"] <= 3


async def test_a_value_that_postgresql_refuses_fails_alone(store: Store) -> None:
    batcher = Batcher(store.create, lambda batch: None)
    requests = [creation({})] * 20
    requests[7] = creation({"priority": 2**40})
    results = await submit_all(batcher, requests)
    assert [isinstance(result, Invalid) for result in results] == [n == 7 for n in range(20)]
    ids = [decoded(result.body)[0]["id"] for result in results if isinstance(result, Results)]
    assert len(await store.get_tasks(ids)) == len(set(ids)) == 19


async def test_whoever_waits_when_it_ends_is_told(batcher: Batcher, statement: Statement) -> None:
    statement.may_end = anyio.Event()
    told: list[str] = []

    async def submit(request: str) -> None:
        with pytest.raises(Unavailable):
            await batcher.submit(request)
        told.append(request)

    async def waiting() -> bool:
        return bool(statement.batches) and len(batcher._waiting) == 1

    async with anyio.create_task_group() as callers, anyio.create_task_group() as server:
        server.start_soon(batcher.serve)
        callers.start_soon(submit, "under way")
        await statement_started(statement)
        callers.start_soon(submit, "waits")
        await eventually(waiting)
        server.cancel_scope.cancel()
    assert sorted(told) == ["under way", "waits"]
    with pytest.raises(Unavailable):
        await batcher.submit("too late")


async def statement_started(statement: Statement) -> None:
    async def started() -> bool:
        return bool(statement.batches)

    await eventually(started)

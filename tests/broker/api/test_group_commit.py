"""Group commit over a real database: what one request, client or connection does to the others.

Who is answered when, and what happens to a batch whose statement fails, is
tested without a database in test_batcher.py.
"""

from __future__ import annotations

from functools import partial
from urllib.parse import urlsplit

import anyio
import asyncpg
import httpx2
import msgspec
import pytest

from broker import batcher as batcher_module
from broker.api.app import build_app
from broker.api.native.routes import ROOT
from broker.core import Core, open_core
from broker.errors import Unavailable
from broker.settings import Settings
from broker.store import Results, Store
from tests.broker.api.conftest import Serve
from tests.eventually import eventually
from tests.factories import answers, creation, decoded, held, is_blocked, poll, request, row_of

Connection = asyncpg.Connection

_TASKS = "SELECT count(*) FROM fetchlock.open_task"
_END_WHO_WAITS = """
SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


async def blocked(watcher: Connection, wanted: int) -> bool:
    count: int = await watcher.fetchval(
        """
        SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock'
        """
    )
    return count == wanted


async def hold_creates(connection: Connection) -> None:
    """Until the transaction ends, no task with a key can be created."""
    await connection.execute("BEGIN")
    await connection.execute("LOCK TABLE fetchlock.unique_key IN EXCLUSIVE MODE")


async def test_a_full_batcher_is_told_over_http(
    core: Core,
    serve: Serve,
    connection: Connection,
    watcher: Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At once, with the time to come again; who waits already is served."""
    monkeypatch.setattr(batcher_module, "WAITING_MAX", 3)
    statuses: list[int] = []
    async with serve(build_app(core)) as port:
        url = f"http://127.0.0.1:{port}{ROOT}"
        async with httpx2.AsyncClient(timeout=60) as http:

            async def create(key: int) -> None:
                task = {"topic": "t", "uniqueKey": f"{key}"}
                statuses.append((await http.post(url, json=task)).status_code)

            async def is_full() -> bool:
                return len(core._create._waiting) == 3

            await core.create(creation({}))
            await hold_creates(connection)
            async with anyio.create_task_group() as group:
                group.start_soon(create, 0)
                await eventually(partial(is_blocked, watcher))
                for key in range(1, 4):
                    group.start_soon(create, key)
                await eventually(is_full)
                refusal = await http.post(url, json={"topic": "t"})
                await connection.execute("COMMIT")
    assert refusal.status_code == 503
    assert int(refusal.headers["Retry-After"]) > 0
    assert refusal.json()["code"] == "unavailable"
    assert statuses == [202] * 4
    assert await watcher.fetchval(_TASKS) == 5


async def test_a_client_that_hangs_up_takes_nobody_with_it(
    core: Core, serve: Serve, connection: Connection, watcher: Connection
) -> None:
    """Its task is created all the same: it was said, and nobody said otherwise."""
    await core.create(creation({}))
    await hold_creates(connection)
    answered: list[httpx2.Response] = []
    async with serve(build_app(core)) as port, httpx2.AsyncClient(timeout=60) as http:
        url = f"http://127.0.0.1:{port}{ROOT}"

        async def create() -> None:
            answered.append(await http.post(url, json={"topic": "t", "uniqueKey": "stays"}))

        async def is_waiting(requests: int) -> bool:
            return len(core._create._waiting) == requests

        async with anyio.create_task_group() as group:
            group.start_soon(core.create, creation({"uniqueKey": "first"}))
            await eventually(partial(is_blocked, watcher))
            body = msgspec.json.encode({"topic": "t", "uniqueKey": "goes"})
            head = f"POST {ROOT} HTTP/1.1\r\nhost: b\r\ncontent-length: {len(body)}\r\n\r\n"
            leaving = await anyio.connect_tcp("127.0.0.1", port)
            await leaving.send(head.encode() + body)
            await eventually(partial(is_waiting, 1))
            group.start_soon(create)
            await eventually(partial(is_waiting, 2))
            await leaving.aclose()
            await connection.execute("COMMIT")
    assert [answer.status_code for answer in answered] == [202]
    keys = await watcher.fetch("SELECT key FROM fetchlock.unique_key ORDER BY key")
    assert [row["key"] for row in keys] == ["first", "goes", "stays"]
    assert await watcher.fetchval(_TASKS) == 4


async def test_a_serialization_failure_is_tried_again(
    settings: Settings, connection: Connection, watcher: Connection
) -> None:
    """Some databases are set to an isolation in which whoever waited for a row has to start over."""
    database = urlsplit(settings.database_url or "").path.removeprefix("/")
    await connection.execute(
        f"ALTER DATABASE {database} SET default_transaction_isolation = 'repeatable read'"
    )
    told = []
    async with open_core(settings) as core:
        await core.create(creation({}, {}))
        tasks = decoded((await poll(core.dispatcher, 2)).body)

        async def fail() -> None:
            said = [held(task, errorMessage="e", retryTimeoutMs=0) for task in tasks]
            told.extend(decoded((await core.fail(request("w1", *said))).body))

        await connection.execute("BEGIN")
        await connection.execute(
            "UPDATE fetchlock.open_task SET size_bytes = 3 WHERE id = $1", tasks[1]["id"]
        )
        async with anyio.create_task_group() as group:
            group.start_soon(fail)
            await eventually(partial(is_blocked, watcher))
            await connection.execute("COMMIT")
    assert [answer["outcome"] for answer in told] == ["done", "done"]
    rows = [await row_of(connection, task["id"]) for task in tasks]
    assert [(row["failures"], row["size_bytes"]) for row in rows] == [(1, 2), (1, 3)]


async def test_a_lost_connection_fails_its_batch_and_no_other(
    core: Core, connection: Connection, watcher: Connection
) -> None:
    """Nobody knows whether its statement was committed, so whoever asked is told to find out."""
    await core.create(creation({}))
    lost: list[int] = []
    created: list[str] = []

    async def create(place: int) -> None:
        text = creation({"uniqueKey": f"{place}"})
        try:
            await core.create(text)
        except Unavailable:
            lost.append(place)
            created.append(decoded((await core.create(text)).body)[0]["id"])

    async def is_waiting() -> bool:
        return len(core._create._waiting) == 2

    await hold_creates(connection)
    async with anyio.create_task_group() as group:
        group.start_soon(create, 0)
        await eventually(partial(is_blocked, watcher))
        group.start_soon(create, 1)
        group.start_soon(create, 2)
        await eventually(is_waiting)
        await watcher.execute(_END_WHO_WAITS)
        await connection.execute("COMMIT")
    assert lost == [0]
    assert len(created) == 1
    assert await watcher.fetchval(_TASKS) == 4


async def test_what_may_be_said_twice_outlives_a_lost_connection(
    core: Core, connection: Connection, watcher: Connection
) -> None:
    await core.create(creation({}))
    delivery = await poll(core.dispatcher)
    [task] = decoded(delivery.body)
    results: list[Results] = []

    async def complete() -> None:
        results.append(await core.complete(request("w1", held(task))))

    await connection.execute("BEGIN")
    await connection.execute("LOCK TABLE fetchlock.outcome IN SHARE MODE")
    async with anyio.create_task_group() as group:
        group.start_soon(complete)
        await eventually(partial(is_blocked, watcher))
        await watcher.execute(_END_WHO_WAITS)
        await connection.execute("COMMIT")
    assert results == [Results(msgspec.json.encode([{"id": task["id"], "outcome": "done"}]), 0)]


async def test_batches_with_the_same_keys_do_not_deadlock(
    store: Store, connection: Connection, watcher: Connection
) -> None:
    """Each takes its keys in one order, whatever the order of the tasks."""
    await store.create([creation({})])
    told: list[bool] = []

    async def create(*keys: str) -> None:
        batch = await store.create([creation(*({"uniqueKey": key} for key in keys))])
        told.extend("replayed" in answer for answer in answers(batch))

    await connection.execute("BEGIN")
    await connection.execute(
        """
        INSERT INTO fetchlock.unique_key (key, task_id, shard, fingerprint)
        VALUES ('m', gen_random_uuid(), 0, '')
        """
    )
    async with anyio.create_task_group() as group:
        group.start_soon(create, "b", "m", "a")
        await eventually(partial(blocked, watcher, 1))
        group.start_soon(create, "a", "b")
        await eventually(partial(blocked, watcher, 2))
        await connection.execute("ROLLBACK")
    assert sorted(told) == [False] * 3 + [True] * 2
    assert await watcher.fetchval(_TASKS) == 4

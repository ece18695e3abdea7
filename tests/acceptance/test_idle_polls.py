"""Ten thousand workers wait at one broker process, and nobody notices."""

from __future__ import annotations

import resource
import selectors
import socket
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from http.client import HTTPResponse
from typing import Final

import asyncpg
import msgspec
import psutil
import pytest
from anyio import to_thread

from tests.acceptance.scene import parked_polls
from tests.conftest import execute
from tests.eventually import eventually
from tests.factories import TaskJson, decoded
from tests.processes import BrokerProcess
from worker_sdk import Client, NewTask

pytestmark = pytest.mark.acceptance

_OTHER_FILES: Final = 300
"""What a process has open besides the polls' sockets, generously."""

_FILES_MAX: Final = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
POLLS: Final = (
    10_000 if _FILES_MAX == resource.RLIM_INFINITY else min(10_000, _FILES_MAX - _OTHER_FILES)
)
"""Fewer where this machine does not allow a process so many files; the test's id tells."""

_TOPICS: Final = 100
_AT_ONCE: Final = 2_000
"""Fewer than connections may wait to be accepted."""

_POLL_BYTES_MAX: Final = 60 * 1024

_ANSWER_S: Final = 60.0
"""Only so that an answer that never comes fails the test."""

_COUNTED: Final = 8
"""Statements that are waited for, to see how long they take."""

_FORGET: Final = """
    SELECT pg_stat_statements_reset(0, oid) FROM pg_database WHERE datname = current_database()
"""
_STATEMENTS: Final = """
    SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements
    WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND query NOT LIKE '%pg_stat_statements%'
"""


@pytest.fixture
def may_open_files() -> Iterator[None]:
    """This process, and the broker that it starts, may have that many sockets."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(before[0], POLLS + _OTHER_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


class Polls:
    """Parked polls, as sockets and nothing else: this process has to hold all of them, too."""

    def __init__(self, base_url: str, stack: AsyncExitStack) -> None:
        self._base_url = base_url
        self._stack = stack
        self._answers = stack.enter_context(selectors.DefaultSelector())
        self._asked = 0
        self.parked = 0

    async def park(self, polls: int) -> None:
        """So many more, on all topics in turn."""
        for _ in range(polls):
            poll = self._stack.enter_context(self._connected())
            poll.sendall(self._request(self._asked))
            self._answers.register(poll, selectors.EVENT_READ)
            self._asked += 1
        self.parked += polls
        await eventually(self._are_all_parked, within_s=60)

    def _connected(self) -> socket.socket:
        host, _, port = self._base_url.removeprefix("http://").rpartition(":")
        return socket.create_connection((host, int(port)))

    def _request(self, number: int) -> bytes:
        wish = {
            "workerId": f"w{number}",
            "maxTasks": 10,
            "lockDurationMs": 60_000,
            "requestTimeoutMs": 600_000,
            "subscriptions": [{"topic": f"topic-{number % _TOPICS}"}],
        }
        body = msgspec.json.encode(wish)
        head = (
            "POST /api/external-tasks/fetch-and-lock HTTP/1.1\r\nhost: broker\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    async def _are_all_parked(self) -> bool:
        return await parked_polls(self._base_url) == self.parked

    async def answers(self, wanted: int) -> list[list[TaskJson]]:
        """What the next polls that are answered bring, and that no others are."""
        bodies: list[list[TaskJson]] = []
        while len(bodies) < wanted:
            for poll, _ in await to_thread.run_sync(self._answers.select, _ANSWER_S):
                assert isinstance(poll.fileobj, socket.socket)
                answer = HTTPResponse(poll.fileobj)
                answer.begin()
                bodies.append(decoded(answer.read()))
                self._answers.unregister(poll.fileobj)
                self.parked -= 1
        assert len(bodies) == wanted
        await eventually(self._are_all_parked)
        return bodies


@pytest.mark.parametrize("polls", [POLLS])
async def test_idle_polls_cost_next_to_nothing(
    may_open_files: None, database_url: str, polls: int
) -> None:
    async with AsyncExitStack() as stack:
        broker = stack.enter_context(BrokerProcess(database_url))
        client = await stack.enter_async_context(Client(broker.base_url))
        await execute(database_url, "CREATE EXTENSION pg_stat_statements")
        parked = Polls(broker.base_url, stack)
        # What a broker has of each topic, and of having answered at all, is there beforehand.
        await parked.park(_TOPICS)
        await one_task_each(client, parked)
        process = psutil.Process(broker.pid)
        bytes_before = process.memory_info().rss
        while parked.parked < polls:
            await parked.park(min(_AT_ONCE, polls - parked.parked))
        assert process.memory_info().rss - bytes_before <= _POLL_BYTES_MAX * polls

        await assert_few_statements(database_url)
        await one_task_each(client, parked)
        assert await to_thread.run_sync(broker.stop) == 0


async def one_task_each(client: Client, parked: Polls) -> None:
    """A task on each topic goes to one of the polls there, and to no other."""
    topics = [f"topic-{number}" for number in range(_TOPICS)]
    answers = await client.create_batch([NewTask(topic) for topic in topics])
    created = dict(zip(answers, topics, strict=True))
    bodies = await parked.answers(_TOPICS)
    assert {task["id"]: task["topic"] for [task] in bodies} == created
    assert {task["attempt"] for [task] in bodies} == {1}


async def assert_few_statements(database_url: str) -> None:
    """Two a second: the look for deadlines, and one second look for all polls together."""
    connection = await asyncpg.connect(database_url)

    async def enough() -> int:
        statements: int = await connection.fetchval(_STATEMENTS)
        return statements if statements >= _COUNTED else 0

    try:
        await connection.execute(_FORGET)
        started_at = time.monotonic()
        statements = await eventually(enough, within_s=60)
        # Second looks are up to a fifth of a second early.
        assert statements <= 2.3 * (time.monotonic() - started_at) + 2
    finally:
        await connection.close()

"""The four calls of a worker and a producer, over raw HTTP.

Bodies are put together and taken apart with as little as the protocol allows:
of a fetched task only what its completion must name is decoded.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Final
from urllib.parse import quote

import msgspec

from benchmarks.contenders.connection import Connections
from benchmarks.program import payload

BULK: Final = 1_000
"""Tasks of a bulk request: as many as the broker takes at once."""

PATH: Final = b"/api/external-tasks"

LOCK_MS: Final = 60_000
WORKER: Final = "bench"
_CLEAR_TASKS: Final = 500
_PAGE: Final = 200


class Numbered(msgspec.Struct):
    """The payload's counter, which tells the tasks apart."""

    i: int


class Locked(msgspec.Struct, rename="camel"):
    """What a completion needs of a fetched task, and which one it is."""

    id: str
    lock_token: str
    variables: Numbered


class _Result(msgspec.Struct):
    id: str | None = None
    outcome: str | None = None
    replayed: bool = False
    code: str | None = None


class _Results(msgspec.Struct):
    results: list[_Result]


class _Left(msgspec.Struct, rename="camel"):
    id: str
    worker_id: str


class _Page(msgspec.Struct):
    tasks: list[_Left]
    next: str | None


_PAGE_OF_TASKS = msgspec.json.Decoder(_Page)
_RESULTS = msgspec.json.Decoder(_Results)
_LOCKED = msgspec.json.Decoder(list[Locked])


class Calls:
    """A broker and a topic. Every call is one request on the connections it is given."""

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self._numbers = itertools.count()

    async def create(
        self, connections: Connections, *, number: int | None = None, topic: str | None = None
    ) -> int:
        """Create one task. Returns its number, a new one unless given."""
        number = self.number() if number is None else number
        await connections.ask(PATH, _task(topic or self._topic, number))
        return number

    async def create_batch(self, connections: Connections, size: int) -> None:
        """Create up to `BULK` tasks at once. Raises if one of them was refused."""
        body = b'{"tasks":[%b]}' % b",".join(
            _task(self._topic, next(self._numbers)) for _ in range(size)
        )
        answer = _RESULTS.decode(await connections.ask(PATH + b"/batch", body))
        if refused := [result.code for result in answer.results if result.id is None]:
            raise AssertionError(f"{len(refused)} tasks were refused: {refused[0]}")

    async def fetch(
        self, connections: Connections, max_tasks: int, *, wait_ms: int = 0
    ) -> list[Locked]:
        """Lock up to `max_tasks`, waiting for the first of them."""
        wish = poll([self._topic], max_tasks, wait_ms)
        return _LOCKED.decode(await connections.ask(PATH + b"/fetch-and-lock", wish))

    async def complete(self, connections: Connections, locked: Sequence[Locked]) -> int:
        """Complete the tasks. Returns how many of them this call has finished."""
        if not locked:
            return 0
        tasks = [{"id": task.id, "lockToken": task.lock_token} for task in locked]
        body = msgspec.json.encode({"workerId": WORKER, "tasks": tasks})
        answer = _RESULTS.decode(await connections.ask(PATH + b"/complete", body))
        return sum(result.outcome == "done" and not result.replayed for result in answer.results)

    async def clear(self, connections: Connections) -> None:
        """Leave nothing to be done on the topic, not even what a stopped run has locked."""
        while locked := await self.fetch(connections, _CLEAR_TASKS):
            await self.complete(connections, locked)
        listing = f"?state=LOCKED&topic={quote(self._topic)}&limit={_PAGE}"
        after: str | None = ""
        while after is not None:
            path = PATH + (f"{listing}&after={quote(after)}" if after else listing).encode()
            page = _PAGE_OF_TASKS.decode(await connections.get(path))
            for task in page.tasks:
                body = msgspec.json.encode({"workerId": task.worker_id})
                await connections.ask(PATH + f"/{task.id}/complete".encode(), body)
            # A page may be empty and not the last: the broker looks at so many tasks and no more.
            after = page.next

    def number(self) -> int:
        """A number for a task that is to be created."""
        return next(self._numbers)


def poll(topics: Sequence[str], max_tasks: int, wait_ms: int) -> bytes:
    """The body of a fetch-and-lock."""
    return msgspec.json.encode(
        {
            "workerId": WORKER,
            "maxTasks": max_tasks,
            "lockDurationMs": LOCK_MS,
            "requestTimeoutMs": wait_ms,
            "subscriptions": [{"topic": topic} for topic in topics],
        }
    )


def tasks_of(answer: bytes) -> list[Locked]:
    """What a poll has brought."""
    return _LOCKED.decode(answer)


def _task(topic: str, number: int) -> bytes:
    return msgspec.json.encode({"topic": topic, "variables": payload(number)})

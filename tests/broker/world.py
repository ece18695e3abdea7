"""Two brokers on one database, and how the random walk speaks to them."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import asyncpg
import msgspec
from anyio.from_thread import BlockingPortal

from broker.core import Core
from broker.errors import BrokerError
from tests.broker.known import OPERATORS, Lock
from tests.broker.said import LATER_MS, Said
from tests.factories import decoded, request


class World:
    """Two brokers, one database, and a connection beside them, for all walks."""

    def __init__(
        self, portal: BlockingPortal, brokers: list[Core], connection: asyncpg.Connection
    ) -> None:
        self.portal = portal
        self.brokers = brokers
        self.connection = connection
        self.walks = itertools.count(1)
        self.steps = 0

    def run(self, work: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        return self.portal.call(work, *args)

    async def say(self, broker: int, said: Said, task_id: str, lock: Lock) -> str:
        task = {"id": task_id} | ({"lockToken": lock.token} if lock.token else {}) | said.members
        verb = getattr(self.brokers[broker], said.verb)
        results = await verb(request(lock.worker_id, task, lockDurationMs=LATER_MS))
        [answer] = decoded(results.body)
        if answer.get("replayed"):
            return "replayed"
        return str(answer.get("code") or answer["outcome"])

    async def say_as_operator(self, broker: int, said: Said, task_id: str) -> str:
        verb = getattr(self.brokers[broker], said.verb)
        members = {"reason": None} if said.verb == "cancel" else said.members
        try:
            await verb([task_id] if said.verb == "retries" else task_id, **members)
        except BrokerError as error:
            return error.code
        return "done"

    async def say_both(self, task_id: str, lock: Lock, one: Said, other: Said) -> tuple[str, str]:
        answers = ["", ""]

        async def say(place: int, said: Said) -> None:
            if said.verb in OPERATORS:
                answers[place] = await self.say_as_operator(place, said, task_id)
            else:
                answers[place] = await self.say(place, said, task_id, lock)

        async with anyio.create_task_group() as group:
            group.start_soon(say, 0, one)
            group.start_soon(say, 1, other)
        return answers[0], answers[1]

    async def lock(self, broker: int, task_id: str, worker_id: str) -> tuple[str, str | None]:
        """What a worker is told that wants this very task, and the token of its lock."""
        try:
            answer = await self.brokers[broker].lock(task_id, worker_id, LATER_MS)
        except BrokerError as error:
            return error.code, None
        return "done", msgspec.json.decode(answer)["lockToken"]


@asynccontextmanager
async def connected(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection beside those of the brokers."""
    connection = await asyncpg.connect(database_url)
    try:
        yield connection
    finally:
        connection.terminate()

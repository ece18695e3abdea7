"""Workers that fetch many tasks and complete them one a request, in the native dialect or Camunda's.

Camunda's protocol has no other way to complete. Both dialects are spoken by the
same code and carry the same variables, so that what differs between them is the
broker's. Tasks are created natively: workers of Camunda's do not create any.
"""

from __future__ import annotations

import time
from importlib.metadata import version
from typing import ClassVar, Final, Literal, NamedTuple, Protocol
from urllib.parse import urldefrag

import anyio
import msgspec

from benchmarks.contenders.calls import BULK, LOCK_MS, PATH, WORKER, Calls
from benchmarks.contenders.connection import Connections, in_parallel
from benchmarks.contenders.fetchlock_http import DURABILITY, check_ready
from benchmarks.program import Program, Ready, serve

Spoken = Literal["native", "camunda7"]

_PER_FETCH: Final = 100
_COMPLETING: Final = 64
_DRAINING: Final = 4
"""Fetches at once in a drain. They wait while so many tasks as one of them brings are not begun."""
_LOCKING: Final = 8
"""Fetches at once where nothing else is done, as many as in the drains of `fetchlock_http`."""
_CREATING: Final = 4

_CAMUNDA7_PATH: Final = b"/engine-rest/external-task"


class Held(NamedTuple):
    """A task that is locked: where to complete it, and with what."""

    path: bytes
    completion: bytes


class Dialect(Protocol):
    """How a worker says it."""

    async def fetch(self, connections: Connections, max_tasks: int) -> list[Held]:
        """Lock up to `max_tasks`, and do them."""


class Native:
    """With a lock token, and plain JSON for variables."""

    def __init__(self, topic: str) -> None:
        self._calls = Calls(topic)

    async def fetch(self, connections: Connections, max_tasks: int) -> list[Held]:
        return [
            Held(
                b"%b/%b/complete" % (PATH, task.id.encode()),
                msgspec.json.encode(
                    {
                        "workerId": WORKER,
                        "lockToken": task.lock_token,
                        "variables": {"receipt": f"r-{task.variables.i}", "settled": True},
                    }
                ),
            )
            for task in await self._calls.fetch(connections, max_tasks)
        ]


class _Number(msgspec.Struct):
    value: int


class _Numbered(msgspec.Struct):
    i: _Number


class _Locked(msgspec.Struct):
    id: str
    variables: _Numbered


_LOCKED = msgspec.json.Decoder(list[_Locked])


class Camunda7:
    """As the clients for Java and JavaScript do it, which wish for priority by themselves."""

    def __init__(self, topic: str) -> None:
        self._topic = topic

    async def fetch(self, connections: Connections, max_tasks: int) -> list[Held]:
        wish = {
            "workerId": WORKER,
            "maxTasks": max_tasks,
            "usePriority": True,
            "topics": [{"topicName": self._topic, "lockDuration": LOCK_MS}],
        }
        path = _CAMUNDA7_PATH + b"/fetchAndLock"
        answer = await connections.ask(path, msgspec.json.encode(wish))
        return [
            Held(
                b"%b/%b/complete" % (_CAMUNDA7_PATH, task.id.encode()),
                msgspec.json.encode(
                    {
                        "workerId": WORKER,
                        "variables": {
                            "receipt": {
                                "value": f"r-{task.variables.i.value}",
                                "type": "String",
                                "valueInfo": {},
                            },
                            "settled": {"value": True, "type": "Boolean", "valueInfo": {}},
                        },
                        "localVariables": {},
                    }
                ),
            )
            for task in _LOCKED.decode(answer)
        ]


class FetchlockOneByOne(Program):
    """See the module."""

    WORKLOADS: ClassVar[frozenset[str]] = frozenset(
        {"prepare", "create_bulk", "drain", "lock", "complete"}
    )

    def __init__(self, target: str) -> None:
        super().__init__(target)
        self._url, topic = urldefrag(target)
        self._calls = Calls(topic)
        self._dialects: dict[Spoken, Dialect] = {
            "native": Native(topic),
            "camunda7": Camunda7(topic),
        }
        self._held: list[Held] = []

    async def introduce(self) -> Ready:
        await check_ready(self._url)
        return Ready(
            name="fetchlock one by one",
            version=version("fetchlock"),
            settings=f"in either dialect: fetch {_PER_FETCH} a request, on {_DRAINING} connections "
            f"in a drain and on {_LOCKING} alone; complete one a request on {_COMPLETING}, with two "
            "variables",
            durability=DURABILITY,
        )

    async def prepare(self) -> None:
        """Leave nothing on the topic."""
        self._held.clear()
        with Connections(self._url, 1) as connections:
            await self._calls.clear(connections)

    async def create_bulk(self, count: int) -> None:
        """Natively, in requests of a thousand."""
        with Connections(self._url, _CREATING) as connections:
            await in_parallel(
                _CREATING,
                lambda first: self._calls.create_batch(connections, min(BULK, count - first)),
                range(0, count, BULK),
            )

    async def drain(self, count: int, dialect: Spoken) -> dict[str, float]:
        """Fetch and complete until all are completed."""
        fetch = self._dialects[dialect].fetch
        fetched, arriving = anyio.create_memory_object_stream[Held](_PER_FETCH)

        async def take(first: int) -> None:
            left = min(_PER_FETCH, count - first)
            while left:
                for task in (held := await fetch(fetching, left)):
                    await fetched.send(task)
                left -= len(held)

        async def work() -> None:
            async for task in arriving:
                await completing.ask(task.path, task.completion)
                self.advance()

        with (
            Connections(self._url, _DRAINING) as fetching,
            Connections(self._url, _COMPLETING) as completing,
        ):
            begun_at_s = time.monotonic()
            async with arriving, anyio.create_task_group() as group:
                for _ in range(_COMPLETING):
                    group.start_soon(work)
                async with fetched:
                    await in_parallel(_DRAINING, take, range(0, count, _PER_FETCH))
            seconds = time.monotonic() - begun_at_s
            if await fetch(fetching, 1):
                raise AssertionError(f"{count} were drained, and there are more")
        return {"seconds": seconds}

    async def lock(self, count: int, dialect: Spoken) -> dict[str, float]:
        """Fetch all of them, for `complete`."""
        fetch = self._dialects[dialect].fetch

        async def take(first: int) -> None:
            left = min(_PER_FETCH, count - first)
            while left:
                held = await fetch(connections, left)
                self._held += held
                left -= len(held)
                self.advance(len(held))

        with Connections(self._url, _LOCKING) as connections:
            begun_at_s = time.monotonic()
            await in_parallel(_LOCKING, take, range(0, count, _PER_FETCH))
            return {"seconds": time.monotonic() - begun_at_s}

    async def complete(self) -> dict[str, float]:
        """Complete all that `lock` has fetched."""

        async def complete(task: Held) -> None:
            await connections.ask(task.path, task.completion)
            self.advance()

        with Connections(self._url, _COMPLETING) as connections:
            begun_at_s = time.monotonic()
            await in_parallel(_COMPLETING, complete, self._held)
            seconds = time.monotonic() - begun_at_s
        self._held.clear()
        return {"seconds": seconds}


if __name__ == "__main__":
    serve(FetchlockOneByOne)

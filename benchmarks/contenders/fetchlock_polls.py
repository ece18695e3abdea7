"""Thousands of long polls that wait for nothing, and a few that get something.

Each is a connection with a request that is not answered yet, and nothing more:
the generator has no task per poll, so that what is seen is the broker's cost.
"""

from __future__ import annotations

import asyncio
import random
import resource
import time
from functools import partial
from importlib.metadata import version
from typing import ClassVar, Final
from urllib.parse import urldefrag

import anyio

from benchmarks.contenders.calls import PATH, Calls, poll, tasks_of
from benchmarks.contenders.connection import Answer, Connection, Connections, in_parallel
from benchmarks.contenders.fetchlock_http import DURABILITY, check_ready
from benchmarks.program import Program, Ready, serve

_TOPICS: Final = 100
_POLL_MS: Final = 1_200_000
"""Far beyond the measurement: nobody polls again meanwhile."""

_OPENING: Final = 16
_PARKING_S: Final = 60.0
_LOOK_S: Final = 0.1


class FetchlockPolls(Program):
    """See the module."""

    WORKLOADS: ClassVar[frozenset[str]] = frozenset(
        {"prepare", "park", "pickup", "statements", "unpark"}
    )

    def __init__(self, target: str) -> None:
        super().__init__(target)
        self._url, self._topic = urldefrag(target)
        self._calls = Calls(self._topic)
        self._topics = [f"{self._topic}-{number}" for number in range(_TOPICS)]
        self._parked: list[Connection] = []
        self._arrival: asyncio.Future[tuple[float, Connection, str, Answer]]

    async def introduce(self) -> Ready:
        await check_ready(self._url)
        # Each poll is an open file, and the usual soft limit stops at a thousand.
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        return Ready(
            name="fetchlock polls",
            version=version("fetchlock"),
            settings=f"each poll on a connection of its own, over {_TOPICS} topics; up to {hard:,} open files",
            durability=DURABILITY,
        )

    async def aclose(self) -> None:
        for connection in self._parked:
            connection.close()
        self._parked.clear()

    async def prepare(self) -> None:
        """Leave nothing on the topics."""
        with Connections(self._url, 1) as connections:
            for topic in self._topics:
                await Calls(topic).clear(connections)

    async def park(self, count: int) -> dict[str, float]:
        """Let so many more polls wait, until `unpark`. Returns when the broker counts them all."""

        async def park(number: int) -> None:
            connection = await Connection.open(self._url)
            self._parked.append(connection)
            self._poll(connection, self._topics[number % _TOPICS])
            self.advance()

        begun_at_s = time.monotonic()
        await in_parallel(_OPENING, park, range(count))
        with anyio.fail_after(_PARKING_S):
            # Nobody is told when a poll has parked.
            while await self._metric("fetchlock_http_longpolls") < len(self._parked):  # noqa: ASYNC110
                await anyio.sleep(_LOOK_S)
        return {"seconds": time.monotonic() - begun_at_s}

    async def pickup(self, count: int) -> dict[str, list[float]]:
        """Begin of the create call → one of the parked polls answered; it completes and parks again.

        From the begin, because the poll's answer often comes before the call has returned.
        """
        latencies_ms: list[float] = []
        topics = self._topics[: len(self._parked)]
        with Connections(self._url, 1) as connections:
            for _ in range(count):
                await anyio.sleep(random.uniform(0.005, 0.025))
                self._arrival = asyncio.get_running_loop().create_future()
                topic = random.choice(topics)
                begun_at_s = time.monotonic()
                await self._calls.create(connections, topic=topic)
                arrived_at_s, connection, topic, answer = await self._arrival
                latencies_ms.append((arrived_at_s - begun_at_s) * 1000)
                await self._calls.complete(connections, tasks_of(answer.body))
                self._poll(connection, topic)
                self.advance()
        return {"latencies_ms": latencies_ms}

    async def statements(self) -> dict[str, float]:
        """How many SQL statements the broker has sent so far, by its own metric."""
        return {"statements": await self._metric("fetchlock_db_query_seconds_count")}

    async def unpark(self) -> None:
        """Hang up."""
        await self.aclose()

    async def _metric(self, name: str) -> float:
        """One of the broker's, summed over its labels."""
        connection = await Connection.open(self._url)
        answer = await connection.get(b"/metrics")
        connection.close()
        lines = answer.body.decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    def _poll(self, connection: Connection, topic: str) -> None:
        answer = connection.ask(PATH + b"/fetch-and-lock", poll([topic], 1, _POLL_MS))
        answer.add_done_callback(partial(self._arrive, connection, topic))

    def _arrive(self, connection: Connection, topic: str, answer: asyncio.Future[Answer]) -> None:
        if answer.cancelled() or isinstance(answer.exception(), ConnectionError):
            return  # Hung up; or the broker has gone, which the next order will notice.
        self._arrival.set_result((time.monotonic(), connection, topic, answer.result()))


if __name__ == "__main__":
    serve(FetchlockPolls)

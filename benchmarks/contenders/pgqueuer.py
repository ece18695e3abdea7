"""pgqueuer as a contender: on asyncpg, with the storage settings of its own `autovac` command.

It collects completions and writes them when it has a batch of them, or after
0.1 s. The tasks are counted when that statement has been answered.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any, Final

import anyio
import asyncpg
import msgspec
from pgqueuer.db import AsyncpgPoolDriver
from pgqueuer.models import Job
from pgqueuer.qm import QueueManager
from pgqueuer.queries import Queries

from benchmarks.contenders.peer import Ledger, Peer
from benchmarks.program import Ready, payload, serve

_SCHEMA: Final = "pgqueuer"
_ENTRYPOINT: Final = "bench"
_CONNECTIONS: Final = 24

_BATCH: Final = 250
"""Tasks per fetch and per completion. Found by trying: 50 and 100 cost more CPU, 500 no less."""

_BATCH_FOR_LATENCY: Final = 10
"""A completion waits for so many others, or for 0.1 s. With fewer it cannot keep up with 500/s."""


class _Watched(Queries):
    """Tells which tasks were finished once the statement for it is answered."""

    counters: dict[int, int]
    ledger: Ledger

    async def log_jobs(self, job_status: list[Any]) -> None:
        await super().log_jobs(job_status)
        self.ledger.committed(self.counters[job.id] for job, _, _ in job_status)


class Pgqueuer(Peer):
    """See the module."""

    _pool: asyncpg.Pool

    async def introduce(self) -> Ready:
        self._pool = await asyncpg.create_pool(
            self.target,
            min_size=_CONNECTIONS,
            max_size=_CONNECTIONS,
            server_settings={"search_path": _SCHEMA},
        )
        self._queries = Queries(AsyncpgPoolDriver(self._pool))
        return Ready(
            name="pgqueuer",
            version=version("pgqueuer"),
            settings=f"asyncpg, autovac storage settings, batch {_BATCH}, for latency"
            f" {_BATCH_FOR_LATENCY}; enqueue by {self.CHUNK}, {self.CHUNKS_AT_ONCE} at once",
            durability="logged tables; an update per batch to lock, a delete and a log entry per "
            "batch to finish, buffered for up to 0.1 s, a commit each; a crash repeats the buffered",
        )

    async def aclose(self) -> None:
        self._pool.terminate()

    async def prepare(self) -> None:
        await self._pool.execute(f"DROP SCHEMA IF EXISTS {_SCHEMA} CASCADE")
        await self._pool.execute(f"CREATE SCHEMA {_SCHEMA}")
        # Prepared statements and types of the dropped tables.
        await self._pool.expire_connections()
        await self._queries.install()
        await self._queries.optimize_autovacuum()

    async def create(self, counter: int) -> None:
        await self._queries.enqueue(_ENTRYPOINT, msgspec.json.encode(payload(counter)))

    async def create_chunk(self, payloads: list[dict[str, Any]]) -> None:
        size = len(payloads)
        encoded: list[bytes | None] = [msgspec.json.encode(one) for one in payloads]
        await self._queries.enqueue([_ENTRYPOINT] * size, encoded, [0] * size)

    @asynccontextmanager
    async def working(self, ledger: Ledger, *, latency: bool) -> AsyncIterator[None]:
        queries = _Watched(AsyncpgPoolDriver(self._pool))
        queries.ledger, queries.counters = ledger, {}
        worker = QueueManager(queries)

        @worker.entrypoint(_ENTRYPOINT)
        async def handle(job: Job) -> None:
            counter = queries.counters[job.id] = msgspec.json.decode(job.payload or b"")["i"]
            ledger.started(counter)

        async with anyio.create_task_group() as group:
            group.start_soon(
                lambda: worker.run(batch_size=_BATCH_FOR_LATENCY if latency else _BATCH)
            )
            try:
                yield
            finally:
                worker.shutdown.set()


if __name__ == "__main__":
    serve(Pgqueuer)

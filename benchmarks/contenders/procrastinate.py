"""procrastinate as a contender: concurrent, woken by notifications, finished tasks deleted.

It opens its own connections with a check before each statement; the pool that it
is given here goes without, as its documentation allows.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any, Final

import anyio
from procrastinate import App, PsycopgConnector
from procrastinate.jobs import DeleteJobCondition, Job, Status
from procrastinate.manager import JobManager
from procrastinate.worker import Worker
from psycopg_pool import AsyncConnectionPool

from benchmarks.contenders.peer import Ledger, Peer
from benchmarks.program import Ready, payload, serve

_SCHEMA: Final = "procrastinate"
_CONNECTIONS: Final = 24

_CONCURRENCY: Final = 20


class _Watched(JobManager):
    """Tells which task was finished once the statement for it is answered."""

    ledger: Ledger

    async def finish_job(self, job: Job, status: Status, delete_job: bool) -> None:
        await super().finish_job(job, status, delete_job)
        counter = job.task_kwargs["i"]
        assert isinstance(counter, int)
        self.ledger.committed([counter])


class Procrastinate(Peer):
    """See the module."""

    CHUNK = 1_000

    async def introduce(self) -> Ready:
        await self._open()
        return Ready(
            name="procrastinate",
            version=version("procrastinate"),
            settings=f"psycopg, concurrency {_CONCURRENCY}, delete_jobs successful, a pool without"
            f" checks; batch_defer by {self.CHUNK}, {self.CHUNKS_AT_ONCE} at once",
            durability="logged tables; a commit to lock and one to delete each task; no history, but"
            " without delete_jobs the row and its events stay",
        )

    async def _open(self) -> None:
        self._pool = AsyncConnectionPool(
            self.target,
            min_size=_CONNECTIONS,
            max_size=_CONNECTIONS,
            kwargs={"options": f"-c search_path={_SCHEMA}"},
            open=False,
        )
        await self._pool.open(wait=True)
        connector = PsycopgConnector()
        self._app = App(connector=connector)
        self._app.job_manager = self._tasks = _Watched(connector)
        await self._app.open_async(self._pool)
        self._bench = self._app.task(name="bench")(self._handle)

    async def aclose(self) -> None:
        await self._pool.close()

    async def prepare(self) -> None:
        async with self._pool.connection() as connection:
            await connection.execute(f"DROP SCHEMA IF EXISTS {_SCHEMA} CASCADE")
            await connection.execute(f"CREATE SCHEMA {_SCHEMA}")
        # Prepared statements know the dropped types.
        await self._pool.close()
        await self._open()
        await self._app.schema_manager.apply_schema_async()

    async def create(self, counter: int) -> None:
        await self._bench.defer_async(**payload(counter))

    async def create_chunk(self, payloads: list[dict[str, Any]]) -> None:
        await self._bench.batch_defer_async(*payloads)

    async def _handle(self, *, i: int, **_: object) -> None:
        self._tasks.ledger.started(i)

    @asynccontextmanager
    async def working(self, ledger: Ledger, *, latency: bool) -> AsyncIterator[None]:
        self._tasks.ledger = ledger
        worker = Worker(
            self._app,
            concurrency=_CONCURRENCY,
            delete_jobs=DeleteJobCondition.SUCCESSFUL,
            install_signal_handlers=False,
        )
        async with anyio.create_task_group() as group:
            group.start_soon(worker.run)
            try:
                yield
            finally:
                worker.stop()  # type: ignore[no-untyped-call]  # It has no parameters and no types.


if __name__ == "__main__":
    serve(Procrastinate)

"""PostgreSQL goes away under load and comes back. Brokers and workers are not started again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import anyio
import pytest

from broker.embedded import EmbeddedPostgres
from broker.store.migrations import migrate
from tests.acceptance.scene import LOAD_S, Ledger, WorkerProcess, create_work, is_ready, is_unready
from tests.eventually import eventually
from tests.processes import BrokerProcess
from worker_sdk import Client, NewTask, Subscription

pytestmark = pytest.mark.acceptance

TASKS: Final = 600
CUTS: Final = 20
SERVES_AGAIN_S: Final = 10.0
"""What Fetchlock promises, counted from the database's return."""


@pytest.fixture
def database_url(server: EmbeddedPostgres) -> str:
    """Not a clone on the session's server, which the other tests need."""
    anyio.run(migrate, server.url())
    return server.url()


@pytest.mark.parametrize("ends", [EmbeddedPostgres.kill, EmbeddedPostgres.stop])
async def test_goes_away_under_load(
    ends: Callable[[EmbeddedPostgres], None],
    server: EmbeddedPostgres,
    broker_process: BrokerProcess,
    broker: str,
    client: Client,
    ledger: Ledger,
) -> None:
    ids = await create_work(client, TASKS)
    with WorkerProcess(broker, "one") as one, WorkerProcess(broker, "two") as two:
        pids = broker_process.pid, one.pid, two.pid
        await eventually(lambda: ledger.has_finished(TASKS // 4))
        ends(server)
        await eventually(lambda: is_unready(broker))
        server.start()
        with anyio.fail_after(SERVES_AGAIN_S):
            await eventually(lambda: is_ready(broker))
            ids.append(await _serve_one(client))
        await eventually(lambda: ledger.has_finished(len(ids)), within_s=LOAD_S)
        assert (broker_process.pid, one.pid, two.pid) == pids
        assert [process.stop() for process in (one, two, broker_process)] == [0, 0, 0]
    await ledger.assert_each_completed_once(ids)


async def test_connections_are_cut_under_load(
    broker_process: BrokerProcess, broker: str, client: Client, ledger: Ledger
) -> None:
    ids = await create_work(client, TASKS)
    pid = broker_process.pid
    with WorkerProcess(broker, "one"), WorkerProcess(broker, "two"):
        for cut in range(CUTS):
            await eventually(lambda: ledger.has_finished(cut * TASKS // CUTS))  # noqa: B023
            # As an administrator would, or a proxy in between: at any moment of a connection.
            await ledger.rows(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        await eventually(lambda: ledger.has_finished(TASKS), within_s=LOAD_S)
    assert broker_process.pid == pid
    await ledger.assert_each_completed_once(ids)


async def _serve_one(client: Client) -> str:
    """A task's whole way through the broker, on a topic that the workers do not take."""
    created = await client.create(NewTask("probe"))
    [task] = await client.fetch_and_lock("probe", [Subscription("probe")])
    await client.complete(task)
    assert task.id == created.id
    return task.id

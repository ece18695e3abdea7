"""The peers do each workload on a real PostgreSQL, and their own tables tell the same story."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Final

import asyncpg
import pytest

from benchmarks.contenders import node
from benchmarks.contenders.peer import Ledger
from benchmarks.driver import Driver, Trouble, driving

_NODE_FOLDER: Final = Path(__file__).parents[2] / ".benchmarks" / "node"

_OPEN: Final = {
    "procrastinate": "SELECT count(*) FROM procrastinate.procrastinate_jobs",
    "pgqueuer": "SELECT count(*) FROM pgqueuer.pgqueuer",
    "graphile_worker": "SELECT count(*) FROM graphile_worker._private_jobs",
    "pg_boss": "SELECT count(*) FROM pgboss.job WHERE state <> 'completed'",
}
"""How many tasks of a peer are not finished, by its own tables."""


@pytest.fixture(params=_OPEN)
def name(request: pytest.FixtureRequest) -> str:
    """One peer after the other."""
    assert isinstance(request.param, str)
    return request.param


@pytest.fixture
async def peer(name: str, database_url: str, tmp_path: Path) -> AsyncIterator[Driver]:
    """The peer's program, with tables that are empty."""
    if name not in node.CONTENDERS:
        command = [sys.executable, "-m", f"benchmarks.contenders.{name}", database_url]
    elif node.is_installed(_NODE_FOLDER):
        command = (await node.install(_NODE_FOLDER)).command(name, database_url)
    else:
        pytest.skip("the peers on Node are not installed here: `make bench` does it")
    async with driving(command, tmp_path / "log") as driver:
        await driver.order("prepare")
        yield driver


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A look at the peer's tables."""
    opened = await asyncpg.connect(database_url)
    yield opened
    opened.terminate()


async def test_a_peer_does_every_workload(
    peer: Driver, name: str, connection: asyncpg.Connection
) -> None:
    assert (await peer.order("create_bulk", count=30))["seconds"] > 0
    assert await connection.fetchval(_OPEN[name]) == 30
    assert (await peer.order("drain", count=30))["seconds"] > 0
    assert await connection.fetchval(_OPEN[name]) == 0

    assert (await peer.order("create_single", count=10, concurrency=4))["seconds"] > 0
    assert await connection.fetchval(_OPEN[name]) == 10
    assert (await peer.order("drain", count=10))["seconds"] > 0
    assert await connection.fetchval(_OPEN[name]) == 0

    latencies_ms = (await peer.order("pickup", count=3))["latencies_ms"]
    assert len(latencies_ms) == 3
    assert min(latencies_ms) >= 0

    steady = await peer.order("steady", rate=50, seconds=0.2)
    assert steady["created"] == len(steady["samples"]) == 10
    assert all(a < b for (a, _), (b, _) in pairwise(steady["samples"]))
    assert min(latency_ms for _, latency_ms in steady["samples"]) > 0
    assert await connection.fetchval(_OPEN[name]) == 0


async def test_a_peer_that_handles_a_task_twice_gets_no_figure(
    peer: Driver, name: str, connection: asyncpg.Connection
) -> None:
    await peer.order("create_bulk", count=3)
    await peer.order("create_bulk", count=3)
    with pytest.raises(Trouble, match=r"handlers ran 6 times .* for 3 tasks instead of 6"):
        await peer.order("drain", count=6)

    # And none of it is left for what comes next.
    await peer.order("create_bulk", count=5)
    await peer.order("prepare")
    assert await connection.fetchval(_OPEN[name]) == 0


def test_the_ledger_accepts_each_task_once() -> None:
    counted: list[int] = []
    ledger = Ledger(2, counted.append)
    ledger.started(1)
    ledger.started(2)
    ledger.committed([2])
    with pytest.raises(AssertionError, match="1 completions"):
        ledger.verify()
    ledger.committed([1])
    ledger.verify()
    assert counted == [1, 1]
    ledger.started(1)
    with pytest.raises(AssertionError, match="handlers ran 3 times"):
        ledger.verify()


def test_the_ledger_accepts_no_completion_of_another_task() -> None:
    ledger = Ledger(1, lambda _: None)
    ledger.started(1)
    ledger.committed([2])
    with pytest.raises(AssertionError, match="for 0 tasks instead of 1"):
        ledger.verify()

"""PostgreSQL goes away under heartbeats, progress, logs, hand-overs and callbacks, and comes back."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Final

import anyio
import pytest

from broker.embedded import EmbeddedPostgres
from broker.store.migrations import migrate
from tests.acceptance.outside import Outside, Party, fails_first, is_said_of
from tests.acceptance.scene import LOAD_S, Ledger, WorkerProcess, is_ready, is_unready
from tests.eventually import eventually
from tests.processes import BrokerProcess
from worker_sdk import Client, NewTask

pytestmark = pytest.mark.acceptance

TASKS: Final = 60
LINES: Final = 40
CUTS: Final = 15
# As long as an outage may take without costing an attempt; and what was locked for nobody, because
# the database went away in that moment, must come back in time.
OPTIONS: Final = {"concurrency": 10, "lock_duration_ms": 6_000}


@pytest.fixture
def database_url(server: EmbeddedPostgres) -> str:
    """Not a clone on the session's server, which the other tests need."""
    anyio.run(migrate, server.url())
    return server.url()


@pytest.mark.parametrize("ends", [EmbeddedPostgres.kill, EmbeddedPostgres.stop])
async def test_database_goes_away(
    ends: Callable[[EmbeddedPostgres], None],
    server: EmbeddedPostgres,
    broker_process: BrokerProcess,
    broker: str,
    client: Client,
    ledger: Ledger,
    outside: Outside,
) -> None:
    party, ids = Party(outside), await _create(client, outside)
    with (
        WorkerProcess(broker, "one", **OPTIONS) as one,
        WorkerProcess(broker, "two", **OPTIONS) as two,
    ):
        pids = broker_process.pid, one.pid, two.pid
        async with anyio.create_task_group() as group:
            group.start_soon(party.serve)
            for finished in (TASKS // 4, TASKS // 2):
                await eventually(lambda: ledger.has_finished(finished))  # noqa: B023 - awaited here
                ends(server)
                await eventually(lambda: is_unready(broker))
                server.start()
                await eventually(lambda: is_ready(broker))
            await eventually(lambda: ledger.has_finished(TASKS), within_s=LOAD_S)
            await eventually(party.is_idle, within_s=LOAD_S)
            group.cancel_scope.cancel()
        assert (broker_process.pid, one.pid, two.pid) == pids
        assert [process.stop() for process in (one, two, broker_process)] == [0, 0, 0]
    await _assert_all_is_told_once(ledger, ids)


async def test_connections_are_cut(
    broker_process: BrokerProcess, broker: str, client: Client, ledger: Ledger, outside: Outside
) -> None:
    party, ids = Party(outside), await _create(client, outside)
    with (
        WorkerProcess(broker, "one", **OPTIONS) as one,
        WorkerProcess(broker, "two", **OPTIONS) as two,
    ):
        async with anyio.create_task_group() as group:
            group.start_soon(party.serve)
            for cut in range(CUTS):
                await eventually(lambda: _has_logged(ledger, cut * TASKS * LINES // CUTS))  # noqa: B023
                await ledger.end_statements()
            await eventually(lambda: ledger.has_finished(TASKS), within_s=LOAD_S)
            await eventually(party.is_idle, within_s=LOAD_S)
            group.cancel_scope.cancel()
        assert [process.stop() for process in (one, two, broker_process)] == [0, 0, 0]
    await _assert_all_is_told_once(ledger, ids)


async def _create(client: Client, outside: Outside) -> list[str]:
    variables = {"service": outside.url, "lines": LINES}
    answers = await client.create_batch(
        [NewTask("outsource", {**variables, "number": number}) for number in range(TASKS)]
    )
    return [str(answer) for answer in answers]


async def _assert_all_is_told_once(ledger: Ledger, ids: list[str]) -> None:
    """Each task was completed once, has failed as often as was said, and has all of its log."""
    outcomes = await ledger.assert_each_completed_once(ids)
    for number, task_id in enumerate(ids):
        outcome = outcomes[task_id]
        assert outcome.failures == (1 if fails_first(number) else 0)
        assert is_said_of(number, await ledger.result(task_id))
        told = defaultdict[int, list[int]](list)
        for line in await ledger.log(task_id):
            _, attempt, _, place = line.split()
            told[int(attempt)].append(int(place))
        # An attempt that lost its lock has told a part of its lines, but none of them twice.
        for places in told.values():
            assert places == list(range(1, len(places) + 1))
        # An attempt that was handed over was told of whole.
        assert len(told[outcome.attempt]) == LINES
        assert await ledger.progress(task_id) == (100, f"line {LINES}", LINES)


async def _has_logged(ledger: Ledger, lines: int) -> bool:
    [row] = await ledger.rows("SELECT count(*) AS lines FROM fetchlock.log_line")
    return bool(row["lines"] >= lines)

"""A broker is killed around heartbeats, hand-overs and callbacks: each is applied once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import anyio
import pytest
from anyio import to_thread

from tests.acceptance.outside import FAILURE, Call, Outside, Party, fails_first, is_said_of
from tests.acceptance.scene import LOAD_S, Gate, Ledger, WorkerProcess, holding
from tests.eventually import eventually
from tests.processes import BrokerProcess
from worker_sdk import Client, NewTask

pytestmark = pytest.mark.acceptance

TASKS: Final = 150
ENDS: Final = 3
# A worker that does not lose its lock while a broker is started again; but what was locked for a
# poll that died with the broker must come back in time.
LOCK_MS: Final = 6_000
# Nothing here may come about by a lock that runs out.
LONG_LOCK_MS: Final = 60_000

_THE_TASK: Final = "SELECT FROM fetchlock.open_task FOR UPDATE"
_ALL_OUTCOMES: Final = "LOCK TABLE fetchlock.outcome IN SHARE MODE"


@pytest.fixture
def broker_process(database_url: str) -> Iterator[BrokerProcess]:
    """One whose statements may stand still for long, and whose retries come soon."""
    settings = {"statement_timeout_ms": 60_000, "retry_base_ms": 100}
    with BrokerProcess(database_url, **settings) as process:
        yield process


@pytest.mark.parametrize("is_recorded", [True, False], ids=["recorded", "lost"])
async def test_killed_between_hand_over_and_answer(
    is_recorded: bool,
    broker_process: BrokerProcess,
    broker: str,
    client: Client,
    database_url: str,
    ledger: Ledger,
    outside: Outside,
) -> None:
    async def lock_the_task(_: Call) -> None:
        await standing.wait()

    standing = anyio.Event()
    outside.before_202 = lock_the_task
    created = await client.create(_task(outside, 1))
    with WorkerProcess(broker, "one", lock_duration_ms=LONG_LOCK_MS) as worker:
        # The worker has its URL, and hands over once it is told 202.
        await eventually(lambda: _rows(ledger, "callback"))
        async with holding(database_url, _THE_TASK):
            standing.set()
            await eventually(lambda: ledger.is_waiting("hand_over"))
            broker_process.kill()
            if not is_recorded:
                await ledger.end_statements()
        if is_recorded:
            # The statement went on without its broker, and nobody has been told.
            await eventually(lambda: ledger.is_in("awaiting", created.id))
        else:
            assert await ledger.state(created.id) == "locked"
        broker_process.start()
        # The worker says it again.
        await eventually(lambda: ledger.is_in("awaiting", created.id))
        call = await outside.call()
        answer = await outside.call_back(call.callback_url, {"by": "outside"})
        assert (answer.status, answer.said["state"]) == (200, "COMPLETED")
        assert worker.stop() == 0
        assert "not accepted" not in worker.log
    [outcome] = (await ledger.assert_each_completed_once([created.id])).values()
    assert (outcome.attempt, outcome.failures, outcome.expiries) == (1, 0, 0)
    assert await ledger.result(created.id) == {"number": 1, "by": "outside"}


@pytest.mark.parametrize("output", [{"by": "outside"}, FAILURE], ids=["success", "failure"])
async def test_recorded_callback_is_applied_after_the_restart(
    output: dict[str, Any],
    broker_process: BrokerProcess,
    broker: str,
    client: Client,
    database_url: str,
    ledger: Ledger,
    outside: Outside,
) -> None:
    created = await client.create(_task(outside, 1))
    with WorkerProcess(broker, "one", lock_duration_ms=LONG_LOCK_MS) as worker:
        call = await outside.call()
        await eventually(lambda: ledger.is_in("awaiting", created.id))
        assert worker.stop() == 0
    async with anyio.create_task_group() as group:
        async with holding(database_url, _ALL_OUTCOMES):
            group.start_soon(outside.call_back_until_answered, call.callback_url, output)
            await eventually(lambda: ledger.is_waiting("settle_due"))
            # Neither the broker nor the statement goes on.
            broker_process.kill()
            await ledger.end_statements()
        row = await ledger.open_task(created.id)
        assert (row["state"], row["called_back"]) == ("awaiting", True)
        group.cancel_scope.cancel()
    broker_process.start()
    # Nobody says it again, and yet it comes true.
    if output is FAILURE:
        await eventually(lambda: _is_over(ledger, created.id))
        row = await ledger.open_task(created.id)
        assert (row["state"], row["failures"], row["retries"]) == ("ready", 1, 2)
        assert row["error_code"] == "OutOfMemory"
    else:
        await eventually(lambda: ledger.has_finished(1))
        await ledger.assert_each_completed_once([created.id])
        assert await ledger.result(created.id) == {"number": 1, "by": "outside"}
    answer = await outside.call_back(call.callback_url, output)
    assert (answer.status, answer.is_replay) == (200, True)


@pytest.mark.parametrize("fate", ["recorded", "lost", "on its way"])
async def test_killed_between_heartbeat_and_answer(
    fate: str,
    broker_process: BrokerProcess,
    broker: str,
    client: Client,
    database_url: str,
    ledger: Ledger,
    gate: Gate,
) -> None:
    created = await client.create(gate.task("steps"))
    with WorkerProcess(broker, "one", lock_duration_ms=LONG_LOCK_MS) as worker:
        await eventually(lambda: ledger.is_in("locked", created.id))
        async with holding(database_url, _THE_TASK):
            gate.open(1)
            assert await worker.says() == "did 1"
            await eventually(lambda: ledger.is_waiting("heartbeat"))
            broker_process.kill()
            if fate == "lost":
                await ledger.end_statements()
                assert await ledger.log(created.id) == []
            if fate == "on its way":
                # The worker says it again before the first time has come to anything.
                broker_process.start()
                await eventually(lambda: ledger.is_waiting("heartbeat", times=2))
        if fate == "recorded":
            # The statement went on without its broker, and nobody has been told.
            await eventually(lambda: ledger.checkpoint(created.id))
        if fate != "on its way":
            broker_process.start()
        # The worker says it again, and then what else there is.
        for step in (2, 3, 4, 5):
            gate.open(step)
        await eventually(lambda: ledger.has_finished(1))
        assert worker.stop() == 0
    [outcome] = (await ledger.assert_each_completed_once([created.id])).values()
    assert (outcome.attempt, outcome.failures, outcome.expiries) == (1, 0, 0)
    assert await ledger.log(created.id) == [
        f"attempt 1 did step {step}" for step in (1, 2, 3, 4, 5)
    ]
    assert await ledger.checkpoint(created.id) == {"step": 5}


async def test_ends_under_hand_overs_and_callbacks(
    broker_process: BrokerProcess, broker: str, client: Client, ledger: Ledger, outside: Outside
) -> None:
    party = Party(outside)
    ids = [
        str(answer)
        for answer in await client.create_batch([_task(outside, number) for number in range(TASKS)])
    ]
    options = {"concurrency": 20, "lock_duration_ms": LOCK_MS}
    with WorkerProcess(broker, "one", **options), WorkerProcess(broker, "two", **options):
        async with anyio.create_task_group() as group:
            group.start_soon(party.serve)
            for end in range(1, ENDS + 1):
                await eventually(lambda: ledger.has_finished(end * TASKS // (ENDS + 1)))  # noqa: B023
                if end % 2:
                    broker_process.kill()
                else:
                    assert await to_thread.run_sync(broker_process.stop) == 0
                await to_thread.run_sync(broker_process.start)
            await eventually(lambda: ledger.has_finished(TASKS), within_s=LOAD_S)
            # Whoever has not been told yet is told now.
            await eventually(party.is_idle, within_s=LOAD_S)
            group.cancel_scope.cancel()
    outcomes = await ledger.assert_each_completed_once(ids)
    for number, task_id in enumerate(ids):
        # A callback that was applied before its answer was lost is said again, and not applied.
        assert outcomes[task_id].failures == (1 if fails_first(number) else 0)
        assert is_said_of(number, await ledger.result(task_id))
    assert party.statuses[200] >= TASKS
    assert party.statuses.keys() <= {200, 409, 410}


def _task(outside: Outside, number: int) -> NewTask:
    return NewTask("outsource", {"service": outside.url, "number": number}, retries=3)


async def _is_over(ledger: Ledger, task_id: str) -> bool:
    row = await ledger.open_task(task_id)
    return bool(row["state"] == "ready" and not row["called_back"])


async def _rows(ledger: Ledger, table: str) -> int:
    return len(await ledger.rows(f"SELECT FROM fetchlock.{table}"))

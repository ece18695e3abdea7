"""`fetchlock serve --processes 2`: both serve, and the death of one is survived."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import psutil
import pytest

from tests.acceptance.scene import LOAD_S, Ledger, WorkerProcess, create_work
from tests.eventually import eventually
from tests.processes import BrokerProcess
from worker_sdk import Client

pytestmark = pytest.mark.acceptance

PROCESSES: Final = 2
TASKS: Final = 600


@pytest.fixture
def broker_process(database_url: str) -> Iterator[BrokerProcess]:
    """Two on one port."""
    with BrokerProcess(database_url, processes=str(PROCESSES)) as process:
        yield process


async def test_each_process_serves(
    broker_process: BrokerProcess, broker: str, ledger: Ledger
) -> None:
    one, two = _children(broker_process)
    ids = []
    for frozen in (one, two):
        frozen.suspend()
        # On a new connection, which only the other one can take.
        async with Client(broker) as client:
            ids += await create_work(client, 1)
        frozen.resume()
    assert len(set(ids)) == PROCESSES
    assert broker_process.stop() == 0


async def test_one_process_is_killed_under_load(
    broker_process: BrokerProcess, broker: str, client: Client, ledger: Ledger
) -> None:
    ids = await create_work(client, TASKS)
    before = _children(broker_process)
    with WorkerProcess(broker, "one") as one, WorkerProcess(broker, "two") as two:
        for number, victim in enumerate(before, start=1):
            await eventually(lambda: ledger.has_finished(TASKS * number // 4))  # noqa: B023
            victim.kill()
            await eventually(lambda: _is_complete(broker_process, without=victim))  # noqa: B023
        await eventually(lambda: ledger.has_finished(TASKS), within_s=LOAD_S)
        assert [process.stop() for process in (one, two, broker_process)] == [0, 0, 0]
    await ledger.assert_each_completed_once(ids)


async def _is_complete(broker_process: BrokerProcess, without: psutil.Process) -> bool:
    children = _children(broker_process)
    return without not in children and len(children) == PROCESSES


def _children(broker_process: BrokerProcess) -> list[psutil.Process]:
    """The processes that serve: multiprocessing keeps another one for its own purposes."""
    return [child for child in psutil.Process(broker_process.pid).children() if _serves(child)]


def _serves(child: psutil.Process) -> bool:
    try:
        return "spawn_main" in " ".join(child.cmdline())
    except psutil.NoSuchProcess:  # Or dead, but not yet buried.
        return False

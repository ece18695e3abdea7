"""The whole thing, small: against a broker that is there, and at home until somebody stops it."""

from __future__ import annotations

import signal
from pathlib import Path

import asyncpg
import psutil
import pytest

from benchmarks import figures
from benchmarks.contenders import HTTP, ONE_BY_ONE, POLLS, SDK
from benchmarks.driver import Trouble
from benchmarks.run import Runner
from benchmarks.scale import QUICK
from benchmarks.stand import Kept, Outside
from benchmarks.targets import TARGETS
from benchmarks.workloads import WORKLOADS
from broker.__main__ import main
from tests.benchmarks.runs import MACHINE
from tests.processes import PythonProcess
from worker_sdk import Client, Subscription

_TINY = QUICK._replace(
    warm_up=20,
    bulk=300,
    singles={1: 10, 8: 40, 64: 100},
    drains={1: 60, 10: 100, 100: 300, 500: 300},
    drain=200,
    pickups=5,
    steady_s=0.5,
    steady_settle_s=0.1,
    backlog=200,
    fetches=5,
    polls=150,
    settle_s=0.0,
    idle_s=0.2,
)
_WORKLOADS = {
    "create-bulk",
    "create-8",
    "drain",
    "camunda7",
    "pickup",
    "steady-500",
    "backlog",
    "idle-polls",
}
_OURS = {HTTP.name, SDK.name, POLLS.name, ONE_BY_ONE.name}


class _Silence:
    """A screen that nobody looks at."""

    def __init__(self) -> None:
        self.absences: list[str] = []

    def begin(self, cells: int) -> None: ...

    def cell(self, title: str, label: str, repetition: int, repetitions: int) -> None: ...

    def progressed(self, do: str, done: int, total: int) -> None: ...

    def absent(self, label: str, reason: str) -> None:
        self.absences.append(f"{label}: {reason}")


async def test_workloads_run_against_a_broker_and_leave_nothing(
    broker: str, database_url: str, tmp_path: Path
) -> None:
    workloads = [
        each._replace(entrants=[e for e in each.entrants if e.contender.name in _OURS])
        for each in WORKLOADS
        if each.name in _WORKLOADS
    ]
    screen = _Silence()
    async with Kept(Outside(broker, tmp_path)) as stand:
        runner = Runner(stand, _TINY, workloads, screen)
        await runner.run()
    run = runner.result(MACHINE, is_quick=True, url=broker)
    assert screen.absences == []
    assert run.is_whole
    assert {figure.workload for figure in run.figures} == {each.name for each in workloads}
    assert {each.name for each in run.participants} == _OURS
    assert all(value >= 0 for figure in run.figures for value in figure.values)
    assert all(target.measure(run) for target in TARGETS if target.workload == "camunda7")
    assert await _open_tasks(database_url) == 0


async def _open_tasks(database_url: str) -> int:
    connection = await asyncpg.connect(database_url)
    try:
        return int(await connection.fetchval("SELECT count(*) FROM fetchlock.open_task"))
    finally:
        await connection.close()


async def test_what_a_stopped_program_had_locked_is_cleaned_up(
    broker: str, database_url: str, tmp_path: Path
) -> None:
    stand = Outside(broker, tmp_path)
    async with stand.session(HTTP, 1) as session:
        await session.driver.order("create_bulk", count=300)
        await _lock(broker, stand.topic, 100)
        psutil.Process(session.driver.pid).kill()
        with pytest.raises(Trouble):
            await session.driver.order("drain", count=300)
    assert await _open_tasks(database_url) == 0


async def _lock(broker: str, topic: str, count: int) -> None:
    """Lock so many tasks, as a program that dies thereafter."""
    async with Client(broker) as client:
        tasks = await client.fetch_and_lock("dead", [Subscription(topic)], max_tasks=count)
        assert len(tasks) == count


@pytest.mark.acceptance
def test_a_run_at_home_that_is_stopped_leaves_a_report_and_no_process(tmp_path: Path) -> None:
    command = ["-m", "benchmarks", "--quick", "--without-peers", "--only", "create-1"]
    bench = PythonProcess([*command, "--out", str(tmp_path)])
    with bench.launched():
        while "fetchlock sdk" not in bench.await_line():
            pass  # The first measurement is done, and the second is under way.
        family = psutil.Process(bench.pid).children(recursive=True)
        names = " ".join(" ".join(process.cmdline()) for process in family)
        assert "postgres" in names
        assert "broker serve" in names
        bench.signal(signal.SIGINT)
        assert bench.wait() == 130
    assert not [process for process in family if process.is_running()]
    run = figures.read(tmp_path / "run.json")
    assert not run.is_whole
    assert run.machine.database_settings["synchronous_commit"] == "on"
    assert run.find("create-1", HTTP.name, "CPU postgres")
    assert (tmp_path / "index.html").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--only", "nothing"], "no workload 'nothing'. There are: create-bulk, create-1"),
        (["compare", "/nowhere/a.json", "/nowhere/b.json"], "No such file"),
        (["--no-such-option"], "Unknown option"),
    ],
)
def test_mistakes_are_told_in_a_line(
    arguments: list[str],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["fetchlock", "bench", *arguments])
    assert main() == 2
    assert told in "".join(capsys.readouterr())

"""`fetchlock worker module:worker`: what it makes of its arguments, of signals and of refusals."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import anyio
import pytest
from anyio import to_thread

from tests.processes import PythonProcess
from tests.worker_sdk.serving import DEADLINE_S
from worker_sdk import Client, NewTask, Worker
from worker_sdk._cli import find_worker, main

MODULE = """
from worker_sdk import Worker
worker = Worker("http://127.0.0.1:9", concurrency=3)
other = Worker("http://127.0.0.1:9")
number = 7
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a module, in which the command is run."""
    (tmp_path / "payments_for_test.py").write_text(MODULE)
    (tmp_path / "broken_for_test.py").write_text("import no_such_module_at_all")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("payments_for_test", "broken_for_test"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


@pytest.mark.usefixtures("project")
def test_worker_is_found_in_the_current_folder() -> None:
    worker = find_worker("payments_for_test:worker")
    assert isinstance(worker, Worker)
    assert worker.concurrency == 3


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    ("target", "complaint"),
    [
        ("payments_for_test", "write module:worker"),
        (":worker", "write module:worker"),
        ("payments_for_test:", "write module:worker"),
        ("nowhere_for_test:worker", "no module named 'nowhere_for_test'"),
        ("payments_for_test.inner:worker", "no module named 'payments_for_test.inner'"),
        ("payments_for_test:wroker", "'wroker' is missing .* it has worker, other"),
        ("payments_for_test:number", "is a int, not a Worker .* it has worker, other"),
        ("pathlib:Path", "is a type, not a Worker .* it has no Worker"),
    ],
)
def test_wrong_target_is_explained(target: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        find_worker(target)


@pytest.mark.usefixtures("project")
def test_import_that_fails_inside_the_module_is_shown_as_it_is() -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_module_at_all"):
        find_worker("broken_for_test:worker")


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    "arguments",
    [[], ["nowhere_for_test:worker"], ["payments_for_test:worker", "--concurrency", "0"]],
)
def test_wrong_arguments_are_exit_code_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "fetchlock worker" in capsys.readouterr().err


def worker_process(base_url: str, **environment: str) -> PythonProcess:
    return PythonProcess(
        ["-m", "worker_sdk", "tests.worker_sdk.worker_for_tests:worker"],
        {"BROKER_URL_FOR_TESTS": base_url, **environment},
    )


async def drains(process: PythonProcess) -> None:
    with anyio.fail_after(DEADLINE_S):
        while "worker: draining" not in process.log:  # noqa: ASYNC110
            await anyio.sleep(0.02)


async def test_first_signal_lets_handlers_finish(broker: str) -> None:
    async with Client(broker) as client:
        created = await client.create(NewTask("polite"))
        with worker_process(broker) as process:
            assert process.first_line == "started"
            process.signal(signal.SIGTERM)
            await drains(process)
            assert "fetchlock.worker: draining running=1" in process.log
            await client.create(NewTask("release"))
            assert await to_thread.run_sync(process.wait) == 0
        task = await client.get_task(created.id)
    assert (task.state, task.attempt, task.result) == ("COMPLETED", 1, {"finished": True})


async def test_signal_after_the_brokers_wish_to_drain_is_the_first(broker: str) -> None:
    async with Client(broker) as client:
        created = await client.create(NewTask("polite"))
        with worker_process(broker, LOCK_DURATION_MS_FOR_TESTS="3000") as process:
            await client.drain("worker-for-tests")
            await drains(process)
            process.signal(signal.SIGTERM)
            await client.create(NewTask("release"))
            assert await to_thread.run_sync(process.wait) == 0
        task = await client.get_task(created.id)
    assert (task.state, task.attempt, task.result) == ("COMPLETED", 1, {"finished": True})


@pytest.mark.parametrize("topic", ["polite", "stubborn"])
async def test_second_signal_gives_the_tasks_back_and_ends(topic: str, broker: str) -> None:
    async with Client(broker) as client:
        created = await client.create(NewTask(topic))
        with worker_process(broker) as process:
            process.signal(signal.SIGINT)
            await drains(process)
            process.signal(signal.SIGTERM)
            assert await to_thread.run_sync(process.wait) == 0
        task = await client.get_task(created.id)
    assert (task.state, task.attempt, task.retries) == ("CREATED", 1, 3)


async def test_refused_worker_is_exit_code_1(broker: str) -> None:
    process = worker_process(f"{broker}/nowhere")
    process.launch()
    assert await to_thread.run_sync(process.wait) == 1
    assert "fetchlock worker: 404" in process.log
    process.__exit__()

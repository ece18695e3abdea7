"""Serving, seen from outside: real processes that start, refuse, drain and die."""

from __future__ import annotations

import signal
import socket
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import asyncpg
import httpx2
import psutil
import pytest

from broker.embedded import EmbeddedPostgres
from broker.server.supervisor import supervise
from broker.settings import Settings
from broker.store.migrations import migrate
from tests.conftest import execute
from tests.eventually import wait_until
from tests.processes import BrokerProcess

API = "/api/external-tasks"


def metric(broker: BrokerProcess, sample: str) -> float:
    """One sample of a scrape, by its name and labels; 0 if it is not there."""
    for line in httpx2.get(f"{broker.base_url}/metrics").text.splitlines():
        if line.startswith(f"{sample} "):
            return float(line.split()[-1])
    return 0.0


def create(broker: BrokerProcess) -> httpx2.Response:
    return httpx2.post(f"{broker.base_url}{API}", json={"topic": "served"}, timeout=90)


def poll(broker: BrokerProcess) -> httpx2.Response:
    wish = {
        "workerId": "worker",
        "maxTasks": 1,
        "lockDurationMs": 60_000,
        "requestTimeoutMs": 60_000,
        "subscriptions": [{"topic": "nothing"}],
    }
    return httpx2.post(f"{broker.base_url}{API}/fetch-and-lock", json=wish, timeout=90)


@contextmanager
def parked_poll(broker: BrokerProcess) -> Iterator[Future[httpx2.Response]]:
    """A poll that the broker has parked for a minute, and its answer to come."""
    with ThreadPoolExecutor(1) as thread:
        answer = thread.submit(poll, broker)
        wait_until(lambda: metric(broker, "fetchlock_http_longpolls") == 1)
        yield answer


@contextmanager
def stuck_create(broker: BrokerProcess, database_url: str) -> Iterator[Future[httpx2.Response]]:
    """A request that cannot be answered while the block runs, because its statement waits."""

    async def hold(started: Future[None], over: Future[None]) -> None:
        connection = await asyncpg.connect(database_url)
        try:
            async with connection.transaction():
                await connection.execute("LOCK TABLE fetchlock.task IN SHARE MODE")
                started.set_result(None)
                await anyio.to_thread.run_sync(over.result)
        finally:
            await connection.close()

    started, over = Future[None](), Future[None]()
    with ThreadPoolExecutor(2) as threads:
        holding = threads.submit(anyio.run, hold, started, over)
        started.result()
        try:
            answer = threads.submit(create, broker)
            wait_until(lambda: anyio.run(_waits_for_lock, database_url))
            yield answer
        finally:
            over.set_result(None)
            holding.result()


async def _waits_for_lock(database_url: str) -> bool:
    connection = await asyncpg.connect(database_url)
    try:
        waiting = "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        return bool(await connection.fetchval(waiting))
    finally:
        await connection.close()


# One process -----------------------------------------------------------------


def test_it_says_once_where_it_answers(broker_process: BrokerProcess) -> None:
    line = broker_process.first_line
    assert line.startswith("fetchlock is ready on http://127.0.0.1:")
    answer = httpx2.get(f"{broker_process.base_url}/readyz")
    assert answer.status_code == 200
    assert "server" not in answer.headers


def test_a_stop_answers_parked_polls_and_is_no_failure(broker_process: BrokerProcess) -> None:
    with parked_poll(broker_process) as answer:
        assert broker_process.stop() == 0
        assert answer.result().status_code == 200
        assert answer.result().json() == []


def test_ctrl_c_stops_as_well(broker_process: BrokerProcess) -> None:
    broker_process.signal(signal.SIGINT)
    assert broker_process.wait() == 0
    assert "Traceback" not in broker_process.log


def test_a_stop_lets_running_requests_end(broker_process: BrokerProcess, database_url: str) -> None:
    with stuck_create(broker_process, database_url) as answer:
        broker_process.signal(signal.SIGTERM)
        wait_until(lambda: not _accepts(broker_process))
    assert broker_process.wait() == 0
    assert answer.result().status_code == 202


def test_a_second_signal_ends_it_at_once(database_url: str) -> None:
    # The statement would wait for ten minutes, and uvicorn would say that it gave up draining.
    with (
        BrokerProcess(database_url, statement_timeout_ms=600_000) as broker,
        stuck_create(broker, database_url) as answer,
    ):
        broker.signal(signal.SIGTERM)
        wait_until(lambda: not _accepts(broker))
        broker.signal(signal.SIGTERM)
        broker.wait()
        with pytest.raises(httpx2.TransportError):
            answer.result()
        assert "graceful shutdown exceeded" not in broker.log
        assert "Traceback" not in broker.log


def test_a_dead_background_loop_takes_the_process_down(
    broker_process: BrokerProcess, database_url: str
) -> None:
    anyio.run(execute, database_url, "DROP SCHEMA fetchlock CASCADE")
    assert broker_process.wait() == 1
    assert "the broker ends" in broker_process.log


def test_a_taken_port_is_one_line(database_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        broker = BrokerProcess(database_url)
        port = broker.arguments[-1] = str(other.getsockname()[1])
        with broker.launched():
            assert broker.wait() == 2
            assert broker.log == (
                f"fetchlock: Cannot listen on 127.0.0.1 port {port}: Address already in use.\n"
            )


def test_a_database_without_the_schema_is_refused(server_url: str) -> None:
    with BrokerProcess(server_url).launched() as broker:
        assert broker.wait() == 2
        assert "Run: fetchlock migrate" in broker.log


def test_what_postgresql_refuses_is_told_in_its_words(database_url: str) -> None:
    address = urlsplit(database_url)
    host = address.netloc.rpartition("@")[2]
    stranger = address._replace(netloc=f"nobody-of-note@{host}").geturl()
    with BrokerProcess(stranger).launched() as broker:
        assert broker.wait() == 2
        assert "nobody-of-note" in broker.log
        assert "Traceback" not in broker.log


def test_it_waits_for_its_database() -> None:
    with tempfile.TemporaryDirectory(prefix="fetchlock-test-") as data_dir:
        server = EmbeddedPostgres(Path(data_dir), settings={"fsync": "off"})
        with server:
            anyio.run(migrate, server.url())
        with BrokerProcess(server.url()).launched() as broker:
            wait_until(lambda: "waiting for the database" in broker.log)
            with server:
                assert "is ready" in broker.await_line()
                assert broker.stop() == 0


# Several processes -----------------------------------------------------------


@pytest.fixture
def pair(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[BrokerProcess]:
    # A parent that is killed leaves the folder of its metrics behind.
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with BrokerProcess(database_url, processes=2) as broker:
        yield broker


def children(broker: BrokerProcess) -> list[psutil.Process]:
    """The broker processes behind the port; Python's own helper of multiprocessing is no child."""
    family = psutil.Process(broker.pid).children()
    return [child for child in family if "spawn_main" in " ".join(child.cmdline())]


def test_several_processes_serve_one_port_and_count_together(pair: BrokerProcess) -> None:
    assert len(children(pair)) == 2
    for _ in range(20):
        assert create(pair).status_code == 202
    # Whichever process answers, it answers for both.
    for _ in range(5):
        assert metric(pair, 'fetchlock_tasks_created_total{topic="served"}') == 20


def test_several_processes_stop_together(pair: BrokerProcess) -> None:
    family = children(pair)
    with parked_poll(pair) as answer:
        assert pair.stop() == 0
        assert answer.result().json() == []
    assert not any(process.is_running() for process in family)


def test_a_signal_to_the_whole_group_is_still_one_stop(pair: BrokerProcess) -> None:
    """systemd and terminals signal every process of the group."""
    with parked_poll(pair) as answer:
        for process in children(pair):
            process.terminate()
        assert pair.stop() == 0
        assert answer.result().json() == []


def test_a_dead_process_is_replaced(pair: BrokerProcess) -> None:
    victim, survivor = children(pair)
    victim.kill()
    wait_until(lambda: len(set(children(pair)) - {victim, survivor}) == 1)
    assert "a broker process died" in pair.log
    assert create(pair).status_code == 202
    assert pair.stop() == 0


def test_processes_without_a_parent_give_up_the_port(pair: BrokerProcess) -> None:
    family = children(pair)
    pair.kill()
    psutil.wait_procs(family)
    assert not _accepts(pair)


def test_processes_that_cannot_start_are_not_tried_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "given back afterwards")
    settings = Settings(database_url="postgresql://fetchlock@/none?host=/nowhere", processes=2)
    announced: list[None] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        code = anyio.run(supervise, settings, listener, lambda: announced.append(None))
    assert code == 1
    assert not announced


def _accepts(broker: BrokerProcess) -> bool:
    host, _, port = broker.base_url.removeprefix("http://").rpartition(":")
    try:
        socket.create_connection((host, int(port))).close()
    except ConnectionRefusedError:
        return False
    return True

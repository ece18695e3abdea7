"""The command line, as a person meets it: real runs of `python -m broker`."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import anyio
import httpx2
import pytest

from broker.store.migrations import all_migrations
from tests.conftest import database_on, execute
from tests.processes import ROOT, PythonProcess

TASKS = "/api/external-tasks"


def fetchlock(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    given = {f"FETCHLOCK_{name.upper()}": text for name, text in settings.items()}
    return subprocess.run(
        [sys.executable, "-m", "broker", *arguments],
        cwd=ROOT,
        env=os.environ | given,
        capture_output=True,
        text=True,
        check=False,
    )


def dev(data_dir: Path) -> PythonProcess:
    return PythonProcess(["-m", "broker", "dev", "--port", "0", "--data", str(data_dir)])


@pytest.fixture
def data_dir() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="fetchlock-test-") as name:
        directory = Path(name)
        directory.chmod(0o755)  # For root, PostgreSQL runs as another user.
        yield directory


@pytest.fixture
def empty_database_url(server_url: str) -> Iterator[str]:
    """A database without a schema."""
    name = f"empty_{os.urandom(8).hex()}"
    anyio.run(execute, server_url, f"CREATE DATABASE {name}")
    yield database_on(server_url, name)
    anyio.run(execute, server_url, f"DROP DATABASE {name} WITH (FORCE)")


def test_help_lists_every_command() -> None:
    told = fetchlock("--help").stdout
    for command in ("dev", "serve", "migrate", "version", "worker"):
        assert f" {command} " in told


def test_version() -> None:
    assert fetchlock("version").stdout.strip() == version("fetchlock")


def test_every_wrong_setting_is_told_at_once() -> None:
    refused = fetchlock("serve", pool_size="0", log_level="loud", prot="8080")
    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 3
    assert "Did you mean FETCHLOCK_PORT?" in refused.stderr


def test_an_option_is_checked_like_a_setting() -> None:
    refused = fetchlock("dev", "--host", "0.0.0.0")
    assert refused.returncode == 2
    assert "no authentication" in refused.stderr


def test_an_unknown_option_is_told() -> None:
    refused = fetchlock("serve", "--prot", "8080")
    assert refused.returncode == 2
    assert "--prot" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize("command", ["serve", "migrate"])
def test_a_command_without_its_database_says_what_is_missing(command: str) -> None:
    refused = fetchlock(command)
    assert refused.returncode == 2
    assert "FETCHLOCK_DATABASE_URL" in refused.stderr


def test_migrate_says_when_the_database_is_away() -> None:
    refused = fetchlock("migrate", database_url="postgresql://fetchlock@/none?host=/nowhere")
    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 1


def test_migrate_applies_what_is_pending_and_then_nothing(empty_database_url: str) -> None:
    names = [migration.name for migration in all_migrations()]
    first = fetchlock("migrate", database_url=empty_database_url)
    assert first.stdout.splitlines() == [f"applied {name}" for name in names]
    assert fetchlock("migrate", database_url=empty_database_url).stdout == "nothing to do\n"


def test_a_dry_run_prints_the_sql_and_changes_nothing(empty_database_url: str) -> None:
    for _ in range(2):
        shown = fetchlock("migrate", "--dry-run", database_url=empty_database_url)
        assert shown.returncode == 0
        assert all(migration.sql in shown.stdout for migration in all_migrations())


def test_dev_names_its_folder_and_keeps_its_data(data_dir: Path) -> None:
    with dev(data_dir) as first:
        assert first.first_line.endswith(str(data_dir))
        base_url = first.await_line().split()[-1]
        created = httpx2.post(f"{base_url}{TASKS}", json={"topic": "kept"}).json()
        assert first.stop() == 0
    with dev(data_dir) as second:
        base_url = second.await_line().split()[-1]
        assert httpx2.get(f"{base_url}{TASKS}/{created['id']}").json()["topic"] == "kept"
        # A SIGKILL leaves PostgreSQL behind; the next start makes do with it.
        second.kill()
    with dev(data_dir) as third:
        base_url = third.await_line().split()[-1]
        assert httpx2.get(f"{base_url}{TASKS}/{created['id']}").status_code == 200
        assert third.stop() == 0
    assert not (data_dir / "cluster" / "postmaster.pid").exists(), "PostgreSQL still runs"


def test_dev_stops_postgresql_when_it_cannot_serve(data_dir: Path) -> None:
    with dev(data_dir) as first:
        port = first.await_line().rpartition(":")[2]
        other = data_dir / "other"
        refused = fetchlock("dev", "--port", port, "--data", str(other))
        assert refused.returncode == 2
        assert f"port {port}: Address already in use" in refused.stderr
        assert not (other / "cluster" / "postmaster.pid").exists(), "PostgreSQL still runs"
        assert first.stop() == 0


def test_one_folder_serves_one_dev(data_dir: Path) -> None:
    with dev(data_dir) as first:
        first.await_line()
        refused = fetchlock("dev", "--port", "0", "--data", str(data_dir))
        assert refused.returncode == 2
        assert "Another process" in refused.stderr
        assert first.stop() == 0

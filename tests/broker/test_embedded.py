"""The embedded database: it survives its parent's death and its own, and keeps to itself."""

from __future__ import annotations

import os
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import anyio
import asyncpg
import pytest

from broker.embedded import EmbeddedPostgres, EmbeddedPostgresError
from broker.embedded.account import Account
from broker.embedded.programs import find_programs
from tests.processes import PythonProcess

# As root, pytest's own tmp_path is closed to the user that PostgreSQL runs as.
HELD = """
import signal, sys
from pathlib import Path
from broker.embedded import EmbeddedPostgres
with EmbeddedPostgres(Path(sys.argv[1]), settings={'fsync': 'off'}) as database:
    print(database.url(), flush=True)
    signal.pause()
"""


@pytest.fixture
def data_dir() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="fetchlock-test-") as name:
        directory = Path(name)
        directory.chmod(0o755)  # For root, PostgreSQL runs as another user.
        yield directory


@pytest.fixture
def database(data_dir: Path) -> Iterator[EmbeddedPostgres]:
    with hasty(data_dir) as started:
        yield started


def hasty(data_dir: Path) -> EmbeddedPostgres:
    """A server that does not wait for the disk, for tests that are not about it."""
    return EmbeddedPostgres(data_dir, settings={"fsync": "off"})


def ask(url: str, question: str) -> object:
    async def answer() -> object:
        connection = await asyncpg.connect(url)
        try:
            return await connection.fetchval(question)
        finally:
            await connection.close()

    return anyio.run(answer)


def test_it_is_durable_unless_told_otherwise(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir) as durable:
        assert ask(durable.url(), "SHOW fsync") == "on"
        assert ask(durable.url(), "SHOW synchronous_commit") == "on"
    with hasty(data_dir) as server:
        assert ask(server.url(), "SHOW fsync") == "off"


def test_it_does_not_listen_on_the_network(database: EmbeddedPostgres) -> None:
    assert ask(database.url(), "SHOW listen_addresses") == ""


def test_its_socket_is_behind_a_private_directory(database: EmbeddedPostgres) -> None:
    (directory,) = parse_qs(urlsplit(database.url()).query)["host"]
    assert stat.S_IMODE(Path(directory).stat().st_mode) == 0o700


def test_what_was_committed_survives_a_sigkill(database: EmbeddedPostgres) -> None:
    ask(database.url(), "CREATE TABLE kept AS SELECT 42 AS answer")
    database.kill()
    with pytest.raises(OSError):  # noqa: PT011 - refused or no such file: it is away.
        ask(database.url(), "SELECT 1")
    database.start()
    assert ask(database.url(), "SELECT answer FROM kept") == 42


def test_a_stop_keeps_the_data(data_dir: Path) -> None:
    with hasty(data_dir) as first:
        ask(first.url(), "CREATE TABLE kept AS SELECT 42 AS answer")
    with hasty(data_dir) as second:
        assert ask(second.url(), "SELECT answer FROM kept") == 42


def test_one_directory_has_one_owner(database: EmbeddedPostgres, data_dir: Path) -> None:
    with pytest.raises(EmbeddedPostgresError, match="Another process"):
        hasty(data_dir).start()


def test_a_server_left_over_by_a_killed_parent_is_replaced(data_dir: Path) -> None:
    with PythonProcess(["-c", HELD, str(data_dir)]) as parent:
        url = parent.first_line
        ask(url, "CREATE TABLE kept AS SELECT 42 AS answer")
        parent.kill()
        # It really is left over: it answers.
        assert ask(url, "SELECT answer FROM kept") == 42
    with hasty(data_dir) as successor:
        assert ask(successor.url(), "SELECT answer FROM kept") == 42


def test_a_process_id_that_belongs_to_somebody_else_is_not_believed(data_dir: Path) -> None:
    with hasty(data_dir) as first:
        first.kill()
    stale = data_dir / "cluster" / "postmaster.pid"
    lines = stale.read_text().splitlines()
    with subprocess.Popen(["sleep", "60"]) as bystander:
        stale.write_text("\n".join([str(bystander.pid), *lines[1:]]) + "\n")
        with hasty(data_dir) as second:
            assert ask(second.url(), "SELECT 1") == 1
        assert bystander.poll() is None, "the bystander was taken for the server"
        bystander.kill()


def test_a_cluster_half_made_is_made_again(data_dir: Path) -> None:
    fresh = data_dir / "cluster.fresh"
    fresh.mkdir()
    (fresh / "PG_VERSION").write_text("18\n")
    with hasty(data_dir):
        assert not fresh.exists()


def test_data_of_another_version_is_refused(data_dir: Path) -> None:
    with hasty(data_dir):
        pass
    (data_dir / "cluster" / "PG_VERSION").write_text("9\n")
    with pytest.raises(EmbeddedPostgresError, match="made by PostgreSQL 9"):
        hasty(data_dir).start()


def test_a_server_that_does_not_start_says_why(data_dir: Path) -> None:
    server = EmbeddedPostgres(data_dir, settings={"max_connections": "none"})
    with pytest.raises(EmbeddedPostgresError, match='parameter "max_connections"'):
        server.start()
    with hasty(data_dir):
        pass  # And the failure left nothing behind.


def test_a_path_too_long_for_a_socket(data_dir: Path) -> None:
    with hasty(data_dir / ("long" * 30)) as database:
        assert ask(database.url(), "SELECT 1") == 1
        (directory,) = parse_qs(urlsplit(database.url()).query)["host"]
        assert len(directory) < 80
        assert stat.S_IMODE(Path(directory).stat().st_mode) == 0o700
    Path(directory).rmdir()


def test_a_socket_directory_of_somebody_else_is_refused(data_dir: Path) -> None:
    elsewhere = data_dir / "elsewhere"
    elsewhere.mkdir()
    (data_dir / "run").symlink_to(elsewhere)
    with pytest.raises(EmbeddedPostgresError, match="belongs to another"):
        hasty(data_dir).start()


def test_a_directory_with_a_space_and_an_umlaut(data_dir: Path) -> None:
    with hasty(data_dir / "my präferred data") as database:
        assert "%20" in database.url()


def test_without_the_wheel_the_systems_programs_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.embedded.programs._WHEEL", "no_such_wheel")
    try:
        programs = find_programs(Account.ours())
    except EmbeddedPostgresError:
        pytest.skip("this machine has no PostgreSQL of its own")
    assert programs.major >= 15
    assert (programs / "initdb").exists()


def test_with_nothing_to_serve_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.embedded.programs._MAJOR_MIN", 99)
    with pytest.raises(EmbeddedPostgresError, match=r"fetchlock\[embedded\]"):
        find_programs(Account.ours())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has directories closed to PostgreSQL")
def test_root_keeps_data_where_postgres_may_enter(data_dir: Path) -> None:
    data_dir.chmod(0o700)
    closed = data_dir / "checkout" / ".fetchlock"
    home = hasty(closed).home
    assert home.parent == Path("/var/lib/fetchlock")
    assert hasty(closed).home == home
    assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700


def test_ctrl_c_is_not_for_the_database(database: EmbeddedPostgres) -> None:
    """A terminal sends it to its session; the broker still needs its database while it drains."""
    postmaster = (database.home / "cluster" / "postmaster.pid").read_text().split()[0]
    assert os.getsid(int(postmaster)) != os.getsid(0)

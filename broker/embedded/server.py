"""One PostgreSQL server as a child of this process. The package's essay tells its rules."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Literal, Self
from urllib.parse import quote

from broker.embedded.account import OPEN, Account
from broker.embedded.error import EmbeddedPostgresError
from broker.embedded.programs import Programs, find_programs

DATABASE: Final = "fetchlock"
_SUPERUSER: Final = "fetchlock"

_START_S: Final = 60.0
"""A crash recovery replays all that was not yet in place."""

_STOP_S: Final = 20.0
_POLL_S: Final = 0.02

_SOCKET_NAME: Final = ".s.PGSQL.5432"
_SOCKET_PATH_BYTES_MAX: Final = 103
"""What fits into sun_path on macOS. Linux has four bytes more."""

_SIGNALS: Final = {
    "smart": signal.SIGTERM,
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
}


class EmbeddedPostgres:
    """A server on one directory, started and stopped from here. As a context manager, around it.

    Durable, unless `settings` (names and values of postgresql.conf) say otherwise.
    """

    def __init__(self, data_dir: Path, *, settings: Mapping[str, str] | None = None) -> None:
        self._account = Account.ours()
        self.home = _home(data_dir.resolve(), self._account)
        """Where the data is: `data_dir`, unless PostgreSQL's user could not get there."""
        self._cluster = self.home / "cluster"
        self._socket_dir = _socket_dir(self.home)
        self._settings = dict(settings or {})
        self._owner_lock: int | None = None
        self._server: subprocess.Popen[Any] | None = None

    def url(self, database: str = DATABASE) -> str:
        """A database's address, as asyncpg and psql read it. It holds no secret."""
        return f"postgresql://{_SUPERUSER}@/{database}?host={quote(str(self._socket_dir))}"

    def start(self) -> None:
        """Make what is missing, start the server and return once it takes connections.

        Raises `EmbeddedPostgresError`.
        """
        programs = find_programs(self._account)
        self._account.make_enterable(self.home)
        self._become_owner()
        try:
            with self._server_lock() as lock:
                self._make_cluster(programs)
                self._account.own(self._socket_dir)
                self._server = self._spawn(programs, lock)
            self._await_ready(self._server)
        except BaseException:
            self.stop("immediate")
            raise

    def stop(self, mode: Literal["smart", "fast", "immediate"] = "fast") -> None:
        """Stop the server, if it runs, and give up the directory."""
        if self._server is not None:
            self._server.send_signal(_SIGNALS[mode])
            try:
                self._server.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self.kill()
        self._server = None
        if self._owner_lock is not None:
            os.close(self._owner_lock)
            self._owner_lock = None

    def kill(self) -> None:
        """SIGKILL the server and all its children, as a dying machine would. `start` recovers."""
        # Part of the `embedded` extra; the programs of a system's PostgreSQL do without it.
        import psutil

        if self._server is None:
            return
        postmaster = psutil.Process(self._server.pid)
        # A stopped postmaster forks no child that this list would miss.
        postmaster.suspend()
        family = [*postmaster.children(recursive=True), postmaster]
        for process in family:
            process.kill()
        self._server.wait()
        self._server = None
        # The children are not ours to wait for, but the lock tells when the last one is gone.
        lock = _open_lock(self._server_lock_path)
        _poll_until(lambda: _try_lock(lock), f"What PostgreSQL left in {self.home} does not die.")
        os.close(lock)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _become_owner(self) -> None:
        if self._owner_lock is not None:
            return  # Killed and started again: still ours.
        lock = _open_lock(self.home / "owner.lock")
        if not _try_lock(lock):
            os.close(lock)
            raise EmbeddedPostgresError(f"Another process is using the database in {self.home}.")
        self._owner_lock = lock

    @contextmanager
    def _server_lock(self) -> Iterator[int]:
        """The lock that the server is to inherit. A predecessor that still has it is stopped."""
        lock = _open_lock(self._server_lock_path)
        told = None

        def is_free() -> bool:
            nonlocal told
            if _try_lock(lock):
                return True
            pid, _ = _postmaster(self._cluster)
            if pid is not None and pid != told:
                # Its owner is dead, or we would not be the owner: nobody will miss it.
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGINT)
                told = pid
            return False

        try:
            _poll_until(is_free, f"A PostgreSQL left over in {self.home} does not stop.")
            # So no server has this directory, whatever became of the process in that file.
            (self._cluster / "postmaster.pid").unlink(missing_ok=True)
            yield lock
        finally:
            os.close(lock)

    def _make_cluster(self, programs: Programs) -> None:
        """Make the cluster and its database. It gets its name when it is whole, or never."""
        made_with = self._cluster / "PG_VERSION"
        if made_with.exists():
            if (major := made_with.read_text().strip()) != str(programs.major):
                raise EmbeddedPostgresError(
                    f"{self.home} was made by PostgreSQL {major}, this is {programs.major}:"
                    " take another directory."
                )
            return
        fresh = self.home / "cluster.fresh"
        shutil.rmtree(fresh, ignore_errors=True)
        self._account.own(fresh)
        initdb: list[str | Path] = [programs / "initdb", "-D", fresh, "-U", _SUPERUSER]
        initdb += ["--auth=trust", "--encoding=UTF8", "--locale=C", "--no-instructions"]
        if self._settings.get("fsync") == "off":
            initdb.append("--no-sync")
        self._run(initdb)
        # A server in single-user mode takes statements without being reachable by anyone.
        self._run(
            [programs / "postgres", "--single", "-D", fresh, "-c", "exit_on_error=on", "postgres"],
            f"CREATE DATABASE {DATABASE}\n",
        )
        fresh.rename(self._cluster)

    def _run(self, command: list[str | Path], statements: str = "") -> None:
        ran = subprocess.run(
            command,
            input=statements,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            **self._surroundings,
        )
        if ran.returncode != 0:
            raise EmbeddedPostgresError(f"{command[0]} failed:\n{ran.stdout}")

    def _spawn(self, programs: Programs, lock: int) -> subprocess.Popen[Any]:
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": f'"{self._socket_dir}"',
            "port": "5432",
            "timezone": "UTC",
            "log_timezone": "UTC",
        } | self._settings
        command: list[str | Path] = [programs / "postgres", "-D", self._cluster]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        with self._log.open("ab") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[lock],
                # Ctrl-C is for the broker, which still needs its database while it drains.
                start_new_session=True,
                **self._surroundings,
            )

    def _await_ready(self, server: subprocess.Popen[Any]) -> None:
        deadline = time.monotonic() + _START_S
        while _postmaster(self._cluster) != (server.pid, "ready"):
            if server.poll() is not None or time.monotonic() > deadline:
                said = self._log.read_text(errors="replace").splitlines()[-10:]
                raise EmbeddedPostgresError(
                    "\n".join(["PostgreSQL did not start. It said:", *said])
                )
            time.sleep(_POLL_S)

    @property
    def _server_lock_path(self) -> Path:
        return self.home / "server.lock"

    @property
    def _log(self) -> Path:
        return self.home / "postgres.log"

    @property
    def _surroundings(self) -> dict[str, Any]:
        """None of our environment: it may hold secrets, or PG* names that PostgreSQL reads."""
        environment = {"PATH": os.defpath, "LC_ALL": "C"}
        return {"cwd": self.home, "env": environment, "umask": 0o077, **self._account.as_subprocess}


def _home(data_dir: Path, account: Account) -> Path:
    above = next(step for step in data_dir.parents if step.exists())
    if account.can_enter(above):
        return data_dir
    return OPEN / f"{data_dir.name.lstrip('.')}-{_digest(data_dir)}"


def _socket_dir(home: Path) -> Path:
    beside = home / "run"
    if len(os.fsencode(beside / _SOCKET_NAME)) <= _SOCKET_PATH_BYTES_MAX:
        return beside
    return Path("/tmp") / f"fetchlock-{_digest(home)}"


def _digest(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:16]


def _open_lock(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _poll_until(holds: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + _STOP_S
    while not holds():
        if time.monotonic() > deadline:
            raise EmbeddedPostgresError(otherwise)
        time.sleep(_POLL_S)


def _postmaster(cluster: Path) -> tuple[int | None, str]:
    """The process id and the state that a server last wrote down. It may be dead since."""
    try:
        lines = (cluster / "postmaster.pid").read_text().splitlines()
        return int(lines[0]), lines[7].strip() if len(lines) > 7 else ""
    except (OSError, IndexError, ValueError):
        return None, ""

"""Real processes for tests: started, heard, stopped, frozen and killed.

Nothing here waits by the clock: a process is waited for until it says that it
is ready or is gone, with a deadline only so that a broken one fails the test
instead of hanging it. Calls block; in async tests that must go on meanwhile,
run them in a thread.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

ROOT = Path(__file__).parents[1]

_DEADLINE_S = 60.0


class Process:
    """A program in the checkout, whose first line on standard output says that it is ready.

    As a context manager it is started, and killed if it still runs at the end.
    """

    def __init__(
        self,
        program: str | Path,
        arguments: Sequence[str],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.arguments = list(arguments)
        self._program = program
        self.first_line = ""
        self._environment = {**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})}
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed by _close
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        return self._running.pid

    @property
    def log(self) -> str:
        """All that it has written to standard error so far, over all its starts."""
        size = os.fstat(self._stderr.fileno()).st_size
        return os.pread(self._stderr.fileno(), size, 0).decode(errors="replace")

    def launch(self) -> None:
        """Start it and return at once, for tests of what happens before it is ready."""
        assert self._process is None, "it runs already"
        self._process = subprocess.Popen(
            [self._program, *self.arguments],
            cwd=ROOT,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
        )

    def start(self) -> None:
        """Start it and return once it has said that it is ready."""
        self.launch()
        self.await_line()

    def await_line(self) -> str:
        """The next line it writes to standard output. Fails the test if it ends instead."""
        stdout = self._running.stdout
        assert stdout is not None
        deadline = time.monotonic() + _DEADLINE_S
        line = b""
        while not line.endswith(b"\n"):
            readable, _, _ = select.select([stdout], [], [], max(0, deadline - time.monotonic()))
            part = os.read(stdout.fileno(), 1) if readable else b""
            if not part:
                self.kill()
                raise AssertionError(f"{self.arguments} said nothing. Its log:\n{self.log}")
            line += part
        self.first_line = line.decode().rstrip()
        return self.first_line

    def wait(self) -> int:
        """Its exit code, once it has ended (negative: the signal that killed it)."""
        code = self._running.wait(_DEADLINE_S)
        assert self._running.stdout is not None
        self._running.stdout.close()
        self._process = None
        return code

    def signal(self, number: int) -> None:
        self._running.send_signal(number)

    def stop(self) -> int:
        """SIGTERM; the exit code once it has drained."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """SIGKILL: it does nothing more, not even say goodbye."""
        self.signal(signal.SIGKILL)
        self.wait()

    def pause(self) -> None:
        """SIGSTOP: it freezes where it is, its connections open."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT: it goes on as if no time had passed."""
        self.signal(signal.SIGCONT)

    @contextmanager
    def launched(self) -> Iterator[Self]:
        """Around a process that is not expected to become ready, or not yet."""
        try:
            self.launch()
            yield self
        finally:
            self._close()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        if self._process is not None:
            self.kill()
        # pytest shows it beside the failure, if there is one.
        sys.stderr.write(self.log)
        self._stderr.close()

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "it does not run"
        return self._process


class PythonProcess(Process):
    """`python …`, the one that runs the tests."""

    def __init__(
        self, arguments: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(sys.executable, arguments, environment)


class BrokerProcess(PythonProcess):
    """`fetchlock serve` on one database, on a free port that it keeps when it is started again.

    Settings are given by their names: `BrokerProcess(url, notify="false", processes=2)`.
    """

    def __init__(self, database_url: str, **settings: object) -> None:
        environment = {f"FETCHLOCK_{name.upper()}": str(text) for name, text in settings.items()}
        environment["FETCHLOCK_DATABASE_URL"] = database_url
        super().__init__(["-m", "broker", "serve", "--port", "0"], environment)
        self.base_url = ""

    def start(self) -> None:
        super().start()
        self.base_url = self.first_line.split()[-1]
        assert self.base_url.startswith("http://"), self.first_line
        self.arguments[-1] = self.base_url.rpartition(":")[2]

    def restart(self) -> None:
        """Stop it in good order and start it again, on the same port."""
        assert self.stop() == 0, self.log
        self.start()

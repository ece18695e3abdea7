"""The harness's side of the line protocol (see `program`): one contender's process, and its orders."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import anyio
import msgspec
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from benchmarks.figures import Participant

ROOT: Final = Path(__file__).parents[1]

_STALL_S: Final = 120.0
"""Programs tell their progress every second or so. One that is silent so long will stay so."""

_STOP_S: Final = 5.0
_LINE_BYTES_MAX: Final = 512 * 1024 * 1024
"""A minute of samples is a line of some megabytes."""

_UNWANTED: Final = ("FETCHLOCK_", "PG")
"""What would turn settings behind the benchmark's back."""


class Trouble(Exception):
    """A contender, or something else that takes part, failed. The text says how, in one line."""


class _Line(msgspec.Struct):
    ready: Participant | None = None
    progress: int | None = None
    done: dict[str, Any] | None = None
    error: str | None = None


_ERROR: Final = re.compile(r"[\w.]*Error\b")

_LINE = msgspec.json.Decoder(_Line)


class Driver:
    """A contender program that is running and has introduced itself."""

    def __init__(self, process: Process, log: Path) -> None:
        assert process.stdout is not None
        self._process = process
        self._log = log
        self._lines = BufferedByteReceiveStream(process.stdout)
        self.participant = Participant("", "", "", "")

    @property
    def pid(self) -> int:
        """Of the program."""
        return self._process.pid

    async def await_ready(self) -> None:
        """Wait for the introduction. Raises `Trouble`."""
        line = await self._next()
        if line.ready is None:
            raise Trouble(line.error or "it did not introduce itself")
        self.participant = line.ready

    async def order(
        self, do: str, progressed: Callable[[int], None] | None = None, **arguments: object
    ) -> dict[str, Any]:
        """Have something done, and answer what the program says of it. Raises `Trouble`."""
        assert self._process.stdin is not None
        try:
            await self._process.stdin.send(msgspec.json.encode({"do": do, **arguments}) + b"\n")
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            raise Trouble(self._last_words()) from None
        while True:
            line = await self._next()
            if line.error is not None:
                raise Trouble(line.error)
            if line.done is not None:
                return line.done
            if line.progress is not None and progressed is not None:
                progressed(line.progress)

    async def _next(self) -> _Line:
        try:
            with anyio.fail_after(_STALL_S):
                return _LINE.decode(await self._lines.receive_until(b"\n", _LINE_BYTES_MAX))
        except TimeoutError:
            raise Trouble(f"it said nothing for {_STALL_S:.0f} s and was stopped") from None
        except (anyio.IncompleteRead, anyio.EndOfStream, msgspec.DecodeError):
            raise Trouble(self._last_words()) from None

    def _last_words(self) -> str:
        """The error that its log ends with; node puts its version below it, and more."""
        text = self._log.read_text(encoding="utf-8", errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        errors = [line for line in lines if _ERROR.match(line)]
        return (errors or lines or ["it ended without a word"])[-1][:500]


@asynccontextmanager
async def driving(command: Sequence[str], log: Path) -> AsyncIterator[Driver]:
    """A contender program around the block. Raises `Trouble` if it cannot take part."""
    with log.open("wb") as errors:
        try:
            process = await anyio.open_process(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=ROOT,
                env=environment(),
                # Ctrl-C is for the harness, which then ends everything in order.
                start_new_session=True,
            )
        except OSError as error:
            raise Trouble(f"{command[0]}: {error.strerror}") from error
    try:
        driver = Driver(process, log)
        await driver.await_ready()
        yield driver
    finally:
        with anyio.CancelScope(shield=True):
            await _stop(process)


def environment(**more: str) -> dict[str, str]:
    """Our environment for a child, less what it must not inherit."""
    return {k: v for k, v in os.environ.items() if not k.startswith(_UNWANTED)} | more


async def _stop(process: Process) -> None:
    assert process.stdin is not None
    with suppress(anyio.BrokenResourceError):
        await process.stdin.aclose()
    with anyio.move_on_after(_STOP_S):
        await process.wait()
    if process.returncode is None:
        process.kill()
    await process.aclose()

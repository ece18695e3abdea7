"""What a contender program is made of: the Python side of the line protocol.

Each contender is a process of its own, so that its CPU seconds can be read, and
so that libraries in Python and in Node are driven alike. It is started with one
argument, the target (PostgreSQL's address, or the broker's), and speaks JSON,
one object a line:

    program  {"ready": {"name": …, "version": …, "settings": …, "durability": …}}
    harness  {"do": "drain", "count": 50000, …}     a method of the program, and its arguments
    program  {"progress": 1200}                     how far it is, about every second
    program  {"done": {"seconds": 1.83}}            or {"error": "one line"}
    harness  closes stdin                           and the program ends

A program measures by its own monotonic clock and says nothing it has not seen:
`drain` ends with the last completion that PostgreSQL has committed, and only if
exactly as many tasks were handled as were asked for. What else it has to say
goes to stderr.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import AsyncIterator
from typing import Any, ClassVar, Final

import anyio
import msgspec

PAYLOAD_BYTES: Final = 100
_FILLER: Final = "x" * (
    PAYLOAD_BYTES - len('{"paymentValid":true,"chargeId":"ch_abc123","amount":100,"i":,"note":""}')
)

_PROGRESS_S: Final = 0.5
"""Often enough for a person to see that it lives, too seldom to cost anything."""

_LINE_BYTES: Final = 65_536


class Ready(msgspec.Struct):
    """A contender's introduction. All of it is printed beside its figures."""

    name: str
    version: str
    settings: str
    durability: str


class NotSupported(Exception):
    """This contender has no such workload."""


class Program:
    """Subclass it: `introduce`, `aclose`, and a public method for each workload.

    A method named in `WORKLOADS` takes the order's arguments by name and returns what is said as
    `done`. It raises where it cannot keep a promise; the text becomes the `error`.
    """

    WORKLOADS: ClassVar[frozenset[str]] = frozenset(
        {"prepare", "create_bulk", "create_single", "drain", "pickup", "steady"}
    )

    def __init__(self, target: str) -> None:
        self.target = target
        self._done = 0
        self._told_at_s = 0.0

    async def introduce(self) -> Ready:
        """Connect, and say who this is."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """Let go of the target."""

    def advance(self, count: int = 1) -> None:
        """So many more tasks are done. Told to the harness now and then."""
        self._done += count
        now_s = time.monotonic()
        if now_s - self._told_at_s >= _PROGRESS_S:
            self._told_at_s = now_s
            _say({"progress": self._done})

    async def greet(self) -> None:
        """Say `ready`, or the `error` that keeps this contender from taking part."""
        try:
            _say({"ready": await self.introduce()})
        except Exception as error:
            _say_error(error)

    async def obey(self, line: bytes) -> None:
        """Carry out one order, and say `done` or `error`."""
        self._done, self._told_at_s = 0, time.monotonic()
        try:
            arguments = msgspec.json.decode(line, type=dict[str, Any])
            name = arguments.pop("do")
            if name not in self.WORKLOADS or not hasattr(self, name):
                raise NotSupported(f"no workload {name}")
            done = await getattr(self, name)(**arguments)
        except Exception as error:
            _say_error(error)
        else:
            _say({"done": done or {}})


def serve(program: type[Program]) -> None:
    """Run the program on the target that the command line names, until stdin is closed."""
    _keep_stdout_clean()
    anyio.run(_serve, program(sys.argv[1]), backend_options={"use_uvloop": True})


async def _serve(program: Program) -> None:
    async with anyio.create_task_group() as group:
        orders, arriving = anyio.create_memory_object_stream[bytes](1)

        async def listen() -> None:
            async for line in _lines(0):
                await orders.send(line)
            # Nobody waits for what is still under way.
            group.cancel_scope.cancel()

        try:
            await program.greet()
            group.start_soon(listen)
            async for line in arriving:
                await program.obey(line)
        finally:
            with anyio.move_on_after(4, shield=True):
                await program.aclose()


def payload(counter: int) -> dict[str, Any]:
    """The variables that every contender's task carries: as JSON, 100 bytes."""
    return {
        "paymentValid": True,
        "chargeId": "ch_abc123",
        "amount": 100,
        "i": counter,
        "note": _FILLER[len(str(counter)) :],
    }


async def at_rate(rate: float, seconds: float) -> AsyncIterator[float]:
    """Open loop: yields the k-th due offset, k / rate, once it has come, whatever is under way.

    Late ones come at once, so what a stall held up is counted as the wait it was.
    """
    begun_at_s = time.monotonic()
    for k in range(int(rate * seconds)):
        offset_s = k / rate
        wait_s = begun_at_s + offset_s - time.monotonic()
        if wait_s > 0:
            await anyio.sleep(wait_s)
        yield offset_s


_out = 1


def _keep_stdout_clean() -> None:
    """Libraries that print would break the protocol: what is not ours goes to stderr."""
    global _out
    _out = os.dup(1)
    os.dup2(2, 1)


def _say(line: object) -> None:
    left = msgspec.json.encode(line) + b"\n"
    while left:
        left = left[os.write(_out, left) :]


def _say_error(error: Exception) -> None:
    traceback.print_exception(error)
    _say({"error": _one_line(error)})


async def _lines(descriptor: int) -> AsyncIterator[bytes]:
    left = b""
    while True:
        await anyio.wait_readable(descriptor)
        if not (chunk := os.read(descriptor, _LINE_BYTES)):
            return
        *lines, left = (left + chunk).split(b"\n")
        for line in lines:
            yield line


def _one_line(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    text = " ".join(str(error).split()) or "no reason given"
    return f"{type(error).__name__}: {text}"[:500]

"""A contender program with one workload for everything that the protocol knows."""

from __future__ import annotations

import os
import sys
from typing import Any, ClassVar

import anyio

from benchmarks.program import Program, Ready, serve


class ContenderForTests(Program):
    """Its target says how it behaves."""

    WORKLOADS: ClassVar[frozenset[str]] = frozenset({"count", "fail", "wait", "die"})

    async def introduce(self) -> Ready:
        if self.target == "absent":
            raise RuntimeError("there is nothing\nto connect to")
        return Ready("for tests", "1.0", "none", "none")

    async def aclose(self) -> None:
        sys.stderr.write("closed\n")

    async def count(self, to: int, pause_s: float) -> dict[str, Any]:
        print("what a library prints must not reach the harness")  # noqa: T201 - as libraries do
        for _ in range(to):
            await anyio.sleep(pause_s)
            self.advance()
        return {"counted": to}

    async def fail(self) -> None:
        async with anyio.create_task_group():
            raise ValueError("two\nlines")

    async def wait(self) -> None:
        await anyio.sleep_forever()

    async def die(self) -> None:
        sys.stderr.write("SomeError: it was too much\n")
        sys.stderr.flush()
        os._exit(3)


if __name__ == "__main__":
    serve(ContenderForTests)

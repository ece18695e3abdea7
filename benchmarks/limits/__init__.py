"""How fast PostgreSQL itself is at this work, here and now: nothing above it can be faster.

pgbench runs the SQL beside this module, prepared, 500 tasks a statement:

    bare            rows put in, locked with SKIP LOCKED by an open transaction, deleted
    same promise    the promise that Fetchlock makes, on tables as small as it allows:
                    a lock with an owner, a token and an expiry in one commit, the end
                    of the task and its outcome in another

There is no HTTP in it, no JSON and no Python; payloads are made where they are
stored. Both are measured in three phases: `create`, then `drain` of what was
created, and `lifecycle`, which is both in turns on tables that were empty. Each
starts from fresh tables, vacuumed, analysed and with a checkpoint behind it, and
ends with a count of what is there: a limit of rows that were not all moved is
none.

`measure` answers with tasks per second: `{"bare create": …, "bare drain": …, …,
"same promise lifecycle": …}`. How many clients are best depends on the machine.
"""

from __future__ import annotations

import math
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final, NamedTuple

import anyio
import asyncpg

from benchmarks.program import PAYLOAD_BYTES
from broker.embedded.account import Account
from broker.embedded.error import EmbeddedPostgresError
from broker.embedded.programs import find_programs

BATCH: Final = 500

_HERE: Final = Path(__file__).parent

_SHAPES: Final = {"bare": "bare", "same promise": "promise"}
"""The names of the limits, and of their files."""

_TPS: Final = re.compile(rb"^tps = ([0-9.]+)", re.MULTILINE)


class LimitUnavailable(Exception):
    """Why there is no limit to compare with: one line for a person."""


async def measure(dsn: str, count: int, clients: int) -> dict[str, float]:
    """Run every phase of both limits once, with so many clients at once.

    `count` tasks, rounded up to whole statements of 500 for each client. Makes and drops the
    schema `fetchlock_limit`. Raises `LimitUnavailable` if pgbench is missing or fails, and
    `AssertionError` if not every task went through.
    """
    found: dict[str, float] = {}
    connection = await asyncpg.connect(dsn)
    try:
        for name, shape in _SHAPES.items():
            pgbench = _Pgbench(dsn, shape, clients, math.ceil(count / BATCH / clients))
            async for phase, tasks_per_second in _phases(connection, pgbench):
                found[f"{name} {phase}"] = tasks_per_second
        await connection.execute("DROP SCHEMA fetchlock_limit CASCADE")
    finally:
        await connection.close()
    return found


class _Pgbench(NamedTuple):
    """How one shape is run: by so many clients, each so many times."""

    dsn: str
    shape: str
    clients: int
    rounds: int

    @property
    def tasks(self) -> int:
        return self.clients * self.rounds * BATCH

    def read(self, part: str) -> str:
        return (_HERE / f"{self.shape}_{part}.sql").read_text(encoding="utf-8")

    async def run(self, *parts: str) -> float:
        """Let every client run these scripts, one after the other. Returns tasks per second."""
        # As options, because in a script they would be statements to be run each time.
        values = {"batch": str(BATCH), "payload": "x" * PAYLOAD_BYTES, "topic": "1"}
        command: list[str | Path] = [_find_pgbench(), "--no-vacuum", "--protocol=prepared"]
        command += [f"--define={name}={value}" for name, value in values.items()]
        command += [f"--client={self.clients}", f"--jobs={self.clients}"]
        command += [f"--transactions={self.rounds}", "--file=-", self.dsn]
        # A client that creates and drains in turns has a topic to itself: it would find too few
        # where another one took of its tasks, and created others that it does not see yet.
        of_its_own = "\\set topic :client_id\n" if len(parts) > 1 else ""
        script = of_its_own + "\n".join(map(self.read, parts))
        ran = await anyio.run_process(command, input=script.encode(), check=False)
        found = _TPS.search(ran.stdout)
        if ran.returncode != 0 or found is None:
            said = ran.stderr.decode(errors="replace").strip().splitlines() or ["nothing"]
            raise LimitUnavailable(f"pgbench failed, saying {said[-1]}")
        return float(found[1]) * BATCH


async def _phases(
    connection: asyncpg.Connection, pgbench: _Pgbench
) -> AsyncIterator[tuple[str, float]]:
    await connection.execute(pgbench.read("tables"))
    await _settle(connection)
    yield "create", await pgbench.run("create")
    await _expect_left(connection, pgbench, pgbench.tasks)
    await _settle(connection)
    yield "drain", await pgbench.run("drain")
    await _expect_left(connection, pgbench, 0)

    await connection.execute(pgbench.read("tables"))
    await _settle(connection)
    yield "lifecycle", await pgbench.run("create", "drain")
    await _expect_left(connection, pgbench, 0)


async def _settle(connection: asyncpg.Connection) -> None:
    """Let no phase pay for what the one before has left: dead rows, and pages to be written."""
    await connection.execute("VACUUM (ANALYZE)")
    await connection.execute("CHECKPOINT")


async def _expect_left(connection: asyncpg.Connection, pgbench: _Pgbench, expected: int) -> None:
    left = await connection.fetchval(pgbench.read("left"))
    if left != expected:
        raise AssertionError(f"{left} of {pgbench.tasks} tasks are left instead of {expected}")


def _find_pgbench() -> Path:
    try:
        pgbench = find_programs(Account.ours()) / "pgbench"
    except EmbeddedPostgresError as error:
        raise LimitUnavailable(str(error)) from error
    if not pgbench.exists():
        raise LimitUnavailable(f"there is no {pgbench}")
    return pgbench

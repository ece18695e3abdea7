"""Who takes part, and how each is started.

Every contender is a program (see `benchmarks.program`). Those of Fetchlock are
given a broker's URL, the peers an empty database of their own on the same
PostgreSQL, with the same settings.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.contenders import node
from benchmarks.driver import Trouble

_NODE_FOLDER: Final = Path(".benchmarks", "node")
"""Where npm puts its peers, once for all runs."""


class Contender(NamedTuple):
    """Who it is called in figures, and where the command comes from that takes its target."""

    name: str
    command: Callable[[str], Awaitable[Sequence[str]]]
    """Installs what is missing, if it can. Raises `Trouble`."""
    uses_database: bool
    """Works on a database of its own. Else it is pointed at a broker."""
    rate_max: int | None = None
    """Drains fewer tasks a second than this even on a fast machine, so it gets fewer of them:
    a run must end."""


def _python(
    name: str, module: str, *, uses_database: bool, rate_max: int | None = None
) -> Contender:
    async def command(target: str) -> Sequence[str]:
        return [sys.executable, "-m", f"benchmarks.contenders.{module}", target]

    return Contender(name, command, uses_database, rate_max)


def _node(name: str, script: str) -> Contender:
    async def command(target: str) -> Sequence[str]:
        try:
            return (await node.install(_NODE_FOLDER)).command(script, target)
        except node.NodeUnavailable as error:
            raise Trouble(str(error)) from error

    return Contender(name, command, uses_database=True)


HTTP: Final = _python("fetchlock http", "fetchlock_http", uses_database=False)
SDK: Final = _python("fetchlock sdk", "fetchlock_sdk", uses_database=False)
POLLS: Final = _python("fetchlock polls", "fetchlock_polls", uses_database=False)
ONE_BY_ONE: Final = _python("fetchlock one by one", "fetchlock_one_by_one", uses_database=False)

RAW_SQL: Final = _python("raw SQL", "raw_sql", uses_database=True)

PROCRASTINATE: Final = _python("procrastinate", "procrastinate", uses_database=True, rate_max=1_000)
PGQUEUER: Final = _python("pgqueuer", "pgqueuer", uses_database=True)
GRAPHILE: Final = _node("graphile-worker", "graphile_worker")
PG_BOSS: Final = _node("pg-boss", "pg_boss")

PEERS: Final = (PROCRASTINATE, PGQUEUER, GRAPHILE, PG_BOSS)

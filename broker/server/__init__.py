"""Serving: from settings to a port that answers, in one process or in several.

Everything that lives long is in one task group, uvicorn's server included. If
any part dies the process dies with it, and with an exit code that says so: a
broker that answers 200 and dispatches nothing would be the worst of all.

Stopping is ours, too. uvicorn waits for its connections before it tells the
application anything, and parked polls are connections that wait for the
application. So the core is told first: it answers every poll with `[]`, and
then the connections can close.
"""

from __future__ import annotations

import os
import resource
import socket
import sys
import time
from collections.abc import Sequence
from typing import Final

import anyio
import structlog

from broker.errors import Unavailable
from broker.server.process import serve
from broker.server.supervisor import supervise
from broker.settings import Settings
from broker.store.migrations import Migration, SchemaMismatch, pending

__all__ = ["CannotStart", "run"]

_DATABASE_WAIT_S: Final = 30.0
"""Started together, PostgreSQL may need this long; then whoever started us should know."""

_DATABASE_RETRY_S: Final = 0.5

_BACKLOG: Final = 2048
"""Connections that may wait to be accepted: all workers of a site come back at once."""

_OTHER_FILES: Final = 1_000
"""Descriptors beside the parked polls': other requests, PostgreSQL, the log."""

_log = structlog.stdlib.get_logger(__name__)


class CannotStart(Exception):
    """The broker cannot serve, for a reason that an operator can remove. The text says which."""


def run(settings: Settings) -> int:
    """Serve until told to stop, and answer the process's exit code.

    Raises:
        CannotStart: The port is taken, or the database is away or not at this version's schema.
    """
    listener = _listen(settings)
    _allow_open_files(settings.waiters_max)
    anyio.run(_await_database, settings)
    host, port = listener.getsockname()[:2]
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def announce() -> None:
        sys.stdout.write(f"fetchlock is ready on {address}\n")
        sys.stdout.flush()

    if settings.processes > 1:
        return anyio.run(supervise, settings, listener, announce)
    try:
        anyio.run(serve, settings, listener, announce, backend_options={"use_uvloop": True})
    except Exception:
        _log.exception("the broker ends")
        return 1
    return 0


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise CannotStart(
            f"Cannot listen on {settings.host} port {settings.port}: {os.strerror(error.errno or 0)}."
        ) from error


def _allow_open_files(polls: int) -> None:
    """Each parked poll is an open file, and the usual soft limit stops at a thousand."""
    wanted = polls + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if allowed > soft != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < polls:
        _log.warning("fewer polls can park than waiters_max", open_files=allowed, polls=polls)


async def _await_database(settings: Settings) -> None:
    """Return once the database is there and has this version's schema."""
    assert settings.database_url is not None
    deadline = time.monotonic() + _DATABASE_WAIT_S
    has_said_so = False
    while True:
        try:
            return _require_nothing(await pending(settings.database_url))
        except Unavailable as error:
            if time.monotonic() > deadline:
                raise CannotStart(f"Gave up after {_DATABASE_WAIT_S:.0f} s: {error}.") from error
            if not has_said_so:
                _log.warning("waiting for the database", reason=str(error))
                has_said_so = True
        except SchemaMismatch as error:
            raise CannotStart(f"The database is not this version's: {error}.") from error
        except Exception as error:
            # A wrong password, no such role: PostgreSQL's own words, and waiting mends none of it.
            raise CannotStart(f"The database refuses: {error}.") from error
        await anyio.sleep(_DATABASE_RETRY_S)


def _require_nothing(lacking: Sequence[Migration]) -> None:
    if lacking:
        names = ", ".join(migration.name for migration in lacking)
        raise CannotStart(f"The database lacks {names}. Run: fetchlock migrate")

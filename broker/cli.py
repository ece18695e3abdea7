"""The command line of the broker.

Each command reads its settings, says what it is about to do, and leaves the
doing to others. What an operator can put right is told in one line on standard
error, with exit code 2; a traceback means a mistake of ours.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Collection
from importlib.metadata import version as version_of
from pathlib import Path
from types import FrameType
from typing import Annotated, Final

import anyio
from cyclopts import App, CycloptsError, Parameter
from msgspec import structs

from broker import log, server
from broker.embedded import EmbeddedPostgres, EmbeddedPostgresError
from broker.errors import Unavailable
from broker.server import CannotStart
from broker.settings import PREFIX, Settings, SettingsError
from broker.store import migrations
from broker.store.migrations import SchemaMismatch

_REFUSED: Final = 2
_DATABASE: Final = (f"{PREFIX}DATABASE_URL", f"{PREFIX}DATABASE_URL_FILE")

app = App(
    name="fetchlock",
    help="An external-task broker on PostgreSQL. Settings come from FETCHLOCK_* variables.",
    version=version_of("fetchlock"),
    help_format="plaintext",
    result_action="return_int_as_exit_code_else_zero",
    exit_on_error=False,  # It would leave with 1, as for a mistake of ours.
)

Host = Annotated[str | None, Parameter(help="Loopback address to listen on. [default: 127.0.0.1]")]
Port = Annotated[int | None, Parameter(help="0 lets the system choose. [default: 8080]")]
Processes = Annotated[int | None, Parameter(help="Broker processes on that port. [default: 1]")]


@app.command
def dev(
    *,
    host: Host = None,
    port: Port = None,
    data: Annotated[Path, Parameter(help="Folder of the database.")] = Path(".fetchlock"),
    processes: Processes = None,
) -> int:
    """Serve for development, with a PostgreSQL of its own that starts and stops with it."""
    settings = _settings(without=_DATABASE, host=host, port=port, processes=processes)
    # The default action of SIGTERM would leave PostgreSQL running.
    signal.signal(signal.SIGTERM, _leave)
    with EmbeddedPostgres(data) as database:
        _say(f"For development only. The data is kept in {database.home}")
        anyio.run(migrations.migrate, database.url())
        return server.run(structs.replace(settings, database_url=database.url()))


@app.command
def serve(*, host: Host = None, port: Port = None, processes: Processes = None) -> int:
    """Serve tasks from the database that FETCHLOCK_DATABASE_URL names."""
    settings = _settings(host=host, port=port, processes=processes)
    _database_url(settings)
    return server.run(settings)


@app.command
def migrate(
    *, dry_run: Annotated[bool, Parameter(help="Print the SQL instead.", negative="")] = False
) -> int:
    """Bring the database that FETCHLOCK_DATABASE_URL names to this version's schema."""
    database_url = _database_url(_settings())
    if dry_run:
        for migration in anyio.run(migrations.pending, database_url):
            _say(f"-- {migration.name}\n{migration.sql}")
        return 0
    applied = anyio.run(migrations.migrate, database_url)
    _say("\n".join(f"applied {name}" for name in applied) or "nothing to do")
    return 0


@app.command
def version() -> int:
    """Print the version."""
    _say(version_of("fetchlock"))
    return 0


@app.command
def worker() -> int:
    """Run a worker: `fetchlock worker module:name` (part of the SDK)."""
    # `broker.__main__` hands this command to the SDK, if it is installed as a package.
    raise CannotStart("The SDK's command is missing. Install it with: pip install fetchlock")


@app.command
def bench() -> int:
    """Measure this broker, beside raw SQL and other libraries."""
    # Likewise handed on by `broker.__main__`.
    raise CannotStart(
        "The benchmarks are missing. Install them with: pip install 'fetchlock[bench]'"
    )


def main() -> int:
    """Run the command that the arguments name, and answer the exit code."""
    try:
        return int(app())
    except CycloptsError:
        return _REFUSED  # It has said why.
    except SettingsError as error:
        return _refuse(*error.reasons)
    except (CannotStart, EmbeddedPostgresError, SchemaMismatch, Unavailable) as error:
        return _refuse(str(error))


def _settings(*, without: Collection[str] = (), **options: object) -> Settings:
    """The environment's settings under the command line's options. Starts the log."""
    environment = {name: text for name, text in os.environ.items() if name not in without}
    for name, value in options.items():
        if value is not None:
            environment[f"{PREFIX}{name.upper()}"] = str(value)
    settings = Settings.from_environment(environment)
    log.configure(settings.log_level, settings.log_format)
    return settings


def _database_url(settings: Settings) -> str:
    if settings.database_url is None:
        raise SettingsError([f"{PREFIX}DATABASE_URL: missing. `fetchlock dev` brings a database."])
    return settings.database_url


def _leave(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _refuse(*reasons: str) -> int:
    for reason in reasons:
        sys.stderr.write(f"fetchlock: {reason}\n")
    return _REFUSED

"""What every test may ask for: a database of its own, a core over it, a broker process.

The database is real. One PostgreSQL serves the whole session (the embedded
one, or the server that TEST_DATABASE_URL names), one database in it is
migrated once, and each test gets a clone of that: some twenty milliseconds,
nothing to clean up, and real NOTIFY and SKIP LOCKED between connections.

The fixture shows a test's level: none is pure, `database_url` and `core` are
PostgreSQL, `broker` is a process.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import anyio
import asyncpg
import pytest

from broker.core import Core, open_core
from broker.embedded import EmbeddedPostgres
from broker.settings import PREFIX, Settings
from broker.store.migrations import migrate
from tests.processes import BrokerProcess

_DATA_BYTES_MAX: Final = 4 * 1024**3
"""The tests with a million rows and with a held snapshot leave some gigabytes."""

# Settings of whoever runs the tests must not reach the brokers that the tests start.
for name in [name for name in os.environ if name.startswith(PREFIX)]:
    del os.environ[name]


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """The event loop that the broker runs on."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """A PostgreSQL server on which databases may be made, by the address of one of them.

    Each process of pytest-xdist has its own, so there is nothing to share and to lock.
    """
    if named := os.environ.get("TEST_DATABASE_URL"):
        yield named
        return
    settings = {
        # A crash of this machine may take the test data with it. A killed server loses nothing.
        "fsync": "off",
        "full_page_writes": "off",
        "max_connections": "200",
        "shared_preload_libraries": "pg_stat_statements",
    }
    with (
        tempfile.TemporaryDirectory(prefix="fetchlock-tests-", dir=_in_memory()) as data_dir,
        EmbeddedPostgres(Path(data_dir), settings=settings) as server,
    ):
        yield server.url()


def _in_memory() -> str | None:
    """A directory without a disk, where there is room for the largest of the tests.

    To clone a database is to copy a thousand small files: 15 ms there, up to 250 ms on a disk.
    """
    memory = Path("/dev/shm")
    if memory.is_dir() and shutil.disk_usage(memory).free > _DATA_BYTES_MAX:
        return str(memory)
    return None


@pytest.fixture(scope="session")
def template_database(server_url: str) -> Iterator[str]:
    """The name of a migrated database that nobody is connected to, to be cloned."""
    name = f"template_{uuid.uuid4().hex}"
    anyio.run(execute, server_url, f"CREATE DATABASE {name}")
    anyio.run(migrate, database_on(server_url, name))
    yield name
    anyio.run(execute, server_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def database_url(server_url: str, template_database: str) -> Iterator[str]:
    """The address of a migrated, empty database that only this test has."""
    with cloned(server_url, template_database) as url:
        yield url


@pytest.fixture
def other_database_url(server_url: str, template_database: str) -> Iterator[str]:
    """The address of another one, for tests that compare two."""
    with cloned(server_url, template_database) as url:
        yield url


@pytest.fixture
def settings(database_url: str) -> Settings:
    """The default settings, with this test's database."""
    return Settings(database_url=database_url)


@pytest.fixture
async def core(settings: Settings) -> AsyncIterator[Core]:
    """A broker without its HTTP edge, in this process."""
    async with open_core(settings) as opened:
        yield opened


@pytest.fixture
def broker_process(database_url: str) -> Iterator[BrokerProcess]:
    """A real broker process, for tests that stop, kill or freeze it."""
    with BrokerProcess(database_url) as process:
        yield process


@pytest.fixture
def broker(broker_process: BrokerProcess) -> str:
    """The base URL of a real broker process."""
    return broker_process.base_url


@contextmanager
def cloned(server_url: str, template: str) -> Iterator[str]:
    """The address of a database that is a copy of the template while the block runs."""
    name = f"test_{uuid.uuid4().hex}"
    # A copy of files: the default writes every block of the template through the log.
    clone = f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY"
    anyio.run(execute, server_url, clone)
    yield database_on(server_url, name)
    anyio.run(execute, server_url, f"DROP DATABASE {name} WITH (FORCE)")


def database_on(server_url: str, name: str) -> str:
    """The address of another database on the same server."""
    return urlsplit(server_url)._replace(path=f"/{name}").geturl()


async def execute(url: str, statement: str) -> None:
    """Run one statement on a connection of its own."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()

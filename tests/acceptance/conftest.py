"""The tests here start real brokers and real workers, and kill them."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from broker.embedded import EmbeddedPostgres
from tests.acceptance.outside import Outside, serving
from tests.acceptance.scene import Gate, Ledger
from worker_sdk import Client


@pytest.fixture
async def client(broker: str) -> AsyncIterator[Client]:
    """A producer, and an operator, at the test's broker."""
    async with Client(broker) as client:
        yield client


@pytest.fixture
def ledger(database_url: str) -> Ledger:
    """The truth about the test's tasks."""
    return Ledger(database_url)


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    """A closed gate."""
    return Gate(tmp_path / "gate")


@pytest.fixture
async def outside() -> AsyncIterator[Outside]:
    """A service that takes work on, and calls back when the test says so."""
    async with serving() as outside:
        yield outside


@pytest.fixture
def server() -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL server of the test's own, to be killed. As durable as any."""
    with (
        tempfile.TemporaryDirectory(prefix="fetchlock-tests-") as folder,
        EmbeddedPostgres(Path(folder)) as server,
    ):
        yield server

"""The tests here start real brokers and real workers, and kill them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

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

"""One broker for all tests of a file: each leaves nothing behind that the next could stumble on.

It takes longer to start than most of them to run.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import cloned
from tests.processes import BrokerProcess


@pytest.fixture(scope="module")
def database_url(server_url: str, template_database: str) -> Iterator[str]:
    """The address of a migrated database that only this file's tests have."""
    with cloned(server_url, template_database) as url:
        yield url


@pytest.fixture(scope="module")
def broker_process(database_url: str) -> Iterator[BrokerProcess]:
    """The broker of this file's tests."""
    with BrokerProcess(database_url) as process:
        yield process

"""A core behind HTTP, for workers of Camunda's."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx2
import pytest

from broker.api.app import build_app
from broker.core import Core
from tests.broker.api.camunda7.scene import Scene
from tests.broker.api.conftest import Serve


@pytest.fixture
async def scene(core: Core, serve: Serve) -> AsyncIterator[Scene]:
    async with (
        serve(build_app(core)) as port,
        httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as opened,
    ):
        yield Scene(opened)

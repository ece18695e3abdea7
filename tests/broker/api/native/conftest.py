"""A core behind HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx2
import pytest

from broker.api.app import build_app
from broker.core import Core
from tests.broker.api.conftest import Serve
from tests.broker.api.native.scene import Scene


@pytest.fixture
async def scene(core: Core, serve: Serve) -> AsyncIterator[Scene]:
    async with (
        serve(build_app(core)) as port,
        httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as opened,
    ):
        yield Scene(opened)

"""What the tests of long polls take away from a broker, and a second broker."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
import pytest

from broker import dispatcher as dispatcher_module
from broker.core import Core, open_core
from broker.dispatcher import deadlines as deadlines_module
from broker.settings import Settings


@pytest.fixture
def only_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask for it before `core`: no second look happens during this test."""
    monkeypatch.setattr(dispatcher_module, "_SECOND_LOOK_S", (3_600.0, 3_600.0))


@pytest.fixture
def without_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask for it before `core`: it sweeps only at the deadlines that it knows of."""
    for module in (dispatcher_module, deadlines_module):
        monkeypatch.setattr(module, "TICK_S", 3_600.0)


@pytest.fixture
async def other_core(settings: Settings) -> AsyncIterator[Core]:
    """Another broker on the same database."""
    async with open_core(settings) as opened:
        yield opened


@pytest.fixture
def without_notify(settings: Settings) -> Settings:
    return msgspec.structs.replace(settings, notify=False)

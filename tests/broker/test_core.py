"""One broker process as a whole: ready, stopping, reading."""

from __future__ import annotations

import msgspec
import pytest

from broker import core as core_module
from broker.core import Core, open_core
from broker.errors import TaskNotFound, Unavailable
from broker.settings import Settings
from broker.store import ListFilters
from tests.broker.conftest import Outage, Statements
from tests.eventually import eventually
from tests.factories import creation, decoded


async def test_a_task_is_read_by_its_id(core: Core) -> None:
    [answer] = decoded((await core.create(creation({}))).body)
    task = msgspec.json.decode(await core.get_task(answer["id"]))
    # What the creation told already is the same to the letter.
    assert answer == {"id": task["id"], "task": task}
    listed = msgspec.json.decode(await core.list_tasks(ListFilters()))
    assert listed == {"tasks": [task], "next": None}


@pytest.mark.parametrize("task_id", ["", "no", "00000000-0000-7000-8000-000000000000"])
async def test_an_unknown_task_is_not_found(core: Core, task_id: str) -> None:
    with pytest.raises(TaskNotFound):
        await core.get_task(task_id)


async def test_probes_share_a_ping(core: Core, statements: Statements) -> None:
    assert await core.unready_reason() is None
    await statements.forget()
    for _ in range(100):
        assert await core.unready_reason() is None
    calls = await statements.calls()
    assert sum(count for name, count in calls.items() if name.startswith("SELECT")) <= 1


async def test_it_is_not_ready_while_the_database_is_away(
    core: Core, outage: Outage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core_module, "_PING_S", 0.1)
    await outage.begin()

    async def is_unready() -> bool:
        return await core.unready_reason() == "the database does not answer"

    async def is_ready() -> bool:
        return await core.unready_reason() is None

    await eventually(is_unready)
    with pytest.raises(Unavailable):
        await core.create(creation({}))
    await outage.end()
    await eventually(is_ready)
    assert (await core.create(creation({}))).refused == 0


async def test_it_is_not_ready_once_it_stops(core: Core) -> None:
    core.begin_shutdown()
    assert core.is_draining
    assert await core.unready_reason() == "the broker is stopping"


async def test_a_database_that_is_away_is_told_at_the_start() -> None:
    with pytest.raises(Unavailable):
        async with open_core(Settings(database_url="postgresql://nobody@/no?host=/nowhere")):
            pass

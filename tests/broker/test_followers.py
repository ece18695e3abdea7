"""Waiting for a task's end, whoever ends it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import msgspec
import pytest

from broker import followers as followers_module
from broker.core import Core, open_core
from broker.settings import Settings
from tests.broker.conftest import Statements
from tests.eventually import eventually
from tests.factories import TaskJson, creation, decoded, held, poll, request


@pytest.fixture
async def other_core(settings: Settings) -> AsyncIterator[Core]:
    """Another broker on the same database."""
    async with open_core(settings) as opened:
        yield opened


async def locked(core: Core) -> TaskJson:
    await core.create(creation({}))
    return decoded((await poll(core.dispatcher)).body)[0]


async def following(core: Core, followers: int) -> None:
    async def do_follow() -> bool:
        return sum(map(len, core._followers._followed.values())) == followers

    await eventually(do_follow)


@pytest.mark.parametrize("verb", ["complete", "bpmn_error", "cancel", "callback"])
async def test_the_end_is_told_at_once(
    core: Core, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(followers_module, "_LOOK_S", 3_600.0)
    task = await locked(core)
    if verb in ("cancel", "callback"):
        await core.hand_over(request("w1", held(task)))
    told: list[bytes | None] = []

    async def follow() -> None:
        told.append(await core.follow(task["id"], 20))

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(follow)
        await following(core, 3)
        if verb == "cancel":
            await core.cancel(task["id"], None)
        else:
            said = held(task, variables={"a": 1}, errorCode="E", isSuccess=True)
            await getattr(core, verb)(request("w1", said))
    assert told == [await core.get_task(task["id"])] * 3
    assert not core._followers._followed


async def test_the_end_at_another_broker_is_found(core: Core, other_core: Core) -> None:
    task = await locked(core)
    async with anyio.create_task_group() as group:
        told: list[bytes | None] = []

        async def follow() -> None:
            told.append(await core.follow(task["id"], 20))

        group.start_soon(follow)
        await following(core, 1)
        await other_core.complete(request("w1", held(task)))
    assert told == [await core.get_task(task["id"])]


async def test_what_is_over_already_is_told(core: Core) -> None:
    task = await locked(core)
    await core.complete(request("w1", held(task)))
    body = await core.follow(task["id"], 20)
    assert body is not None
    assert msgspec.json.decode(body)["state"] == "COMPLETED"


async def test_a_wait_ends_with_its_time(core: Core) -> None:
    task = await locked(core)
    assert await core.follow(task["id"], 0.05) is None
    assert await core.follow("unknown", 0.05) is None
    assert not core._followers._followed


async def test_everybody_is_let_go_at_the_end(core: Core) -> None:
    task = await locked(core)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(core.follow, task["id"], 3_600)
            await following(core, 1)
            core.begin_shutdown()
        assert await core.follow(task["id"], 3_600) is None


async def test_all_of_them_cost_one_statement_a_look(
    core: Core, statements: Statements, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(followers_module, "_LOOK_S", 3_600.0)
    results = await core.create(creation(*({} for _ in range(50))))
    ids = [answer["id"] for answer in decoded(results.body)]
    async with anyio.create_task_group() as group:
        for task_id in ids:
            group.start_soon(core.follow, task_id, 20)
        await following(core, 50)
        await statements.forget()
        tasks = decoded((await poll(core.dispatcher, 50)).body)
        await core.complete(request("w1", *map(held, tasks)))
    assert (await statements.calls())["get_tasks"] == 1


async def test_more_than_a_look_can_hold_have_their_turns(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(followers_module, "_FOLLOWED_MAX", 3)
    monkeypatch.setattr(followers_module, "_LOOK_S", 0.01)
    results = await core.create(creation(*({} for _ in range(10))))
    ids = [answer["id"] for answer in decoded(results.body)]
    async with anyio.create_task_group() as group:
        for task_id in ids:
            group.start_soon(core.follow, task_id, 20)
        await following(core, 10)
        await core.cancel(ids[9], None)
        await following(core, 9)
        for task_id in ids[:9]:
            await core.cancel(task_id, None)


async def test_no_followers_cost_nothing(core: Core, statements: Statements) -> None:
    task = await locked(core)
    await statements.forget()
    await core.complete(request("w1", held(task)))
    assert "get_tasks" not in await statements.calls()

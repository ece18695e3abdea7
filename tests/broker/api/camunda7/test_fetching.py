"""Fetching as Camunda's clients do: which tasks, in which order, with what, and when."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from itertools import product
from typing import Any, Final

import anyio
import httpx2
import msgspec
import pytest

from broker.api.app import build_app
from broker.api.camunda7.routes import ROOT
from broker.core import Core, open_core
from broker.settings import Settings
from tests.broker.api.camunda7.scene import (
    DATE,
    LOCKED_KEYS,
    THEM,
    US,
    Scene,
    assert_done,
    assert_refused,
    topic,
    wish,
)
from tests.broker.api.conftest import Serve

FETCH: Final = "/external-task/fetchAndLock"


async def _ids(scene: Scene, **members: object) -> list[str]:
    return [task["id"] for task in await scene.fetched(**members)]


# Form -------------------------------------------------------------------------


async def test_every_key_is_always_there(scene: Scene) -> None:
    await scene.created()
    await scene.created(topic="t", variables={"a": None}, priority=2**31 - 1, tenantId="x")
    for task in await scene.fetched():
        assert task.keys() == LOCKED_KEYS
        assert DATE.fullmatch(task["createTime"])
        assert DATE.fullmatch(task["lockExpirationTime"])
        assert (task["suspended"], task["extensionProperties"]) == (False, {})
        assert task["executionId"] == task["activityInstanceId"] == task["id"]
        assert task["processInstanceId"] == task["id"]
        for value in task["variables"].values():
            assert value.keys() == {"type", "value", "valueInfo"}


async def test_priority_is_an_integer_and_so_are_retries(scene: Scene) -> None:
    task = await scene.locked(priority=-5, retries=1_000)
    assert (task["priority"], task["retries"]) == (-5, None)
    assert_done(await scene.say(task, "failure", retries=4))
    [again] = await scene.fetched()
    assert again["retries"] == 4


TYPED: Final[list[tuple[dict[str, Any], dict[str, Any]]]] = [
    ({"value": None}, {"type": "Null", "value": None}),
    ({}, {"type": "Null", "value": None}),
    ({"value": None, "type": None}, {"type": "Null", "value": None}),
    ({"value": None, "type": "String"}, {"type": "String", "value": None}),
    ({"value": {"a": [1.0]}}, {"type": "Json", "value": '{"a":[1.0]}'}),
    ({"value": '{"a": 1}', "type": "json"}, {"type": "Json", "value": '{"a": 1}'}),
    ({"value": {"a": 1}, "type": "JSON"}, {"type": "Json", "value": '{"a":1}'}),
    ({"value": 2**31}, {"type": "Long", "value": 2**31}),
    ({"value": "5", "type": "integer"}, {"type": "Integer", "value": 5}),
    ({"value": 5, "type": "Number"}, {"type": "Integer", "value": 5}),
]


async def test_a_value_is_typed_when_it_comes_back(scene: Scene) -> None:
    task = await scene.locked()
    infos: list[dict[str, Any]] = [{}, {"valueInfo": None}, {"valueInfo": {}}]
    given: dict[str, Any] = {}
    told: dict[str, Any] = {}
    for (value, expected), info in product(TYPED, infos):
        name = str(len(given))
        given[name], told[name] = {**value, **info}, {**expected, "valueInfo": {}}
    path = f"/execution/{task['id']}/localVariables"
    assert_done(await scene.post(path, {"modifications": given}))
    assert_done(await scene.say(task, "unlock"))
    [again] = await scene.fetched()
    assert again["variables"] == told


# Order ------------------------------------------------------------------------


async def test_the_order_is_by_age_unless_priority_is_asked_for(scene: Scene) -> None:
    low, high, also_low = [await scene.created(priority=p) for p in (1, 9, 1)]
    by_age, by_priority = [low, high, also_low], [high, low, also_low]
    descending = {"sorting": [{"sortBy": "createTime", "sortOrder": "desc"}] * 2}
    ascending = {"sorting": [{"sortBy": "createTime", "sortOrder": "asc"}]}
    for members, order in (
        ({}, by_age),
        ({"usePriority": None, "sorting": None}, by_age),
        ({"usePriority": False, "sorting": []}, by_age),
        ({"usePriority": 0, **ascending}, by_age),
        ({"usePriority": True}, by_priority),
        ({"usePriority": 1, **ascending}, by_priority),
        (descending, by_age[::-1]),
        ({"usePriority": True, **descending}, [high, also_low, low]),
    ):
        assert await _ids(scene, **members) == order, members
        for task_id in order:
            assert_done(await scene.say(task_id, "unlock"))
    # And so it is when not all of them are fetched.
    assert await _ids(scene, maxTasks=1, usePriority=True) == [high]
    assert await _ids(scene, maxTasks=1, **descending) == [also_low]
    assert await _ids(scene, maxTasks=1) == [low]


# When -------------------------------------------------------------------------


async def test_no_tasks_are_wished_for(scene: Scene) -> None:
    await scene.created()
    with anyio.fail_after(30):
        assert await scene.fetched(maxTasks=0, asyncResponseTimeout=60_000) == []


@pytest.mark.parametrize(
    "timeout", [{}, {"asyncResponseTimeout": None}, {"asyncResponseTimeout": -1}]
)
async def test_who_does_not_wait_is_answered_at_once(timeout: Any, scene: Scene) -> None:
    for topics in (None, [], [topic("nobody's")]):
        with anyio.fail_after(30):
            assert await scene.fetched(topics=topics, **timeout) == []


@pytest.mark.parametrize("topics", [{}, {"topics": None}, {"topics": []}, {"topics": [topic("u")]}])
async def test_who_waits_in_vain_is_answered_on_time(topics: Any, scene: Scene) -> None:
    await scene.created()
    body = {"workerId": US, "maxTasks": 1, "asyncResponseTimeout": 300.5, **topics}
    began_s = time.monotonic()
    answer = await scene.post(FETCH, body)
    assert (answer.status_code, answer.content) == (200, b"[]")
    # A client hangs up five seconds later.
    assert 0.3 <= time.monotonic() - began_s < 5


async def test_a_parked_poll_is_woken(scene: Scene) -> None:
    brought: list[list[Any]] = []

    async def poll(worker_id: str) -> None:
        brought.append(await scene.fetched(workerId=worker_id, asyncResponseTimeout=50_000))

    task = await scene.locked()
    with anyio.fail_after(30):
        for wake in ("create", "unlock", "failure", "retries"):
            async with anyio.create_task_group() as group:
                group.start_soon(poll, US)
                await _parked(scene, 1)
                if wake == "create":
                    assert_done(await scene.say(task, "complete"))
                    await scene.created()
                elif wake == "retries":
                    assert_done(
                        await scene.put(f"/external-task/{task['id']}/retries", {"retries": 1})
                    )
                else:
                    assert_done(await scene.say(task, wake, retries=5))
            [[task]] = brought
            assert task["workerId"] == US
            brought.clear()
            if wake == "failure":
                assert_done(await scene.say(task, "failure"))


async def test_a_poll_whose_client_left_locks_nothing(core: Core, serve: Serve) -> None:
    body = msgspec.json.encode(wish(asyncResponseTimeout=60_000))
    head = f"POST {ROOT}{FETCH} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    async with serve(build_app(core)) as port:
        base_url = f"http://127.0.0.1:{port}"
        async with httpx2.AsyncClient(base_url=base_url, timeout=60) as client:
            scene = Scene(client)
            for _ in range(3):
                async with await anyio.connect_tcp("127.0.0.1", port) as leaving:
                    await leaving.send(head.encode() + body)
                    await _parked(scene, 1)
            await _parked(scene, 0)
            task_id = await scene.created()
            assert (await scene.native(task_id))["attempt"] == 0
            assert await _ids(scene) == [task_id]


async def _parked(scene: Scene, polls: int) -> None:
    expected = f"fetchlock_http_longpolls {polls}.0"
    with anyio.fail_after(10):
        while expected not in (await scene.client.get("/metrics")).text:
            await anyio.lowlevel.checkpoint()


# Too much, too late -------------------------------------------------------------


@pytest.fixture
async def crowded(settings: Settings, serve: Serve) -> AsyncIterator[Scene]:
    """A broker that has room for one parked poll."""
    async with (
        open_core(msgspec.structs.replace(settings, waiters_max=1)) as core,
        serve(build_app(core)) as port,
        httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client,
    ):
        yield Scene(client)


async def test_one_poll_too_many_is_told_to_come_again(crowded: Scene) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(crowded.post, FETCH, wish(workerId=THEM, asyncResponseTimeout=50_000))
        await _parked(crowded, 1)
        refused = await crowded.post(FETCH, wish(asyncResponseTimeout=50_000))
        assert_refused(refused, 429)
        assert refused.headers["Retry-After"] == "1"
        await crowded.created()


async def test_a_stopping_broker_lets_its_polls_go(scene: Scene, core: Core) -> None:
    answers: list[httpx2.Response] = []

    async def poll() -> None:
        answers.append(await scene.post(FETCH, wish(asyncResponseTimeout=50_000)))

    async with anyio.create_task_group() as group:
        group.start_soon(poll)
        await _parked(scene, 1)
        core.begin_shutdown()
    answers.append(await scene.post(FETCH, wish(asyncResponseTimeout=50_000)))
    answers.append(await scene.post(FETCH, wish()))
    for answer in answers:
        assert (answer.status_code, answer.content) == (200, b"[]")
        assert answer.headers["Content-Type"] == "application/json"
        assert answer.headers["Connection"] == "close"

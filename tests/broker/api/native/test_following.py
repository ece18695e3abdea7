"""Looking at a task over HTTP, again and again: what has not changed, waiting, its log."""

from __future__ import annotations

import anyio
import httpx2

from broker.api.native.routes import ROOT
from broker.core import Core
from tests.broker.api.native.scene import Scene, held
from tests.broker.conftest import Statements


async def test_a_task_is_told_anew_only_where_it_has_changed(scene: Scene) -> None:
    path = f"{ROOT}/{(await scene.created())['id']}"
    first = await scene.client.get(path)
    tag = first.headers["ETag"]
    assert first.headers["Cache-Control"] == "no-cache"
    known = await scene.client.get(path, headers={"If-None-Match": f'"other", {tag}'})
    assert (known.status_code, known.content, known.headers["ETag"]) == (304, b"", tag)
    assert "Content-Type" not in known.headers
    assert (await scene.client.get(path, headers={"If-None-Match": '"other"'})).status_code == 200
    head = await scene.client.head(path)
    assert (head.headers["ETag"], head.content) == (tag, b"")
    assert (await scene.client.head(path, headers={"If-None-Match": "*"})).status_code == 304
    await scene.fetched()
    changed = await scene.client.get(path, headers={"If-None-Match": tag})
    assert (changed.status_code, changed.json()["state"]) == (200, "LOCKED")
    missing = await scene.client.get(f"{ROOT}/nope", headers={"If-None-Match": "*"})
    assert missing.status_code == 404


async def test_who_looks_may_wait_until_the_task_is_finished(scene: Scene, core: Core) -> None:
    task = await scene.locked()
    answers: list[httpx2.Response] = []

    async def look(task_id: str) -> None:
        path = f"{ROOT}/{task_id}"
        answers.append(await scene.client.get(path, headers={"Prefer": "wait=60"}))

    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            group.start_soon(look, task["id"])
            # An id may be written in capitals.
            group.start_soon(look, task["id"].upper())
            while core._followers._count < 2:
                await anyio.lowlevel.checkpoint()
            await scene.client.post(f"{ROOT}/{task['id']}/complete", json={"workerId": "w"})
    for answer in answers:
        assert (answer.status_code, answer.json()["state"]) == (200, "COMPLETED")
        assert answer.headers["Preference-Applied"] == "wait=60"


async def test_what_is_finished_is_not_waited_for(scene: Scene, statements: Statements) -> None:
    task = await scene.created()
    await scene.client.post(f"{ROOT}/{task['id']}/cancel")
    first = await scene.client.get(f"{ROOT}/{task['id']}", headers={"Prefer": "wait=60"})
    assert (first.status_code, first.json()["state"]) == (200, "CANCELLED")
    known = {"Prefer": "wait=60", "If-None-Match": first.headers["ETag"]}
    assert (await scene.client.get(f"{ROOT}/{task['id']}", headers=known)).status_code == 304
    assert "finished_tasks" not in await statements.calls()


async def test_who_looks_in_vain_gets_the_task_as_it_is_then(scene: Scene, core: Core) -> None:
    task = await scene.created()
    answers: list[httpx2.Response] = []

    async def look() -> None:
        path = f"{ROOT}/{task['id']}"
        answers.append(await scene.client.get(path, headers={"Prefer": "wait=1"}))

    async with anyio.create_task_group() as group:
        group.start_soon(look)
        while core._followers._count < 1:
            await anyio.lowlevel.checkpoint()
        await scene.fetched()
    [answer] = answers
    assert (answer.status_code, answer.json()["state"]) == (200, "LOCKED")
    assert answer.headers["Preference-Applied"] == "wait=1"


async def test_a_log_goes_on_page_by_page(scene: Scene) -> None:
    task = await scene.locked()
    lines = [f"line {number}" for number in range(5)]
    await scene.beat(held(task, logs=lines))
    found: list[str] = []
    after = 0
    while True:
        params = {"after": after, "limit": 2}
        page = (await scene.client.get(f"{ROOT}/{task['id']}/logs", params=params)).json()
        if not page["lines"]:
            break
        found += [line["line"] for line in page["lines"]]
        after = page["next"]
    assert (found, page["next"]) == (lines, after)

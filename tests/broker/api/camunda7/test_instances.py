"""Process instances and executions, of which there are only tasks."""

from __future__ import annotations

import base64
import random
from functools import partial
from typing import Any, Final
from urllib.parse import quote

import asyncpg
import pytest

from broker.store import queries
from broker.store.database import SHARD
from tests.broker.api.camunda7.scene import DATE, US, Scene, Task, assert_done, assert_refused
from tests.factories import behind, request

Connection = asyncpg.Connection

BYTES: Final = random.Random(7).randbytes(300_000)


def _file(**info: Any) -> Task:
    data = base64.b64encode(BYTES).decode()
    return {"value": data, "type": "File", "valueInfo": {"filename": "f.bin", **info}}


async def _set(scene: Scene, task_id: str, **modifications: object) -> None:
    path = f"/execution/{task_id}/localVariables"
    assert_done(await scene.post(path, {"modifications": modifications, "deletions": None}))


async def _variables(scene: Scene, task_id: str) -> Task:
    answer = await scene.get(f"/execution/{task_id}/localVariables", deserializeValues="false")
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"] == "application/json"
    return dict(answer.json())


# Files ------------------------------------------------------------------------


async def test_a_file_goes_round(scene: Scene) -> None:
    task = await scene.locked()
    file = _file(mimetype="application/pdf", encoding="utf-8")
    assert len(file["value"]) > 320_000
    await _set(scene, task["id"], report=file)
    told = {"type": "File", "value": None, "valueInfo": file["valueInfo"]}
    assert await _variables(scene, task["id"]) == {"report": told}
    for path in (
        f"/execution/{task['id']}/localVariables",
        f"/process-instance/{task['id']}/variables",
    ):
        answer = await scene.get(f"{path}/report/data")
        assert (answer.status_code, answer.content) == (200, BYTES)
        assert answer.headers["Content-Type"] == "application/pdf; charset=utf-8"
        assert answer.headers["Content-Length"] == "300000"
        assert answer.headers["Content-Disposition"] == "attachment; filename*=UTF-8''f.bin"
    # A native client sees its content.
    assert (await scene.native(task["id"]))["variables"]["report"] == file["value"]
    assert_done(await scene.say(task, "unlock"))
    [again] = await scene.fetched()
    assert again["variables"] == {"report": told}


@pytest.mark.parametrize(
    ("info", "content_type"),
    [
        ({}, "application/octet-stream"),
        ({"mimetype": None, "encoding": None}, "application/octet-stream"),
        ({"mimetype": "text/plain"}, "text/plain"),
        ({"mimetype": "a/b\r\nX-Evil: 1"}, "application/octet-stream"),
        ({"mimetype": "text/plain", "encoding": "x\r\nX-Evil: 1"}, "text/plain"),
        ({"mimetype": "text/плохо"}, "application/octet-stream"),
    ],
)
async def test_the_type_of_a_file_breaks_no_header(
    info: Any, content_type: str, scene: Scene
) -> None:
    task_id = await scene.created()
    name = 'a"b\r\nX-Evil: 1/ж.txt'
    value = {"value": "aGk=", "type": "File", "valueInfo": {**info, "filename": name}}
    await _set(scene, task_id, f=value)
    answer = await scene.get(f"/execution/{task_id}/localVariables/f/data")
    assert (answer.status_code, answer.content) == (200, b"hi")
    assert answer.headers["Content-Type"] == content_type
    assert "X-Evil" not in answer.headers
    told = f"attachment; filename*=UTF-8''{quote(name, safe='')}"
    assert answer.headers["Content-Disposition"] == told


async def test_bytes_can_be_loaded_and_other_values_cannot(scene: Scene) -> None:
    task_id = await scene.created()
    values = {"é/ü": {"value": "AAE=", "type": "Bytes"}, "s": {"value": "AAE="}}
    await _set(scene, task_id, **values)
    path = f"/execution/{task_id}/localVariables"
    answer = await scene.get(f"{path}/{quote('é')}%2F{quote('ü')}/data")
    # A slash ends a part of a path, encoded or not.
    assert answer.status_code == 404
    await _set(scene, task_id, b={"value": "AAE=", "type": "Bytes"})
    answer = await scene.get(f"{path}/b/data")
    assert (answer.content, answer.headers["Content-Type"]) == (
        b"\0\1", "application/octet-stream",
    )  # fmt: skip
    assert_refused(await scene.get(f"{path}/s/data"), 400)
    assert_refused(await scene.get(f"{path}/none/data"), 404)


# Variables --------------------------------------------------------------------


async def test_variables_are_set_and_removed(scene: Scene) -> None:
    task_id = await scene.created(variables={"a": 1, "b": 2, "c": 3})
    path = f"/execution/{task_id}/localVariables"
    said = {"modifications": {"a": {"value": 5, "type": "Long"}}, "deletions": ["b", "none"]}
    assert_done(await scene.post(path, said))
    assert await _variables(scene, task_id) == {
        "a": {"type": "Long", "value": 5, "valueInfo": {}},
        "c": {"type": "Integer", "value": 3, "valueInfo": {}},
    }
    assert_done(await scene.post(path, {"modifications": None, "deletions": ["a"]}))
    assert_done(await scene.post(path, {}))
    assert (await _variables(scene, task_id)).keys() == {"c"}
    [task] = await scene.fetched()
    assert task["variables"].keys() == {"c"}
    assert "variableTypes" not in await scene.native(task_id)


async def test_a_value_that_is_set_anew_loses_its_old_type(scene: Scene) -> None:
    task_id = await scene.created()
    await _set(scene, task_id, a={"value": 5, "type": "Short"}, b={"value": 5, "type": "Double"})
    await _set(scene, task_id, a={"value": 6})
    types = {name: value["type"] for name, value in (await _variables(scene, task_id)).items()}
    assert types == {"a": "Integer", "b": "Double"}


async def test_variables_of_an_instance_are_those_of_all_its_open_tasks(scene: Scene) -> None:
    done = await scene.locked(processInstanceId="i")
    assert_done(await scene.say(done, "complete"))
    ids = [await scene.created(processInstanceId="i") for _ in range(2)]
    alone = await scene.created()
    given = {"progress": {"value": 50, "type": "Short", "valueInfo": {}}}
    said = {"workerId": "worker-1", "modifications": given}
    assert_done(await scene.post("/process-instance/i/variables", said))
    for task_id in ids:
        assert await _variables(scene, task_id) == given
    assert await _variables(scene, alone) == {}
    assert (await scene.native(done["id"]))["variables"] == {}
    assert_done(await scene.post(f"/process-instance/{alone}/variables", said))
    assert await _variables(scene, alone) == given
    # Who has an instance of its own is known by that.
    assert_refused(await scene.post(f"/process-instance/{ids[0]}/variables", said), 404)


@pytest.mark.parametrize("path", ["/process-instance/i/variables", "/execution/i/localVariables"])
@pytest.mark.parametrize("is_last", [False, True])
async def test_a_task_that_is_completed_meanwhile_is_none_of_the_instance(
    path: str, is_last: bool, scene: Scene, connection: Connection, watcher: Connection
) -> None:
    done = await scene.locked(processInstanceId="i")
    others = [] if is_last else [await scene.created(processInstanceId="i")]
    given = {"a": {"value": 50, "type": "Short", "valueInfo": {}}}
    await connection.execute("BEGIN")
    await connection.fetch(queries.COMPLETE, SHARD, [request(US, {"id": done["id"]})])
    answer = await behind(connection, watcher, partial(scene.post, path, {"modifications": given}))
    if is_last:
        assert assert_refused(answer, 404) == "What has the id i has ended."
    else:
        assert_done(answer)
    for task_id in others:
        assert await _variables(scene, task_id) == given
    assert (await scene.native(done["id"]))["variables"] == {}


async def test_a_variable_is_what_the_youngest_task_says_of_it(scene: Scene) -> None:
    first = await scene.locked(processInstanceId="i", variables={"a": 1, "b": 1, "n": None})
    result = {"a": {"value": 2, "type": "Short"}}
    assert_done(await scene.say(first, "complete", variables=result))
    last = await scene.created(processInstanceId="i", variables={"b": 3})

    async def told(name: str) -> Task:
        answer = await scene.get(f"/process-instance/i/variables/{name}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    assert await told("a") == {"type": "Short", "value": 2, "valueInfo": {}}
    assert await told("b") == {"type": "Integer", "value": 3, "valueInfo": {}}
    assert await told("n") == {"type": "Null", "value": None, "valueInfo": {}}
    for path in (
        "/process-instance/i/variables/none",
        "/process-instance/i/variables/%00",
        "/process-instance/none/variables/a",
        "/process-instance/%00/variables/a",
        f"/process-instance/{last}/variables/b",
        f"/execution/{last}/localVariables/none/data",
        f"/execution/{last}/localVariables/%00/data",
        "/execution/none/localVariables/a/data",
    ):
        assert_refused(await scene.get(path), 404)
    answer = await scene.get(f"/execution/{last}/localVariables/none/data")
    assert assert_refused(answer, 404) == "There is no variable 'none'."


async def test_an_instance_may_be_meant_by_its_main_execution(scene: Scene) -> None:
    ids = [await scene.created(processInstanceId="i", variables={"n": n}) for n in range(2)]
    progress = {"type": "Short", "value": 50, "valueInfo": {}}
    await _set(scene, "i", progress=progress)
    for task_id in ids:
        assert (await _variables(scene, task_id))["progress"] == progress
    # Of several tasks the youngest has the last word.
    youngest = {"type": "Integer", "value": 1, "valueInfo": {}}
    assert await _variables(scene, "i") == {"n": youngest, "progress": progress}
    answer = await scene.get("/process-instance/i/variables/n")
    assert (answer.status_code, answer.json()) == (200, youngest)
    assert_refused(await scene.get("/process-instance/i/variables/none"), 404)


async def test_of_too_large_an_instance_nothing_is_told(scene: Scene) -> None:
    tasks = [{"topic": "t", "processInstanceId": "i"}] * 201
    answer = await scene.client.post("/api/external-tasks/batch", json={"tasks": tasks})
    assert answer.is_success
    said = {"modifications": {"a": {"value": 1}}}
    for answer in (
        await scene.get("/history/process-instance/i"),
        await scene.get("/process-instance/i/activity-instances"),
        await scene.post("/process-instance/i/variables", said),
        await scene.put("/external-task/retries", {"retries": 1, "processInstanceIds": ["i"]}),
    ):
        assert_refused(answer, 400)


async def test_what_has_ended_takes_no_variables(scene: Scene) -> None:
    task = await scene.locked(processInstanceId="i")
    assert_done(await scene.say(task, "complete"))
    said = {"modifications": {"a": {"value": 1}}}
    for path in (f"/execution/{task['id']}/localVariables", "/process-instance/i/variables"):
        assert_refused(await scene.post(path, said), 404)
    assert_refused(await scene.get(f"/execution/{task['id']}/localVariables"), 404)


async def test_more_than_a_task_may_hold_is_refused(scene: Scene) -> None:
    task_id = await scene.created()
    value = {"value": "x" * 1_000_000}
    await _set(scene, task_id, a=value)
    await _set(scene, task_id, a=value)
    path = f"/execution/{task_id}/localVariables"
    answers = [await scene.post(path, {"modifications": {n: value}}) for n in "bc"]
    assert_refused(answers[-1], 413)


# What is told of an instance --------------------------------------------------


async def test_an_instance_lives_as_long_as_one_of_its_tasks(scene: Scene) -> None:
    first = await scene.locked(processInstanceId="i", businessKey="b", activityId="a")
    second = await scene.created(processInstanceId="i", topic="u", activityId="c")

    async def told() -> tuple[Task, list[str]]:
        history = (await scene.get("/history/process-instance/i")).json()
        tree = (await scene.get("/process-instance/i/activity-instances")).json()
        return history, [child["id"] for child in tree.get("childActivityInstances", [])]

    history, children = await told()
    assert (history["state"], history["endTime"]) == ("ACTIVE", None)
    assert DATE.fullmatch(history["startTime"])
    assert children == [first["id"], second]
    assert_done(await scene.say(first, "complete"))
    history, children = await told()
    assert (history["state"], children) == ("ACTIVE", [second])
    assert (await scene.client.post(f"/api/external-tasks/{second}/cancel")).is_success
    history, children = await told()
    assert (history["state"], children) == ("EXTERNALLY_TERMINATED", [])
    assert DATE.fullmatch(history["endTime"])
    assert history["durationInMillis"] >= 0
    assert_refused(await scene.get("/process-instance/i/activity-instances"), 404)


async def test_a_task_alone_is_its_own_instance(scene: Scene) -> None:
    task_id = await scene.created()
    tree = (await scene.get(f"/process-instance/{task_id}/activity-instances")).json()
    assert tree["id"] == task_id
    [child] = tree["childActivityInstances"]
    assert child["id"] == task_id
    history = (await scene.get(f"/history/process-instance/{task_id}")).json()
    assert (history["id"], history["rootProcessInstanceId"]) == (task_id, task_id)

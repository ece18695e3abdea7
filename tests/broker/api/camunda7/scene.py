"""A worker of Camunda's at a served core, and what the tests of the dialect do with it."""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import quote

import httpx2

from broker.api.camunda7.routes import ROOT
from broker.api.native.routes import ROOT as NATIVE

Task = dict[str, Any]

US, THEM = "worker-1", "worker-2"
DATE: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+0000", re.ASCII)
"""As the clients parse it, and in no other form."""

LISTED_KEYS: Final = {
    *("activityId", "activityInstanceId", "errorMessage", "executionId", "id"),
    *("lockExpirationTime", "createTime", "processDefinitionId", "processDefinitionKey"),
    *("processDefinitionVersionTag", "processInstanceId", "retries", "suspended", "workerId"),
    *("topicName", "tenantId", "priority", "businessKey"),
}
LOCKED_KEYS: Final = LISTED_KEYS | {"errorDetails", "variables", "extensionProperties"}


class Scene:
    """A client, and what most tests do with it."""

    def __init__(self, client: httpx2.AsyncClient) -> None:
        self.client = client

    # Natively ---------------------------------------------------------------

    async def created(self, **members: object) -> str:
        """The id of a new task."""
        answer = await self.client.post(NATIVE, json={"topic": "t", **members})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    async def native(self, task_id: str) -> Task:
        """What native clients see of the task."""
        return dict((await self.client.get(f"{NATIVE}/{task_id}")).json())

    # As Camunda's clients do ------------------------------------------------

    async def post(self, path: str, body: object = None) -> httpx2.Response:
        return await self.client.post(f"{ROOT}{path}", json=body)

    async def put(self, path: str, body: object) -> httpx2.Response:
        return await self.client.put(f"{ROOT}{path}", json=body)

    async def get(self, path: str, **parameters: str) -> httpx2.Response:
        return await self.client.get(f"{ROOT}{path}", params=parameters)

    async def fetched(self, **members: object) -> list[Task]:
        """What a fetch brings; of topic `t`, and all of it, if nothing else is said."""
        answer = await self.post("/external-task/fetchAndLock", wish(**members))
        assert answer.status_code == 200, answer.text
        return list(answer.json())

    async def locked(self, **members: object) -> Task:
        """A new task, which we have."""
        task_id = await self.created(**members)
        [task] = await self.fetched()
        assert task["id"] == task_id
        return dict(task)

    async def say(
        self, task: Task | str, verb: str, worker_id: str = US, /, **members: object
    ) -> httpx2.Response:
        """What a worker says of a task."""
        task_id = task if isinstance(task, str) else task["id"]
        return await self.post(
            f"/external-task/{quote(task_id, safe='')}/{verb}", {"workerId": worker_id, **members}
        )

    async def seen(self, task: Task | str) -> Task | None:
        """The task as it is now, or None where it is none of Camunda's any more."""
        task_id = task if isinstance(task, str) else task["id"]
        answer = await self.get(f"/external-task/{task_id}")
        if answer.status_code == 404:
            return None
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def ids(self, **parameters: str) -> list[str]:
        """The ids that a search brings, in its order."""
        answer = await self.get("/external-task", **parameters)
        assert answer.status_code == 200, answer.text
        return [task["id"] for task in answer.json()]


def topic(name: str = "t", /, **members: object) -> Task:
    return {"topicName": name, "lockDuration": 60_000, **members}


def wish(**members: object) -> Task:
    return {"workerId": US, "maxTasks": 1_000, "topics": [topic()], **members}


def assert_done(answer: httpx2.Response) -> None:
    """The one answer that all clients take for success."""
    assert answer.status_code == 204, answer.text
    assert answer.content == b""
    assert "Content-Type" not in answer.headers
    assert "Content-Length" not in answer.headers


def assert_refused(answer: httpx2.Response, status: int, *, kind: str | None = None) -> str:
    """The words of an error, which has Camunda's form."""
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/json"
    body = answer.json()
    assert body.keys() == {"type", "message", "code"}
    assert isinstance(body["type"], str)
    assert body["code"] is None or isinstance(body["code"], int)
    assert kind in (None, body["type"])
    words = body["message"]
    assert isinstance(words, str)
    assert words
    return words

"""A client of a served core, and what the tests of long work do with it."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import httpx2

from broker.api.native.long_work import CALLBACKS
from broker.api.native.routes import ROOT, WORKERS

JSON = {"Content-Type": "application/json"}


class Scene:
    """A client, and what most tests do with it."""

    def __init__(self, client: httpx2.AsyncClient) -> None:
        self.client = client

    async def created(self) -> dict[str, Any]:
        """A new task."""
        answer = await self.client.post(ROOT, json={"topic": "t"})
        assert answer.status_code == 202, answer.text
        return dict(answer.json())

    async def fetched(self, worker_id: str = "w") -> dict[str, Any]:
        """The next task, which this worker has now."""
        wish = {
            "workerId": worker_id,
            "maxTasks": 1,
            "lockDurationMs": 60_000,
            "requestTimeoutMs": 0,
            "subscriptions": [{"topic": "t"}],
        }
        [task] = (await self.client.post(f"{ROOT}/fetch-and-lock", json=wish)).json()
        return dict(task)

    async def locked(self, worker_id: str = "w") -> dict[str, Any]:
        """A new task, which this worker has."""
        await self.created()
        return await self.fetched(worker_id)

    async def task(self, task: dict[str, Any]) -> dict[str, Any]:
        """The task as it is now."""
        return dict((await self.client.get(f"{ROOT}/{task['id']}")).json())

    async def say(self, task: dict[str, Any], verb: str, **members: object) -> httpx2.Response:
        """What its worker says of the task."""
        held = {"workerId": task["workerId"], "lockToken": task["lockToken"]}
        return await self.client.post(f"{ROOT}/{task['id']}/{verb}", json=held | members)

    async def handed_over(self, **members: object) -> tuple[dict[str, Any], str]:
        """A task that awaits its callback, and the path of its URL."""
        task = await self.locked()
        answer = await self.say(task, "hand-over", **members)
        assert (answer.status_code, answer.json()["state"]) == (200, "AWAITING")
        return task, path_of(answer.json()["callbackUrl"])

    async def beat(self, *items: Any, worker_id: str = "w") -> dict[str, Any]:
        """A worker's heartbeat."""
        path = f"{WORKERS}/{quote(worker_id, safe='')}/heartbeat"
        body = {"lockDurationMs": 30_000, "tasks": items}
        answer = await self.client.post(path, json=body)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())


def path_of(url: str) -> str:
    path = url[url.index(CALLBACKS) :]
    assert path.startswith(f"{CALLBACKS}/")
    return path


def held(task: dict[str, Any], **members: object) -> dict[str, object]:
    return {"id": task["id"], "lockToken": task["lockToken"], **members}

"""One request and its answer: what all verbs of a `Client` have in common."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import quote, urlsplit

import msgspec

from worker_sdk import _wire
from worker_sdk._errors import FetchlockError, TooLarge
from worker_sdk._json import encode
from worker_sdk._task import Task
from worker_sdk._transport import AiohttpTransport, Transport
from worker_sdk._wire import said

TASKS_PATH = "/api/external-tasks"
HEADERS = {"Content-Type": "application/json", "Accept": "application/json"}

T = TypeVar("T")


class Exchange:
    """A broker at a base URL, and the one way to it."""

    def __init__(
        self, base_url: str, *, timeout_s: float = 30.0, transport: Transport | None = None
    ) -> None:
        if urlsplit(base_url).scheme not in ("http", "https"):
            raise ValueError(f"a base URL begins with http:// or https://, not {base_url!r}")
        self.base_url: str = base_url.rstrip("/")
        self._timeout_s = timeout_s
        self._transport: Transport = AiohttpTransport() if transport is None else transport

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._transport.aclose()

    def hang_up(self) -> None:
        """End the requests under way, losing no answer that has been sent. The last thing to do."""
        self._transport.hang_up()

    async def _tell(self, task: Task, action: str, **members: object) -> None:
        await self._request(
            "POST", task_path(task.id, action), body=lock_of(task) | said(**members)
        )

    async def _tell_batch(
        self, action: str, items: Sequence[tuple[Task, object]], bytes_max: int | None = None
    ) -> list[FetchlockError | None]:
        if not items:
            return []
        worker_id = items[0][0].worker_id
        if any(task.worker_id != worker_id for task, _ in items):
            raise ValueError("a batch speaks for one worker")
        body = encode(said(workerId=worker_id, tasks=[item for _, item in items]))
        if bytes_max is not None and len(body) > bytes_max:
            raise TooLarge(f"{len(items)} tasks are {len(body)} bytes, more than {bytes_max}")
        status, answer = await self._send("POST", f"{TASKS_PATH}/{action}", body)
        results = _wire.decode(_wire.RESULTS, answer, status).results
        check_count(results, len(items), status)
        return _wire.item_refusals(results)

    async def _ask(
        self,
        decoder: msgspec.json.Decoder[T],
        method: str,
        path: str,
        *,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        wait_s: float = 0.0,
    ) -> T:
        status, answer = await self._request(
            method, path, body=body, headers=headers, wait_s=wait_s
        )
        return _wire.decode(decoder, answer, status)

    async def _request(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        wait_s: float = 0.0,
    ) -> tuple[int, bytes]:
        text = None if body is None else encode(body)
        return await self._send(method, path, text, headers=headers, wait_s=wait_s)

    async def _send(
        self,
        method: str,
        path: str,
        body: bytes | None,
        *,
        headers: Mapping[str, str] | None = None,
        wait_s: float = 0.0,
    ) -> tuple[int, bytes]:
        answer = await self._transport.request(
            method,
            f"{self.base_url}{path}",
            HEADERS if headers is None else {**HEADERS, **headers},
            body,
            self._timeout_s + wait_s,
        )
        if 200 <= answer.status < 300:
            return answer.status, answer.body
        raise _wire.refusal(answer.status, answer.body, answer.headers.get("Retry-After"))


def waiting(wait_s: float | None) -> dict[str, str] | None:
    """The headers that ask the broker to wait so long for the task to be finished."""
    return None if wait_s is None else {"Prefer": f"wait={math.ceil(wait_s)}"}


def task_path(task_id: str, action: str | None = None) -> str:
    """The path of a task, or of something that is done with it."""
    path = f"{TASKS_PATH}/{quote(task_id, safe='')}"
    return path if action is None else f"{path}/{action}"


def worker_path(worker_id: str, action: str) -> str:
    """The path of something that concerns a worker."""
    return f"/api/workers/{quote(worker_id, safe='')}/{action}"


def topic_path(topic: str, wish: str) -> str:
    """The path of a wish about a topic."""
    return f"/api/topics/{quote(topic, safe='')}/{wish}"


def lock_of(task: Task) -> dict[str, object]:
    """The lock that a request about one task rests on."""
    return said(workerId=task.worker_id, lockToken=task.lock_token)


def check_count(results: Sequence[object], items: int, status: int) -> None:
    """Raise FetchlockError unless there is a result for each item."""
    if len(results) != items:
        raise FetchlockError(f"{len(results)} results for {items} tasks", status=status)

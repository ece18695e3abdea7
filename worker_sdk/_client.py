"""One typed method per verb of the broker, and nothing else.

A `Client` asks once and tells the truth: it never tries again by itself, because
only the caller knows how long an answer is still of use (the `Worker` tries
again until its lease is over). Verbs that need a lock take the `Task` that
`fetch_and_lock` returned, since it holds the three things they must name: the
task, the worker and the lock token.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from worker_sdk import _wire
from worker_sdk._errors import FetchlockError, TooLarge
from worker_sdk._outcome import BpmnError, Failure
from worker_sdk._task import NewTask, Standing, Subscription, Task, TaskPage
from worker_sdk._transport import AiohttpTransport, Transport
from worker_sdk._wire import said

TASKS_PATH = "/api/external-tasks"
HEADERS = {"Content-Type": "application/json", "Accept": "application/json"}

T = TypeVar("T")


class Client:
    """A broker at a base URL, used from one event loop.

        async with Client("http://127.0.0.1:8080") as client:
            task = await client.create(NewTask("validatePayment", {"amount": 12}))

    `timeout_s` bounds every request; one that asks the broker to wait has that wait on top. Every
    method raises `FetchlockError`: the subclass for the broker's code, `ConnectionFailed` when
    there was no answer, and ValueError or TypeError for variables JSON cannot say (NaN, objects).
    """

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

    # Creating

    async def create(self, task: NewTask, *, wait_s: float | None = None) -> Task:
        """Create a task. With `wait_s`, wait up to that long for it to be finished.

        The task comes back as it is then: finished, or not yet. Raises Invalid, TooLarge, and
        Conflict when `unique_key` was used for another content.
        """
        headers = None if wait_s is None else {"Prefer": f"wait={math.ceil(wait_s)}"}
        return await self._ask(
            _wire.TASK, "POST", "", body=task, headers=headers, wait_s=wait_s or 0.0
        )

    async def create_batch(self, tasks: Sequence[NewTask]) -> list[str | FetchlockError]:
        """Create up to 1000 tasks. Per task, in order: its id, or why it was refused."""
        if not tasks:
            return []
        answer = await self._ask(_wire.RESULTS, "POST", "/batch", body={"tasks": tasks})
        refusals = _wire.item_refusals(answer.results)
        return [
            str(item["id"]) if refusal is None else refusal
            for item, refusal in zip(answer.results, refusals, strict=True)
        ]

    # Working

    async def fetch_and_lock(
        self,
        worker_id: str,
        subscriptions: Sequence[Subscription],
        *,
        max_tasks: int = 10,
        lock_duration_ms: int = 30_000,
        request_timeout_ms: int = 20_000,
    ) -> list[Task]:
        """Lock up to `max_tasks` tasks for this worker, best first.

        Returns as soon as there is one, and an empty list when `request_timeout_ms` is over.
        """
        body = said(
            workerId=worker_id,
            maxTasks=max_tasks,
            lockDurationMs=lock_duration_ms,
            requestTimeoutMs=request_timeout_ms,
            subscriptions=subscriptions,
        )
        return await self._ask(
            _wire.TASKS, "POST", "/fetch-and-lock", body=body, wait_s=request_timeout_ms / 1000
        )

    async def complete(self, task: Task, variables: Mapping[str, Any] | None = None) -> None:
        """Finish the task with these variables. Saying it twice is harmless. Raises LockLost."""
        await self._tell(task, "complete", variables=variables)

    async def complete_batch(
        self,
        results: Iterable[tuple[Task, Mapping[str, Any] | None]],
        *,
        bytes_max: int | None = None,
    ) -> list[FetchlockError | None]:
        """Finish up to 1000 tasks of one worker. Per task, in order: None, or why not.

        Raises TooLarge instead of sending a body of more than `bytes_max` bytes.
        """
        return await self._tell_batch(
            "complete",
            [
                (task, _wire.Completed(task.id, task.lock_token, variables))
                for task, variables in results
            ],
            bytes_max,
        )

    async def fail(self, task: Task, failure: Failure) -> Standing:
        """Say that it did not work. The answer tells whether and when it is tried again."""
        body = _lock(task) | _failure(failure)
        return await self._ask(_wire.STANDING, "POST", _path(task.id, "fail"), body=body)

    async def fail_batch(
        self, failures: Iterable[tuple[Task, Failure]], *, bytes_max: int | None = None
    ) -> list[FetchlockError | None]:
        """Say of up to 1000 tasks of one worker that they failed. Per task: None, or why not.

        Raises TooLarge instead of sending a body of more than `bytes_max` bytes.
        """
        return await self._tell_batch(
            "fail",
            [(task, _item(task) | _failure(failure)) for task, failure in failures],
            bytes_max,
        )

    async def bpmn_error(self, task: Task, error: BpmnError) -> None:
        """Finish the task with a business outcome. Raises LockLost."""
        await self._tell(
            task,
            "bpmn-error",
            errorCode=error.code,
            errorMessage=error.message,
            variables=error.variables,
        )

    async def extend_lock(self, task: Task, lock_duration_ms: int) -> datetime:
        """Keep the lock for this long, counted from now; may shorten. Returns its new end."""
        body = _lock(task) | said(lockDurationMs=lock_duration_ms)
        path = _path(task.id, "extend-lock")
        return (await self._ask(_wire.EXTENDED, "POST", path, body=body)).lock_expires_at

    async def extend_lock_batch(
        self, tasks: Iterable[Task], lock_duration_ms: int
    ) -> list[FetchlockError | None]:
        """Keep up to 1000 locks of one worker. Per task, in order: None, or why not."""
        duration = said(lockDurationMs=lock_duration_ms)
        return await self._tell_batch(
            "extend-lock", [(task, _item(task) | duration) for task in tasks]
        )

    async def unlock(self, task: Task) -> None:
        """Give the task back at once. No retry is used. Raises LockLost."""
        await self._tell(task, "unlock")

    # Operating

    async def retry_timeout(self, task_id: str, retry_timeout_ms: int) -> datetime:
        """Move a task that waits for its retry. Returns when it will be available."""
        path, body = _path(task_id, "retry-timeout"), said(retryTimeoutMs=retry_timeout_ms)
        return (await self._ask(_wire.POSTPONED, "POST", path, body=body)).available_at

    async def retries(self, task_id: str, retries: int) -> Standing:
        """Set how many more failures are allowed; redrives a FAILED task."""
        path = _path(task_id, "retries")
        return await self._ask(_wire.STANDING, "POST", path, body=said(retries=retries))

    async def cancel(self, task_id: str, reason: str | None = None) -> None:
        """Finish the task without a result. Its worker learns of it with its next extension."""
        await self._request("POST", _path(task_id, "cancel"), body=said(reason=reason))

    # Reading

    async def get_task(self, task_id: str) -> Task:
        """The task, finished or not. Raises TaskNotFound."""
        return await self._ask(_wire.TASK, "GET", _path(task_id))

    async def list_tasks(
        self,
        *,
        topic: str | None = None,
        state: str | None = None,
        worker_id: str | None = None,
        business_key: str | None = None,
        process_instance_id: str | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        limit: int | None = None,
        after: str | None = None,
    ) -> TaskPage:
        """One page of tasks, newest first. `after` is the `next` of the page before."""
        wanted = said(
            topic=topic,
            state=state,
            workerId=worker_id,
            businessKey=business_key,
            processInstanceId=process_instance_id,
            createdAfter=created_after and created_after.isoformat(),
            createdBefore=created_before and created_before.isoformat(),
            limit=limit,
            after=after,
        )
        page = await self._ask(_wire.PAGE, "GET", f"?{urlencode(wanted)}" if wanted else "")
        return TaskPage(page.tasks, page.next)

    # The one way out

    async def _tell(self, task: Task, action: str, **members: object) -> None:
        await self._request("POST", _path(task.id, action), body=_lock(task) | said(**members))

    async def _tell_batch(
        self, action: str, items: Sequence[tuple[Task, object]], bytes_max: int | None = None
    ) -> list[FetchlockError | None]:
        if not items:
            return []
        worker_id = items[0][0].worker_id
        if any(task.worker_id != worker_id for task, _ in items):
            raise ValueError("a batch speaks for one worker")
        body = _wire.encode(said(workerId=worker_id, tasks=[item for _, item in items]))
        if bytes_max is not None and len(body) > bytes_max:
            raise TooLarge(f"{len(items)} tasks are {len(body)} bytes, more than {bytes_max}")
        status, answer = await self._send("POST", f"/{action}", body)
        refusals = _wire.item_refusals(_wire.decode(_wire.RESULTS, answer, status).results)
        if len(refusals) != len(items):
            raise FetchlockError(f"{len(refusals)} results for {len(items)} tasks", status=status)
        return refusals

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
        text = None if body is None else _wire.encode(body)
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
            f"{self.base_url}{TASKS_PATH}{path}",
            HEADERS if headers is None else {**HEADERS, **headers},
            body,
            self._timeout_s + wait_s,
        )
        if 200 <= answer.status < 300:
            return answer.status, answer.body
        raise _wire.refusal(answer.status, answer.body, answer.headers.get("Retry-After"))


def _path(task_id: str, action: str | None = None) -> str:
    path = f"/{quote(task_id, safe='')}"
    return path if action is None else f"{path}/{action}"


def _lock(task: Task) -> dict[str, object]:
    return said(workerId=task.worker_id, lockToken=task.lock_token)


def _item(task: Task) -> dict[str, object]:
    return said(id=task.id, lockToken=task.lock_token)


def _failure(failure: Failure) -> dict[str, object]:
    return said(
        errorMessage=failure.message,
        errorDetails=failure.details,
        retries=failure.retries,
        retryTimeoutMs=failure.retry_timeout_ms,
    )

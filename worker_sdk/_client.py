"""One typed method per verb of the broker, and nothing else.

A `Client` asks once and tells the truth: it never tries again by itself, because
only the caller knows how long an answer is still of use (the `Worker` tries
again until its lease is over). The verbs of workers are in `_working`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from worker_sdk import _wire
from worker_sdk._errors import FetchlockError
from worker_sdk._exchange import TASKS_PATH, task_path, topic_path, waiting, worker_path
from worker_sdk._task import LogPage, NewTask, Standing, Task, TaskPage
from worker_sdk._wire import said
from worker_sdk._working import Working


class Client(Working):
    """A broker at a base URL, used from one event loop.

        async with Client("http://127.0.0.1:8080") as client:
            task = await client.create(NewTask("validatePayment", {"amount": 12}))

    `timeout_s` bounds every request; one that asks the broker to wait has that wait on top. Every
    method raises `FetchlockError`: the subclass for the broker's code, `ConnectionFailed` when
    there was no answer, and ValueError or TypeError for variables JSON cannot say (NaN, objects).
    """

    # Creating

    async def create(self, task: NewTask, *, wait_s: float | None = None) -> Task:
        """Create a task. With `wait_s`, wait up to that long for it to be finished.

        The task comes back as it is then: finished, or not yet. Raises Invalid, TooLarge, and
        Conflict when `unique_key` was used for another content.
        """
        return await self._ask(
            _wire.TASK,
            "POST",
            TASKS_PATH,
            body=task,
            headers=waiting(wait_s),
            wait_s=wait_s or 0.0,
        )

    async def create_batch(self, tasks: Sequence[NewTask]) -> list[str | FetchlockError]:
        """Create up to 1000 tasks. Per task, in order: its id, or why it was refused."""
        if not tasks:
            return []
        answer = await self._ask(
            _wire.RESULTS, "POST", f"{TASKS_PATH}/batch", body={"tasks": tasks}
        )
        refusals = _wire.item_refusals(answer.results)
        return [
            str(item["id"]) if refusal is None else refusal
            for item, refusal in zip(answer.results, refusals, strict=True)
        ]

    # Operating

    async def retry_timeout(self, task_id: str, retry_timeout_ms: int) -> datetime:
        """Move a task that waits for its retry. Returns when it will be available."""
        path, body = task_path(task_id, "retry-timeout"), said(retryTimeoutMs=retry_timeout_ms)
        return (await self._ask(_wire.POSTPONED, "POST", path, body=body)).available_at

    async def retries(self, task_id: str, retries: int) -> Standing:
        """Set how many more failures are allowed; redrives a FAILED task."""
        path = task_path(task_id, "retries")
        return await self._ask(_wire.STANDING, "POST", path, body=said(retries=retries))

    async def priority(self, task_id: str, priority: int) -> None:
        """Let the task go on among those of this priority. Raises Conflict when it is finished."""
        await self._request("POST", task_path(task_id, "priority"), body=said(priority=priority))

    async def variables(
        self,
        task_id: str,
        variables: Mapping[str, Any] | None = None,
        *,
        deletions: Sequence[str] | None = None,
    ) -> None:
        """Set variables of the task, and remove others, for whoever locks it next.

        Raises Conflict when it is finished, and TooLarge when it would have too many bytes.
        """
        body = said(variables=variables, deletions=deletions)
        await self._request("POST", task_path(task_id, "variables"), body=body)

    async def cancel(self, task_id: str, reason: str | None = None) -> None:
        """Finish the task without a result.

        While a worker has it, it is told with its next heartbeat and may clean up; the task is
        CANCELLED when the worker says so, or when the lock runs out.
        """
        await self._request("POST", task_path(task_id, "cancel"), body=said(reason=reason))

    async def subtext(self, task_id: str, subtext: str) -> None:
        """Say in a line, for people, how the task stands. Raises Conflict when it is finished."""
        await self._request("PUT", task_path(task_id, "subtext"), body={"subtext": subtext})

    async def drain(self, worker_id: str) -> None:
        """Ask a worker to end in good order, until it is taken back with `undrain`.

        It is told with its next heartbeat.
        """
        await self._request("PUT", worker_path(worker_id, "drain"))

    async def undrain(self, worker_id: str) -> None:
        """Let workers of this id serve again."""
        await self._request("DELETE", worker_path(worker_id, "drain"))

    async def late_work(self, topic: str, *, is_accepted: bool) -> None:
        """Say whether work on a topic is welcome after its lock ran out.

        It is, at most, while nobody else has taken the task.
        """
        await self._request("PUT", topic_path(topic, "late-work"), body={"isAccepted": is_accepted})

    async def forget_late_work(self, topic: str) -> None:
        """Leave that to what the worker's dialect is used to: this one refuses late work."""
        await self._request("DELETE", topic_path(topic, "late-work"))

    # Reading

    async def get_task(self, task_id: str, *, wait_s: float | None = None) -> Task:
        """The task, finished or not. With `wait_s`, wait up to that long for it to be finished.

        Raises TaskNotFound.
        """
        return await self._ask(
            _wire.TASK,
            "GET",
            task_path(task_id),
            headers=waiting(wait_s),
            wait_s=wait_s or 0.0,
        )

    async def log_lines(
        self, task_id: str, *, after: int | None = None, limit: int | None = None
    ) -> LogPage:
        """Lines of the task's log, the oldest first. `after` is the `next` of the page before.

        An empty page: there is no more as yet. Raises TaskNotFound.
        """
        wanted = said(after=after, limit=limit)
        path = task_path(task_id, "logs")
        return await self._ask(
            _wire.LOG_PAGE, "GET", f"{path}?{urlencode(wanted)}" if wanted else path
        )

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
        query = f"?{urlencode(wanted)}" if wanted else ""
        page = await self._ask(_wire.PAGE, "GET", f"{TASKS_PATH}{query}")
        return TaskPage(page.tasks, page.next)

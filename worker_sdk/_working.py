"""The verbs of workers: what is said about a task by whoever holds its lock.

They take the `Task` that `fetch_and_lock` returned, since it holds the three things
they must name: the task, the worker and the lock token.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from worker_sdk import _wire
from worker_sdk._callback import CallbackUrl, HandedOver
from worker_sdk._errors import FetchlockError
from worker_sdk._exchange import TASKS_PATH, Exchange, check_count, lock_of, task_path, worker_path
from worker_sdk._news import News, Renewal
from worker_sdk._outcome import BpmnError, Failure, HandOver, timeout_ms
from worker_sdk._task import Standing, Subscription, Task
from worker_sdk._wire import said


class Heartbeat(NamedTuple):
    """What a heartbeat brought: per task, in order, its renewal or why there is none.

    `drain` asks the worker to fetch no more and to end when its handlers have.
    """

    results: list[Renewal | FetchlockError]
    drain: bool


class Working(Exchange):
    """Those verbs."""

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
            _wire.TASKS,
            "POST",
            f"{TASKS_PATH}/fetch-and-lock",
            body=body,
            wait_s=request_timeout_ms / 1000,
        )

    async def lock(self, task: Task, worker_id: str, lock_duration_ms: int) -> Task:
        """Lock this very task, or renew the lock that the worker has on it.

        Returns the task as it was given, under its lock. Raises LockLost when another worker holds
        it, and Conflict when it waits, has failed, or is finished.
        """
        locked = await self._ask(
            _wire.LOCKED,
            "POST",
            task_path(task.id, "lock"),
            body=said(workerId=worker_id, lockDurationMs=lock_duration_ms),
        )
        return msgspec.structs.replace(
            task,
            state="LOCKED",
            worker_id=worker_id,
            lock_token=locked.lock_token,
            lock_expires_at=locked.lock_expires_at,
            attempt=locked.attempt,
            started_at=locked.started_at,
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
        body = lock_of(task) | _failure(failure)
        return await self._ask(_wire.STANDING, "POST", task_path(task.id, "fail"), body=body)

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
        body = lock_of(task) | said(lockDurationMs=lock_duration_ms)
        path = task_path(task.id, "extend-lock")
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

    async def heartbeat(
        self,
        worker_id: str,
        lock_duration_ms: int,
        tasks: Iterable[tuple[Task, News | None]] = (),
    ) -> Heartbeat:
        """Keep up to 1000 locks of one worker for this long from now, and tell what is new.

        Without tasks it only learns whether the worker is to drain.
        """
        items = [_wire.beat(task, news) for task, news in tasks]
        status, text = await self._request(
            "POST",
            worker_path(worker_id, "heartbeat"),
            body=said(lockDurationMs=lock_duration_ms, tasks=items),
        )
        answer = _wire.decode(_wire.HEARTBEAT, text, status)
        check_count(answer.results, len(items), status)
        return Heartbeat(_wire.renewals(answer.results, status), answer.drain)

    async def callback_url(self, task: Task, *, timeout_s: float | None = None) -> CallbackUrl:
        """A URL at which somebody else can end the task once it is handed over. Raises LockLost.

        The task stays locked.
        """
        body = lock_of(task) | said(timeoutMs=timeout_ms(timeout_s))
        path = task_path(task.id, "callback-url")
        return await self._ask(_wire.CALLBACK_URL, "POST", path, body=body)

    async def hand_over(self, task: Task, hand_over: HandOver | None = None) -> HandedOver:
        """Leave the task's end to a callback. Saying it twice is harmless. Raises LockLost."""
        left = hand_over or HandOver()
        body = lock_of(task) | said(timeoutMs=left.timeout_ms, variables=left.variables)
        path = task_path(task.id, "hand-over")
        return await self._ask(_wire.HANDED_OVER, "POST", path, body=body)


def _item(task: Task) -> dict[str, object]:
    return said(id=task.id, lockToken=task.lock_token)


def _failure(failure: Failure) -> dict[str, object]:
    return said(
        errorMessage=failure.message,
        errorDetails=failure.details,
        retries=failure.retries,
        retryTimeoutMs=failure.retry_timeout_ms,
        variables=failure.variables,
    )

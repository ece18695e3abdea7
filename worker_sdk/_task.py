"""The nouns a worker and a producer meet, exactly as they stand on the wire.

Each is a msgspec struct whose fields are the API's camelCase members in snake
case, so an answer becomes typed objects in one pass in C. A member this version
does not know is skipped and one that is missing has its default: an older SDK
works with a newer broker. Instants are aware datetimes, durations integers of
milliseconds, and integers inside variables may be of any size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, Protocol

import msgspec

from worker_sdk._callback import CallbackRequest
from worker_sdk._news import News, checkpoint_news, log_news, progress_news
from worker_sdk._outcome import HandOver
from worker_sdk._stop import StopReason, StopRequest


class Desk(Protocol):
    """Where a worker hears what is said about the tasks in its handlers' hands. From any thread."""

    def note(self, task: Task, news: News) -> None:
        """Have these told with the next heartbeat. Never blocks and never fails."""
        ...

    def callback_url(self, task: Task, timeout_s: float | None) -> CallbackRequest:
        """Ask for the task's callback URL."""
        ...


class Progress(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """How far a worker says it is."""

    percent: float | None = None
    subtext: str | None = None
    updated_at: datetime | None = None


class Task(msgspec.Struct, frozen=True, kw_only=True, rename="camel", eq=False):
    """One piece of work on one topic, as the broker described it in one answer.

    It is a snapshot: it does not change when the broker's task does. `state` is one of CREATED,
    LOCKED, AWAITING, COMPLETED, BPMN_ERROR, FAILED, CANCELLED. `retries` is how many more failures
    are allowed, or None before the first where the topic's policy decides; `failures` is how many
    it has had. `attempt` is the number of this lock, 1 for the first. `lock_token` is the fence of
    this lock, known only to the worker that fetched it: hand it on wherever a late writer must be
    told from the rightful one.
    `last_progress` and `last_checkpoint` are what was last said about it, in this attempt or in
    earlier ones; None if nothing was.
    """

    id: str
    topic: str
    state: str = "LOCKED"
    priority: int = 0
    business_key: str | None = None
    process_instance_id: str | None = None
    process_definition_id: str | None = None
    process_definition_key: str | None = None
    process_definition_version_tag: str | None = None
    activity_id: str | None = None
    tenant_id: str | None = None
    variables: dict[str, Any] = {}
    result: dict[str, Any] | None = None
    retries: int | None = None
    failures: int = 0
    attempt: int = 0
    worker_id: str | None = None
    lock_token: str | None = None
    lock_expires_at: datetime | None = None
    available_at: datetime | None = None
    created_at: datetime | None = None
    finished_at: datetime | None = None
    error_code: str | None = None
    error_message: str | None = None
    error_details: str | None = None
    traceparent: str | None = None
    started_at: datetime | None = None
    times_out_at: datetime | None = None
    cancel_requested: bool = False
    callback_expires_at: datetime | None = None
    last_progress: Progress | None = msgspec.field(default=None, name="progress")
    last_checkpoint: Any = msgspec.field(default=None, name="checkpoint")

    stop_requested: StopRequest = msgspec.field(default_factory=StopRequest)
    """Not on the wire: set when a running handler should stop, because its lock is lost, its task
    is to be cancelled or the worker must end. `task.stop_requested.wait(5)` is a sleep that ends
    early."""

    _desk: Desk | None = None

    @property
    def cancelled(self) -> bool:
        """Whether the handler should stop: whatever it returns will be thrown away.

        An async handler is cancelled besides; a handler in a thread can only look here.
        """
        return self.stop_requested.is_set()

    @property
    def stop_reason(self) -> StopReason | None:
        """Why the handler should stop, or None while it should not."""
        return self.stop_requested.reason

    def progress(self, percent: float | None = None, subtext: str | None = None) -> None:
        """Say how far it is, to whoever follows the task. In a handler; it never blocks.

        It is told within about a second, and only the latest of that time. `percent` is 0 to 100;
        `subtext` is a line for people. What is left at None stays as it was.
        """
        self._tell(progress_news(percent, subtext))

    def log(self, *lines: str) -> None:
        """Add lines to the task's log. In a handler; it never blocks.

        A line has up to 4096 characters. While the broker is away the last 10,000 are kept.
        """
        self._tell(log_news(lines))

    def checkpoint(self, data: object) -> None:
        """Note where to go on, for the next attempt's `last_checkpoint`, should this one fail.

        In a handler; it never blocks. The data is any JSON but null, up to 64 KiB, and replaces
        the last checkpoint.
        """
        self._tell(checkpoint_news(data))

    def callback_url(self, timeout_s: float | None = None) -> CallbackRequest:
        """Ask for the URL at which somebody else can end this task, once it is handed over.

        `await task.callback_url()` in an async handler, `task.callback_url().result()` in one that
        runs in a thread. Pass the URL on, and return `task.hand_over()`. The callback is waited
        for until `timeout_s` is over, or the broker's default.
        """
        return self._in_hands().callback_url(self, timeout_s)

    def hand_over(
        self, variables: Mapping[str, Any] | None = None, timeout_s: float | None = None
    ) -> HandOver:
        """What a handler returns to leave the rest to a callback: `return task.hand_over()`.

        The callback's output is merged over `variables`. Without a callback within `timeout_s`
        (None is the broker's default) the attempt has failed.
        """
        return HandOver(variables, timeout_s=timeout_s)

    def _tell(self, news: News) -> None:
        self._in_hands().note(self, news)

    def _in_hands(self) -> Desk:
        if self._desk is None:
            raise RuntimeError(
                f"task {self.id} is in no handler's hands: a worker gives a handler the task by "
                "which to say this"
            )
        return self._desk


class NewTask(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """A task to create: `NewTask("validatePayment", {"amount": 12})`.

    What is left at None is not sent, so the broker's defaults hold. `unique_key` makes creation
    repeatable: the same key with the same content gives the first task again. `delay_ms` or
    `available_at` keeps it from workers until then. A task that is not finished so long after it
    was first locked (`execution_timeout_ms`, through all attempts) or created
    (`total_timeout_ms`) is FAILED.
    """

    topic: str
    variables: dict[str, Any] | None = None
    priority: int | None = None
    business_key: str | None = None
    retries: int | None = None
    delay_ms: int | None = None
    available_at: datetime | None = None
    unique_key: str | None = None
    process_instance_id: str | None = None
    process_definition_id: str | None = None
    process_definition_key: str | None = None
    activity_id: str | None = None
    traceparent: str | None = None
    execution_timeout_ms: int | None = None
    total_timeout_ms: int | None = None
    process_definition_version_tag: str | None = None
    tenant_id: str | None = None
    variable_types: dict[str, dict[str, Any]] | None = None


class Subscription(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """A wish inside one fetch: a topic, and what to take of it.

    `process_definition_ids` None takes tasks of any definition. `lock_duration_ms` None takes the
    fetch's. `variables` names the only variables wanted; None is all of them.
    """

    topic: str
    process_definition_ids: Sequence[str] | None = None
    lock_duration_ms: int | None = None
    variables: Sequence[str] | None = None


class Standing(msgspec.Struct, frozen=True, rename="camel"):
    """Where a task stands after a failure or a change of its retries."""

    state: str
    retries: int | None = None
    available_at: datetime | None = None


class TaskPage(NamedTuple):
    """One page of a listing. `next` is the cursor of the page after it, None on the last."""

    tasks: list[Task]
    next: str | None


class LogLine(msgspec.Struct, frozen=True, rename="camel"):
    """A line of a task's log. Lines are numbered from 1."""

    number: int
    logged_at: datetime
    line: str


class LogPage(msgspec.Struct, frozen=True):
    """Lines of a task's log. `next` goes into `after` for what comes behind them."""

    lines: Sequence[LogLine]
    next: int

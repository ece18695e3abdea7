"""The nouns a worker and a producer meet, exactly as they stand on the wire.

Each is a msgspec struct whose fields are the API's camelCase members in snake
case, so an answer becomes typed objects in one pass in C. A member this version
does not know is skipped and one that is missing has its default: an older SDK
works with a newer broker. Instants are aware datetimes, durations integers of
milliseconds, and integers inside variables may be of any size.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

import msgspec


class StopRequest:
    """Whether a running handler should stop. Used like the `threading.Event` it makes at need.

    Every task has one and hardly any is ever waited for, while a real event costs as much as
    decoding the task it belongs to.
    """

    # In the class, not in the instance: to make one must cost nothing.
    _guard = threading.Lock()
    _is_set = False
    _event: threading.Event | None = None

    def is_set(self) -> bool:
        """Whether it was asked for."""
        return self._is_set

    def set(self) -> None:
        """Ask for it. From any thread."""
        with self._guard:
            self._is_set = True
            if self._event is not None:
                self._event.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Block this thread until it is asked for, for at most so many seconds. Whether it was."""
        with self._guard:
            if self._is_set:
                return True
            if self._event is None:
                self._event = threading.Event()
        return self._event.wait(timeout)


class Progress(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """How far a worker says it is."""

    percent: float | None = None
    subtext: str | None = None
    updated_at: datetime | None = None


class Task(msgspec.Struct, frozen=True, kw_only=True, rename="camel", eq=False):
    """One piece of work on one topic, as the broker described it in one answer.

    It is a snapshot: it does not change when the broker's task does. `state` is one of CREATED,
    LOCKED, AWAITING, COMPLETED, BPMN_ERROR, FAILED, CANCELLED. `retries` is how many more failures
    are allowed, or None before the first where the topic's policy decides. `attempt` is the number
    of this lock, 1 for the first. `lock_token` is the fence of this lock, known only to the worker
    that fetched it: hand it on wherever a late writer must be told from the rightful one.
    """

    id: str
    topic: str
    state: str = "LOCKED"
    priority: int = 0
    business_key: str | None = None
    process_instance_id: str | None = None
    process_definition_id: str | None = None
    process_definition_key: str | None = None
    activity_id: str | None = None
    tenant_id: str | None = None
    variables: dict[str, Any] = {}
    result: dict[str, Any] | None = None
    retries: int | None = None
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
    progress: Progress | None = None
    traceparent: str | None = None

    stop_requested: StopRequest = msgspec.field(default_factory=StopRequest)
    """Not on the wire: set when a running handler should stop, because its lock is lost or the
    worker must end. `task.stop_requested.wait(5)` is a sleep that ends early."""

    @property
    def cancelled(self) -> bool:
        """Whether the handler should stop: whatever it returns will be thrown away.

        An async handler is cancelled besides; a handler in a thread can only look here.
        """
        return self.stop_requested.is_set()


class NewTask(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """A task to create: `NewTask("validatePayment", {"amount": 12})`.

    What is left at None is not sent, so the broker's defaults hold. `unique_key` makes creation
    repeatable: the same key with the same content gives the first task again. `delay_ms` or
    `available_at` keeps it from workers until then.
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

"""One task under one lock: run its handler, and tell the broker how it ended.

Nothing a handler does may hurt the worker. Whatever it raises becomes an
outcome, even SystemExit or a cancellation of its own making. The outcome is told
again and again, through outages of the broker and its database, until it has
been heard or the lease is over: then the task is somebody else's, and silence is
the right thing. Telling twice is harmless, the lock token sees to that.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple, cast

import anyio
from anyio import to_thread
from anyio.lowlevel import checkpoint_if_cancelled

from worker_sdk._backoff import pause_s
from worker_sdk._client import Client
from worker_sdk._errors import FetchlockError
from worker_sdk._lease import Lease
from worker_sdk._outcome import BpmnError, Failure, unforeseen
from worker_sdk._task import Subscription, Task

logger = logging.getLogger("fetchlock.worker")

Variables = Mapping[str, Any] | None
Outcome = Variables | Failure | BpmnError


class Handler(NamedTuple):
    """The user's function for a topic, and what is asked of the broker for it."""

    function: Callable[[Task], Awaitable[Variables] | Variables]
    is_async: bool
    subscription: Subscription
    lock_duration_ms: int


async def handle(handler: Handler, lease: Lease, threads: anyio.CapacityLimiter) -> Outcome:
    """Run the handler. After a lost lease the outcome means nothing."""
    try:
        if handler.is_async:
            with lease.scope:
                result = await cast("Awaitable[Variables]", handler.function(lease.task))
                return _checked(result, lease.task)
            return None
        # A thread cannot be cancelled. It is abandoned when the whole worker is cut off, but not
        # when its lease is lost: it would run on without a slot, and threads would pile up.
        returned = await to_thread.run_sync(
            handler.function, lease.task, limiter=threads, abandon_on_cancel=True
        )
        return _checked(returned, lease.task)
    except (Failure, BpmnError) as outcome:
        return outcome
    except (Exception, SystemExit) as error:
        # SystemExit too: a library that calls sys.exit must not end a worker with other tasks.
        return unforeseen(error)
    except anyio.get_cancelled_exc_class() as error:
        # Either the worker is being cut off, and this goes on, or the handler let out the
        # cancellation of something of its own. That would take the whole worker with it.
        await checkpoint_if_cancelled()
        return unforeseen(error)


def _checked(result: object, task: Task) -> Variables:
    if result is None or isinstance(result, Mapping):
        return cast("Variables", result)
    raise TypeError(
        f"the handler of topic {task.topic!r} returned {type(result).__name__}; "
        "it must return a dict of variables, or None"
    )


async def report(client: Client, lease: Lease, outcome: Outcome) -> None:
    """Tell the broker the outcome, for as long as the lease lasts."""
    about = {"topic": lease.task.topic, "task_id": lease.task.id}
    if lease.is_over:
        logger.warning("outcome thrown away, the lock had been lost", extra=about)
        return
    with anyio.move_on_after(lease.remaining_s) as trusted:
        try:
            refusal = await _tell_until_heard(client, lease.task, outcome)
            if refusal is not None:
                # The handler must hear of it as of any failure, else the task would run out of
                # its lock, and be done and refused again, without anybody learning why.
                failure = Failure(f"the outcome was refused: {refusal}")
                refusal = await _tell_until_heard(client, lease.task, failure)
        except FetchlockError as error:
            refusal = error
        if refusal is not None:
            logger.warning("outcome not accepted", extra={**about, "error": str(refusal)})
    if trusted.cancelled_caught:
        logger.warning("outcome not delivered before the lock ran out", extra=about)


async def _tell_until_heard(client: Client, task: Task, outcome: Outcome) -> Exception | None:
    """None once it is heard, or what is wrong with the outcome itself. Other refusals raise."""
    failures = 0
    while True:
        try:
            await _tell(client, task, outcome)
        except FetchlockError as error:
            if error.status in (413, 422):
                return error
            if not error.is_transient:
                raise
            failures += 1
            await anyio.sleep(pause_s(failures, error))
        except (TypeError, ValueError) as error:
            return error  # JSON cannot say it.
        else:
            return None


async def _tell(client: Client, task: Task, outcome: Outcome) -> None:
    if isinstance(outcome, Failure):
        await client.fail(task, outcome)
    elif isinstance(outcome, BpmnError):
        await client.bpmn_error(task, outcome)
    else:
        await client.complete(task, outcome)

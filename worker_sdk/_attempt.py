"""One attempt at a task: run its handler, and see what came of it.

Nothing a handler does may hurt the worker. Whatever it raises becomes an
outcome, even SystemExit. How an outcome reaches the broker is for `_report`.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple, cast

from worker_sdk._outcome import BpmnError, Failure, HandOver, Outcome, Result, unforeseen
from worker_sdk._task import Subscription, Task

logger = logging.getLogger("fetchlock.worker")


class Hook(NamedTuple):
    """What the user wants done when a topic's task was cancelled under its handler."""

    function: Callable[[Task], Awaitable[object] | object]
    is_async: bool


class Handler(NamedTuple):
    """The user's function for a topic, and what is asked of the broker for it."""

    function: Callable[[Task], Awaitable[Result] | Result]
    is_async: bool
    subscription: Subscription
    lock_duration_ms: int
    on_cancel: Hook | None = None


async def handle(handler: Handler, task: Task) -> Outcome:
    """Run an async handler."""
    try:
        return _checked(await cast("Awaitable[Result]", handler.function(task)), task)
    except (Failure, BpmnError) as outcome:
        return outcome
    except (Exception, SystemExit) as error:
        # SystemExit too: a library that calls sys.exit must not end a worker with other tasks.
        return unforeseen(error)


def handle_in_thread(handler: Handler, task: Task) -> Outcome:
    """Run any other handler, in a thread that this does not return to: so nothing is raised."""
    try:
        return _checked(handler.function(task), task)
    except (Failure, BpmnError) as outcome:
        return outcome
    except BaseException as error:
        return unforeseen(error)


async def clean_up(hook: Hook, task: Task) -> None:
    """Run an async hook."""
    try:
        await cast("Awaitable[object]", hook.function(task))
    except (Exception, SystemExit) as error:
        _note_unclean(task, error)


def clean_up_in_thread(hook: Hook, task: Task) -> None:
    """Run any other hook, in a thread that this does not return to: so nothing is raised."""
    try:
        hook.function(task)
    except BaseException as error:
        _note_unclean(task, error)


def is_async(function: Callable[..., Any]) -> bool:
    """Whether the function, or the object that is called like one, is to be awaited."""
    call = getattr(function, "__call__", None)  # noqa: B004 - its kind, not whether it is
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


def _note_unclean(task: Task, error: BaseException) -> None:
    about = {"topic": task.topic, "task_id": task.id}
    logger.error(
        "on_cancel failed, the task is cancelled all the same", exc_info=error, extra=about
    )


def _checked(result: object, task: Task) -> Result:
    if result is None or isinstance(result, Mapping | HandOver):
        return cast("Result", result)
    raise TypeError(
        f"the handler of topic {task.topic!r} returned {type(result).__name__}; "
        "it must return a dict of variables, None, or task.hand_over()"
    )

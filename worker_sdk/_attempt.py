"""One attempt at a task: run its handler, and see what came of it.

Nothing a handler does may hurt the worker. Whatever it raises becomes an
outcome, even SystemExit. How an outcome reaches the broker is for `_report`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple, cast

from worker_sdk._outcome import BpmnError, Failure, Outcome, Variables, unforeseen
from worker_sdk._task import Subscription, Task


class Handler(NamedTuple):
    """The user's function for a topic, and what is asked of the broker for it."""

    function: Callable[[Task], Awaitable[Variables] | Variables]
    is_async: bool
    subscription: Subscription
    lock_duration_ms: int


async def handle(handler: Handler, task: Task) -> Outcome:
    """Run an async handler."""
    try:
        return _checked(await cast("Awaitable[Variables]", handler.function(task)), task)
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


def _checked(result: object, task: Task) -> Variables:
    if result is None or isinstance(result, Mapping):
        return cast("Variables", result)
    raise TypeError(
        f"the handler of topic {task.topic!r} returned {type(result).__name__}; "
        "it must return a dict of variables, or None"
    )

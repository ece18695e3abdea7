"""The worker: which handlers there are for which topics, and how many hands.

    worker = Worker("http://127.0.0.1:8080", concurrency=20)

    @worker.task("validatePayment")
    async def validate(task: Task) -> dict:
        return {"paymentValid": task.variables["amount"] < 100}

    worker.run()

This module is what the user says; `_session` is what is done about it.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, TypeVar

import anyio

from worker_sdk._attempt import Handler, Hook, is_async
from worker_sdk._client import Client
from worker_sdk._outcome import HandOver
from worker_sdk._session import Session
from worker_sdk._task import Subscription, Task

logger = logging.getLogger("fetchlock.worker")

HandlerT = TypeVar(
    "HandlerT",
    bound=Callable[
        [Task],
        Awaitable[Mapping[str, Any] | HandOver | None] | Mapping[str, Any] | HandOver | None,
    ],
)


class Worker:
    """Fetches tasks, runs their handlers, and tells the broker how they ended.

    `concurrency` is how many tasks are worked on at once, over all topics; never more are locked.
    `worker_id` is made of host, process and chance unless given. A lock lasts `lock_duration_ms`
    and is extended for as long as its handler runs, so the duration only says how soon others take
    over from a worker that died. A poll waits up to `request_timeout_ms` at the broker. After a
    stop, handlers have `drain_timeout_s` to finish; tasks cut off then are given back unharmed.
    """

    def __init__(
        self,
        base_url: str,
        *,
        concurrency: int = 10,
        worker_id: str | None = None,
        lock_duration_ms: int = 30_000,
        request_timeout_ms: int = 20_000,
        drain_timeout_s: float = 25.0,
    ) -> None:
        Client(base_url)  # Raises ValueError where the mistake is, not when the worker starts.
        if request_timeout_ms < 1000:
            raise ValueError("polls of less than a second would keep the broker busy for nothing")
        self.base_url = base_url
        self.concurrency = concurrency
        self.worker_id: str = worker_id or default_worker_id()
        self._lock_duration_ms = lock_duration_ms
        self._request_timeout_ms = request_timeout_ms
        self._drain_timeout_s = drain_timeout_s
        self._handlers: dict[str, Handler] = {}
        self._stopping = anyio.Event()

    @property
    def concurrency(self) -> int:
        """How many tasks are worked on at once. May be set while the worker does not serve."""
        return self._concurrency

    @concurrency.setter
    def concurrency(self, concurrency: int) -> None:
        if concurrency < 1:
            raise ValueError(f"a worker of concurrency {concurrency} would never work")
        self._concurrency = concurrency

    def task(
        self,
        topic: str,
        *,
        lock_duration_ms: int | None = None,
        process_definition_ids: Sequence[str] | None = None,
        variables: Sequence[str] | None = None,
        on_cancel: Callable[[Task], Awaitable[object] | object] | None = None,
    ) -> Callable[[HandlerT], HandlerT]:
        """Register the decorated function as the handler of a topic.

        It takes the `Task` and returns the variables to complete it with, or None, or
        `task.hand_over()`. It may raise `Failure` or `BpmnError`; anything else it raises is a
        failure with its traceback. An async function runs on the worker's event loop, any other in
        a thread. When the lock is lost or the task is to be cancelled, an async handler is
        cancelled, and `task.cancelled` tells the one in a thread.

        `on_cancel` is called with the task when it is to be cancelled, after its handler has
        stopped: to undo what was done. Async or not, like a handler. It is not called for a lock
        that was lost, nor when the worker must end.

        `process_definition_ids` takes tasks of these definitions only; `variables` names the only
        ones the handler needs. Raises ValueError when the topic has a handler.
        """
        if topic in self._handlers:
            raise ValueError(f"topic {topic!r} has a handler already")
        duration_ms = self._lock_duration_ms if lock_duration_ms is None else lock_duration_ms

        def register(function: HandlerT) -> HandlerT:
            self._handlers[topic] = Handler(
                function,
                is_async(function),
                Subscription(topic, process_definition_ids, duration_ms, variables),
                duration_ms,
                None if on_cancel is None else Hook(on_cancel, is_async(on_cancel)),
            )
            return function

        return register

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT, from the main thread. The second signal does not drain.

        Runs on uvloop where that is installed.

        Raises FetchlockError when the broker refuses the worker for good (its subscriptions, its
        credentials, a URL that is no broker's). A broker that is away is waited for.

        A handler in a thread that outlasts the drain timeout keeps Python from ending, though its
        task has been given back.
        """
        has_uvloop = find_spec("uvloop") is not None
        anyio.run(self._serve, True, backend_options={"use_uvloop": has_uvloop})

    async def serve(self) -> None:
        """Like `run`, inside an application's own asyncio loop, until `stop` or cancellation."""
        await self._serve(False)

    def stop(self) -> None:
        """Stop fetching and let running handlers finish. From the loop that serves."""
        self._stopping.set()

    async def _serve(self, obey_signals: bool) -> None:
        if not self._handlers:
            raise ValueError("the worker has no handler: decorate a function with @worker.task")
        session = Session(
            self.base_url,
            self.worker_id,
            dict(self._handlers),
            self._stopping,
            concurrency=self.concurrency,
            request_timeout_ms=self._request_timeout_ms,
            drain_timeout_s=self._drain_timeout_s,
        )
        about = {"worker_id": self.worker_id, "topics": sorted(self._handlers)}
        logger.info("worker started", extra={**about, "concurrency": self.concurrency})
        try:
            await session.run(obey_signals=obey_signals)
        finally:
            self._stopping = anyio.Event()  # It may serve again.
            logger.info("worker stopped", extra=about)


def default_worker_id() -> str:
    """A name no other worker has, that still tells an operator where to look."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"

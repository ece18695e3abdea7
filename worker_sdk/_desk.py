"""The worker's side of what a handler says through its task while it works."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from functools import partial
from typing import Any

import anyio

from worker_sdk._backoff import pause_s
from worker_sdk._callback import CallbackRequest, CallbackUrl
from worker_sdk._client import Client
from worker_sdk._errors import FetchlockError
from worker_sdk._keeper import LeaseKeeper
from worker_sdk._news import News
from worker_sdk._outcome import timeout_ms
from worker_sdk._task import Task


class WorkersDesk:
    """The desk of all tasks of a crew. Made on the worker's loop, used from any thread."""

    def __init__(self, client: Client, keeper: LeaseKeeper, group: asyncio.TaskGroup) -> None:
        self._client = client
        self._keeper = keeper
        self._group = group
        self._loop = asyncio.get_running_loop()
        self._asking: set[asyncio.Task[None]] = set()
        self._is_closed = False

    def note(self, task: Task, news: News) -> None:
        """Have these told with the next heartbeat. Never blocks and never fails."""
        self._keeper.note(task, news)

    def callback_url(self, task: Task, timeout_s: float | None) -> CallbackRequest:
        """Ask for the task's callback URL."""
        timeout_ms(timeout_s)  # Raises where the mistake is.
        ask = partial(self._ask, task, timeout_s)
        return CallbackRequest(ask, self._loop, self._begin)

    def close(self) -> None:
        """Break off whatever threads have asked for. Nothing more is asked for them."""
        self._is_closed = True
        for asking in self._asking:
            asking.cancel()

    def _begin(self, asking: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        if self._is_closed:
            raise RuntimeError("the desk is closed")
        task = self._group.create_task(asking)
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)
        return task

    async def _ask(self, task: Task, timeout_s: float | None) -> CallbackUrl:
        """Again and again through outages, like an outcome, for as long as the lease lasts."""
        failures = 0
        while True:
            try:
                return await self._client.callback_url(task, timeout_s=timeout_s)
            except FetchlockError as error:
                lease = self._keeper.held(task)
                if not error.is_transient or lease is None or lease.is_over:
                    raise
                failures += 1
                wait_s = min(pause_s(failures, error), lease.remaining_s)
            await anyio.sleep(wait_s)

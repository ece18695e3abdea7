"""Callers that wait for a task to be finished (`Prefer: wait`, RFC 7240).

All of them together cost one statement a look, and only while there are any.
A task that this process finishes is told at once; one that another process
finishes is found by the next look.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Final

import anyio

from broker.errors import Unavailable
from broker.store import Retryable, Store

_LOOK_S: Final = 0.25
"""How long a task that another process finished may go unnoticed."""

_NUDGED_S: Final = 0.01
"""A busy broker finishes something all the time: this is how often a look can be worth it."""

_FOLLOWED_MAX: Final = 1_000
"""Tasks of one look; the others have their turn with the next."""

_FOLLOWERS_MAX: Final = 10_000
"""Beyond, nobody waits any more: it was a preference, and the task can be asked for."""


class Followers:
    """Who waits for which tasks."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._followed: defaultdict[str, set[_Follower]] = defaultdict(set)
        self._count = 0
        self._has_followers = anyio.Event()
        self._nudged = anyio.Event()

    async def follow(self, task_id: str, wait_s: float) -> bytes | None:
        """The task once it is finished, as JSON, or None after `wait_s` seconds."""
        if self._count >= _FOLLOWERS_MAX:
            return None
        follower = _Follower()
        self._count += 1
        self._followed[task_id].add(follower)
        self._has_followers.set()
        try:
            with anyio.move_on_after(wait_s):
                await follower.told.wait()
        finally:
            self._count -= 1
            self._followed[task_id].discard(follower)
            if not self._followed[task_id]:
                del self._followed[task_id]
        return follower.task

    def nudge(self) -> None:
        """This process finished something."""
        if self._followed:
            self._nudged.set()

    def release_all(self) -> None:
        """Let everybody go: the process is about to end."""
        for followers in self._followed.values():
            for follower in followers:
                follower.told.set()

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await self._has_followers.wait()
            self._has_followers = anyio.Event()
            while self._followed:
                with anyio.move_on_after(_LOOK_S):
                    await self._nudged.wait()
                self._nudged = anyio.Event()
                await self._look()
                await anyio.sleep(_NUDGED_S)

    async def _look(self) -> None:
        task_ids = list(self._followed)[:_FOLLOWED_MAX]
        try:
            finished = await self._store.finished_tasks(task_ids)
            tasks = await self._store.get_tasks(finished)
        except (Unavailable, Retryable):
            return
        for task_id in task_ids:
            # To the end of the line, finished or not, so that everybody has a turn.
            followers = self._followed.pop(task_id, None)
            if followers is None:
                continue
            self._followed[task_id] = followers
            task, is_finished = tasks.get(task_id, (b"", False))
            if is_finished:
                for follower in followers:
                    follower.task = task
                    follower.told.set()


class _Follower:
    __slots__ = ("task", "told")

    def __init__(self) -> None:
        self.task: bytes | None = None
        self.told = anyio.Event()

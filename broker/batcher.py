"""Concurrent requests → one statement, acknowledged after COMMIT.

While a statement runs, requests collect; the next statement takes them all.
There is no linger: an idle batcher sends the first request at once, a busy one
fills its batches by itself. So a commit is paid by everybody who waited for
it, and nobody waits for a batch to fill. Only a batch that is full already
gains nothing by waiting: it is sent beside the first, on a second core.

A statement that PostgreSQL rolled back of its own accord is sent again. So is
one whose connection was lost, where saying it twice does what saying it once
does: nobody knows whether the first was committed.

Each request gets its own answer. A bad one fails alone: PostgreSQL refuses the
statement as a whole, so the batch is halved until the bad request is by
itself. A caller that goes away does not take the batch with it. A full batcher
refuses at once, because a wait that outlasts the caller's patience is work for
nothing.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, NamedTuple

import anyio

from broker.errors import Invalid, Unavailable
from broker.store import Batch, ConnectionLost, Results, Retryable

REQUESTS_MAX: Final = 500
"""Requests of one statement: beyond it they cost more latency than commits are saved."""

BYTES_MAX: Final = 64 * 1024
"""Bytes of one statement (a larger request goes alone). These are some 500 tasks: what a statement
costs by itself is then a twentieth of it, and a larger one only keeps its callers waiting."""

WAITING_MAX: Final = 10_000
"""Requests that wait: a second or two of work. More would only wait to be given up."""

WAITING_BYTES_MAX: Final = 64 * 1024 * 1024
"""And what they may weigh together: eight of the largest bodies."""

_ATTEMPTS: Final = 5
"""Deadlocks, serialization failures and lost connections in a row, before the caller is asked to
come again: within a fifth of a second, since a restart takes longer than callers like to wait."""


class _Entry(NamedTuple):
    request: str
    answer: asyncio.Future[Results]


class Batcher:
    """One verb's requests, collected. `run` is the verb's statement; `done` hears of its news."""

    def __init__(
        self,
        run: Callable[[Sequence[str]], Awaitable[Batch]],
        done: Callable[[Batch], None],
        *,
        is_idempotent: bool = False,
    ) -> None:
        self._run = run
        self._done = done
        self._may_repeat = (Retryable, ConnectionLost) if is_idempotent else (Retryable,)
        self._waiting: deque[_Entry] = deque()
        self._waiting_bytes = 0
        self._has_work = anyio.Event()
        self._is_full = anyio.Event()
        self._is_over = False

    async def submit(self, request: str) -> Results:
        """The results of `request`, once they are committed.

        Raises:
            Unavailable: Too many wait, or the database is away: nothing, or nothing known, was done.
            Invalid: The database refused a value.
        """
        if self._is_over:
            raise Unavailable("the broker is stopping")
        if len(self._waiting) >= WAITING_MAX or self._waiting_bytes >= WAITING_BYTES_MAX:
            raise Unavailable("too many requests wait for the database")
        entry = _Entry(request, asyncio.get_running_loop().create_future())
        self._waiting.append(entry)
        self._waiting_bytes += len(request)
        self._has_work.set()
        if self._holds_full_batch:
            self._is_full.set()
        return await entry.answer

    async def serve(self) -> None:
        """Send batches for ever. Whoever waits when it ends is told so."""
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._send_all)
                group.start_soon(self._send_full_ones)
        finally:
            self._is_over = True
            _raise_in(self._waiting, Unavailable("the broker is stopping"))

    async def _send_all(self) -> None:
        while True:
            await self._has_work.wait()
            self._has_work = anyio.Event()
            while self._waiting:
                await self._send(self._take())

    async def _send_full_ones(self) -> None:
        while True:
            await self._is_full.wait()
            self._is_full = anyio.Event()
            while self._holds_full_batch:
                await self._send(self._take())

    @property
    def _holds_full_batch(self) -> bool:
        return self._waiting_bytes >= BYTES_MAX or len(self._waiting) >= REQUESTS_MAX

    def _take(self) -> list[_Entry]:
        batch = [self._waiting.popleft()]
        size = len(batch[0].request)
        while self._waiting and len(batch) < REQUESTS_MAX:
            size += len(self._waiting[0].request)
            if size > BYTES_MAX:
                break
            batch.append(self._waiting.popleft())
        self._waiting_bytes -= sum(len(entry.request) for entry in batch)
        return batch

    async def _send(self, entries: list[_Entry]) -> None:
        try:
            batch = await self._attempt([entry.request for entry in entries])
        except Invalid as error:
            if len(entries) == 1:
                _raise_in(entries, error)
                return
            middle = len(entries) // 2
            await self._send(entries[:middle])
            await self._send(entries[middle:])
        except asyncio.CancelledError:
            _raise_in(entries, Unavailable("the broker stopped before it knew what came of this"))
            raise
        except Exception as error:
            # The callers are told; the batcher itself must outlive any mistake.
            _raise_in(entries, error)
        else:
            for entry, results in zip(entries, batch.results, strict=True):
                if not entry.answer.done():
                    entry.answer.set_result(results)
            self._done(batch)

    async def _attempt(self, requests: list[str]) -> Batch:
        for attempt in range(_ATTEMPTS):
            try:
                return await self._run(requests)
            except self._may_repeat:
                await anyio.sleep(random.uniform(0, 0.01 * 2**attempt))
        raise Unavailable("the database kept asking to try again, or ending the connection")


def _raise_in(entries: Iterable[_Entry], error: Exception) -> None:
    for entry in entries:
        if not entry.answer.done():
            entry.answer.set_exception(error)

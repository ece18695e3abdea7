"""The address at which somebody else can end a task, and how a handler comes by it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Future
from datetime import datetime
from typing import Any

import msgspec

from worker_sdk._errors import ConnectionFailed

_ENDED = "the worker has ended"


class CallbackUrl(msgspec.Struct, frozen=True):
    """Where to PUT how a task ends. Whoever knows the URL may, until `expires_at`: keep it secret."""

    url: str = msgspec.field(name="callbackUrl")
    expires_at: datetime = msgspec.field(name="expiresAt")


class HandedOver(msgspec.Struct, frozen=True):
    """What became of a hand-over: `state` is AWAITING, unless the callback was there before."""

    url: str = msgspec.field(name="callbackUrl")
    expires_at: datetime = msgspec.field(name="expiresAt")
    state: str


class CallbackRequest:
    """A callback URL that was asked for: `await` it, or in a thread ask for its `result()`.

    It is the worker's loop that asks the broker. `begin` starts a coroutine on that loop as
    somebody's child.
    """

    def __init__(
        self,
        ask: Callable[[], Coroutine[Any, Any, CallbackUrl]],
        loop: asyncio.AbstractEventLoop,
        begin: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
    ) -> None:
        self._ask = ask
        self._loop = loop
        self._begin = begin

    def __await__(self) -> Generator[Any, None, CallbackUrl]:
        """The URL. Raises FetchlockError when there is none: LockLost, or no answer in time."""
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError("this is another loop than the worker's: ask for the result() here")
        return self._ask().__await__()

    def result(self) -> CallbackUrl:
        """The URL, waited for in this thread. Raises as awaiting does."""
        if _loop_here() is self._loop:
            raise RuntimeError("to wait here would block the worker's loop: await it instead")
        answer = Future[CallbackUrl]()
        try:
            self._loop.call_soon_threadsafe(self._start, answer)
        except RuntimeError:  # The loop is closed.
            raise ConnectionFailed(_ENDED) from None
        return answer.result()

    def _start(self, answer: Future[CallbackUrl]) -> None:
        async def ask() -> None:
            try:
                answer.set_result(await self._ask())
            except Exception as error:
                answer.set_exception(error)

        def settle(_: object) -> None:
            if not answer.done():  # A thread must not wait for ever because the worker ends.
                answer.set_exception(ConnectionFailed(_ENDED))

        asking = ask()
        try:
            self._begin(asking).add_done_callback(settle)
        except RuntimeError:
            asking.close()
            settle(None)


def _loop_here() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None

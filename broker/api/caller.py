"""Whether a client is still there, seen through ASGI's `receive`.

A parked poll must not be given tasks when its client has left, and ten thousand
of them must cost little. So nobody watches: a poll that waits does so inside
`receive` itself, and to ask in between is to begin a `receive` and look
whether it has anything to say.
"""

from __future__ import annotations

from starlette.types import Receive


class Caller:
    """The client's end of one request whose body has been read. Fits the dispatcher's `Caller`."""

    __slots__ = ("_gone", "_receive")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._gone = False

    @property
    def is_gone(self) -> bool:
        """True once the client has disconnected. Never waits.

        A server that knows of the disconnect answers `receive` without suspending. One
        that has nothing to tell suspends, and is taken back: that unwinds its wait as
        a cancellation would, but at once.
        """
        if not self._gone:
            receiving = self._receive().__await__()
            try:
                next(receiving)
            except StopIteration as answer:
                self._gone = answer.value["type"] == "http.disconnect"
            else:
                receiving.close()
        return self._gone

    async def wait_gone(self) -> None:
        """Return when the client disconnects. May be cancelled and begun again."""
        while not self._gone:
            message = await self._receive()
            self._gone = message["type"] == "http.disconnect"

"""Wake-ups between processes, by NOTIFY.

NOTIFY takes a lock that all committing transactions with a NOTIFY queue for,
so it never rides in a transaction that carries data: this connection sends
them on the side, several in one, after the data is committed. They are hints:
whoever misses one finds the work when it next looks by itself.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import anyio
import asyncpg
import structlog

from broker.store.shapes import Wake

_CHANNEL: Final = "fetchlock_wake"
_NOTIFY: Final = "SELECT pg_notify($1, $2)"

_COALESCE_S: Final = 0.005
"""Wake-ups of this long travel together: at most 200 notifications a second and process."""

_PAYLOAD_MAX: Final = 7_900
"""PostgreSQL refuses payloads of 8,000 bytes."""

_SEND_S: Final = 5.0
"""A notification that takes longer has no database any more behind its connection."""

_RECONNECT_S: Final = (0.1, 1.0)
"""Between these, at random: brokers that lost one database do not come back as one."""

_log = structlog.stdlib.get_logger(__name__)

_INTERRUPTIONS: Final = (
    OSError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
"""All that a connection can fail with, while PostgreSQL goes and after it has gone."""


class Wakeups:
    """One connection that sends this process's wake-ups and hears those of the others."""

    def __init__(self, database_url: str) -> None:
        self._database_url = database_url
        self._origin = secrets.token_hex(4)
        self._unsent: dict[tuple[int, bool], int] = {}
        self._has_work = anyio.Event()
        self.is_listening = False

    def send(self, wakes: Iterable[Wake]) -> None:
        """Tell the other processes, soon. Never waits, and is lost while there is no connection."""
        if not self.is_listening:
            return
        for lane_id, position, returned in wakes:
            known = self._unsent.get((lane_id, returned), position)
            self._unsent[lane_id, returned] = min(known, position)
        if self._unsent:
            self._has_work.set()

    async def run(self, heard: Callable[[list[Wake]], None], connected: Callable[[], None]) -> None:
        """Stay connected for ever. `connected` is called each time others may have been missed."""
        while True:
            try:
                connection = await asyncpg.connect(
                    self._database_url,
                    command_timeout=_SEND_S,
                    server_settings={"application_name": "fetchlock wake-ups"},
                )
            except _INTERRUPTIONS:
                await anyio.sleep(random.uniform(*_RECONNECT_S))
                continue
            try:
                await self._serve(connection, heard, connected)
            except _INTERRUPTIONS as error:
                _log.info("wake-ups are interrupted", error=type(error).__name__)
            finally:
                self.is_listening = False
                self._unsent.clear()
                connection.terminate()

    async def _serve(
        self,
        connection: Any,
        heard: Callable[[list[Wake]], None],
        connected: Callable[[], None],
    ) -> None:
        def on_notification(_connection: Any, _pid: int, _channel: str, payload: Any) -> None:
            if wakes := self._parse(payload):
                heard(wakes)

        connection.add_termination_listener(lambda _connection: self._has_work.set())
        await connection.add_listener(_CHANNEL, on_notification)
        self.is_listening = True
        connected()
        while not connection.is_closed():
            await self._has_work.wait()
            await anyio.sleep(_COALESCE_S)
            self._has_work = anyio.Event()
            for payload in self._payloads():
                await connection.execute(_NOTIFY, _CHANNEL, payload)

    def _payloads(self) -> Iterator[str]:
        """What is unsent, as `origin lane:position:f,lane:position:r,…`."""
        unsent, self._unsent = self._unsent, {}
        payload = ""
        for (lane_id, returned), position in unsent.items():
            item = f"{lane_id}:{position}:{'r' if returned else 'f'}"
            if len(payload) + len(item) > _PAYLOAD_MAX:
                yield payload
                payload = ""
            payload = f"{payload},{item}" if payload else f"{self._origin} {item}"
        if payload:
            yield payload

    def _parse(self, payload: str) -> list[Wake]:
        """The wake-ups of another process; nothing where they are our own, or not ours to read."""
        origin, _, items = payload.partition(" ")
        if origin == self._origin:
            return []
        try:
            return [
                Wake(int(lane_id), int(position), kind == "r")
                for lane_id, position, kind in (item.split(":") for item in items.split(","))
            ]
        except ValueError:
            return []

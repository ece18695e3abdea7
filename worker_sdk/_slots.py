"""The worker's promise never to hold more locks than it has hands.

A task that is fetched and then waits its turn inside the worker wastes its lock
and keeps it from an idle neighbour. So each locked task occupies a slot from the
moment its answer is read, and a fetch asks for free slots only.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import anyio

from worker_sdk._lease import Lease


class Slots:
    """So many slots, and the leases in them. For one event loop."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._held: set[Lease] = set()
        self._released: anyio.Event | None = None

    @property
    def free(self) -> int:
        """How many tasks may be fetched now."""
        return self.size - len(self._held)

    @property
    def held(self) -> frozenset[Lease]:
        """The leases of all tasks that are not over and done with."""
        return frozenset(self._held)

    def take(self, lease: Lease) -> None:
        """Occupy a slot; at once, so that no fetch in between counts it as free."""
        self._held.add(lease)

    @contextmanager
    def until_done(self, lease: Lease) -> Generator[None]:
        """Free the lease's slot at the end of the block.

        Not when the block is cut off by an exception: that is only ever the end of the whole
        worker, which then gives back what is still held.
        """
        yield
        self.release(lease)

    def release(self, lease: Lease) -> None:
        """Free the lease's slot."""
        self._held.discard(lease)
        if self._released is not None:
            self._released.set()
            self._released = None

    async def wait_free(self) -> int:
        """Wait until a slot is free. Returns how many are."""
        while self.free <= 0:
            await self._wait_released()
        return self.free

    async def wait_idle(self) -> None:
        """Wait until no slot is occupied."""
        while self._held:
            await self._wait_released()

    async def _wait_released(self) -> None:
        # Made by whoever waits: thousands of slots are released in a second with nobody waiting.
        if self._released is None:
            self._released = anyio.Event()
        await self._released.wait()

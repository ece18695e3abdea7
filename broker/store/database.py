"""One database as the store's verbs see it: statements to run, and the lanes that are known.

Lanes are made by any broker at any time and are numbered before they are
committed, so what is known of them is learned anew now and then; everything
else that this process believes of a database lives in the dispatcher.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, Final

import asyncpg

from broker import metrics
from broker.errors import Unavailable
from broker.settings import Settings
from broker.store import queries
from broker.store.lanes import Lane, Lanes
from broker.store.pool import Pool, map_exceptions

SHARD: Final = 0
"""All tasks of one database are on one shard until there are several databases."""

_LANES_OVERLAP: Final = 1_024
"""Lanes are numbered before they are committed: the last ones, as many as a few requests at once
may make, are looked at again."""

_LANES_TRUSTED_S: Final = 60.0
"""All lanes are counted this often."""


class Database:
    """A pool of connections and the lanes behind it."""

    def __init__(self, pool: Pool, settings: Settings) -> None:
        self._pool = pool
        self._settings = settings
        self.lanes = Lanes()
        self._trust_lanes_until_s = 0.0

    async def _fetch(self, name: str, query: str, *args: Any) -> list[Any]:
        started_at = time.perf_counter()
        with map_exceptions():
            try:
                rows: list[Any] = await self._pool.fetch(query, *args)
            except asyncpg.InvalidAuthorizationSpecificationError as error:
                # A role that was right at the start: somebody is changing it, and may be done soon.
                raise Unavailable(f"the database refuses: {error}") from error
        metrics.DB_QUERY.labels(name).observe(time.perf_counter() - started_at)
        return rows

    # Lanes ------------------------------------------------------------------

    async def load_lanes(self) -> list[Lane]:
        """Learn the lanes that others made; answer the new ones."""
        after = self._known_for_sure
        rows = await self._fetch("load_lanes", queries.LOAD_LANES, SHARD, after)
        self._trust_lanes(after)
        loaded = [Lane(*row.values()) for row in rows]
        new = [lane for lane in loaded if self.lanes.get(lane.lane_id) is None]
        self.lanes.add(new)
        return new

    @property
    def _known_for_sure(self) -> int:
        """The lanes up to this one are known: whatever is numbered so low was committed long ago.

        Once a minute nothing is sure: a transaction may have hung while others made many lanes.
        """
        if time.monotonic() >= self._trust_lanes_until_s:
            return 0
        return max(0, self.lanes.last_id - _LANES_OVERLAP)

    def _trust_lanes(self, after: int) -> None:
        if after == 0:
            self._trust_lanes_until_s = time.monotonic() + _LANES_TRUSTED_S

    async def _know(self, lane_ids: Iterable[int]) -> None:
        if any(self.lanes.get(lane_id) is None for lane_id in lane_ids):
            await self.load_lanes()
        if any(self.lanes.get(lane_id) is None for lane_id in lane_ids):
            self._trust_lanes_until_s = 0.0
            await self.load_lanes()

    def _topic(self, lane_id: int) -> str:
        return metrics.topic_label(self.lanes.topic_of(lane_id))

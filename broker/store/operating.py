"""What operators, and whoever else, ask of single tasks: by their ids, from any state that allows it.

Here are also the wishes about topics, which their tasks follow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from broker import metrics
from broker.errors import Conflict, Invalid, LockLost, TooLarge, Unavailable
from broker.store import queries
from broker.store.database import SHARD
from broker.store.lanes import LANES_MAX, PRIORITIES_MAX
from broker.store.long_work import LongWork
from broker.store.shapes import Batch, NewVariables, Results, Wake

_CANCELLED: Final = Batch([Results(b'{"state":"CANCELLED"}', 0)], [], None)


class Operating(LongWork):
    """A database whose tasks can be put right."""

    async def retries(
        self, task_ids: Sequence[str], retries: int, found: Sequence[str] = ()
    ) -> Batch:
        """Set the failures that tasks may still have, all or none; redrive the failed ones.

        Those found are beside those named: of them what was finished meanwhile is passed over.
        """
        rows = await self._fetch("retries", queries.RETRIES, SHARD, task_ids, retries, found)
        if not rows:
            await self._refuse_all([*task_ids, *found])
        return self._each(rows)

    async def retry_timeout(self, task_id: str, retry_timeout_ms: int) -> Batch:
        """Move the instant at which a waiting task becomes available."""
        rows = await self._fetch(
            "retry_timeout", queries.RETRY_TIMEOUT, SHARD, task_id, retry_timeout_ms
        )
        return await self._one(rows, task_id)

    async def priority(self, task_id: str, priority: int) -> Batch:
        """Move an unfinished task to another priority.

        Raises:
            Invalid: The topic has as many priorities, or lanes, as it may have.
        """
        rows = await self._fetch("priority", queries.PRIORITY, SHARD, task_id, priority)
        if rows and rows[0]["answer"] is None:
            await self._fetch(
                "lane_beside", queries.LANE_BESIDE, SHARD, task_id, priority,
                PRIORITIES_MAX, LANES_MAX,
            )  # fmt: skip
            await self.load_lanes()
            rows = await self._fetch("priority", queries.PRIORITY, SHARD, task_id, priority)
            if rows and rows[0]["answer"] is None:
                raise Invalid(
                    "the topic has too many priorities, or too many tenants, definitions and"
                    " version tags with a priority each",
                    [("/priority", "one too many")],
                )
        return await self._one(rows, task_id)

    async def lock(self, task_id: str, worker_id: str, lock_duration_ms: int) -> Batch:
        """Lock one task for a worker that knows it, or renew the lock it has.

        Raises:
            LockLost: Another worker holds it.
            Conflict: It waits, has failed, or is finished.
        """
        rows = await self._fetch(
            "lock", queries.LOCK, SHARD, task_id, worker_id, lock_duration_ms,
            self._settings.max_expiries,
        )  # fmt: skip
        if not rows:
            [reason] = await self._reasons([task_id])
            if "holder" in reason:
                detail = reason.pop("detail")
                facts = {name: reason[name] for name in ("state", "holder", "lockExpiresAt")}
                raise LockLost(detail, {"taskId": task_id, **facts})
        elif rows[0]["is_new"]:
            self._count_fetched([rows[0]["lane_id"]], [1])
        return await self._one(rows, task_id)

    async def variables(
        self, task_ids: Sequence[str], wish: NewVariables, found: Sequence[str] = ()
    ) -> Batch:
        """Set and remove variables of unfinished tasks, all or none.

        Those found are beside those named: of them what was finished meanwhile is passed over.

        Raises:
            TooLarge: They would have too many bytes then.
        """
        bytes_max = self._settings.variables_bytes_max
        rows = await self._fetch(
            "variables", queries.VARIABLES, SHARD, task_ids, *wish, bytes_max, found
        )
        if not rows:
            await self._refuse_all([*task_ids, *found])
        if rows[0]["is_too_large"]:
            raise TooLarge(
                f"The variables would have more than {bytes_max} bytes.", {"bytesMax": bytes_max}
            )
        wakes = [
            Wake(row["lane_id"], row["position"], row["returned"])
            for row in rows
            if row["position"] is not None
        ]
        return Batch([Results(b"{}", 0)], wakes, None)

    async def cancel(self, task_id: str, reason: str | None) -> Batch:
        """End a task for good, or ask its worker to. Said of a cancelled one it is no error."""
        rows = await self._fetch("cancel", queries.CANCEL, SHARD, task_id, reason)
        if rows and rows[0]["is_recorded"]:
            # Its callback came first, and only has to be applied.
            await self.settle_due(None, [task_id])
            rows = await self._fetch("cancel", queries.CANCEL, SHARD, task_id, reason)
        if rows:
            if rows[0]["is_recorded"]:
                raise Unavailable("the task's callback is just being applied")
            if rows[0]["is_cancelled"]:
                metrics.TASKS_FINISHED.labels(self._topic(rows[0]["lane_id"]), "cancelled").inc()
            return Batch([Results(rows[0]["answer"].encode(), 0)], [], None)
        try:
            await self._refuse(task_id)
        except Conflict as conflict:
            if conflict.facts.get("state") != "CANCELLED":
                raise
        return _CANCELLED

    async def late_work(self, topic: str, *, is_accepted: bool | None) -> None:
        """Say whether work on a topic is welcome after its lock ran out; None leaves it open."""
        await self._fetch("late_work", queries.LATE_WORK, SHARD, topic, is_accepted)

"""The verbs of long work: heartbeats, progress and logs, hand-overs and their callbacks.

What an outside party says is recorded first and applied then: `callback`
writes it down, which decides who was first, and `settle_due` ends the task or
sends it back. Where the broker dies in between, what was recorded is due at
once, so the next sweep of any broker applies it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
import structlog

from broker import metrics
from broker.errors import BrokerError, TaskNotFound, Unavailable
from broker.store import answers, queries
from broker.store.database import SHARD
from broker.store.pool import Retryable
from broker.store.refusing import Refusing
from broker.store.shapes import Batch, Results, Settled, Wake
from broker.task import API_STATES, FINISHED, State

_SETTLED_MAX: Final = 1_000
"""Tasks that one statement settles of a kind, so that a storm does not hold locks for long."""

_SETTLED_FEW: Final = 10
"""Where so many took too long: each may have two megabytes to merge."""

_LOG_PAGE_BYTES_MAX: Final = 1024 * 1024
"""Of the lines of one page: as much as a task's variables may have."""

_log = structlog.stdlib.get_logger(__name__)


class LongWork(Refusing):
    """What is said of tasks while they are worked on, by workers and by others."""

    async def heartbeat(self, requests: Sequence[str]) -> Batch:
        """Renew the locks of whole workers, and take the news of their tasks."""
        policy = self._settings
        rows = await self._fetch(
            "heartbeat", queries.HEARTBEAT, SHARD, requests, policy.checkpoint_bytes_max,
            policy.log_lines_max, policy.log_lines_per_minute_max,
        )  # fmt: skip
        results = [
            _lost(result)._replace(is_to_drain=row["is_to_drain"])
            for row, result in zip(rows, await self._explained(rows, requests, None), strict=True)
        ]
        return Batch(results, [], rows[0]["due_ms"])

    async def callback_url(self, requests: Sequence[str]) -> Batch:
        """Let outside parties call back while these tasks are still locked."""
        rows = await self._fetch(
            "callback_url", queries.CALLBACK_URL, SHARD, requests,
            self._settings.hand_over_timeout_ms,
        )  # fmt: skip
        return Batch(await self._explained(rows, requests, None), [], None)

    async def hand_over(self, requests: Sequence[str]) -> Batch:
        """Leave tasks to outside parties, who finish them by a callback."""
        rows = await self._fetch(
            "hand_over", queries.HAND_OVER, SHARD, requests,
            self._settings.hand_over_timeout_ms,
        )  # fmt: skip
        results = await self._explained(rows, requests, None)
        return await self._settled(rows, results, rows[0]["due_ms"])

    async def callback(self, requests: Sequence[str]) -> Batch:
        """Finish tasks that were handed over, or send them back; record it for those that will be."""
        rows = await self._fetch("callback", queries.CALLBACK, SHARD, requests)
        results = await self._with_reasons(
            rows,
            requests,
            lambda texts: self._fetch("callback_refusals", queries.CALLBACK_REFUSALS, SHARD, texts),
        )
        return await self._settled(rows, results, None)

    async def settle_due(
        self, look_back_ms: float | None, task_ids: Sequence[str] | None = None
    ) -> Settled:
        """End, or send back, what has run out otherwise than by an expired lock."""
        tasks_max = _SETTLED_MAX
        try:
            rows = await self._settle(task_ids, look_back_ms, tasks_max)
        except Unavailable as error:
            if task_ids is not None:
                raise
            _log.warning("settling failed, trying fewer at once", error=error.detail)
            tasks_max = _SETTLED_FEW
            rows = await self._settle(task_ids, look_back_ms, tasks_max)
        await self._know({row["lane_id"] for row in rows})
        wakes, due_ms = [], []
        for row in rows:
            if row["state"] in FINISHED or row["state"] == State.FAILED:
                topic = self._topic(row["lane_id"])
                metrics.TASKS_FINISHED.labels(topic, row["state"]).inc()
            if row["position"] is not None:
                wakes.append(Wake(row["lane_id"], row["position"], returned=True))
            if row["due_ms"] is not None:
                due_ms.append(row["due_ms"])
        return Settled(
            wakes,
            min(due_ms, default=None),
            len(rows) >= tasks_max,
            {
                str(row["id"]): {
                    "state": API_STATES[State(row["state"])],
                    "retries": row["retries"],
                    "availableAt": row["available_at"],
                }
                for row in rows
            },
        )

    async def _settle(
        self, task_ids: Sequence[str] | None, look_back_ms: float | None, tasks_max: int
    ) -> list[Any]:
        policy = self._settings
        return await self._fetch(
            "settle_due", queries.SETTLE_DUE, SHARD, task_ids, look_back_ms, tasks_max,
            policy.retry_base_ms, policy.retry_factor, policy.retry_cap_ms,
        )  # fmt: skip

    async def _settled(
        self, rows: Sequence[Any], results: list[Results], due_ms: float | None
    ) -> Batch:
        """The results of a batch, with what became of the tasks that could be settled at once."""
        task_ids = rows[0]["to_settle"]
        if not task_ids:
            return Batch(results, [], due_ms)
        try:
            settled = await self.settle_due(None, task_ids)
            # A sweep may have been faster with some.
            rest = [task_id for task_id in map(str, task_ids) if task_id not in settled.by_id]
            settled.by_id.update(await self._standings(rest))
        except Exception as error:
            # It is recorded, and due: the next sweep settles it.
            if not isinstance(error, BrokerError | Retryable):
                _log.exception("settling failed")
            return Batch(results, [], 0.0)
        for place, result in enumerate(results):
            told = msgspec.json.decode(result.body)
            for answer in told:
                if became := settled.by_id.get(answer["id"]):
                    answer.update({"state": became["state"]} if "code" in answer else became)
            results[place] = answers.merged(told)
        due = [each for each in (due_ms, settled.due_in_ms) if each is not None]
        return Batch(results, settled.wakes, min(due, default=None))

    async def _standings(self, task_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """What the API says of the state of these tasks."""
        if not task_ids:
            return {}
        rows = await self._fetch("get_tasks", queries.GET_TASKS, SHARD, task_ids)
        tasks = [msgspec.json.decode(row["task"]) for row in rows]
        members = ("state", "retries", "availableAt")
        return {task["id"]: {name: task[name] for name in members} for task in tasks}

    # One task, by its id ----------------------------------------------------

    async def subtext(self, task_id: str, subtext: str) -> None:
        """Say in one line how an unfinished task is getting on.

        Raises:
            TaskNotFound: There is none.
            Conflict: It is finished.
        """
        if not await self._fetch("subtext", queries.SUBTEXT, SHARD, task_id, subtext):
            await self._refuse(task_id)

    async def log_lines(self, task_id: str, after: int, limit: int) -> bytes:
        """The log after a line: `{"lines", "next"}`. Raises TaskNotFound."""
        uuid = answers.uuid(task_id)
        [row] = await self._fetch(
            "log_lines", queries.LOG_LINES, SHARD, uuid, after, limit, _LOG_PAGE_BYTES_MAX
        )
        if row["lines"] is None:
            raise TaskNotFound("no task has this id", {"taskId": task_id})
        return b'{"lines":%b,"next":%d}' % (row["lines"].encode(), row["next"])

    # Workers, and what they are told ----------------------------------------

    async def drain(self, worker_id: str, *, is_wished: bool) -> None:
        """Wish that a worker finishes what it has and stops, or take the wish back."""
        await self._fetch("drain", queries.DRAIN, SHARD, worker_id, is_wished)

    async def signing_keys(self) -> list[bytes]:
        """What callback URLs are signed with; the first signs, all are accepted."""
        return [row["key"] for row in await self._fetch("signing_keys", queries.SIGNING_KEYS)]


def _lost(result: Results) -> Results:
    """A heartbeat says of each task whether its lock is lost, whatever the reason."""
    if not result.refused:
        return result
    told = msgspec.json.decode(result.body)
    for answer in told:
        if "code" in answer:
            answer["lockLost"] = True
    return answers.merged(told)

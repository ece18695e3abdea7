"""Why a verb did not do what it was asked: the second statement, after the one that refused.

It cannot be the same one: a statement that waited for another's row lock does
not see what the other inserted.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NoReturn

import msgspec
import orjson

from broker import metrics
from broker.errors import Conflict, LockLost, TaskNotFound
from broker.store import answers, queries
from broker.store.database import SHARD, Database
from broker.store.shapes import Batch, Results, Wake
from broker.task import API_FINISHED


class Refusing(Database):
    """A database whose refusals have reasons."""

    async def _explained(
        self, rows: Sequence[Any], requests: Sequence[str], finished_state: str | None
    ) -> list[Results]:
        """The results of a worker's batch, each refusal with its reason."""
        return await self._with_reasons(
            rows,
            requests,
            lambda texts: self._fetch("refusals", queries.REFUSALS, SHARD, texts, finished_state),
        )

    async def _with_reasons(
        self,
        rows: Sequence[Any],
        requests: Sequence[str],
        reasons_for: Callable[[Sequence[str]], Awaitable[list[Any]]],
    ) -> list[Results]:
        results = [answers.results(row) for row in rows]
        unclear = [place for place, result in enumerate(results) if result.refused]
        if not unclear:
            return results
        reasons = await reasons_for([requests[place] for place in unclear])
        by_place: dict[tuple[int, int], str] = {
            (unclear[row["request"] - 1], row["item"] - 1): row["result"] for row in reasons
        }
        for place in unclear:
            told = msgspec.json.decode(results[place].body)
            for item, answer in enumerate(told):
                if answer.get("code") == "refused":
                    told[item] = msgspec.json.decode(by_place[place, item])
            results[place] = answers.merged(told)
        return results

    async def _one(self, rows: Sequence[Any], task_id: str) -> Batch:
        """The batch of a verb about one task."""
        if not rows:
            await self._refuse(task_id)
        return self._each(rows)

    def _each(self, rows: Sequence[Any]) -> Batch:
        """The batch of a verb about these tasks."""
        wakes = [
            Wake(row["lane_id"], row["position"], returned=True)
            for row in rows
            if row["position"] is not None
        ]
        return Batch(
            [Results(row["answer"].encode(), 0) for row in rows],
            wakes,
            min((row["due_ms"] for row in rows if row["due_ms"] is not None), default=None),
        )

    async def _refuse(self, task_id: str) -> NoReturn:
        """Raise why a verb found no task to work on.

        Raises:
            TaskNotFound: There is none.
            Conflict: It is in a state the verb does not start from.
        """
        [reason] = await self._reasons([task_id])
        facts = {"taskId": task_id, "state": reason.get("state")}
        if reason["code"] == TaskNotFound.code:
            raise TaskNotFound(reason["detail"], {"taskId": task_id})
        assert reason["code"] == LockLost.code
        raise Conflict("the task's state does not allow this", facts)

    async def _refuse_all(self, task_ids: Sequence[str]) -> NoReturn:
        """Raise why a verb about these tasks did nothing: the first that stands in its way.

        As `_refuse`.
        """
        for task_id, reason in zip(task_ids, await self._reasons(task_ids), strict=True):
            if reason["code"] == TaskNotFound.code or reason.get("state") in API_FINISHED:
                await self._refuse(task_id)
        # Whatever was finished or unknown is so for good, so one of them was passed over.
        raise AssertionError("no task stands in the way")

    async def _reasons(self, task_ids: Sequence[str]) -> list[dict[str, Any]]:
        request = orjson.dumps({"tasks": [{"id": task_id} for task_id in task_ids]}).decode()
        rows = await self._fetch("refusals", queries.REFUSALS, SHARD, [request], None)
        return [msgspec.json.decode(row["result"]) for row in rows]

    # Figures ----------------------------------------------------------------

    def _count_finished(self, row: Any, outcome: str, counts: str = "counts") -> None:
        """Count what a batch has finished: its lanes, and the column of how many each."""
        for lane_id, count in zip(row["lanes"] or (), row[counts] or (), strict=True):
            if count:
                metrics.TASKS_FINISHED.labels(self._topic(lane_id), outcome).inc(count)

    def _count_fetched(self, lane_ids: Sequence[int] | None, counts: Sequence[int] | None) -> int:
        for lane_id, count in zip(lane_ids or (), counts or (), strict=True):
            metrics.TASKS_FETCHED.labels(self._topic(lane_id)).inc(count)
        return sum(counts or ())

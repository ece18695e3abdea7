"""Why a verb did not do what it was asked: the second statement, after the one that refused.

It cannot be the same one: a statement that waited for another's row lock does
not see what the other inserted.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
import orjson

from broker import metrics
from broker.errors import Conflict, LockLost, TaskNotFound
from broker.store import answers, queries
from broker.store.database import SHARD, Database
from broker.store.shapes import Batch, Results, Wake


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
        row = rows[0]
        position = row["position"]
        wakes = [] if position is None else [Wake(row["lane_id"], position, returned=True)]
        return Batch([Results(row["answer"].encode(), 0)], wakes, row["due_ms"])

    async def _refuse(self, task_id: str) -> None:
        """Raise why a verb found no task to work on.

        Raises:
            TaskNotFound: There is none.
            Conflict: It is in a state the verb does not start from.
        """
        request = orjson.dumps({"tasks": [{"id": task_id}]}).decode()
        [row] = await self._fetch("refusals", queries.REFUSALS, SHARD, [request], None)
        reason = msgspec.json.decode(row["result"])
        facts = {"taskId": task_id, "state": reason.get("state")}
        if reason["code"] == TaskNotFound.code:
            raise TaskNotFound(reason["detail"], {"taskId": task_id})
        assert reason["code"] == LockLost.code
        raise Conflict("the task's state does not allow this", facts)

    # Figures ----------------------------------------------------------------

    def _count_finished(self, row: Any, outcome: str, counts: str = "counts") -> None:
        """Count what a batch has finished: its lanes, and the column of how many each."""
        for lane_id, count in zip(row["lanes"] or (), row[counts] or (), strict=True):
            if count:
                metrics.TASKS_FINISHED.labels(self._topic(lane_id), outcome).inc(count)

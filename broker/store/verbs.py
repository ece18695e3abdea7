"""The only room that knows PostgreSQL: one method a verb, one statement a method.

Every verb takes a batch of requests, each a JSON text, and gives a batch of
results, each a JSON text again: PostgreSQL takes them apart and puts them
together, so that a batch of five hundred tasks costs this process what one
costs. The rare ends (a lane that is not there yet, a key seen before, a lock
that was lost, a callback that is to be applied) take a second statement and a
little Python.

There is no transaction of several statements: a method that raises did nothing,
or was cut off in a rare end, after its first statement had done it all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
import orjson

from broker import metrics
from broker.errors import Invalid, TaskNotFound
from broker.store import answers, queries
from broker.store.cursor import Cursor
from broker.store.database import SHARD
from broker.store.lanes import LANES_MAX, PRIORITIES_MAX
from broker.store.operating import Operating
from broker.store.searching import Searching
from broker.store.shapes import (
    Batch,
    Claim,
    Granted,
    ListFilters,
    Results,
    Swept,
    Wake,
)

_LISTED_MAX: Final = 10_000
"""Tasks that one page of a search looks at: some 50 ms, so that no filter can hurt the database."""

_REPLY_BYTES_MAX: Final = 16 * 1024 * 1024
"""A claim stops here (but gives one task at least): what is locked must also fit into memory."""

_SWEPT_MAX: Final = 1_000
"""Deadlines dealt with by one statement, so that a storm of them does not hold locks for long."""


_STATES: Final = {
    "CREATED": ["delayed", "ready"],
    "LOCKED": ["locked"],
    "AWAITING": ["awaiting"],
    "FAILED": ["failed"],
    "COMPLETED": ["completed"],
    "BPMN_ERROR": ["bpmn_error"],
    "CANCELLED": ["cancelled"],
}


class Store(Operating, Searching):
    """The tasks of one database."""

    # Creating ---------------------------------------------------------------

    async def create(self, requests: Sequence[str], offer: Claim | None = None) -> Batch:
        """Create tasks. A request is `{"tasks": […]}`.

        To the waiters of an offer go those of the new tasks that are next in turn: born locked.
        """
        rows = await self._create(requests, offer, lanes_are_final=False)
        if rows[0]["missing_lanes"]:
            await self._make_lanes(requests)
            # The offer was made before these lanes were known, one of which may come first.
            rows = await self._create(requests, None, lanes_are_final=True)
            offer = None
        first = rows[0]
        await self._know(first["lanes"] or ())
        for lane_id, count in zip(first["lanes"] or (), first["counts"] or (), strict=True):
            metrics.TASKS_CREATED.labels(self._topic(lane_id)).inc(count)
        results = [answers.results(row) for row in rows]
        if any(result.refused for result in results):
            results = await self._with_first_tasks(results)
        wakes = answers.wakes(first, returned=False)
        granted = None
        if offer:
            locked = self._count_fetched(first["lanes"], first["locked"])
            bodies = answers.bodies(first["waiters"], first["bodies"], first["delivered"])
            granted = Granted(bodies, locked + first["has_older"], locked, [])
        return Batch(results, wakes, first["due_ms"], granted)

    async def _create(
        self, requests: Sequence[str], offer: Claim | None, *, lanes_are_final: bool
    ) -> list[Any]:
        args = SHARD, requests, self._settings.retry_attempts, lanes_are_final
        if offer is None:
            return await self._fetch("create", queries.CREATE_UNLOCKED, *args)
        return await self._fetch("create", queries.CREATE, *args, *offer.columns())

    async def _make_lanes(self, requests: Sequence[str]) -> None:
        limit = self._settings.topic_length_max
        await self._fetch(
            "make_lanes", queries.MAKE_LANES, SHARD, requests, limit, PRIORITIES_MAX, LANES_MAX
        )
        await self.load_lanes()

    async def _with_first_tasks(self, results: list[Results]) -> list[Results]:
        """Answer keys that were seen before with the tasks they stand for."""
        told = {
            place: msgspec.json.decode(result.body)
            for place, result in enumerate(results)
            if result.refused
        }
        duplicates = [
            answer
            for of_request in told.values()
            for answer in of_request
            if answer.get("code") == "duplicate"
        ]
        if not duplicates:
            return results
        keys = list({duplicate["uniqueKey"] for duplicate in duplicates})
        rows = await self._fetch("first_tasks", queries.FIRST_TASKS, SHARD, keys)
        first = {row["key"]: row for row in rows}
        for duplicate in duplicates:
            answers.answer_duplicate(duplicate, first.get(duplicate.pop("uniqueKey")))
        return [
            answers.merged(told[place]) if place in told else result
            for place, result in enumerate(results)
        ]

    # Working ----------------------------------------------------------------

    async def fetch_and_lock(self, claim: Claim) -> Granted:
        """Lock tasks of these lanes for these waiters, in turn."""
        args = SHARD, *claim.columns(), _REPLY_BYTES_MAX
        held: Sequence[tuple[int, bool, int]] = ()
        if claim.filtered is None:
            [row] = await self._fetch("fetch_and_lock", queries.FETCH_AND_LOCK, *args)
            tips, has_more = answers.tips(row), False
        else:
            [row] = await self._fetch(
                "fetch_and_lock", queries.FETCH_AND_LOCK_FILTERED, *args, *claim.filtered
            )
            tips, has_more = answers.tips(row, "stopped_"), row["has_more"]
            held = answers.tips(row, "held_")
        locked = self._count_fetched(row["lane_ids"], row["tasks"])
        bodies = answers.bodies(row["waiters"], row["bodies"], row["counts"])
        return Granted(bodies, row["seen"], locked, tips, has_more, held)

    async def complete(self, requests: Sequence[str]) -> Batch:
        """Finish tasks with a result."""
        rows = await self._fetch("complete", queries.COMPLETE, SHARD, requests)
        self._count_finished(rows[0], "completed")
        return Batch(await self._explained(rows, requests, "completed"), [], None)

    async def bpmn_error(self, requests: Sequence[str]) -> Batch:
        """Finish tasks with a business outcome."""
        rows = await self._fetch("bpmn_error", queries.BPMN_ERROR, SHARD, requests)
        self._count_finished(rows[0], "bpmn_error")
        return Batch(await self._explained(rows, requests, "bpmn_error"), [], None)

    async def fail(self, requests: Sequence[str]) -> Batch:
        """Record failures."""
        policy = self._settings
        rows = await self._fetch(
            "fail", queries.FAIL, SHARD, requests,
            policy.retry_base_ms, policy.retry_factor, policy.retry_cap_ms,
            policy.variables_bytes_max,
        )  # fmt: skip
        first = rows[0]
        self._count_finished(first, "failed", "incidents")
        self._count_finished(first, "cancelled", "cancelled")
        results = await self._explained(rows, requests, None)
        return Batch(results, answers.wakes(first, returned=True), first["due_ms"])

    async def extend_lock(self, requests: Sequence[str]) -> Batch:
        """Let locks end later, or sooner."""
        rows = await self._fetch("extend_lock", queries.EXTEND_LOCK, SHARD, requests)
        results = await self._explained(rows, requests, None)
        return Batch(results, [], rows[0]["due_ms"])

    async def unlock(self, requests: Sequence[str]) -> Batch:
        """Put tasks back at once, or, where that was requested, cancel them."""
        rows = await self._fetch("unlock", queries.UNLOCK, SHARD, requests)
        self._count_finished(rows[0], "cancelled", "cancelled")
        results = await self._explained(rows, requests, None)
        return Batch(results, answers.wakes(rows[0], returned=True), None)

    # Reading ----------------------------------------------------------------

    async def get_tasks(self, task_ids: Iterable[str]) -> dict[str, tuple[bytes, bool]]:
        """By id: a task as the API shows it, and whether it is finished. Unknown ids are left out.

        An id is any text; what is no UUID is unknown.
        """
        ids = [uuid for task_id in task_ids if (uuid := answers.uuid(task_id))]
        rows = await self._fetch("get_tasks", queries.GET_TASKS, SHARD, ids) if ids else []
        return {str(row["id"]): (row["task"].encode(), row["is_finished"]) for row in rows}

    async def instance_tasks(
        self, process_instance_id: str, tasks_max: int
    ) -> list[tuple[bytes, bool]]:
        """The tasks of a process instance, the oldest first, without what may be large of them.

        Each as JSON, and whether it is finished.
        """
        rows = await self._fetch(
            "instance_tasks", queries.INSTANCE_TASKS, SHARD, process_instance_id, tasks_max
        )
        return [(row["task"].encode(), row["is_finished"]) for row in rows]

    async def variable(
        self, task_ids: Sequence[str], name: str
    ) -> tuple[bytes | None, bytes | None]:
        """A variable of the youngest of these tasks that has it: its value and note, as JSON.

        No value where none has it.

        Raises:
            TaskNotFound: There is none of the tasks.
        """
        rows = await self._fetch("variable", queries.VARIABLE, SHARD, task_ids, name)
        if not rows:
            raise TaskNotFound("no task has this id", {"taskId": task_ids[0]})
        value, note = (None if text is None else text.encode() for text in rows[0].values())
        return value, note

    async def finished_tasks(self, task_ids: Iterable[str]) -> list[str]:
        """Those of these tasks that are finished."""
        ids = [uuid for task_id in task_ids if (uuid := answers.uuid(task_id))]
        rows = await self._fetch("finished_tasks", queries.FINISHED_TASKS, SHARD, ids)
        return [str(row["id"]) for row in rows]

    async def list_tasks(self, filters: ListFilters) -> bytes:
        """One page of a search, newest first: `{"tasks", "next"}`."""
        if filters.state is not None and filters.state not in _STATES:
            raise Invalid("no such state", [("/state", f"one of {', '.join(_STATES)}")])
        [row] = await self._fetch(
            "list_tasks", queries.LIST_TASKS, SHARD, filters.topic,
            None if filters.state is None else _STATES[filters.state],
            filters.worker_id, filters.business_key, filters.process_instance_id,
            filters.from_id(), filters.below_id(),
            filters.limit, _LISTED_MAX,
        )  # fmt: skip
        ids = [str(task_id) for task_id in row["ids"]]
        tasks = await self.get_tasks(ids)
        next_below = row["next_below_id"]
        return b'{"tasks":[%b],"next":%b}' % (
            b",".join(tasks[task_id][0] for task_id in ids if task_id in tasks),
            orjson.dumps(None if next_below is None else Cursor(next_below).text()),
        )

    # What the dispatcher asks -----------------------------------------------

    async def release_due(self, look_back_ms: float | None, ahead_ms: float) -> Swept:
        """Take expired locks back and make delayed tasks ready whose time has come."""
        rows = await self._fetch(
            "release_due", queries.RELEASE_DUE, SHARD, look_back_ms, _SWEPT_MAX,
            self._settings.max_expiries, ahead_ms,
        )  # fmt: skip
        wakes = []
        for row in rows:
            if row["lane_id"] is None:
                continue
            await self._know([row["lane_id"]])
            topic = self._topic(row["lane_id"])
            metrics.LOCK_EXPIRATIONS.labels(topic).inc(row["expiries"])
            if row["incidents"]:
                metrics.TASKS_FINISHED.labels(topic, "failed").inc(row["incidents"])
            if row["position"] is not None:
                wakes.append(Wake(row["lane_id"], row["position"], returned=True))
        first = rows[0]
        return Swept(wakes, first["more"], first["to_settle"], first["next_due_ms"])

    async def ready_lanes(self, floors: dict[int, int]) -> tuple[list[int], bool]:
        """Which of these lanes have work beyond their floors, and whether there are new lanes."""
        after = self._known_for_sure
        [row] = await self._fetch(
            "ready_lanes", queries.READY_LANES, SHARD,
            list(floors), list(floors.values()), after,
        )  # fmt: skip
        has_new_lanes = row["lanes_after"] != self.lanes.count_after(after)
        if not has_new_lanes:
            self._trust_lanes(after)
        return row["lane_ids"] or [], has_new_lanes

    async def make_partitions(self) -> int:
        """Have room for the coming weeks; answer how many partitions were made."""
        [row] = await self._fetch("make_partitions", queries.MAKE_PARTITIONS)
        made: int = row["made"]
        return made

    async def ping(self) -> None:
        """Raise `Unavailable` where the database does not answer."""
        await self._fetch("ping", "SELECT 1")

"""Whether every file was done exactly once and right, by the API and by the table of outcomes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import asyncpg

from examples.demo.worker import FINGERPRINT
from worker_sdk import Client, Task

_PAGE: Final = 200

# Throughput leaves out the tasks of the killed worker: for them, everyone waited on purpose.
_FIGURES: Final = """
SELECT count(*) AS outcomes,
       count(DISTINCT o.id) AS tasks,
       count(*) FILTER (WHERE o.state = 'completed') AS completed,
       coalesce(sum(o.expiries), 0) AS expiries,
       count(*) FILTER (WHERE o.state = 'completed' AND o.expiries > 0) AS recovered,
       count(*) FILTER (WHERE o.expiries = 0)
           / extract(epoch FROM max(o.finished_at) FILTER (WHERE o.expiries = 0)
                                - min(t.created_at))::float AS per_s,
       extract(epoch FROM max(o.finished_at) - min(t.created_at))::float AS duration_s,
       (SELECT count(*) FROM fetchlock.open_task) AS still_open
FROM fetchlock.outcome o JOIN fetchlock.task t USING (id)
"""


class Verdict(NamedTuple):
    """What was found. With no `problems`, all is well."""

    problems: list[str]
    completed: int
    right: int
    expiries: int
    recovered: int
    per_s: float
    duration_s: float


async def judge(
    client: Client,
    connection: asyncpg.Connection,
    path_of: Mapping[str, str],
    expected: Mapping[str, dict[str, Any]],
) -> Verdict:
    """Hold what was read back against what should be there."""
    problems: list[str] = []
    figures = await connection.fetchrow(_FIGURES)
    assert figures is not None
    if figures["outcomes"] != figures["tasks"]:
        problems.append(f"{figures['outcomes']} outcomes for {figures['tasks']} tasks")
    if figures["completed"] != len(expected):
        problems.append(f"{figures['completed']} outcomes say completed, not {len(expected)}")
    if figures["still_open"]:
        problems.append(f"not finished: {figures['still_open']}")
    told, right = Counter[str](), 0
    for task in await _all_tasks(client):
        path = path_of.get(task.id, f"an unknown task {task.id}")
        told[path] += 1
        if problem := _problem(task, expected.get(path)):
            problems.append(f"{path}: {problem}")
        else:
            right += 1
    problems += [
        f"{path}: the API tells of {told[path]} tasks" for path in expected if told[path] != 1
    ]
    return Verdict(
        problems,
        figures["completed"],
        right,
        figures["expiries"],
        figures["recovered"],
        figures["per_s"] or 0.0,
        figures["duration_s"] or 0.0,
    )


def _problem(task: Task, expected: dict[str, Any] | None) -> str | None:
    if task.state != "COMPLETED":
        return f"{task.state} {task.error_message or ''}".strip()
    if task.result != expected:
        return f"the worker says {task.result}, it should be {expected}"
    return None


async def _all_tasks(client: Client) -> list[Task]:
    tasks: list[Task] = []
    after: str | None = None
    while True:
        page = await client.list_tasks(topic=FINGERPRINT, limit=_PAGE, after=after)
        tasks += page.tasks
        after = page.next
        if after is None:
            return tasks

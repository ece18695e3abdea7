"""What a Camunda 7 worker gets, beside a native one that does the same.

Camunda's protocol completes one task a request. So both fetch by 100 and
complete one by one, as clients of Camunda's do; then all are locked and all
completed, to see either half by itself. What a native worker gains that
completes by 100, too, is beside them.
"""

from __future__ import annotations

from typing import Final

from benchmarks.cell import Cell

NATIVE: Final = "fetchlock http"
CAMUNDA7: Final = "fetchlock camunda7"

BOTH: Final = "{}, fetch 100, complete 1"
FETCHING: Final = "{}, fetch 100"
COMPLETING: Final = "{}, complete 1"
BY_100: Final = f"{NATIVE}, fetch 100, complete 100"


async def one_by_one(cell: Cell) -> None:
    """A drain, then its two halves."""
    count = cell.scale.singles[64]
    who = cell.label
    await cell.warm_up(**cell.options)
    await cell.order("create_bulk", count=count)
    async with cell.watched():
        done = await cell.order("drain", count, count=count, **cell.options)
    _note(cell, BOTH.format(who), count, done["seconds"])
    await cell.order("create_bulk", count=count)
    await cell.checkpoint()
    async with cell.watched():
        done = await cell.order("lock", count, count=count, **cell.options)
    _note(cell, FETCHING.format(who), count, done["seconds"])
    async with cell.watched():
        done = await cell.order("complete", count)
    _note(cell, COMPLETING.format(who), count, done["seconds"])


async def by_100(cell: Cell) -> None:
    """The drain of a native worker that completes as many a request as it fetches."""
    count = cell.scale.drains[100]
    await cell.warm_up()
    await cell.order("create_bulk", count, count=count)
    async with cell.watched():
        done = await cell.order("drain", count, count=count, per_request=100)
    _note(cell, cell.label, count, done["seconds"])


def _note(cell: Cell, label: str, count: int, seconds: float) -> None:
    cell.note("rate", count / seconds, "tasks/s", "higher", label=label)
    cell.note_cpu(count, label=label)

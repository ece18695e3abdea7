"""What PostgreSQL itself can do here: nothing above it can be faster."""

from __future__ import annotations

from typing import Final

from benchmarks.cell import Cell

BARE: Final = "bare SQL"
SAME_PROMISE: Final = "same promise SQL"


async def limits(cell: Cell) -> None:
    """Both limits, each in all its phases, beside the contenders that do the same and more."""
    clients = cell.scale.limit_clients
    await cell.checkpoint()
    async with cell.watched():
        done = await cell.order(
            "limits", len(clients), count=cell.scale.limit, clients=list(clients)
        )
    for label in (BARE, SAME_PROMISE):
        name = label.removesuffix(" SQL")
        for workload, measure, phase in (
            ("create-bulk", "rate", "create"),
            ("drain", "rate", "drain"),
            ("drain", "lifecycle", "lifecycle"),
        ):
            rate = done[f"{name} {phase}"]
            cell.note(measure, rate, "tasks/s", "higher", label=label, workload=workload)

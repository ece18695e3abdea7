"""Putting answers together where a statement could not do it alone: the rare ends."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec

from broker.errors import Conflict
from broker.store.shapes import Results, Wake


def results(row: Any) -> Results:
    return Results(row["results"].encode(), row["refused"])


def merged(answers: list[dict[str, Any]]) -> Results:
    refused = sum("code" in answer for answer in answers)
    return Results(msgspec.json.encode(answers), refused)


def wakes(row: Any, *, returned: bool) -> list[Wake]:
    return [
        Wake(lane_id, position, returned)
        for lane_id, position in zip(row["lanes"] or (), row["positions"] or (), strict=True)
        if position is not None
    ]


def bodies(waiters: Any, texts: Any, counts: Any) -> dict[int, tuple[bytes, int]]:
    """What each waiter got, by its place: a JSON array of tasks, and how many they are."""
    return {
        waiter - 1: (text.encode(), count)
        for waiter, text, count in zip(waiters or (), texts or (), counts or (), strict=True)
    }


def tips(row: Any, prefix: str = "") -> list[tuple[int, bool, int]]:
    """How far each scan of a claim came: lane, returned, position."""
    names = (f"{prefix}{name}" for name in ("lane_ids", "returned", "positions"))
    return list(zip(*(row[name] or () for name in names), strict=True))


def answer_duplicate(answer: dict[str, Any], first: Any) -> None:
    fingerprint = answer.pop("fingerprint")
    if first is not None and first["fingerprint"] == fingerprint:
        answer.clear()
        answer.update(id=first["task_id"], replayed=True)
    else:
        answer["code"] = Conflict.code
        answer["detail"] = "the key stands for another request"


def uuid(task_id: str) -> UUID | None:
    try:
        return UUID(task_id) if len(task_id) == 36 else None
    except ValueError:
        return None

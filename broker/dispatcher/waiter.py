"""A parked poll: what it wishes for, who sent it, and what it got."""

from __future__ import annotations

import math
import re
from typing import NamedTuple, Protocol

import anyio

from broker.errors import BrokerError
from broker.store import Lane


class RowFilter(NamedTuple):
    """What only a look at a task's row can tell."""

    business_key: str | None
    any_variables: str | None


class Subscription(NamedTuple):
    """One wish of a fetch. `None` does not filter; filters that are there must all let a task pass.

    Of several subscriptions that take the same lane, the first has it.
    """

    topic: str
    lock_duration_ms: int
    variables: tuple[str, ...] | None = None
    """The names of those that are delivered."""
    process_definition_ids: tuple[str, ...] | None = None
    process_definition_keys: tuple[str, ...] | None = None
    version_tag_like: str | None = None
    """A pattern of SQL's LIKE. What has no version tag is like none."""
    tenant_ids: tuple[str, ...] | None = None
    """The empty one stands for tasks without a tenant."""
    business_key: str | None = None
    any_variables: str | None = None
    """A JSON array of `[name, value]`: one of them is among the task's variables as they are now.
    Values are equal as `jsonb`: 1.0 is 1, and "1" is another."""

    @property
    def row_filter(self) -> RowFilter | None:
        """The part that no lane answers."""
        if self.business_key is None and self.any_variables is None:
            return None
        return RowFilter(self.business_key, self.any_variables)

    def takes(self, lane: Lane) -> bool:
        """Whether tasks of this lane are wished for, as far as their lane tells."""
        return (
            lane.topic == self.topic
            and _is_among(lane.process_definition_id, self.process_definition_ids)
            and _is_among(lane.process_definition_key, self.process_definition_keys)
            and _is_among(lane.tenant_id, self.tenant_ids)
            and _is_like(lane.process_definition_version_tag, self.version_tag_like)
        )


def _is_among(name: str, names: tuple[str, ...] | None) -> bool:
    return names is None or name in names


def _is_like(tag: str, pattern: str | None) -> bool:
    if pattern is None:
        return True
    return bool(tag) and re.fullmatch(_like(pattern), tag, re.DOTALL) is not None


def _like(pattern: str) -> str:
    """A regular expression for a pattern of SQL's LIKE.

    What stands between two `%` is looked for once, from the left: patterns are the callers', and
    with going back a few dozen `%` would take for ever.
    """
    parts = [""]
    for sign in re.findall(r"\\.|.", pattern, re.DOTALL):
        if sign == "%":
            parts.append("")
        else:
            parts[-1] += "." if sign == "_" else re.escape(sign[-1])
    first, *between = parts
    if not between:
        return first
    *between, last = between
    return first + "".join(f"(?>.*?{part})" for part in between) + ".*" + last


class Order(NamedTuple):
    """In which order a fetch takes what it finds."""

    by_priority: bool = True
    """The highest first. Without it, all priorities are one."""
    newest_first: bool = False
    """Among those of one priority, instead of the oldest."""


FIRST_IN_FIRST_OUT = Order()


class Caller(Protocol):
    """The HTTP edge's view of the client's socket."""

    @property
    def is_gone(self) -> bool:
        """Whether the client has disconnected."""
        ...

    async def wait_gone(self) -> None:
        """Return once the client has disconnected."""
        ...


class Waiter:
    """A parked fetch-and-lock request.

    `settled` is set, and what runs in `parked` cancelled, once it is in no group any more.
    """

    __slots__ = (
        "arrival", "body", "caller", "error", "in_claim", "is_impatient", "is_leaving",
        "looks_until_s", "parked", "settled", "tasks", "tasks_max", "worker_id",
    )  # fmt: skip

    def __init__(
        self, worker_id: str, tasks_max: int, caller: Caller, *, is_impatient: bool
    ) -> None:
        self.worker_id = worker_id
        self.tasks_max = tasks_max
        self.caller = caller
        self.is_impatient = is_impatient
        """It wants to know what there is now, and does not park."""
        self.looks_until_s = math.inf
        """When it is told that there is nothing, though not all was looked at."""
        self.arrival = 0
        self.in_claim = False
        self.is_leaving = False
        self.parked = anyio.CancelScope()
        self.settled = anyio.Event()
        self.body = b"[]"
        self.tasks = 0
        self.error: BrokerError | None = None

    def settle(self) -> None:
        """Whoever waits here may go."""
        self.settled.set()
        self.parked.cancel()

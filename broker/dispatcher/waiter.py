"""A parked poll: what it wishes for, who sent it, and what it got."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import anyio

from broker.errors import BrokerError


class Subscription(NamedTuple):
    """One wish of a fetch. `None` does not filter."""

    topic: str
    process_definition_ids: tuple[str, ...] | None
    lock_duration_ms: int
    variables: tuple[str, ...] | None


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
        "parked", "settled", "tasks", "tasks_max", "worker_id",
    )  # fmt: skip

    def __init__(
        self, worker_id: str, tasks_max: int, caller: Caller, *, is_impatient: bool
    ) -> None:
        self.worker_id = worker_id
        self.tasks_max = tasks_max
        self.caller = caller
        self.is_impatient = is_impatient
        """It wants to know what there is now, and does not park."""
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

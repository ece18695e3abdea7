"""What goes into the statements and comes out of them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from itertools import accumulate
from typing import Any, NamedTuple
from uuid import UUID

from broker.store.cursor import HIGHEST_ID, LOWEST_ID, Cursor, first_id


class Results(NamedTuple):
    """What one request of a batch came to."""

    body: bytes
    """A JSON array with an object a task, in order: `{"id", "outcome": "done"}` with the verb's
    extras, or `{"code", "detail"}` with the refusal's facts."""
    refused: int
    """How many of the objects are refusals."""
    is_to_drain: bool = False
    """Of a heartbeat: whether the worker is to finish what it has and stop."""


class Wake(NamedTuple):
    """The news that a lane got work, at this position or after it."""

    lane_id: int
    position: int
    returned: bool


class Scan(NamedTuple):
    """One stretch of one lane: its tasks beyond `floor`, fresh or returned."""

    lane_id: int
    rank: int
    returned: bool
    floor: int
    lock_duration_ms: int
    wanted_variables: str | None
    lane_json: str


class Filtered(NamedTuple):
    """Of a claim that wishes for more than lanes tell, or for the newest first.

    The first two are a scan each, None where it is not filtered by that.
    """

    business_keys: Sequence[str | None]
    variable_filters: Sequence[int | None]
    """Which of `any_variables`, from one: many scans have the same."""
    newest_first: bool
    looked_at_max: int
    """Tasks whose rows are looked at, all scans together."""
    any_variables: Sequence[str]
    """A JSON array of `[name, value]` each."""


class Claim(NamedTuple):
    """What to look through, and for whom: worker ids and their shares of the tasks."""

    scans: Sequence[Scan]
    worker_ids: Sequence[str]
    tasks_max: Sequence[int]
    filtered: Filtered | None = None

    def columns(self) -> tuple[Sequence[Any], ...]:
        """The scans member by member, the worker ids, and the shares: after how many tasks the
        turn of each waiter is over."""
        return *zip(*self.scans, strict=True), self.worker_ids, list(accumulate(self.tasks_max))


class Granted(NamedTuple):
    """What a claim came to."""

    bodies: dict[int, tuple[bytes, int]]
    """By place of the waiter: a JSON array of tasks, and how many they are."""
    seen: int
    locked: int
    tips: list[tuple[int, bool, int]]
    """Lane, returned, last position that was locked, or, of a filtered claim, looked at."""
    has_more: bool = False
    """A filtered claim has not looked at all there is: the next one goes on."""
    held: Sequence[tuple[int, bool, int]] = ()
    """Lane, returned, first position that a filtered claim wanted but somebody held."""


class Batch(NamedTuple):
    """The results of a batch in the order of its requests, and whom they concern."""

    results: list[Results]
    wakes: list[Wake]
    due_in_ms: float | None
    """When the first deadline that the batch set comes up."""
    granted: Granted | None = None
    """Of a create with an offer: what its waiters got."""


class Swept(NamedTuple):
    """What a sweep of the deadlines found."""

    wakes: list[Wake]
    has_more: bool
    has_to_settle: bool
    """Whether something is due that `settle_due` is for."""
    next_in_ms: float | None


class Settled(NamedTuple):
    """What became of tasks that ran out: whom it concerns, and each by its id."""

    wakes: list[Wake]
    due_in_ms: float | None
    has_more: bool
    by_id: dict[str, dict[str, Any]]


class NewVariables(NamedTuple):
    """Variables to set, as JSON texts, and names of others to remove."""

    variables: str
    variable_types: str | None = None
    deletions: Sequence[str] = ()


class ListFilters(NamedTuple):
    """A search. Absent ones do not filter; `after` is the `next` of the page before."""

    topic: str | None = None
    state: str | None = None
    worker_id: str | None = None
    business_key: str | None = None
    process_instance_id: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    limit: int = 50
    after: str | None = None

    def from_id(self) -> UUID:
        """The lowest id that matches."""
        return LOWEST_ID if self.created_after is None else first_id(self.created_after)

    def below_id(self) -> UUID:
        """All ids that match are below this one.

        Raises:
            Invalid: `after` is no cursor.
        """
        cursor = HIGHEST_ID if self.after is None else Cursor.parse(self.after).below_id
        if self.created_before is None:
            return cursor
        return min(cursor, first_id(self.created_before))

"""Searching the open tasks by whatever is known of them.

Unlike `list_tasks`, which goes back through the history page by page, this
looks at everything that is open at one instant, and sorts it as the caller
wants. That can be slow: few filters have an index, and the others walk along
all open tasks, a second for a million of them (see fetchlock.matching). The
statement timeout bounds the time of one, and its turn how many there are at
once; the size of an answer is bounded here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Final, Literal, NamedTuple, get_args

import anyio
import msgspec
from msgspec import Raw, Struct

from broker.errors import Invalid, Unavailable
from broker.settings import Settings
from broker.store import queries
from broker.store.database import SHARD
from broker.store.pool import Pool
from broker.store.refusing import Refusing

FOUND_MAX: Final = 10_000
"""Tasks of one answer: some ten megabytes, as their variables are not shown."""

FIRST_RESULT_MAX: Final = 2**31 - 1

TURN_MS: Final = 5_000
"""A search that waits longer for those before it is sent away: then there are too many of them."""

Operator = Literal["eq", "neq", "gt", "gteq", "lt", "lteq", "like", "notLike"]
SortBy = Literal[
    "id",
    "lockExpirationTime",
    "processInstanceId",
    "processDefinitionId",
    "processDefinitionKey",
    "taskPriority",
    "tenantId",
    "createTime",
]
SORTS: Final[tuple[SortBy, ...]] = get_args(SortBy)


class Condition(Struct, omit_defaults=True, frozen=True):
    """What one variable is to be. The value is a JSON scalar, in PostgreSQL's words `jsonb`.

    `like` and `notLike` take SQL's wildcards. `instant` is what the value says where it is a
    date: it is held against variables that are noted as dates.
    """

    name: str
    operator: Operator
    value: Raw
    instant: datetime | None = None


class Filters(Struct, rename="camel", omit_defaults=True, frozen=True, kw_only=True):
    """What open tasks have to be, all of it. Absent members do not filter.

    Ids are any texts; what is no UUID is no task's. No ids at all match nothing, nor
    do no names of any other kind. A task that belongs to no process instance is its
    own. Times are of the lock that a worker has now.
    """

    ids: tuple[str, ...] | None = None
    topic: str | None = None
    worker_id: str | None = None
    locked: bool = False
    not_locked: bool = False
    with_retries_left: bool = False
    no_retries_left: bool = False
    lock_expires_after: datetime | None = None
    lock_expires_before: datetime | None = None
    activity_ids: tuple[str, ...] | None = None
    process_instance_ids: tuple[str, ...] | None = None
    process_definition_ids: tuple[str, ...] | None = None
    process_definition_keys: tuple[str, ...] | None = None
    tenant_ids: tuple[str, ...] | None = None
    priority_min: int | None = None
    priority_max: int | None = None
    conditions: tuple[Condition, ...] | None = None
    ignores_case_of_names: bool = False
    ignores_case_of_values: bool = False

    def text(self) -> str:
        """The JSON object that the statements take."""
        return msgspec.json.encode(self).decode()


class Sort(NamedTuple):
    """One level of an order."""

    by: SortBy
    is_descending: bool = False


class Search(NamedTuple):
    """Which open tasks, in which order, and which part of them. Without a limit it is all."""

    filters: Filters = Filters()
    sorts: tuple[Sort, ...] = ()
    first_result: int = 0
    max_results: int | None = None

    def levels(self) -> list[Sort]:
        """The sorts that decide anything: of those by the same the first."""
        by_name: dict[str, Sort] = {}
        for sort in self.sorts:
            by_name.setdefault(sort.by, sort)
        return list(by_name.values())


class Found(NamedTuple):
    """An open task that matches."""

    task_id: str
    task: bytes
    """As the API shows it, without what belongs to its variables, progress and result."""


class Searching(Refusing):
    """A database whose open tasks can be searched.

    One search at a time: each may hold a connection for seconds, and there are a few that all
    workers live on. A dashboard that asks for a dozen counts at once must not keep tasks from
    being created, fetched and completed meanwhile.
    """

    def __init__(self, pool: Pool, settings: Settings) -> None:
        super().__init__(pool, settings)
        self._searches = anyio.CapacityLimiter(1)

    @asynccontextmanager
    async def _in_turn(self) -> AsyncIterator[None]:
        try:
            with anyio.fail_after(TURN_MS / 1000):
                await self._searches.acquire()
        except TimeoutError:
            raise Unavailable("too many searches at once, or too slow ones") from None
        try:
            yield
        finally:
            self._searches.release()

    async def search(self, search: Search) -> list[Found]:
        """The open tasks that match, in order.

        Raises:
            Invalid: They are more than one answer may have. None is left out in silence.
            Unavailable: It took longer than a statement may, or its turn did not come.
        """
        levels = search.levels()
        wanted = FOUND_MAX + 1 if search.max_results is None else search.max_results
        async with self._in_turn():
            rows = await self._fetch(
                "search", queries.SEARCH, SHARD, search.filters.text(),
                [level.by for level in levels], [level.is_descending for level in levels],
                search.first_result, min(wanted, FOUND_MAX + 1),
            )  # fmt: skip
        if len(rows) > FOUND_MAX:
            raise Invalid(
                f"more than {FOUND_MAX} tasks match: narrow the search, or ask for pages "
                f"with firstResult, and maxResults of at most {FOUND_MAX}"
            )
        return [Found(str(row["id"]), row["task"].encode()) for row in rows]

    async def count(self, filters: Filters) -> int:
        """How many open tasks match. Raises `Unavailable` as `search` does."""
        async with self._in_turn():
            [row] = await self._fetch("count", queries.COUNT, SHARD, filters.text())
        count: int = row["count"]
        return count

    async def topics(self, filters: Filters) -> list[str]:
        """The topics of the open tasks that match. Raises `Unavailable` as `search` does."""
        async with self._in_turn():
            rows = await self._fetch("topics", queries.TOPICS, SHARD, filters.text())
        return [row["topic"] for row in rows]

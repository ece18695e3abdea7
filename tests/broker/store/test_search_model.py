"""Searches against a model: random tasks, filters and orders, and what Python makes of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final, NamedTuple
from uuid import UUID

import msgspec
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import Raw

from broker.settings import Settings
from broker.store import open_pool
from broker.store.searching import SORTS, Condition, Filters, Search, Searching, Sort

_TASKS_MAX: Final = 6
_NOW: Final = datetime.now(UTC)
_HOUR: Final = timedelta(hours=1)
_STATES: Final = ("delayed", "ready", "locked", "awaiting", "failed")

_texts = st.sampled_from(["", "a", "A", "ab", "a_b", "aXb", "b", "%", "5", "\u00e9"])
_scalars = st.sampled_from([None, True, False, -1, 0, 1, 1.0, 1.5, 2**70, 1e300]) | _texts
_values = _scalars | st.sampled_from([[], {}, [1], {"a": 1}])
_variables = st.dictionaries(st.sampled_from(["n", "N", "m"]), _values)


class Row(NamedTuple):
    """A task as it stands in the tables; `number` is its place in the order of creation."""

    number: int
    topic: str
    priority: int
    tenant: str
    definition: str
    definition_key: str
    activity: str | None
    instance: str | None
    created_at: datetime
    state: str
    retries: int
    worker: str | None
    lock_expires_at: datetime | None
    variables: dict[str, Any]
    set_since: dict[str, Any] | None

    @property
    def task_id(self) -> str:
        return _id(self.number)


def _id(number: int) -> str:
    return str(UUID(int=0x0195_0000_0000_7000_8000_0000_0000_0000 + number))


@st.composite
def _rows(draw: st.DrawFn) -> list[Row]:
    return [draw(_row(number)) for number in range(draw(st.integers(0, _TASKS_MAX)))]


@st.composite
def _row(draw: st.DrawFn, number: int) -> Row:
    state = draw(st.sampled_from(_STATES))
    ends_at = _NOW + draw(st.sampled_from([-1, 1, 2])) * _HOUR
    name = st.sampled_from(["", "x", "y"])
    text = st.sampled_from([None, "x", "y", _id(0), _id(1)])
    return Row(
        number=number,
        topic=draw(st.sampled_from(["t", "u"])),
        priority=draw(st.sampled_from([-(2**31), -7, 0, 7, 10, 2**31 - 1])),
        tenant=draw(name),
        definition=draw(name),
        definition_key=draw(name),
        activity=draw(text),
        instance=draw(text),
        created_at=_NOW + draw(st.integers(-2, 2)) * _HOUR,
        state=state,
        retries=draw(st.integers(0, 2)),
        worker=draw(st.sampled_from(["w1", "w2"])) if state == "locked" else None,
        lock_expires_at=ends_at if state in ("locked", "awaiting") else None,
        variables=draw(_variables),
        set_since=draw(st.none() | _variables),
    )


_names = st.lists(st.sampled_from(["x", "y", "", "z"]), max_size=2).map(tuple)
_ids = st.lists(
    st.sampled_from([_id(number) for number in range(_TASKS_MAX)] + ["x", ""]), max_size=4
).map(tuple)
_times = st.integers(-3, 5).map(lambda halves: _NOW + halves * _HOUR / 2)
_priorities = st.sampled_from([-(2**62), -7, 0, 8, 2**62])
_conditions = st.one_of(
    st.builds(
        Condition,
        st.sampled_from(["n", "m"]),
        st.sampled_from(["eq", "neq", "gt", "gteq", "lt", "lteq"]),
        _scalars.map(lambda value: Raw(msgspec.json.encode(value))),
    ),
    st.builds(
        Condition,
        st.sampled_from(["n", "m"]),
        st.sampled_from(["like", "notLike"]),
        st.sampled_from(["a%", "%B", "a_b", "a\\_b", "%", "", "\\%"]).map(
            lambda pattern: Raw(msgspec.json.encode(pattern))
        ),
    ),
)
_values_of: Final[dict[str, st.SearchStrategy[Any]]] = {
    "ids": _ids,
    "topic": st.sampled_from(["t", "T"]),
    "worker_id": st.just("w1"),
    "locked": st.just(True),
    "not_locked": st.just(True),
    "with_retries_left": st.just(True),
    "no_retries_left": st.just(True),
    "lock_expires_after": _times,
    "lock_expires_before": _times,
    "activity_ids": _names,
    "process_instance_ids": _names | _ids,
    "process_definition_ids": _names,
    "process_definition_keys": _names,
    "tenant_ids": _names,
    "priority_min": _priorities,
    "priority_max": _priorities,
}


@st.composite
def _filters(draw: st.DrawFn) -> Filters:
    """A few, so that something is left to be found."""
    names = draw(st.lists(st.sampled_from(sorted(_values_of)), max_size=3, unique=True))
    return Filters(**{name: draw(_values_of[name]) for name in names})


_filters_of_variables = st.builds(
    Filters,
    conditions=st.lists(_conditions, max_size=2).map(tuple),
    ignores_case_of_names=st.booleans(),
    ignores_case_of_values=st.booleans(),
)
_sorts = st.lists(st.builds(Sort, st.sampled_from(SORTS), st.booleans()), max_size=10).map(tuple)


# The model --------------------------------------------------------------------


def _matches(row: Row, filters: Filters) -> bool:
    is_locked = row.state == "locked" and (row.lock_expires_at or _NOW) > _NOW
    has_retries = row.state != "failed" and row.retries > 0
    ends_at = row.lock_expires_at if row.state == "locked" else None
    after, before = filters.lock_expires_after, filters.lock_expires_before
    least, most = filters.priority_min, filters.priority_max
    return all(
        (
            filters.ids is None or row.task_id in filters.ids,
            filters.topic in (None, row.topic),
            filters.worker_id in (None, row.worker),
            not filters.locked or is_locked,
            not filters.not_locked or not is_locked,
            not filters.with_retries_left or has_retries,
            not filters.no_retries_left or not has_retries,
            after is None or (ends_at is not None and ends_at > after),
            before is None or (ends_at is not None and ends_at < before),
            _is_one_of(filters.activity_ids, row.activity),
            _is_one_of(filters.process_instance_ids, row.instance or row.task_id),
            _is_one_of(filters.process_definition_ids, row.definition or None),
            _is_one_of(filters.process_definition_keys, row.definition_key or None),
            _is_one_of(filters.tenant_ids, row.tenant or None),
            least is None or row.priority >= least,
            most is None or row.priority <= most,
            all(_meets(row, wanted, filters) for wanted in filters.conditions or ()),
        )
    )


def _is_one_of(names: tuple[str, ...] | None, name: str | None) -> bool:
    return names is None or name in names


def _meets(row: Row, wanted: Condition, filters: Filters) -> bool:
    variables = row.variables if row.set_since is None else row.set_since
    value = msgspec.json.decode(wanted.value)
    return any(
        _is_wanted(own, wanted.operator, value, ignores_case=filters.ignores_case_of_values)
        for name, own in variables.items()
        if name == wanted.name
        or (filters.ignores_case_of_names and name.upper() == wanted.name.upper())
    )


def _is_wanted(own: Any, operator: str, wanted: Any, *, ignores_case: bool) -> bool:
    if ignores_case:
        own, wanted = (x.upper() if isinstance(x, str) else x for x in (own, wanted))
    is_ordered = (_kind(own) == _kind(wanted)) and _kind(own) in ("number", "text")
    match operator:
        case "eq" | "neq":
            return (_kind(own) == _kind(wanted) and own == wanted) == (operator == "eq")
        case "like" | "notLike":
            return (isinstance(own, str) and _is_like(own, wanted)) == (operator == "like")
        case "gt":
            return is_ordered and own > wanted
        case "gteq":
            return (is_ordered and own >= wanted) or _is_wanted(
                own, "eq", wanted, ignores_case=False
            )
        case "lt":
            return is_ordered and own < wanted
    return (is_ordered and own <= wanted) or _is_wanted(own, "eq", wanted, ignores_case=False)


def _kind(value: Any) -> str:
    match value:
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "text"
    return type(value).__name__


def _is_like(own: str, pattern: str) -> bool:
    parts = re.findall(r"\\(.)|(.)", pattern, re.DOTALL)
    wildcards = {"%": ".*", "_": "."}
    regex = "".join(re.escape(plain) or wildcards.get(c, re.escape(c)) for plain, c in parts)
    return re.fullmatch(regex, own, re.DOTALL) is not None


def _key(row: Row, by: str) -> Any:
    return {
        "id": row.task_id,
        "lockExpirationTime": row.lock_expires_at if row.state == "locked" else None,
        "processInstanceId": row.instance or row.task_id,
        "processDefinitionId": row.definition or None,
        "processDefinitionKey": row.definition_key or None,
        "taskPriority": row.priority,
        "tenantId": row.tenant or None,
        "createTime": row.created_at,
    }[by]


def _in_order(rows: list[Row], sorts: tuple[Sort, ...]) -> list[str]:
    for by, is_descending in reversed(sorts):
        without = [row for row in rows if _key(row, by) is None]
        having = [row for row in rows if _key(row, by) is not None]
        # Descending, Python keeps the order of equals too.
        having.sort(key=partial(_key, by=by), reverse=is_descending)
        rows = without + having if is_descending else having + without
    return [row.task_id for row in rows]


# The test ---------------------------------------------------------------------

_INSERT: Final = """
WITH f AS (
    SELECT * FROM json_to_recordset($1::json) AS f (
        task_id uuid, number integer, topic text, priority integer, tenant text, definition text,
        definition_key text, activity text, instance text, created_at timestamptz, state text,
        retries integer, worker text, lock_expires_at timestamptz, variables json, set_since json)
), lane AS (
    INSERT INTO fetchlock.lane (
        topic, priority, tenant_id, process_definition_id, process_definition_key, shard)
    SELECT DISTINCT topic, priority, tenant, definition, definition_key, 0 FROM f
    RETURNING *
), task AS (
    INSERT INTO fetchlock.task (
        id, created_at, lane_id, shard, process_instance_id, activity_id, variables)
    SELECT f.task_id, f.created_at, 0, 0, f.instance, f.activity, f.variables FROM f
), progress AS (
    INSERT INTO fetchlock.progress (id, shard, variables)
    SELECT task_id, 0, set_since FROM f WHERE set_since IS NOT NULL
)
INSERT INTO fetchlock.open_task (
    id, position, available_at, locked_at, lock_expires_at, lock_token, lane_id, state, retries,
    size_bytes, shard, returned, worker_id, reported)
SELECT f.task_id, f.number, now(), CASE WHEN f.lock_expires_at IS NOT NULL THEN now() END,
       f.lock_expires_at, CASE WHEN f.lock_expires_at IS NOT NULL THEN gen_random_uuid() END,
       l.lane_id, f.state::fetchlock.open_state, f.retries, 0, 0, false, f.worker,
       f.set_since IS NOT NULL
FROM f JOIN lane l ON (l.topic, l.priority, l.tenant_id, l.process_definition_id,
                       l.process_definition_key)
                    = (f.topic, f.priority, f.tenant, f.definition, f.definition_key)
"""

_EMPTY: Final = """
DELETE FROM fetchlock.open_task; DELETE FROM fetchlock.task; DELETE FROM fetchlock.progress;
DELETE FROM fetchlock.lane
"""


class World:
    """A database, and a way into it from a test that cannot wait."""

    def __init__(self, portal: BlockingPortal, search: Searching) -> None:
        self._portal = portal
        self._search = search

    def fill(self, rows: list[Row]) -> None:
        self._portal.call(self._fill, rows)

    def find(self, search: Search) -> list[str]:
        return [task.task_id for task in self._portal.call(self._search.search, search)]

    def count(self, filters: Filters) -> int:
        return self._portal.call(self._search.count, filters)

    def topics(self, filters: Filters) -> list[str]:
        return self._portal.call(self._search.topics, filters)

    async def _fill(self, rows: list[Row]) -> None:
        stored = [row._asdict() | {"task_id": row.task_id} for row in rows]
        await self._search._pool.execute(_EMPTY)
        await self._search._pool.fetch(_INSERT, msgspec.json.encode(stored).decode())


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    """One database for all examples."""
    broker_settings = Settings(database_url=database_url)

    async def open_searching() -> Searching:
        pool = await open_pool(database_url, size=1, statement_timeout_ms=10_000)
        # The model's ids are older than the partitions.
        await pool.execute("SELECT fetchlock.make_partitions('2025-02-10', '2025-02-20')")
        return Searching(pool, broker_settings)

    with start_blocking_portal("asyncio", {"use_uvloop": True}) as portal:
        search = portal.call(open_searching)
        yield World(portal, search)
        portal.call(search._pool.terminate)


_many = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def _check(world: World, rows: list[Row], search: Search) -> None:
    world.fill(rows)
    matching = [row for row in rows if _matches(row, search.filters)]
    ids = _in_order(matching, search.sorts)
    assert world.find(search._replace(first_result=0, max_results=None)) == ids
    last = None if search.max_results is None else search.first_result + search.max_results
    assert world.find(search) == ids[search.first_result : last]
    assert world.count(search.filters) == len(ids)
    assert world.topics(search.filters) == sorted({row.topic for row in matching})


@_many
@given(rows=_rows(), filters=_filters(), sorts=_sorts)
def test_filters_and_orders(
    world: World, rows: list[Row], filters: Filters, sorts: tuple[Sort, ...]
) -> None:
    _check(world, rows, Search(filters, sorts))


@_many
@given(rows=_rows(), filters=_filters_of_variables)
def test_variables(world: World, rows: list[Row], filters: Filters) -> None:
    _check(world, rows, Search(filters))


@_many
@given(
    rows=_rows(),
    sorts=_sorts,
    first=st.integers(0, _TASKS_MAX + 1),
    most=st.none() | st.integers(0, _TASKS_MAX + 1),
)
def test_orders_and_pages(
    world: World, rows: list[Row], sorts: tuple[Sort, ...], first: int, most: int | None
) -> None:
    _check(world, rows, Search(Filters(), sorts, first, most))

"""Camunda's searches, as query strings and as bodies, and what they come to."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.api.camunda7.filters import (
    lock_flags,
    search_of_body,
    search_of_query,
    search_to_change,
)
from broker.errors import Invalid
from broker.store.searching import SORTS, Filters, Search, Sort

DATE = "2013-01-23T14:42:42.000+0200"
INSTANT = datetime(2013, 1, 23, 12, 42, 42, tzinfo=UTC)


def of_query(**members: str) -> Search:
    return search_of_query(urlencode(members).encode())


def of_body(query: bytes = b"", **members: Any) -> Search:
    return search_of_body(msgspec.json.encode(members), query)


def refusal_of(read: Callable[[], Search]) -> str:
    with pytest.raises(Invalid) as refused:
        read()
    [error] = refused.value.facts["errors"]
    assert error["message"] == refused.value.detail
    return refused.value.detail


def refusal_of_query(**members: str) -> str:
    return refusal_of(lambda: of_query(**members))


def refusal_of_body(**members: Any) -> str:
    return refusal_of(lambda: of_body(**members))


# Both forms -------------------------------------------------------------------

_FILTERS = [
    ("externalTaskId", "a", Filters(ids=("a",))),
    ("externalTaskIdIn", ["a", "b"], Filters(ids=("a", "b"))),
    ("executionId", "a", Filters(ids=("a",))),
    ("topicName", "t", Filters(topic="t")),
    ("workerId", "w", Filters(worker_id="w")),
    ("workerId", "", Filters(worker_id="")),
    ("locked", True, Filters(locked=True)),
    ("notLocked", True, Filters(not_locked=True)),
    ("withRetriesLeft", True, Filters(with_retries_left=True)),
    ("noRetriesLeft", True, Filters(no_retries_left=True)),
    ("lockExpirationAfter", DATE, Filters(lock_expires_after=INSTANT)),
    ("lockExpirationBefore", DATE, Filters(lock_expires_before=INSTANT)),
    ("activityId", "a", Filters(activity_ids=("a",))),
    ("activityIdIn", ["a", "b"], Filters(activity_ids=("a", "b"))),
    ("processInstanceId", "p", Filters(process_instance_ids=("p",))),
    ("processInstanceIdIn", ["p", "q"], Filters(process_instance_ids=("p", "q"))),
    ("processDefinitionId", "d", Filters(process_definition_ids=("d",))),
    ("processDefinitionKey", "k", Filters(process_definition_keys=("k",))),
    ("processDefinitionKeyIn", ["k", "l"], Filters(process_definition_keys=("k", "l"))),
    ("processDefinitionName", "n", Filters(ids=())),
    ("processDefinitionNameLike", "%", Filters(ids=())),
    ("tenantIdIn", ["x", "y"], Filters(tenant_ids=("x", "y"))),
    ("active", True, Filters()),
    ("suspended", True, Filters(ids=())),
    ("priorityHigherThanOrEquals", -(2**63), Filters(priority_min=-(2**63))),
    ("priorityLowerThanOrEquals", 2**63 - 1, Filters(priority_max=2**63 - 1)),
    ("variableNamesIgnoreCase", True, Filters(ignores_case_of_names=True)),
    ("variableValuesIgnoreCase", True, Filters(ignores_case_of_values=True)),
]


def as_parameter(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(value)
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


@pytest.mark.parametrize(("name", "value", "filters"), _FILTERS)
def test_each_filter_in_both_forms(name: str, value: Any, filters: Filters) -> None:
    assert of_body(**{name: value}) == Search(filters)
    assert of_body(**{name: value, "unknown": {"a": [1]}}) == Search(filters)
    assert of_query(**{name: as_parameter(value)}) == Search(filters)


_sorts = st.builds(Sort, st.sampled_from(SORTS), st.booleans())
_members = st.lists(st.sampled_from(_FILTERS), unique_by=lambda filtered: filtered[0])


@given(chosen=_members, sort=st.none() | _sorts, first=st.integers(0, 2**31 - 1))
def test_both_forms_say_the_same(
    chosen: list[tuple[str, Any, Filters]], sort: Sort | None, first: int
) -> None:
    members = {name: value for name, value, _ in chosen}
    if sort is not None:
        members |= {"sortBy": sort.by, "sortOrder": "desc" if sort.is_descending else "asc"}
    page = {"firstResult": str(first), "maxResults": "7"}
    by_query = of_query(**{name: as_parameter(value) for name, value in members.items()}, **page)
    assert by_query == of_body(urlencode(page).encode(), **members)
    assert by_query.sorts == (() if sort is None else (sort,))
    assert by_query[2:] == (first, 7)


@pytest.mark.parametrize("absent", [None, False, 0, "false", []])
def test_null_and_false_and_empty_lists_are_as_absent(absent: Any) -> None:
    for name, value, _ in _FILTERS:
        is_flag = isinstance(value, bool)
        if absent is None or (isinstance(value, list) if absent == [] else is_flag):
            assert of_body(**{name: absent}) == Search(), name
    assert of_body(processVariables=None, sorting=None, sortBy=None) == Search()
    assert of_query(locked="false", externalTaskIdIn="", tenantIdIn=",", processVariables="") == (
        Search()
    )


def test_flags_and_numbers_as_clients_write_them() -> None:
    for flag in (True, 1, "true", " True", "1"):
        assert of_body(withRetriesLeft=flag) == Search(Filters(with_retries_left=True))
    for number in (4, "4", " 4 ", "+4"):
        assert of_body(priorityLowerThanOrEquals=number) == Search(Filters(priority_max=4))


def test_of_a_name_and_names_both_must_let_pass() -> None:
    assert of_query(activityId="a", activityIdIn="a,b").filters.activity_ids == ("a",)
    assert of_query(activityId="c", activityIdIn="a,b").filters.activity_ids == ()
    assert of_query(externalTaskId="a", externalTaskIdIn="a,b", executionId="a").filters.ids == (
        "a",
    )
    # What contradicts itself matches nothing, whatever a third filter says.
    assert of_query(externalTaskId="c", externalTaskIdIn="a,b", executionId="c").filters.ids == ()
    assert of_query(externalTaskId="a", executionId="b").filters.ids == ()
    assert of_query(externalTaskId="a", suspended="true").filters.ids == ()


def test_a_body_may_be_none_at_all() -> None:
    assert search_of_body(b"", b"") == search_of_body(b"{}", b"") == search_of_query(b"")


# Orders and pages -------------------------------------------------------------


def test_several_levels_and_the_same_twice() -> None:
    sorting = [
        {"sortBy": "taskPriority", "sortOrder": "desc"},
        {"sortBy": "createTime", "sortOrder": "asc", "parameters": {}},
        {"sortBy": "taskPriority", "sortOrder": "asc"},
        {"sortBy": None, "sortOrder": None},
    ]
    found = of_body(sorting=sorting, sortBy="tenantId", sortOrder="asc")
    assert found.sorts == (
        Sort("tenantId"), Sort("taskPriority", True), Sort("createTime"), Sort("taskPriority"),
    )  # fmt: skip
    assert found.levels() == list(found.sorts[:3])


@pytest.mark.parametrize(
    ("members", "detail"),
    [
        ({"sortBy": "id"}, "Only a single sorting parameter specified."),
        ({"sortOrder": "asc"}, "Only a single sorting parameter specified."),
        ({"sortBy": "dueDate", "sortOrder": "asc"}, "sortBy parameter has invalid value: dueDate"),
        ({"sortBy": "id", "sortOrder": "up"}, "sortOrder parameter has invalid value: up"),
        ({"sortBy": "", "sortOrder": "asc"}, "sortBy parameter has invalid value: "),
    ],
)
def test_orders_that_are_none_are_refused(members: dict[str, str], detail: str) -> None:
    assert refusal_of_query(**members).startswith(detail)
    assert refusal_of_body(**members).startswith(detail)
    assert refusal_of_body(sorting=[members]).startswith(detail)


@pytest.mark.parametrize("name", ["firstResult", "maxResults"])
@pytest.mark.parametrize("text", ["", "-1", "x", "1.5", str(2**31), "٣", "9" * 5_000])
def test_pages_that_are_none_are_refused(name: str, text: str) -> None:
    assert name in refusal_of_query(**{name: text})
    with pytest.raises(Invalid):
        search_of_body(b"{}", urlencode({name: text}).encode())


# What is refused --------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "detail"),
    [
        (
            "lockExpirationBefore",
            "anInvalidDate",
            "Cannot set query parameter 'lockExpirationBefore' to value 'anInvalidDate': "
            'Cannot convert value "anInvalidDate" to java type java.util.Date',
        ),
        ("lockExpirationAfter", "2013-02-30T14:42:42.000+0200", "java.util.Date"),
        ("lockExpirationAfter", "2013-01-23T14:42:42+0200", "java.util.Date"),
        ("lockExpirationAfter", "0001-01-01T00:00:00.000+0200", "java.util.Date"),
        ("locked", "yes", "java.lang.Boolean"),
        ("active", "", "java.lang.Boolean"),
        ("priorityHigherThanOrEquals", "high", "java.lang.Long"),
        ("priorityHigherThanOrEquals", str(2**63), "java.lang.Long"),
        ("priorityLowerThanOrEquals", "9" * 5_000, "java.lang.Long"),
    ],
)
def test_values_that_are_none_are_refused(name: str, text: str, detail: str) -> None:
    assert refusal_of_query(**{name: text}).endswith(detail)
    assert refusal_of_body(**{name: text}).endswith(detail)


def test_numbers_beyond_a_long_are_refused() -> None:
    assert "java.lang.Long" in refusal_of_body(priorityLowerThanOrEquals=2**63)


@pytest.mark.parametrize(
    "query",
    [
        # Camunda passes over it, and shows what was not asked for.
        b"topic=t",
        b"sorting=x",
        b"processDefinitionVersionTag=v",
        b"workerId=a&workerId=b",
        b"workerId=%00",
        b"workerId=%ff",
        "workerId=ä".encode(),
    ],
)
def test_queries_that_are_none_are_refused(query: bytes) -> None:
    with pytest.raises(Invalid):
        search_of_query(query)
    with pytest.raises(Invalid):
        search_of_body(b"{}", query)


def test_filters_of_a_body_are_none_of_its_query() -> None:
    with pytest.raises(Invalid):
        search_of_body(b"{}", b"workerId=w")


def test_what_clients_send_with_everything_does_no_harm() -> None:
    assert search_of_query(b"deserializeValues=false") == Search()
    assert search_of_body(b'{"maxResults":5}', b"deserializeValues=false") == Search()


@pytest.mark.parametrize(
    "body",
    [
        b"null", b"[]", b"{", b'{"topicName":5}', b'{"locked":[]}', b'{"sorting":[null]}',
        b'{"topicName":"\\u0000"}', b'{"topicName":"\\ud800"}', b'{"topicName":"\xff"}',
        b'{"processVariables":[{"operator":"eq"}]}', b'{"a":' + b"[" * 100_000,
        b'{"processVariables":[{"name":"a","operator":"eq","value":1e999}]}',
    ],
)  # fmt: skip
def test_bodies_that_are_none_are_refused(body: bytes) -> None:
    with pytest.raises(Invalid):
        search_of_body(body, b"")


_anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)
_NAMES = [name for name, _, _ in _FILTERS] + ["processVariables", "sorting", "sortBy", "sortOrder"]


@given(
    st.dictionaries(st.sampled_from(_NAMES), _anything)
    | st.fixed_dictionaries(
        {"processVariables": st.lists(st.fixed_dictionaries({"name": st.text(), "operator": st.sampled_from(["eq", "like"]), "value": _anything}))}
    )
)  # fmt: skip
def test_a_body_is_read_or_refused(members: dict[str, Any]) -> None:
    with suppress(Invalid):
        search_of_body(msgspec.json.encode(members), b"")


@given(st.dictionaries(st.sampled_from([*_NAMES, "firstResult"]), st.text()))
def test_a_query_is_read_or_refused(members: dict[str, str]) -> None:
    with suppress(Invalid):
        search_of_query(urlencode(members, quote_via=quote, errors="surrogatepass").encode())


# Searches for what is changed then --------------------------------------------


@given(chosen=_members)
def test_what_is_to_be_changed_is_searched_for_as_everything_else(
    chosen: list[tuple[str, Any, Filters]],
) -> None:
    members = {name: value for name, value, _ in chosen} | {"topicName": "t", "workerId": None}
    variable = {"name": "a", "operator": "eq", "value": 1}
    sorting = [{"sortBy": "id", "sortOrder": "asc"}]
    members |= {"processVariables": [variable], "sorting": sorting}
    body = msgspec.json.encode(members)
    assert search_to_change(body) == search_of_body(body, b"")


@pytest.mark.parametrize(
    "more",
    [
        {"topic": "t"},
        {"processVariables": [{"name": "a", "operator": "neq", "vaule": 1}]},
        {"sorting": [{"sortBy": "id", "sortOrder": "asc", "parameters": {}}]},
    ],
)
def test_what_is_to_be_changed_has_no_unknown_member(more: dict[str, Any]) -> None:
    members = {"topicName": "t", **more}
    assert of_body(**members)
    with pytest.raises(Invalid, match="Unknown field"):
        search_to_change(msgspec.json.encode(members))


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"topicName": None, "locked": False, "externalTaskIdIn": []},
        {"active": True},
        {"variableNamesIgnoreCase": True, "variableValuesIgnoreCase": True},
        {"sortBy": "id", "sortOrder": "asc"},
    ],
)
def test_not_each_and_every_task_is_changed(members: dict[str, Any]) -> None:
    assert of_body(**members).filters.ids is None
    with pytest.raises(Invalid, match="must have a filter"):
        search_to_change(msgspec.json.encode(members))


# Topics -----------------------------------------------------------------------


def test_flags_of_topics() -> None:
    assert lock_flags(b"") == lock_flags(b"withLockedTasks=false") == Filters()
    assert lock_flags(b"withLockedTasks=true&withUnlockedTasks=true&withRetriesLeft=true") == (
        Filters(locked=True, not_locked=True, with_retries_left=True)
    )
    for query in (b"withLockedTasks=x", b"locked=true", b"withRetriesLeft=1&withRetriesLeft=1"):
        with pytest.raises(Invalid):
            lock_flags(query)

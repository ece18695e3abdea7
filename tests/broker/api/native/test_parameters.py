"""Ids, headers and query parameters."""

from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import quote_plus

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.api.body import Body
from broker.api.native import wire
from broker.api.native.parameters import (
    entity_tag,
    is_known,
    list_filters,
    log_page,
    of_task,
    of_worker,
    preferred_wait_s,
    with_unique_key,
)
from broker.errors import Invalid
from broker.settings import Settings
from broker.store import ListFilters

CREATE = Body(wire.Create, Settings())


@given(st.text())
def test_an_id_becomes_the_first_member(task_id: str) -> None:
    text = of_task(task_id, ' \n{"workerId":"w", "variables":{"id":1}}\n')
    assert msgspec.json.decode(text) == {
        "tasks": [{"id": task_id, "workerId": "w", "variables": {"id": 1}}]
    }


@given(st.text())
def test_a_worker_becomes_the_first_member(worker_id: str) -> None:
    text = of_worker(worker_id, ' \n{"lockDurationMs":1000, "tasks":[{"id":1}]}\n')
    assert msgspec.json.decode(text) == {
        "workerId": worker_id,
        "lockDurationMs": 1_000,
        "tasks": [{"id": 1}],
    }


@pytest.mark.parametrize(
    ("header", "is_so"),
    [
        (None, False),
        (b"", False),
        (b"*", True),
        (b" * ", True),
        (b'"a"', True),
        (b'W/"a"', True),
        (b'"b", "a"', True),
        (b'"b" , W/"a","c"', True),
        (b'"b"', False),
        (b"a", False),
        (b'"A"', False),
        (b'"*"', False),
        (b'"b","*"', False),
        (b'"x"a"y"', False),
        (b'"' * 10_000, False),
    ],
)
def test_what_a_caller_knows(header: bytes | None, is_so: bool) -> None:
    assert is_known(b'"a"', header) is is_so


def test_a_tag_is_strong_and_of_the_bytes() -> None:
    assert entity_tag(b"{}") == entity_tag(b"{}") != entity_tag(b"{ }")
    assert is_known(entity_tag(b"{}"), entity_tag(b"{}"))
    assert entity_tag(b"{}").startswith(b'"')


@pytest.mark.parametrize(
    ("query", "page"),
    [
        (b"", (0, 200)),
        (b"after=7", (7, 200)),
        (b"limit=1&after=2147483647", (2_147_483_647, 1)),
        (b"limit=1000", (0, 1_000)),
        (b"after=007", (7, 200)),
    ],
)
def test_a_page_of_a_log(query: bytes, page: tuple[int, int]) -> None:
    assert log_page(query) == page


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("after=-1", "/after"),
        ("after=", "/after"),
        ("after=2147483648", "/after"),
        (f"after={'9' * 5_000}", "/after"),
        ("after=%D9%A1", "/after"),
        ("limit=0", "/limit"),
        ("limit=1001", "/limit"),
        ("limit=1&limit=1", "/limit"),
        ("before=1", "/before"),
        ("after=%FF", ""),
    ],
)
def test_a_page_of_a_log_is_refused_at(query: str, pointer: str) -> None:
    with pytest.raises(Invalid) as raised:
        log_page(query.encode())
    assert raised.value.facts["errors"][0]["pointer"] == pointer


@pytest.mark.parametrize(
    ("header", "wait_s"),
    [
        (None, None),
        (b"wait=10", 10),
        (b"WAIT=10", 10),
        (b"respond-async, wait=10", 10),
        (b"wait=10, respond-async", 10),
        (b'wait="7"', 7),
        (b"respond-async; wait = 5", 5),
        (b"wait=0", 0),
        (b"wait=61", 60),
        (b"wait=999999999", 60),
        (b"wait=99999999999", None),
        (b"wait=-1", None),
        (b"wait=1.5", None),
        (b"wait", None),
        (b"await=5", None),
        (b"wait=5x", None),
        (b"", None),
    ],
)
def test_preferred_wait(header: bytes | None, wait_s: int | None) -> None:
    assert preferred_wait_s(header) == wait_s


@pytest.mark.parametrize("rest", ["}", " }\n", ',"uniqueKey":null}', ',"uniqueKey":"k \\""}'])
def test_a_key_may_stand_in_the_header(rest: str) -> None:
    task, text = CREATE.read(b'{"topic":"t"' + rest.encode())
    keyed, _ = CREATE.read(with_unique_key(task, text, b'k "').encode())
    assert (keyed.topic, keyed.unique_key) == ("t", 'k "')
    assert with_unique_key(task, text, None) == text


@pytest.mark.parametrize("header", [b"", b"k" * 256, b"k\xff", b"\x7f", b"other"])
def test_a_key_in_the_header_is_a_key_and_the_bodys(header: bytes) -> None:
    task, text = CREATE.read(b'{"topic":"t","uniqueKey":"k"}')
    with pytest.raises(Invalid) as raised:
        with_unique_key(task, text, header)
    assert raised.value.facts["errors"][0]["pointer"] == "/uniqueKey"


def test_a_search_without_parameters_is_for_all() -> None:
    assert list_filters(b"") == ListFilters()


def test_a_search_with_all_parameters() -> None:
    query = (
        "topic=a+b&state=FAILED&workerId=%C3%A9&businessKey=&processInstanceId=null"
        "&createdAfter=2030-01-01T00:00:00%2B02:00&createdBefore=2030-01-02T00:00:00Z"
        "&limit=200&after=xyz"
    )
    assert list_filters(query.encode()) == ListFilters(
        topic="a b",
        state="FAILED",
        worker_id="é",
        business_key="",
        process_instance_id="null",
        created_after=datetime(2029, 12, 31, 22, tzinfo=UTC),
        created_before=datetime(2030, 1, 2, tzinfo=UTC),
        limit=200,
        after="xyz",
    )


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("limit=0", "/limit"),
        ("limit=201", "/limit"),
        ("limit=-1", "/limit"),
        ("limit=", "/limit"),
        ("limit=1.0", "/limit"),
        ("limit=%D9%A1", "/limit"),  # An Arabic one is a digit to Python.
        ("limit=1&limit=2", "/limit"),
        ("state=created", "/state"),
        ("state=", "/state"),
        ("createdAfter=yesterday", "/createdAfter"),
        ("createdBefore=2030-01-01T00:00:00+02:00", "/createdBefore"),  # A plus is a space here.
        ("createdBefore=2030-01-01T00:00:00", "/createdBefore"),
        ("topic=%00", "/topic"),
        ("topics=a", "/topics"),
        ("a/b=1", "/a~1b"),
        ("topic=%FF", ""),
        ("&".join(["topic=a"] * 51), ""),
    ],
)
def test_a_search_is_refused_at(query: str, pointer: str) -> None:
    with pytest.raises(Invalid) as raised:
        list_filters(query.encode())
    assert raised.value.facts["errors"][0]["pointer"] == pointer


@given(st.binary())
def test_any_query_is_a_search_or_invalid(query: bytes) -> None:
    try:
        list_filters(query)
    except Invalid as error:
        assert error.facts["errors"]  # noqa: PT017


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_any_text_may_be_searched_for(text: str) -> None:
    assert list_filters(b"topic=" + quote_plus(text).encode()).topic == text

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
    list_filters,
    of_task,
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

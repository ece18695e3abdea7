"""What Camunda's searches want of variables, as query strings and as bodies."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import Raw

from broker.api.camunda7.filters import CONDITIONS_MAX, search_of_body
from broker.errors import Invalid
from broker.store.searching import Condition
from tests.broker.api.camunda7.test_filters import (
    DATE,
    INSTANT,
    of_body,
    of_query,
    refusal_of_body,
    refusal_of_query,
)


def test_values_of_a_body_keep_their_kind_and_every_digit() -> None:
    for text in (b'"x"', b"5", b"1.50", b"null", b"true", b"123456789012345678901.5"):
        body = b'{"processVariables": [{"name": "a", "operator": "neq", "value": %b }]}' % text
        [said] = search_of_body(body, b"").filters.conditions or ()
        assert (said.name, said.operator, bytes(said.value)) == ("a", "neq", text)
    [said] = of_body(processVariables=[{"name": "a", "operator": "eq"}]).filters.conditions or ()
    assert bytes(said.value) == b"null"


def test_values_of_a_query_are_texts() -> None:
    conditions = of_query(processVariables="a_eq_5,b_notLike_x%").filters.conditions
    assert conditions == (
        Condition("a", "eq", Raw(b'"5"')),
        Condition("b", "notLike", Raw(b'"x%"')),
    )


def test_a_value_that_is_a_date_is_an_instant_too() -> None:
    for text, instant in ((DATE, INSTANT), ("2013-01-23", None), ("0001-01-01T00:00:00.000+0200", None)):  # fmt: skip
        [of_text] = of_query(processVariables=f"a_gt_{text}").filters.conditions or ()
        assert of_text.instant == instant
        variable = {"name": "a", "operator": "gt", "value": text}
        [of_json] = of_body(processVariables=[variable]).filters.conditions or ()
        assert of_json == of_text


@pytest.mark.parametrize(
    ("variable", "detail"),
    [
        ({"name": "a", "operator": "is", "value": 1}, "Invalid process variable comparator"),
        ({"name": "a", "value": 1}, "Invalid process variable comparator specified: None"),
        ({"name": "a", "operator": "eq", "value": {}}, "Object values cannot be used to query"),
        ({"name": "a", "operator": "neq", "value": [1]}, "Object values cannot be used to query"),
        ({"name": "a", "operator": "gt", "value": None}, "Booleans and null cannot be used"),
        ({"name": "a", "operator": "lteq", "value": True}, "Booleans and null cannot be used"),
        ({"name": "a", "operator": "like", "value": 5}, "'like' takes a text"),
        ({"name": "a", "operator": "notLike", "value": None}, "'notLike' takes a text"),
        ({"name": "a", "operator": "like", "value": "x\\"}, "in the middle of an escape"),
        ({"name": "a", "operator": "notLike", "value": "\\\\\\"}, "in the middle of an escape"),
    ],
)
def test_conditions_that_mean_nothing_are_refused(variable: dict[str, Any], detail: str) -> None:
    assert detail in refusal_of_body(processVariables=[variable])


@pytest.mark.parametrize(
    "number",
    [
        b"1e-99999",
        b"-1E-1000",
        b"0e+0001000",
        b"1" * 401,
        b"0." + b"1" * 20_000,
        b"1e-" + b"9" * 50,
    ],
)
def test_numbers_no_double_needs_are_refused(number: bytes) -> None:
    body = b'{"processVariables":[{"name":"a","operator":"eq","value":%b}]}' % number
    with pytest.raises(Invalid) as refused:
        search_of_body(body, b"")
    [error] = refused.value.facts["errors"]
    assert error["pointer"] == "/processVariables"


@pytest.mark.parametrize(
    "number", [b"1.7976931348623157e308", b"5e-324", b"1e-0000999", b"7" * 300]
)
def test_numbers_of_doubles_can_be_asked_for(number: bytes) -> None:
    body = b'{"processVariables":[{"name":"a","operator":"eq","value":%b}]}' % number
    [said] = search_of_body(body, b"").filters.conditions or ()
    assert bytes(said.value) == number


def test_there_are_only_so_many_conditions() -> None:
    condition = {"name": "a", "operator": "eq", "value": 1}
    assert of_body(processVariables=[condition] * CONDITIONS_MAX).filters.conditions
    assert of_query(processVariables=",".join(["a_eq_1"] * CONDITIONS_MAX)).filters.conditions
    most = f"There may be {CONDITIONS_MAX} conditions at most"
    assert refusal_of_body(processVariables=[condition] * (CONDITIONS_MAX + 1)) == most
    assert refusal_of_query(processVariables=",".join(["a_eq_1"] * (CONDITIONS_MAX + 1))) == most


def test_an_escaped_escape_ends_a_pattern_well() -> None:
    variable = {"name": "a", "operator": "like", "value": "x\\\\"}
    assert of_body(processVariables=[variable]).filters.conditions


@pytest.mark.parametrize("text", ["a", "a_eq", "a_eq_", "a_eq_b_c", "a_eq_b,c", "a_eq_b,,c_eq_d"])
def test_expressions_have_three_parts(text: str) -> None:
    assert "format KEY_OPERATOR_VALUE" in refusal_of_query(processVariables=text)

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker_sdk import FetchlockError, TaskNotFound, Unavailable
from worker_sdk._json import encode
from worker_sdk._wire import TASKS, decode, item_refusals, refusal, said

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@settings(max_examples=50)
@given(st.dictionaries(st.text(), json_values))
def test_variables_survive_the_wire(variables: dict[str, Any]) -> None:
    assert msgspec.json.decode(encode({"variables": variables})) == {"variables": variables}


def test_integers_of_any_size_survive() -> None:
    huge = {"n": 10**80, "m": -(2**64) - 1}
    assert msgspec.json.decode(encode(huge)) == huge


@dataclasses.dataclass
class Reading:
    value: float


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_what_json_has_no_number_for_is_refused(number: float) -> None:
    for body in ({"x": number}, {"x": [None, {"y": (number,)}]}, {"x": Reading(number)}):
        with pytest.raises(ValueError, match="JSON has no"):
            encode(body)


def test_null_and_its_look_alikes_are_no_nan() -> None:
    assert encode({"x": None, "y": "null"}) == b'{"x":null,"y":"null"}'


def test_variables_that_contain_themselves_are_refused() -> None:
    endless: dict[str, Any] = {}
    endless["self"] = endless
    with pytest.raises(ValueError, match="nested too deeply"):
        encode(endless)


@pytest.mark.parametrize("value", [object(), "\ud800"])
def test_what_json_cannot_say_is_refused(value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        encode({"x": value})


def test_only_what_has_a_value_is_said() -> None:
    assert said(workerId="w", retries=0, lockToken=None) == {"workerId": "w", "retries": 0}


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"id":1}', b"[" * 5000, b'["\xff"]'])
def test_answer_of_something_else_is_an_error(body: bytes) -> None:
    with pytest.raises(FetchlockError, match="not what a Fetchlock broker says") as caught:
        decode(TASKS, body, 200)
    assert not caught.value.is_transient


@given(st.integers(300, 599), st.binary(max_size=300), st.none() | st.text(max_size=9))
def test_any_answer_that_is_no_success_is_an_error(
    status: int, body: bytes, retry_after: str | None
) -> None:
    error = refusal(status, body, retry_after)
    assert error.status == status
    assert str(error)


def test_problem_document_becomes_its_exception() -> None:
    error = refusal(503, b'{"code":"unavailable","detail":"stopping","x":1,"status":503}', "2")
    assert type(error) is Unavailable
    assert (error.detail, error.retry_after_s, error.facts) == ("stopping", 2.0, {"x": 1})


def test_code_this_version_does_not_know_is_told() -> None:
    error = refusal(418, b'{"code":"teapot","title":"Short and stout"}', None)
    assert (type(error), error.code, error.detail) == (FetchlockError, "teapot", "Short and stout")


def test_items_of_a_batch_are_done_or_refused() -> None:
    done, lost = item_refusals(
        [{"id": "1", "outcome": "done"}, {"id": "2", "code": "task_not_found", "detail": "no"}]
    )
    assert done is None
    assert isinstance(lost, TaskNotFound)
    assert lost.facts == {"id": "2"}

"""Native tasks as Camunda shows them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from broker.api.camunda7 import answers
from broker.errors import TaskNotFound

ID = "0193e0c0-0000-7000-8000-000000000001"
NATIVE: dict[str, Any] = {
    "id": ID,
    "topic": "pay",
    "state": "LOCKED",
    "priority": 7,
    "businessKey": "order-1",
    "processInstanceId": "instance",
    "processDefinitionId": "p:1:x",
    "processDefinitionKey": "p",
    "processDefinitionVersionTag": "v1",
    "activityId": "activity",
    "tenantId": "tenant",
    "traceparent": None,
    "variables": {"a": 5, "b": "text"},
    "variableTypes": {"a": {"type": "Long", "valueInfo": {"x": 1}}},
    "result": None,
    "retries": 3,
    "failures": 0,
    "attempt": 1,
    "workerId": "w",
    "lockToken": "token",
    "lockExpiresAt": "2026-11-22T09:15:34.123456+00:00",
    "availableAt": None,
    "createdAt": "2026-11-22T09:15:00.1+00:00",
    "finishedAt": None,
    "errorCode": None,
    "errorMessage": "it broke",
    "errorDetails": "at line 5",
    "checkpoint": {"some": "thing"},
    "progress": None,
}
BARE: dict[str, Any] = {
    **dict.fromkeys(NATIVE),
    "id": ID,
    "topic": "pay",
    "state": "CREATED",
    "priority": 0,
    "retries": 3,
    "failures": 0,
    "createdAt": "2026-11-22T09:15:34+00:00",
    "variables": {},
}
SHOWN = {
    "activityId": "activity",
    "activityInstanceId": ID,
    "errorMessage": "it broke",
    "executionId": ID,
    "id": ID,
    "lockExpirationTime": "2026-11-22T09:15:34.123+0000",
    "createTime": "2026-11-22T09:15:00.100+0000",
    "processDefinitionId": "p:1:x",
    "processDefinitionKey": "p",
    "processDefinitionVersionTag": "v1",
    "processInstanceId": "instance",
    "retries": None,
    "suspended": False,
    "workerId": "w",
    "topicName": "pay",
    "tenantId": "tenant",
    "priority": 7,
    "businessKey": "order-1",
}


def _body(task: dict[str, Any], **changes: object) -> bytes:
    return msgspec.json.encode({**task, **changes})


def _shown(task: dict[str, Any], **changes: object) -> Any:
    return msgspec.json.decode(answers.task(_body(task, **changes)))


def test_a_locked_task_has_every_key_of_camundas() -> None:
    body = b"[" + _body(NATIVE) + b"," + _body(BARE, state="LOCKED") + b"]"
    full, bare = msgspec.json.decode(answers.locked_tasks(body))
    assert full == {
        **SHOWN,
        "errorDetails": "at line 5",
        "variables": {
            "a": {"type": "Long", "value": 5, "valueInfo": {"x": 1}},
            "b": {"type": "String", "value": "text", "valueInfo": {}},
        },
        "extensionProperties": {},
    }
    assert bare == {
        **dict.fromkeys(full),
        **dict.fromkeys(["id", "executionId", "activityInstanceId", "processInstanceId"], ID),
        "topicName": "pay",
        "createTime": "2026-11-22T09:15:34.000+0000",
        "suspended": False,
        "priority": 0,
        "variables": {},
        "extensionProperties": {},
    }
    assert answers.locked_tasks(b"[]") == b"[]"


def test_a_task_that_is_looked_at_has_no_more_than_camundas() -> None:
    assert _shown(NATIVE) == SHOWN
    listed = msgspec.json.decode(answers.tasks(b"[" + _body(NATIVE) + b"]"))
    assert listed == [SHOWN]


@pytest.mark.parametrize(
    ("changes", "retries"),
    [
        ({}, None),
        ({"failures": 0}, None),
        ({"failures": 1}, 3),
        ({"retriesSet": True}, 3),
        ({"failures": 2, "retries": 0, "state": "FAILED"}, 0),
        ({"failures": 0, "retries": 5, "state": "FAILED"}, 0),
    ],
)
def test_retries_are_null_until_somebody_spoke_of_them(
    changes: dict[str, Any], retries: int | None
) -> None:
    assert _shown(BARE, **changes)["retries"] == retries


@pytest.mark.parametrize("state", ["COMPLETED", "BPMN_ERROR", "CANCELLED"])
def test_a_finished_task_is_gone(state: str) -> None:
    with pytest.raises(TaskNotFound) as raised:
        answers.task(_body(NATIVE, state=state))
    assert raised.value.facts == {"taskId": ID, "state": state}


numbers = st.from_regex(
    r"-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,2})?", fullmatch=True
)


@given(st.dictionaries(st.text(st.characters(codec="utf-8")), numbers))
def test_numbers_stay_as_they_were_written(texts: dict[str, str]) -> None:
    values = {name: Raw(text.encode()) for name, text in texts.items()}
    shown = msgspec.json.decode(
        answers.variables(answers.native_task(_body(BARE, variables=values))),
        type=dict[str, dict[str, Raw]],
    )
    assert {name: bytes(each["value"]).decode().strip('"') for name, each in shown.items()} == texts


def test_the_result_lies_over_the_variables_with_types_of_its_own() -> None:
    finished = _body(
        NATIVE,
        state="COMPLETED",
        result={"a": 6, "c": 7},
        resultTypes={"c": {"type": "Short"}},
    )
    assert msgspec.json.decode(answers.variables(answers.native_task(finished))) == {
        "a": {"type": "Integer", "value": 6, "valueInfo": {}},
        "b": {"type": "String", "value": "text", "valueInfo": {}},
        "c": {"type": "Short", "value": 7, "valueInfo": {}},
    }


def test_spaces_of_postgresql_change_nothing() -> None:
    spaced = _body(NATIVE, variables={"a": [1]}, variableTypes={}).replace(b'":', b'" : ')
    shown = {"a": {"type": "Json", "value": "[1]", "valueInfo": {}}}
    assert msgspec.json.decode(answers.variables(answers.native_task(spaced))) == shown

"""Request bodies as real clients send them, and the limits at which they are refused."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from broker.api.body import Body
from broker.api.camunda7 import wire
from broker.errors import Invalid
from broker.settings import Settings

SETTINGS = Settings(
    max_tasks_max=10,
    lock_duration_ms_min=1_000,
    lock_duration_ms_max=60_000,
    request_timeout_ms_max=30_000,
    subscriptions_max=2,
    batch_tasks_max=2,
)
BODIES: dict[type[Any], Body[Any]] = {
    kind: wire.body_of(kind, SETTINGS)
    for kind in (
        wire.FetchAndLock,
        wire.Complete,
        wire.Failure,
        wire.BpmnError,
        wire.ExtendLock,
        wire.Lock,
        wire.Retries,
        wire.BulkRetries,
        wire.Priority,
        wire.Modifications,
    )
}
LEAST: dict[type[Any], dict[str, Any]] = {
    wire.FetchAndLock: {"workerId": "w", "maxTasks": 1},
    wire.Complete: {"workerId": "w"},
    wire.Failure: {"workerId": "w"},
    wire.BpmnError: {"workerId": "w", "errorCode": "E"},
    wire.ExtendLock: {"workerId": "w", "newDuration": 1},
    wire.Lock: {"workerId": "w", "lockDuration": 1},
    wire.Retries: {"retries": 0},
    wire.BulkRetries: {"retries": 0},
    wire.Priority: {"priority": 0},
    wire.Modifications: {},
}


def _read(kind: type[Any], **members: object) -> Any:
    return BODIES[kind].read(msgspec.json.encode({**LEAST[kind], **members}))[0]


def _refused(kind: type[Any], **members: object) -> str:
    with pytest.raises(Invalid) as raised:
        _read(kind, **members)
    [error] = raised.value.facts["errors"]
    return str(error["pointer"])


@pytest.mark.parametrize("kind", BODIES)
def test_unknown_members_are_passed_over_and_null_is_absent(kind: type[Any]) -> None:
    members = {field.encode_name for field in msgspec.structs.fields(kind)}
    nulls = dict.fromkeys(members - LEAST[kind].keys())
    read = [msgspec.json.encode(_read(kind, **each)) for each in ({}, nulls, {"something": [1]})]
    assert read[0] == read[1] == read[2]


@pytest.mark.parametrize(
    ("kind", "member"), [(kind, member) for kind in LEAST for member in LEAST[kind]]
)
def test_what_is_needed_must_be_there_and_not_null(kind: type[Any], member: str) -> None:
    least = {name: value for name, value in LEAST[kind].items() if name != member}
    with pytest.raises(Invalid, match="Required field is missing"):
        BODIES[kind].read(msgspec.json.encode(least))
    assert _refused(kind, **{member: None}) == f"/{member}"


def test_a_fetch_as_the_java_client_sends_it() -> None:
    wish = _read(
        wire.FetchAndLock,
        usePriority=True,
        asyncResponseTimeout=None,
        sorting=[{"sortBy": "createTime", "sortOrder": "desc"}] * 2,
        topics=[
            {
                "topicName": "a",
                "lockDuration": 20_000,
                "variables": ["x"],
                "localVariables": 0,
                "businessKey": None,
                "processDefinitionId": "p:1:x",
                "processDefinitionIdIn": ["p:1:x"],
                "processDefinitionKey": "p",
                "processDefinitionKeyIn": ["p"],
                "processDefinitionVersionTag": "v%",
                "processVariables": {"a": 1.50, "b": {"c": []}},
                "withoutTenantId": False,
                "tenantIdIn": ["t"],
                "deserializeValues": 1,
                "includeExtensionProperties": True,
            }
        ],
    )
    [topic] = wish.topics
    assert wish.async_response_timeout is None
    assert wish.use_priority is True
    assert [(each.sort_by, each.sort_order) for each in wish.sorting] == [
        ("createTime", "desc")
    ] * 2
    assert topic.lock_duration == 20_000
    assert bytes(topic.process_variables["b"]) == b'{"c":[]}'
    assert (topic.variables, topic.tenant_id_in, topic.without_tenant_id) == (["x"], ["t"], False)


def _topic(**members: object) -> dict[str, Any]:
    return {"topics": [{"topicName": "a", "lockDuration": 1, **members}]}


NAME_256 = "n" * 256


@pytest.mark.parametrize(
    ("kind", "members", "pointer"),
    [
        (wire.FetchAndLock, {"workerId": ""}, "/workerId"),
        (wire.FetchAndLock, {"workerId": NAME_256}, "/workerId"),
        (wire.FetchAndLock, {"maxTasks": -1}, "/maxTasks"),
        (wire.FetchAndLock, {"maxTasks": 11}, "/maxTasks"),
        (wire.FetchAndLock, {"usePriority": 2}, "/usePriority"),
        (wire.FetchAndLock, {"usePriority": "yes"}, "/usePriority"),
        (wire.FetchAndLock, {"asyncResponseTimeout": 30_001}, "/asyncResponseTimeout"),
        (wire.FetchAndLock, {"sorting": [{"sortBy": "createTime"}]}, "/sorting/0/sortOrder"),
        (wire.FetchAndLock, {"sorting": [{"sortOrder": "asc"}]}, "/sorting/0/sortBy"),
        (wire.FetchAndLock, {"sorting": [{"sortBy": "id", "sortOrder": "asc"}]}, "/sorting/0/sortBy"),
        (wire.FetchAndLock, {"topics": 3 * _topic()["topics"]}, "/topics"),
        (wire.FetchAndLock, _topic(topicName=None), "/topics/0/topicName"),
        (wire.FetchAndLock, _topic(topicName=""), "/topics/0/topicName"),
        (wire.FetchAndLock, _topic(topicName=NAME_256), "/topics/0/topicName"),
        (wire.FetchAndLock, _topic(topicName="a\nb"), "/topics/0/topicName"),
        (wire.FetchAndLock, _topic(lockDuration=0), "/topics/0/lockDuration"),
        (wire.FetchAndLock, _topic(lockDuration=None), "/topics/0/lockDuration"),
        (wire.FetchAndLock, _topic(lockDuration=60_001), "/topics/0/lockDuration"),
        (wire.FetchAndLock, _topic(businessKey=NAME_256), "/topics/0/businessKey"),
        (wire.FetchAndLock, _topic(tenantIdIn=1001 * ["t"]), "/topics/0/tenantIdIn"),
        (wire.Complete, {"workerId": NAME_256}, "/workerId"),
        (wire.Failure, {"retries": -1}, "/retries"),
        (wire.Failure, {"retries": 2**31}, "/retries"),
        (wire.Failure, {"retryTimeout": -1}, "/retryTimeout"),
        (wire.Failure, {"retryTimeout": 10**15}, "/retryTimeout"),
        (wire.BpmnError, {"errorCode": ""}, "/errorCode"),
        (wire.BpmnError, {"errorCode": NAME_256}, "/errorCode"),
        (wire.ExtendLock, {"newDuration": 0}, "/newDuration"),
        (wire.ExtendLock, {"newDuration": 60_001}, "/newDuration"),
        (wire.Lock, {"lockDuration": -5}, "/lockDuration"),
        (wire.Lock, {"lockDuration": 60_001}, "/lockDuration"),
        (wire.Retries, {"retries": -1}, "/retries"),
        (wire.Retries, {"retries": 2**31}, "/retries"),
        (wire.BulkRetries, {"retries": -1}, "/retries"),
        (wire.BulkRetries, {"externalTaskIds": ["a", "b", "c"]}, "/externalTaskIds"),
        (wire.BulkRetries, {"processInstanceIds": ["a", "b", "c"]}, "/processInstanceIds"),
        (wire.Priority, {"priority": 2**31}, "/priority"),
        (wire.Priority, {"priority": -(2**31) - 1}, "/priority"),
        (wire.Modifications, {"deletions": "a"}, "/deletions"),
    ],
)  # fmt: skip
def test_refuses_what_is_beyond_its_limits(
    kind: type[Any], members: dict[str, Any], pointer: str
) -> None:
    assert _refused(kind, **members) == pointer


@pytest.mark.parametrize(
    ("kind", "members"),
    [
        (wire.FetchAndLock, {"maxTasks": 0}),
        (wire.FetchAndLock, {"maxTasks": 10}),
        (wire.FetchAndLock, {"workerId": "w" * 255}),
        (wire.FetchAndLock, {"topics": 2 * _topic()["topics"]}),
        (wire.FetchAndLock, _topic(lockDuration=60_000)),
        (wire.Failure, {"retries": 2**31 - 1}),
        (wire.Lock, {"lockDuration": 60_000}),
        (wire.BulkRetries, {"externalTaskIds": ["a", "b"]}),
        (wire.Priority, {"priority": 2**31 - 1}),
        (wire.Priority, {"priority": -(2**31)}),
    ],
)
def test_takes_what_is_at_its_limits(kind: type[Any], members: dict[str, Any]) -> None:
    _read(kind, **members)


@pytest.mark.parametrize("given_ms", [1_500.9, "1500.9", 1_500.0])
def test_milliseconds_may_have_a_fraction(given_ms: float | str) -> None:
    # PostgreSQL reads 1500.0 as no bigint: who uses them cuts it off.
    assert int(_read(wire.Lock, lockDuration=given_ms).lock_duration) == 1_500
    assert int(_read(wire.ExtendLock, newDuration=given_ms).new_duration) == 1_500
    assert int(_read(wire.Failure, retryTimeout=given_ms).retry_timeout) == 1_500


def test_numbers_may_be_strings_and_the_reverse() -> None:
    wish = _read(
        wire.FetchAndLock, workerId=5, maxTasks="10", usePriority="true", asyncResponseTimeout="9"
    )
    assert (str(wish.worker_id), wish.max_tasks, wish.use_priority) == ("5", 10, True)
    assert wish.async_response_timeout == 9
    assert _read(wire.Retries, retries=2.0).retries == 2
    assert str(_read(wire.BpmnError, errorCode=404).error_code) == "404"
    assert _read(wire.Lock, workerId="007").worker_id == "007"
    no_number: list[Any] = ["ten", "", "1.5", True, []]
    for mistaken in no_number:
        assert _refused(wire.FetchAndLock, maxTasks=mistaken) == "/maxTasks"
    no_name: list[Any] = [10**30, 1.5, True]
    for mistaken in no_name:
        assert _refused(wire.Lock, workerId=mistaken) == "/workerId"


@pytest.mark.parametrize(
    ("flag", "means"), [(True, True), (0, False), (1, True), ("false", False), (None, None)]
)
def test_booleans_may_be_numbers(flag: Any, means: bool | None) -> None:
    wish = _read(wire.FetchAndLock, usePriority=flag, **_topic(withoutTenantId=flag))
    assert wish.use_priority is wish.topics[0].without_tenant_id is means


def test_a_failure_without_retries_leaves_none() -> None:
    for members in ({}, {"retries": None, "retryTimeout": None}):
        failure = _read(wire.Failure, **members)
        assert failure.retries == 0
        assert not failure.retry_timeout
    failure = _read(wire.Failure, retries=3, retryTimeout=5_000)
    assert (failure.retries, failure.retry_timeout) == (3, 5_000)


@given(st.integers(0, 700), st.integers(65_000, 66_000))
@example(666, 65_536)
@example(667, 65_537)
def test_the_texts_of_a_failure_are_cut_and_not_refused(message: int, details: int) -> None:
    failure = _read(wire.Failure, errorMessage="é" * message, errorDetails="d" * details)
    assert failure.error_message == "é" * min(message, 666)
    assert failure.error_details == "d" * min(details, 65_536)


def test_variables_are_typed_values_with_their_text() -> None:
    body = b'{"workerId":"w","variables":{"a":{"value":1.50,"type":null,"x":1},"b":{}}}'
    complete, _ = BODIES[wire.Complete].read(body)
    assert bytes(complete.variables["a"].value) == b"1.50"
    assert bytes(complete.variables["b"].value) == b"null"
    with pytest.raises(Invalid):
        BODIES[wire.Complete].read(b'{"workerId":"w","variables":{"a":5}}')


def _nested(levels: int) -> bytes:
    value = b"[" * levels + b"]" * levels
    return b'{"workerId":"w","variables":{"a":{"value":%b}}}' % value


def test_two_levels_more_than_a_native_body_are_around_a_value() -> None:
    # The body and the typed value; the variables' own object is the first of theirs.
    BODIES[wire.Complete].read(_nested(SETTINGS.json_depth_max - 1))
    with pytest.raises(Invalid, match="Nested deeper"):
        BODIES[wire.Complete].read(_nested(SETTINGS.json_depth_max))


@given(st.datetimes(timezones=st.just(UTC)))
@example(datetime(2026, 11, 22, 9, 15, 34, 0, UTC))
@example(datetime(2026, 11, 22, 9, 15, 34, 999_999, UTC))
@example(datetime(2026, 11, 22, 9, 15, 34, 120_000, UTC))
def test_instants_are_written_as_camunda_does(at: datetime) -> None:
    # As PostgreSQL's to_json: no zeros at the end of the fraction, and no point before none.
    written = at.isoformat(timespec="microseconds").removesuffix("+00:00").rstrip("0")
    whole = at.isoformat(timespec="seconds").removesuffix("+00:00")
    shown = wire.camunda_date(max(whole, written.rstrip("."), key=len) + "+00:00")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+0000", shown)
    assert at - datetime.fromisoformat(shown) < timedelta(milliseconds=1)
    assert datetime.fromisoformat(shown) <= at


def test_a_year_of_five_digits_keeps_its_milliseconds() -> None:
    instant = "10000-01-01T00:00:00.12345+00:00"
    assert wire.camunda_date(instant) == "10000-01-01T00:00:00.123+0000"

"""The limits of the contract, member by member."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import pytest
from msgspec import Struct

from broker.api.body import Body
from broker.api.native import long_work_wire, wire
from broker.errors import Invalid
from broker.settings import Settings

YEARS_10_MS: Final = 315_360_000_000

GOOD: Final[dict[type[Struct], dict[str, Any]]] = {
    wire.Create: {"topic": "t"},
    wire.FetchAndLock: {
        "workerId": "w",
        "maxTasks": 1,
        "lockDurationMs": 1_000,
        "requestTimeoutMs": 0,
        "subscriptions": [{"topic": "t"}],
    },
    wire.Complete: {"workerId": "w"},
    wire.Fail: {"workerId": "w", "errorMessage": "m"},
    wire.BpmnError: {"workerId": "w", "errorCode": "c"},
    wire.ExtendLock: {"workerId": "w", "lockDurationMs": 1_000},
    wire.Unlock: {"workerId": "w"},
    wire.RetryTimeout: {"retryTimeoutMs": 0},
    wire.Retries: {"retries": 1},
    wire.Priority: {"priority": 0},
    wire.Lock: {"workerId": "w", "lockDurationMs": 1_000},
    wire.SetVariables: {},
    wire.LateWork: {"isAccepted": True},
    wire.Cancel: {},
    long_work_wire.Heartbeat: {"lockDurationMs": 1_000, "tasks": []},
    long_work_wire.HeartbeatItem: {"id": "1", "lockToken": "t"},
    long_work_wire.Subtext: {"subtext": "s"},
    long_work_wire.CallbackUrl: {"workerId": "w"},
    long_work_wire.HandOver: {"workerId": "w"},
    long_work_wire.ExternalEvent: {"taskId": "1", "status": "SUCCESS"},
}
"""The least each request may be."""

_TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
_WORKER_ID = ("workerId", ["w", "w" * 255, "ж" * 255], ["", "w" * 256, 5, None])
_LOCK_TOKEN = ("lockToken", ["", "x" * 255, None], ["x" * 256, 5])
_VARIABLES = ("variables", [{}, {"a": [1]}, None], [[], "x", 1, True])
_NAME = (["", "x" * 255, None], ["x" * 256, 5])
_DURATION_MS = ("lockDurationMs", [1_000, 86_400_000], [999, 0, -1, 86_400_001, 1_000.0, "1000"])
_PRIORITIES = ([-(2**31), 2**31 - 1], [-(2**31) - 1, 2**31, 10**400, 0.5])
_DELAY_MS = ([0, YEARS_10_MS, None], [-1, YEARS_10_MS + 1, 10**400, 1.5])
_MESSAGE = (["", "x" * 4_096], ["x" * 4_097, 5])
_TIMEOUT_MS = ([1_000, YEARS_10_MS, None], [999, YEARS_10_MS + 1, 1_000.5, "1000"])
_CALLBACK_TIMEOUT_MS = (
    "timeoutMs",
    [1_000, 31_536_000_000, None],
    [999, 31_536_000_001, 1_000.5],
)
_ONE_LINE = (
    ["", "s" * 1_024, "Größe: 90 % ✓"],
    ["s" * 1_025, 5, *(f"a{control}" for control in "\n\r\t\x01\x1f\x7f\x85\x9b\u2028\u2029")],
)
_LINES = (
    ["", "two\nlines", "x" * 4_096, [], ["x" * 4_096] * 1_000, None],
    ["x" * 4_097, ["x"] * 1_001, {}, 5],
)

LIMITS: Final[list[tuple[type[Struct], str, list[Any], list[Any]]]] = [
    (wire.Create, "topic", ["t", "t" * 255], ["", "t" * 256, "t\n", "\x01", None, 5]),
    (wire.Create, *_VARIABLES),
    (wire.Create, "priority", [*_PRIORITIES[0], None], _PRIORITIES[1]),
    (wire.Create, "retries", [1, 1_000, None], [0, -1, 1_001]),
    (wire.Create, "delayMs", *_DELAY_MS),
    (
        wire.Create,
        "availableAt",
        ["2030-01-01T00:00:00Z", "2030-01-01T00:00:00.5+15:59", None],
        [
            *("2030-01-01T00:00:00", "2030-02-30T00:00:00Z", "2030-01-01", "soon", 5, {}),
            *("2030-01-01T00:00:00+16:00", "0001-01-01T00:00:00+10:00"),
            "9999-12-31T23:00:00-10:00",
        ],
    ),
    (wire.Create, "uniqueKey", ["k", "k" * 255, None], ["", "k" * 256, 5]),
    *(
        (wire.Create, name, *_NAME)
        for name in (
            *("businessKey", "processInstanceId", "processDefinitionId"),
            *("processDefinitionKey", "processDefinitionVersionTag", "activityId", "tenantId"),
        )
    ),
    (wire.Create, "traceparent", [_TRACE, None], [_TRACE.upper(), f"{_TRACE}\n", _TRACE[:-1], ""]),
    (
        wire.Create,
        "variableTypes",
        [
            {},
            {"a": {"type": "Date"}, "b": {"type": "File", "valueInfo": {"x": "y", "t": True}}},
            None,
        ],
        [
            [],
            {"a": {}},
            {"a": {"type": ""}},
            {"a": {"type": "x" * 256}},
            {"a": "Date"},
            {"a": {"type": "Date", "valueInfo": {"x": 1.5}}},
            {"a": {"type": "Date", "kind": 1}},
        ],
    ),
    (wire.Create, "executionTimeoutMs", *_TIMEOUT_MS),
    (wire.Create, "totalTimeoutMs", *_TIMEOUT_MS),
    (wire.FetchAndLock, *_WORKER_ID),
    (wire.FetchAndLock, "maxTasks", [1, 1_000], [0, -1, 1_001, 10**400, None]),
    (wire.FetchAndLock, *_DURATION_MS),
    (wire.FetchAndLock, "requestTimeoutMs", [0, 1_800_000], [-1, 1_800_001, None]),
    (wire.FetchAndLock, "subscriptions", [[{"topic": "t"}] * 100], [[], [{"topic": "t"}] * 101]),
    (wire.Complete, *_WORKER_ID),
    (wire.Complete, *_LOCK_TOKEN),
    (wire.Complete, *_VARIABLES),
    (wire.Fail, *_WORKER_ID),
    (wire.Fail, *_LOCK_TOKEN),
    (wire.Fail, "errorMessage", *_MESSAGE),
    (wire.Fail, "errorDetails", ["", "x" * 65_536, None], ["x" * 65_537]),
    (wire.Fail, "retries", [0, 1_000, None], [-1, 1_001]),
    (wire.Fail, "retryTimeoutMs", *_DELAY_MS),
    (wire.Fail, *_VARIABLES),
    (wire.BpmnError, *_WORKER_ID),
    (wire.BpmnError, *_LOCK_TOKEN),
    (wire.BpmnError, "errorCode", ["c", "c" * 255], ["", "c" * 256, None]),
    (wire.BpmnError, "errorMessage", *_MESSAGE),
    (wire.BpmnError, *_VARIABLES),
    (wire.ExtendLock, *_WORKER_ID),
    (wire.ExtendLock, *_LOCK_TOKEN),
    (wire.ExtendLock, *_DURATION_MS),
    (wire.Unlock, *_WORKER_ID),
    (wire.Unlock, *_LOCK_TOKEN),
    (wire.RetryTimeout, "retryTimeoutMs", [0, YEARS_10_MS], [-1, YEARS_10_MS + 1, None]),
    (wire.Retries, "retries", [1, 1_000], [0, -1, 1_001, None]),
    (wire.Priority, "priority", _PRIORITIES[0], [*_PRIORITIES[1], None]),
    (wire.Lock, *_WORKER_ID),
    (wire.Lock, *_DURATION_MS),
    (wire.SetVariables, *_VARIABLES),
    (
        wire.SetVariables,
        "deletions",
        [[], ["", "é"], ["a"] * 1_000, None],
        [["a"] * 1_001, {}, "a"],
    ),
    (wire.LateWork, "isAccepted", [True, False], [None, 1, "true"]),
    (wire.Cancel, "reason", *_MESSAGE),
    (long_work_wire.Heartbeat, *_DURATION_MS),
    (
        long_work_wire.Heartbeat,
        "tasks",
        [[], [{"id": "1", "lockToken": "t"}] * 1_000],
        [[{"id": "1", "lockToken": "t"}] * 1_001, {}, None],
    ),
    (long_work_wire.HeartbeatItem, "id", ["", "x" * 500], [5, None]),
    (long_work_wire.HeartbeatItem, "lockToken", ["", "x" * 255], ["x" * 256, 5, None]),
    (
        long_work_wire.HeartbeatItem,
        "sequence",
        [1, 2**63 - 1, None],
        [0, -1, 2**63, 10**400, 1.5, "1"],
    ),
    (long_work_wire.HeartbeatItem, "percent", [0, 100, 99.9, None], [-0.1, 100.1, 101, "5"]),
    (long_work_wire.HeartbeatItem, "subtext", *_ONE_LINE),
    (long_work_wire.HeartbeatItem, "logs", *_LINES),
    (long_work_wire.HeartbeatItem, "checkpoint", [{}, [1], "x", 5, False, None], []),
    (long_work_wire.Subtext, "subtext", _ONE_LINE[0], [*_ONE_LINE[1], None]),
    (long_work_wire.CallbackUrl, *_WORKER_ID),
    (long_work_wire.CallbackUrl, *_LOCK_TOKEN),
    (long_work_wire.CallbackUrl, *_CALLBACK_TIMEOUT_MS),
    (long_work_wire.HandOver, *_WORKER_ID),
    (long_work_wire.HandOver, *_LOCK_TOKEN),
    (long_work_wire.HandOver, *_CALLBACK_TIMEOUT_MS),
    (long_work_wire.HandOver, *_VARIABLES),
    (long_work_wire.ExternalEvent, "taskId", ["", "x" * 500], [5, None]),
    (long_work_wire.ExternalEvent, "status", ["SUCCESS", "FAILURE"], ["success", "", None]),
    # What stands beside a result is cut to size: nobody shall lose the result for it.
    (long_work_wire.ExternalEvent, "logs", [*_LINES[0], *_LINES[1][:2]], [{}, 5]),
    (long_work_wire.ExternalEvent, "subtext", ["", "a\n" * 2_000, None], [5, []]),
    (long_work_wire.ExternalEvent, "output", [{}, [1], "x", 5, False, None], []),
]


def _read(kind: type[Struct], members: dict[str, Any]) -> None:
    Body(kind, Settings()).read(msgspec.json.encode(members))


def _pointer(kind: type[Struct], members: dict[str, Any]) -> str:
    with pytest.raises(Invalid) as raised:
        _read(kind, members)
    pointer: str = raised.value.facts["errors"][0]["pointer"]
    return pointer


@pytest.mark.parametrize(
    ("kind", "member", "good", "bad"),
    LIMITS,
    ids=[f"{kind.__name__}.{member}" for kind, member, _, _ in LIMITS],
)
def test_limits(kind: type[Struct], member: str, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        _read(kind, GOOD[kind] | {member: value})
    for value in bad:
        assert _pointer(kind, GOOD[kind] | {member: value}) == f"/{member}"


def test_every_member_of_every_request_is_tried() -> None:
    tried = {(kind, member) for kind, member, _, _ in LIMITS}
    assert tried == {
        (kind, field.encode_name) for kind in GOOD for field in msgspec.structs.fields(kind)
    }


@pytest.mark.parametrize("kind", GOOD, ids=lambda kind: kind.__name__)
def test_unknown_and_missing_members(kind: type[Struct]) -> None:
    _read(kind, GOOD[kind])
    # Webhooks are to come; until then they must not be taken and forgotten.
    assert _pointer(kind, GOOD[kind] | {"webhookUrl": "http://x"}) == "/webhookUrl"
    for member in GOOD[kind]:
        rest = {name: value for name, value in GOOD[kind].items() if name != member}
        assert _pointer(kind, rest) == f"/{member}"


@pytest.mark.parametrize(
    ("member", "value", "pointer"),
    [
        ("topic", "t" * 256, "/topic"),
        ("topic", "a\tb", "/topic"),
        ("lockDurationMs", 999, "/lockDurationMs"),
        # Nobody could tell whether an empty list wishes for all or for none.
        ("processDefinitionIds", [], "/processDefinitionIds"),
        ("processDefinitionIds", ["p", 5], "/processDefinitionIds/1"),
        ("variables", "x", "/variables"),
        ("variables", [None], "/variables/0"),
        ("wants", 1, "/wants"),
    ],
)
def test_limits_of_a_subscription(member: str, value: object, pointer: str) -> None:
    wish = GOOD[wire.FetchAndLock] | {
        "subscriptions": [{"topic": "t"}, {"topic": "t", member: value}]
    }
    assert _pointer(wire.FetchAndLock, wish) == f"/subscriptions/1{pointer}"


@pytest.mark.parametrize(
    ("one", "item"),
    [
        (wire.Complete, wire.CompleteItem),
        (wire.Fail, wire.FailItem),
        (wire.ExtendLock, wire.ExtendLockItem),
    ],
)
def test_an_item_of_many_is_a_request_with_an_id_for_a_worker(
    one: type[Struct], item: type[Struct]
) -> None:
    def members(kind: type[Struct]) -> dict[str, Any]:
        return {field.name: (field.type, field.default) for field in msgspec.structs.fields(kind)}

    of_one, of_item = members(one), members(item)
    assert of_one.pop("worker_id")
    assert of_item.pop("id")
    assert of_one == of_item


def test_limits_are_the_operators_to_set() -> None:
    settings = Settings(
        lock_duration_ms_min=10,
        lock_duration_ms_max=20,
        max_tasks_max=2,
        request_timeout_ms_max=30,
        subscriptions_max=1,
    )
    body = Body(wire.FetchAndLock, settings)
    good = GOOD[wire.FetchAndLock] | {"lockDurationMs": 10}
    body.read(msgspec.json.encode(good))
    for member, value in {
        "lockDurationMs": 21,
        "maxTasks": 3,
        "requestTimeoutMs": 31,
        "subscriptions": [{"topic": "t"}] * 2,
    }.items():
        with pytest.raises(Invalid) as raised:
            body.read(msgspec.json.encode(good | {member: value}))
        assert raised.value.facts["errors"][0]["pointer"] == f"/{member}"

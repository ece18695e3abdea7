"""Each error the broker has, in Camunda's form."""

from __future__ import annotations

import msgspec
import pytest

from broker.api.camunda7.errors import Act, not_yours, refusal
from broker.api.problem import MethodNotAllowed, NoSuchRoute
from broker.errors import (
    BY_CODE,
    BrokerError,
    Conflict,
    Invalid,
    LockLost,
    TaskNotFound,
    TooManyRequests,
    Unavailable,
)

EXPECTED = {
    "unauthenticated": (401, "RestException", None),
    "forbidden": (403, "AuthorizationException", 0),
    "task_not_found": (404, "RestException", 0),
    "lock_lost": (400, "RestException", 0),
    "conflict": (400, "RestException", 0),
    "callback_expired": (410, "RestException", 0),
    "too_large": (413, "RestException", None),
    "unsupported_media_type": (415, "NotSupportedException", None),
    "invalid": (400, "InvalidRequestException", None),
    "too_many_requests": (429, "RestException", None),
    "unavailable": (503, "RestException", None),
    "not_found": (404, "NotFoundException", None),
    "method_not_allowed": (405, "NotAllowedException", None),
    "internal": (500, "ProcessEngineException", 0),
}
CLASSES = {**BY_CODE, **{each.code: each for each in (NoSuchRoute, MethodNotAllowed, BrokerError)}}


def test_the_table_is_complete() -> None:
    assert EXPECTED.keys() == CLASSES.keys()


@pytest.mark.parametrize("code", EXPECTED)
def test_every_error_has_its_form(code: str) -> None:
    status, kind, number = EXPECTED[code]
    reply = refusal(CLASSES[code]("what was wrong"))
    assert reply.status == status
    assert reply.content_type == b"application/json"
    assert msgspec.json.decode(reply.body) == {
        "type": kind,
        "message": "what was wrong",
        "code": number,
    }


@pytest.mark.parametrize(
    "error",
    [
        TaskNotFound("no task has this id", {"taskId": "a/b"}),
        *(LockLost("x", {"taskId": "a/b", "state": state}) for state in ("COMPLETED", "CANCELLED")),
        *(
            Conflict("x", {"taskId": "a/b", "state": state})
            for state in ("COMPLETED", "BPMN_ERROR")
        ),
    ],
)
def test_a_finished_task_is_as_unknown_as_one_that_never_was(error: BrokerError) -> None:
    reply = refusal(error)
    assert reply.status == 404
    assert msgspec.json.decode(reply.body) == {
        "type": "RestException",
        "message": "External task with id a/b does not exist",
        "code": 0,
    }


@pytest.mark.parametrize("state", ["CREATED", "LOCKED", "AWAITING", "FAILED", None])
def test_an_open_task_is_known(state: str | None) -> None:
    for error in (LockLost("x", {"state": state}), Conflict("x", {"state": state})):
        assert refusal(error).status == 400


def test_an_invalid_request_says_where() -> None:
    reply = refusal(Invalid("/maxTasks: Expected `int`.", [("/maxTasks", "Expected `int`")]))
    assert msgspec.json.decode(reply.body)["message"] == "/maxTasks: Expected `int`."


@pytest.mark.parametrize("error", [TooManyRequests("x"), Unavailable("x")])
def test_what_passes_says_when_to_come_back(error: BrokerError) -> None:
    assert refusal(error).headers == ((b"retry-after", b"1"),)
    assert refusal(Conflict("x")).headers == ()


@pytest.mark.parametrize(
    ("act", "words"),
    [
        ("complete", "External Task 5 cannot be completed by worker 'A'."),
        ("failure", "Failure of External Task 5 cannot be reported by worker 'A'."),
        ("bpmnError", "Bpmn error of External Task 5 cannot be reported by worker 'A'."),
        ("extendLock", "The lock of the External Task 5 cannot be extended by worker 'A'."),
        ("lock", "External Task 5 cannot be locked by worker 'A'."),
    ],
)
def test_a_foreign_lock_is_told_in_camundas_words(act: Act, words: str) -> None:
    lost = LockLost("the task is locked under another lock", {"state": "LOCKED", "holder": "B"})
    reply = refusal(not_yours(lost, act, "5", "A"))
    assert reply.status == 400
    assert msgspec.json.decode(reply.body) == {
        "type": "RestException",
        "message": f"{words} It is locked by worker 'B'.",
        "code": 0,
    }


def test_a_lock_that_is_nobody_elses_is_told_by_what_became_of_it() -> None:
    expired = LockLost("the lock has expired", {"state": "LOCKED", "holder": "{A}"})
    words = "The lock of the External Task 5 cannot be extended by worker '{A}'."
    assert not_yours(expired, "extendLock", "5", "{A}").detail == f"{words} The lock has expired."
    unlocked = LockLost("the task is not locked", {"state": "CREATED"})
    assert (
        not_yours(unlocked, "extendLock", "5", "{A}").detail == f"{words} The task is not locked."
    )


def test_a_finished_task_stays_unknown_whatever_was_wanted_of_it() -> None:
    lost = not_yours(LockLost("the task is finished", {"state": "COMPLETED"}), "complete", "5", "A")
    assert refusal(lost).status == 404
    assert b"External task with id 5 does not exist" in refusal(lost).body

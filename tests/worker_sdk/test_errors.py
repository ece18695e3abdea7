from __future__ import annotations

import pytest

from broker.errors import BY_CODE as BROKER_CODES
from worker_sdk._errors import BY_CODE, ConnectionFailed, FetchlockError


def test_codes_and_statuses_are_the_brokers() -> None:
    assert {code: error.status for code, error in BY_CODE.items()} == {
        code: error.status for code, error in BROKER_CODES.items()
    }
    assert all(code == error.code for code, error in BY_CODE.items())


def test_names_are_the_brokers() -> None:
    assert {code: error.__name__ for code, error in BY_CODE.items()} == {
        code: error.__name__ for code, error in BROKER_CODES.items()
    }


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_passing_trouble_is_transient(status: int) -> None:
    assert FetchlockError("", status=status).is_transient


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 409, 413, 415, 422])
def test_lasting_refusal_is_not_transient(status: int) -> None:
    assert not FetchlockError("", status=status).is_transient


def test_missing_answer_is_transient() -> None:
    assert ConnectionFailed("gone").is_transient


def test_text_says_status_code_and_detail() -> None:
    assert str(BY_CODE["invalid"]("/maxTasks: too many")) == "422 invalid: /maxTasks: too many"
    assert str(ConnectionFailed("gone")) == "connection_failed: gone"

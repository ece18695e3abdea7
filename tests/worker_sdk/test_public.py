"""What users may rely on: the names, and what comes along with them."""

from __future__ import annotations

import subprocess
import sys
from importlib import resources

import worker_sdk

NAMES = [
    "Answer",
    "BpmnError",
    "CallbackExpired",
    "CallbackRequest",
    "CallbackUrl",
    "Client",
    "Conflict",
    "ConnectionFailed",
    "Failure",
    "FetchlockError",
    "HandOver",
    "Invalid",
    "LockLost",
    "NewTask",
    "News",
    "Subscription",
    "Task",
    "TaskNotFound",
    "Transport",
    "Unavailable",
    "Worker",
]


def test_public_names_are_these() -> None:
    assert worker_sdk.__all__ == NAMES
    assert all(getattr(worker_sdk, name).__doc__ for name in NAMES)


def test_package_is_typed() -> None:
    assert resources.files(worker_sdk).joinpath("py.typed").is_file()


def test_import_brings_nothing_of_the_broker() -> None:
    code = "import sys, worker_sdk, worker_sdk._cli; print(*sys.modules)"
    modules = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()
    foreign = {"broker", "starlette", "uvicorn", "asyncpg", "orjson", "structlog", "cyclopts"}
    assert not foreign & set(modules)

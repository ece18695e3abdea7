"""One word a verb, everywhere, and files that a person can hold in mind."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from broker.api.native.routes import ROUTES
from broker.core import Core
from broker.dispatcher import Dispatcher
from broker.store import Store, queries
from broker.task import TRANSITIONS
from worker_sdk import Client

ROOT: Final = Path(__file__).parents[1]
SOURCES: Final = sorted(
    path for room in ("broker", "worker_sdk", "benchmarks") for path in (ROOT / room).rglob("*.py")
)

WORKER_VERBS: Final = {
    *("fetch_and_lock", "complete", "bpmn_error", "fail", "extend_lock", "unlock"),
    *("lock", "heartbeat", "callback_url", "hand_over"),
}
OPERATOR_VERBS: Final = {"retries", "retry_timeout", "priority", "cancel"}
OUTSIDE_VERBS: Final = {"callback"}
"""For whoever a task was handed over to, who has no SDK."""
OWN_VERBS: Final = {"release_due", "settle_due"}
"""The broker's own: nobody asks for them over the wire."""
MOVING_VERBS: Final = WORKER_VERBS | OPERATOR_VERBS | OUTSIDE_VERBS | OWN_VERBS
TELLING_VERBS: Final = {"subtext", "log_lines", "variables", "drain", "late_work"}
"""They move no task."""

_LINES_MAX: Final = 400
_FUNCTION_LINES_MAX: Final = 50

_BANNED: Final = {"job", "queue", "manager", "service", "util", "helper", "common"}


def test_the_lifecycle_knows_all_verbs_that_move_a_task() -> None:
    assert set(TRANSITIONS) == MOVING_VERBS


@pytest.mark.parametrize("verb", sorted(MOVING_VERBS | TELLING_VERBS))
def test_a_verb_has_its_name_in_the_store(verb: str) -> None:
    assert callable(getattr(Store, verb))
    assert hasattr(queries, verb.upper())
    assert (ROOT / "sql" / "queries" / f"{verb}.sql").is_file()


@pytest.mark.parametrize("verb", sorted(MOVING_VERBS - OWN_VERBS | TELLING_VERBS))
def test_a_verb_has_its_name_in_the_core_and_on_the_wire(verb: str) -> None:
    core_source = (ROOT / "broker" / "core.py").read_text(encoding="utf-8")
    assert hasattr(Dispatcher, verb) or hasattr(Core, verb) or f"self.{verb} = " in core_source
    paths = {path for _, path, of_path in ROUTES if of_path == verb}
    # A log is told line by line, but it is one thing to ask for.
    word = "logs" if verb == "log_lines" else verb.replace("_", "-")
    assert any(word in path for path in paths)


@pytest.mark.parametrize(
    "verb", sorted(WORKER_VERBS | OPERATOR_VERBS | TELLING_VERBS | {"create", "get_task"})
)
def test_a_verb_has_its_name_in_the_sdk(verb: str) -> None:
    assert callable(getattr(Client, verb))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_and_its_functions_are_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= _LINES_MAX
    for function in functions(ast.parse(text)):
        assert function.end_lineno is not None
        assert function.end_lineno - function.lineno < _FUNCTION_LINES_MAX, function.name


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_nothing_has_a_name_that_says_nothing() -> None:
    named = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in SOURCES
        if "contenders" not in path.parts  # They override what other libraries have named.
        for name in names(path)
        if _BANNED & set(name.lower().strip("_").split("_"))
    ]
    assert named == []


def names(path: Path) -> Iterator[str]:
    """A file's name, and those of its classes and functions."""
    yield path.stem
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name

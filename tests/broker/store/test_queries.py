"""The files of sql/queries: each says what it is, and says the truth.

This stands in for a generator of typed queries: whoever changes a statement
and forgets its first lines is told here.
"""

from __future__ import annotations

import inspect
import re
from typing import Final

import asyncpg
import pytest

from broker.store import Store, queries
from broker.store.queries import SQL_ROOT

Connection = asyncpg.Connection

FILES: Final = {
    path.stem: path.read_text(encoding="utf-8")
    for path in sorted((SQL_ROOT / "queries").glob("*.sql"))
}

STATEMENTS: Final = {
    name.lower(): text
    for name, text in vars(queries).items()
    if name.isupper() and isinstance(text, str)
}
"""What is run: the files, `create` also without what only waiters need, and `fetch_and_lock` with
and without what only filters need."""

_CACHED_BYTES_MAX: Final = 15 * 1024
"""asyncpg prepares longer statements anew each time, without a word."""

_VARIANT = "_(unlocked|filtered)$"

_PARAMETER = re.compile(r"\$(\d+) \w+ ((?:double precision|[a-z]+)(?:\[\])?)(?=,|$)")


def parameters_said(text: str) -> list[str]:
    """The types that the first lines of a file give for $1, $2, …"""
    said: list[str] = []
    for line in text.splitlines()[1:]:
        if line in ("-- <born locked>", "-- <filtered>"):
            continue
        found = _PARAMETER.findall(line) if line.startswith("-- $") else []
        if not found:
            break
        for number, type_name in found:
            assert int(number) == len(said) + 1
            said.append(type_name)
    return said


@pytest.mark.parametrize("name", STATEMENTS)
async def test_a_file_says_what_it_is_and_what_it_takes(connection: Connection, name: str) -> None:
    text = STATEMENTS[name]
    assert re.match(rf"-- {re.sub(_VARIANT, '', name)}: \S.*\.\n", text)
    assert len(text.encode()) < _CACHED_BYTES_MAX
    await connection.execute(f"PREPARE said AS {text}")
    taken = await connection.fetchval(
        "SELECT parameter_types::regtype[]::text[] FROM pg_prepared_statements WHERE name = 'said'"
    )
    assert parameters_said(text) == taken


def test_every_file_is_a_constant_and_every_constant_a_file() -> None:
    variants = {
        "create_unlocked": queries.CREATE_UNLOCKED,
        "fetch_and_lock": queries.FETCH_AND_LOCK,
        "fetch_and_lock_filtered": queries.FETCH_AND_LOCK_FILTERED,
    }
    assert FILES | variants == STATEMENTS
    assert all(name in FILES or re.sub(_VARIANT, "", name) in FILES for name in variants)


def test_every_statement_is_run_under_its_own_name() -> None:
    """In figures and logs a statement has the name of its file."""
    source = "".join(inspect.getsource(part) for part in Store.__mro__[:-1])
    ran = re.findall(r'self\._fetch\(\s*"(\w+)", queries\.(\w+)', source)
    assert all(name == re.sub(_VARIANT, "", constant.lower()) for name, constant in ran)
    assert {constant.lower() for _, constant in ran} == set(STATEMENTS)

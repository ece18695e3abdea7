"""Whether one of the wanted values is among the variables: what it costs."""

from __future__ import annotations

import time

import asyncpg
import msgspec

Connection = asyncpg.Connection


async def test_variables_are_taken_apart_once_however_many_are_wanted(
    connection: Connection,
) -> None:
    variables = msgspec.json.encode({f"v{number}": 0 for number in range(20_000)}).decode()
    took_s = []
    for count in (1, 200):
        wanted = msgspec.json.encode({f"n{number}": [1] for number in range(count)}).decode()
        tries = []
        for _ in range(5):
            started_at = time.perf_counter()
            statement = "SELECT fetchlock.has_any($1::json, $2::jsonb)"
            assert not await connection.fetchval(statement, variables, wanted)
            tries.append(time.perf_counter() - started_at)
        took_s.append(min(tries))
    assert took_s[1] < 20 * took_s[0]

"""What the edge lets pass, PostgreSQL reads too, and as the same thing.

The edge checks a text and sends it on unparsed; PostgreSQL parses it again. If
it refused one, a single bad task would fail everybody's statement; if it read
one differently (which of two members with one name?), the check would be of
something else than what is stored.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import asyncpg
import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from broker.api.body import Body
from broker.api.native import wire
from broker.errors import Invalid
from broker.settings import Settings

CREATE = Body(wire.Create, Settings())

AS_CREATE_DOES = """
SELECT f.* FROM json_to_record($1::json) AS f (
    topic text, variables json, priority integer, "businessKey" text, retries integer,
    "delayMs" bigint, "availableAt" timestamptz, "uniqueKey" text, "processInstanceId" text,
    "processDefinitionId" text, "processDefinitionKey" text,
    "processDefinitionVersionTag" text, "activityId" text, "tenantId" text, traceparent text,
    "executionTimeoutMs" bigint, "totalTimeoutMs" bigint, "variableTypes" jsonb)
"""
_Types = dict[str, dict[str, Any]] | None
COLUMN_BY_FIELD = {field.name: field.encode_name for field in msgspec.structs.fields(wire.Create)}


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    opened = await asyncpg.connect(database_url)
    yield opened
    await opened.close()


def _written(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _escaped(name: str) -> str:
    return '"' + "".join(f"\\u{ord(character):04x}" for character in name) + '"'


_odd_texts = st.sampled_from(
    [
        *('"\\ud83d\\ude00"', '"\\ud83d"', '"\\ude00\\ud83d"', '"\\u0000"', '"\\\\u0000"', '"\\/"'),
        *('"\x7f"', '"\x1f"', '"\n"', '"\u2028"', '"\ufeff"', '"\U0010ffff"', '"\\u0001"', '"\\x"'),
        *("1e400", "-0", "-0.0", "1E+2", "01", "1.", "NaN", "1" * 500, "null", "true", "tru"),
        *("[[]]", "[,]", "{}", '{"a":1,"a":2}', '{"":{}}', "[" * 70 + "]" * 70, "/**/1", "'a'"),
    ]
)
_json = (
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=6,
    ).map(_written)
    | _odd_texts
    | st.text(alphabet='[]{}",:\\u0123aeE+-. \n\t', max_size=12)
)
_instants = st.datetimes(timezones=st.timezones() | st.none()).map(datetime.isoformat) | (
    st.sampled_from(
        [
            *("2030-01-01t00:00:00z", "2030-01-01 00:00:00Z", "2030-01-01T00:00:00.123456789012Z"),
            *("2030-01-01T00:00:00+15:59", "2030-01-01T00:00:00-1559", "2030-01-01T00:00:00+16:00"),
            *("0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z", "2030-06-30T23:59:60Z"),
        ]
    )
)
_values = {
    "topic": st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1).map(_written),
    "variables": st.dictionaries(st.text().map(_written), _json, max_size=4).map(
        lambda members: "{" + ",".join(f"{name}:{value}" for name, value in members.items()) + "}"
    ),
    "priority": st.integers(-(2**31) - 2, 2**31 + 1).map(str),
    "retries": st.integers(-1, 1_001).map(str),
    "delayMs": st.integers(-1, 2**64).map(str),
    "executionTimeoutMs": st.integers(999, 2**64).map(str),
    "availableAt": _instants.map(_written),
    "variableTypes": st.dictionaries(
        st.text(), st.fixed_dictionaries({"type": st.text(max_size=3)}), max_size=2
    ).map(lambda types: msgspec.json.encode(types).decode()),
}
_members = [
    st.tuples(st.sampled_from([_written(name), _escaped(name)]), values | _json)
    for name, values in {
        **_values,
        **dict.fromkeys(
            ["businessKey", "uniqueKey", "activityId", "tenantId"], st.text().map(_written)
        ),
    }.items()
]
_space = st.sampled_from(["", " ", "\n", "\t\r\n"])


@st.composite
def _bodies(draw: st.DrawFn) -> str:
    members = [
        ('"topic"', draw(_values["topic"])),
        *draw(st.lists(st.one_of(_members), max_size=6)),
    ]
    written = (f"{name}{draw(_space)}:{draw(_space)}{value}" for name, value in members)
    return draw(_space) + "{" + ",".join(written) + "}" + draw(_space)


@settings(
    max_examples=400,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(_bodies())
@example('{"topic":"first","topic":"last"}')
@example('{"topic":"t","variableTypes":{"a":{"type":"Date"},"b":{"type":"File"}}}')
@example('{"topic":"t","variableTypes":{}}')
@example('{"topic":"first","t\\u006fpic":"last"}')
@example('{"priority":1,"topic":"t","priority":null}')
@example('{"topic":"t","variables":{"a":1},"variables":null}')
@example('{"topic":"t","variables":null,"variables":{"a":1e999999,"a":2}}')
@example('{"topic":"t","priority":-0,"availableAt":"2030-01-01T00:00:00.5-15:59"}')
async def test_postgres_reads_what_the_edge_read(
    connection: asyncpg.Connection[Any], body: str
) -> None:
    try:
        task, text = CREATE.read(body.encode("utf-8", "surrogatepass"))
    except Invalid:
        return
    row = await connection.fetchrow(AS_CREATE_DOES, text)
    assert row is not None
    for field, column in COLUMN_BY_FIELD.items():
        read = getattr(task, field)
        if field in ("variables", "available_at"):
            assert (row[column] is None) == (read is None)
        elif field == "variable_types":
            stored = msgspec.json.decode(row[column] or "null", type=_Types)
            types = read and {name: each.type for name, each in read.items()}
            assert (stored and {name: each["type"] for name, each in stored.items()}) == types
        else:
            assert row[column] == read


@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(_json)
async def test_variables_are_stored_to_the_letter(
    connection: asyncpg.Connection[Any], value: str
) -> None:
    body = f'{{"topic":"t","variables":{{"a":{value}}}}}'
    try:
        CREATE.read(body.encode("utf-8", "surrogatepass"))
    except Invalid:
        return
    row = await connection.fetchrow(AS_CREATE_DOES, body)
    assert row is not None
    assert row["variables"] == f'{{"a":{value}}}'
    # A subscription may ask for single variables: they must be found in what was stored.
    assert await connection.fetchval("SELECT $1::json -> 'a' IS NOT NULL", row["variables"])

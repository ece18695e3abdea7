"""Which lanes a subscription takes."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.dispatcher import Subscription
from broker.store import Lane

Connection = asyncpg.Connection

LANE = Lane(1, "t", "definition", 0, "tenant", "key", "v1.5")
BARE = Lane(2, "t", "", 0)


@pytest.mark.parametrize(
    ("filters", "lane", "is_taken"),
    [
        ({}, LANE, True),
        ({}, BARE, True),
        ({}, BARE._replace(topic="u"), False),
        ({"process_definition_ids": ("other", "definition")}, LANE, True),
        ({"process_definition_ids": ("other",)}, LANE, False),
        ({"process_definition_ids": ()}, LANE, False),
        ({"process_definition_keys": ("other", "key")}, LANE, True),
        ({"process_definition_keys": ("other",)}, LANE, False),
        ({"process_definition_keys": ("key",)}, BARE, False),
        ({"tenant_ids": ("other", "tenant")}, LANE, True),
        ({"tenant_ids": ("other",)}, LANE, False),
        ({"tenant_ids": ("",)}, LANE, False),
        ({"tenant_ids": ("",)}, BARE, True),
        ({"tenant_ids": ("tenant",)}, BARE, False),
        ({"version_tag_like": "v1.5"}, LANE, True),
        ({"version_tag_like": "v1.6"}, LANE, False),
        ({"version_tag_like": "v_.5"}, LANE, True),
        ({"version_tag_like": "v%"}, LANE, True),
        ({"version_tag_like": "v1"}, LANE, False),
        ({"version_tag_like": r"v\%"}, LANE, False),
        ({"version_tag_like": "%"}, BARE, False),
        ({"tenant_ids": ("tenant",), "process_definition_keys": ("other",)}, LANE, False),
    ],
)
def test_what_is_filtered_by_must_all_let_it_pass(
    filters: dict[str, Any], lane: Lane, is_taken: bool
) -> None:
    assert Subscription("t", 1_000, **filters).takes(lane) is is_taken


_SIGNS = st.text("ab%_.*\\\n", min_size=1, max_size=12)


async def test_a_version_tag_is_like_what_postgresql_says(connection: Connection) -> None:
    """Lanes are looked through here, but callers know the patterns from their database."""
    drawn: list[tuple[str, str]] = []

    @settings(max_examples=2_000, deadline=None, suppress_health_check=list(HealthCheck))
    @given(tag=_SIGNS, pattern=_SIGNS)
    def draw(tag: str, pattern: str) -> None:
        if (len(pattern) - len(pattern.rstrip("\\"))) % 2 == 0:  # There it is refused otherwise.
            drawn.append((tag, pattern))

    draw()
    tags, patterns = zip(*drawn, strict=True)
    expected = await connection.fetch(
        "SELECT tag LIKE pattern AS is_like FROM unnest($1::text[], $2::text[]) AS d (tag, pattern)",
        tags,
        patterns,
    )
    assert any(row["is_like"] for row in expected)
    for tag, pattern, row in zip(tags, patterns, expected, strict=True):
        lane = BARE._replace(process_definition_version_tag=tag)
        wish = Subscription("t", 1_000, version_tag_like=pattern)
        assert wish.takes(lane) is row["is_like"], (tag, pattern)


@pytest.mark.timeout(5)
def test_no_pattern_takes_long() -> None:
    lane = BARE._replace(process_definition_version_tag="a" * 255)
    assert not Subscription("t", 1_000, version_tag_like="%a" * 100 + "%b").takes(lane)

"""Bulk bodies: the good items go on, the bad ones are answered in their places."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta, Struct

from broker.api.bounds import Bound
from broker.api.bulk import Bulk, Sifted
from broker.errors import Invalid
from broker.settings import Settings
from broker.store import Results


class Object(Struct):
    pass


class Item(Struct, rename="camel", forbid_unknown_fields=True, kw_only=True):
    id: str
    lock_token: str | None = None
    variables: Object | None = None


class Items(Struct, rename="camel", forbid_unknown_fields=True):
    worker_id: str
    tasks: Annotated[list[Item], Meta(min_length=1), Bound(max_length="batch_tasks_max")]


BULK = Bulk(Items, Item, Settings(batch_tasks_max=5))

BAD = [
    (b"5", "", "Expected `object`, got `int`"),
    (b'{"id":5}', "/id", "Expected `str`, got `int`"),
    (b'{"lockToken":"t"}', "/id", "Required field is missing"),
    (b'{"id":"a","more":1}', "/more", "Unknown field"),
    (b'{"id":"a","variables":[]}', "/variables", "Expected `object | null`, got `array`"),
    (rb'{"id":"a","variables":{"n":"\u0000"}}', "", "NUL or a lone surrogate at byte 28"),
    (rb'{"id":"a","variables":{"n":"\ud800"}}', "", "NUL or a lone surrogate at byte 28"),
    (b'{"id":"a","variables":{"n":"\xff"}}', "", "Not UTF-8 at byte 28"),
    (b'{"id":"\xff"}', "", "Not UTF-8 at byte 7"),
    (
        b'{"id":"a","variables":{"n":%b}}' % (b"[" * 64 + b"]" * 64),
        "",
        "Nested deeper than 65 levels",
    ),
]


def _read(*items: bytes) -> Sifted:
    return BULK.read(b'{"workerId":"w","tasks":[%b]}' % b",".join(items))


async def _echo(text: str) -> Results:
    """A verb that accepts all."""
    request = msgspec.json.decode(text)
    assert request["workerId"] == "w"
    done = [{"id": task["id"], "outcome": "done"} for task in request["tasks"]]
    return Results(msgspec.json.encode(done), 0)


async def _never(text: str) -> Results:
    raise AssertionError(text)


async def test_a_good_body_goes_on_as_it_came() -> None:
    body = b' {"workerId":"w", "tasks":[{"id":"1"},{"id":"2","variables":{"f":1.10}}]}\n'
    sifted = BULK.read(body)
    assert sifted == Sifted(body.decode())
    assert (
        await sifted.results(_echo) == b'[{"id":"1","outcome":"done"},{"id":"2","outcome":"done"}]'
    )


@pytest.mark.parametrize(("bad", "pointer", "message"), BAD)
async def test_a_bad_item_is_answered_in_its_place(bad: bytes, pointer: str, message: str) -> None:
    results = msgspec.json.decode(
        await _read(b'{"id":"1"}', bad, b'{"id":"2","lockToken":"\\u00e9"}').results(_echo)
    )
    assert [result.get("id") for result in results[::2]] == ["1", "2"]
    refused = results[1]
    assert refused["code"] == "invalid"
    assert refused["errors"] == [{"pointer": f"/tasks/1{pointer}", "message": message}]
    assert refused["detail"] == f"/tasks/1{pointer}: {message}."


async def test_a_refused_item_keeps_the_id_that_can_be_read() -> None:
    results = msgspec.json.decode(await _read(b'{"id":"a","more":1}', b"[]").results(_never))
    assert [result.get("id") for result in results] == ["a", None]


async def test_nothing_is_asked_of_the_core_when_all_is_bad() -> None:
    assert b'"invalid"' in await _read(b"1").results(_never)


async def test_a_body_may_have_no_items_where_its_type_says_so() -> None:
    class Beat(Struct, rename="camel", forbid_unknown_fields=True):
        worker_id: str
        tasks: Annotated[list[Item], Bound(max_length="batch_tasks_max")]

    beat = Bulk(Beat, Item, Settings(batch_tasks_max=2))
    assert await beat.read(b'{"workerId":"w","tasks":[]}').results(_echo) == b"[]"
    # Nor where all are bad, for whoever wants to ask all the same.
    sifted = beat.read(b'{"workerId":"w","tasks":[5]}')
    assert msgspec.json.decode(sifted.text) == {"workerId": "w", "tasks": []}
    assert b'"invalid"' in sifted.filled_in(b"[]")
    with pytest.raises(Invalid):
        beat.read(b'{"workerId":"w","tasks":[5,5,5]}')


@given(
    st.lists(
        st.sampled_from([None, *(bad for bad, _, _ in BAD)]),
        min_size=1,
        max_size=5,
    )
)
async def test_any_mix_is_answered_in_order(mix: list[bytes | None]) -> None:
    items = [b'{"id":"%d"}' % place if bad is None else bad for place, bad in enumerate(mix)]
    results: list[dict[str, Any]] = msgspec.json.decode(await _read(*items).results(_echo))
    assert len(results) == len(mix)
    for place, (bad, result) in enumerate(zip(mix, results, strict=True)):
        if bad is None:
            assert result == {"id": str(place), "outcome": "done"}
        else:
            assert result["errors"][0]["pointer"].startswith(f"/tasks/{place}")


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        (b'{"workerId":"w"}', "/tasks"),
        (b'{"workerId":"w","tasks":{}}', "/tasks"),
        (b'{"workerId":"w","tasks":[]}', "/tasks"),
        (b'{"workerId":"w","tasks":[%b]}' % b",".join([b'{"id":"1"}'] * 6), "/tasks"),
        (b'{"workerId":5,"tasks":[{"id":"1"}]}', "/workerId"),
        (b'{"tasks":[{"id":"1"}]}', "/workerId"),
        (b'{"workerId":"w","tasks":[{"id":"1"}],"more":1}', "/more"),
        (rb'{"workerId":"\u0000","tasks":[{"id":"1"}]}', ""),
        (b'{"workerId":"\xff","tasks":[{"id":"1"}]}', ""),
        (b'{"workerId":"w","tasks":[{"id":"1"},', ""),
        (b'{"workerId":"w","tasks":[{"id":"1","variables":{"a":01}}]}', ""),
        (rb'{"workerId":"\ud800","tasks":[{"id":"1"}]}', ""),
        # To see where this item ends would take a stack that nobody has.
        (b'{"workerId":"w","tasks":[%b]}' % (b"[" * 9_000 + b"]" * 9_000), ""),
        (b"", ""),
        (b"[]", ""),
    ],
)
def test_a_body_that_is_no_bulk_is_refused_as_a_whole(body: bytes, pointer: str) -> None:
    with pytest.raises(Invalid) as raised:
        BULK.read(body)
    assert raised.value.facts["errors"][0]["pointer"] == pointer

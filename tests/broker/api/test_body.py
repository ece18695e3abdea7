"""Bodies: read whole or refused, with a pointer that leads to what is wrong."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta, Struct

from broker.api.body import Body, located
from broker.api.bounds import Bound, IfEscaped, bounded
from broker.errors import Invalid
from broker.settings import Settings


class Object(Struct):
    pass


class Item(Struct, forbid_unknown_fields=True):
    name: Annotated[str, Bound(max_length="topic_length_max"), IfEscaped(r"^[^\x00-\x1f]*\Z")]


class Order(Struct, rename="camel", forbid_unknown_fields=True):
    order_id: str
    items: Annotated[list[Item], Meta(min_length=1), Bound(max_length="batch_tasks_max")] | None = (
        None
    )
    payload: Object | None = None


class Note(Struct):
    text: str | None = None


SETTINGS = Settings(topic_length_max=5, batch_tasks_max=2)
ORDER = Body(Order, SETTINGS)
NOTE = Body(Note, SETTINGS)


def _error(body: Body[Any], text: str) -> tuple[str, str]:
    with pytest.raises(Invalid) as raised:
        body.read(text.encode())
    [error] = raised.value.facts["errors"]
    return error["pointer"], error["message"]


@pytest.mark.parametrize(
    ("text", "pointer", "message"),
    [
        ('{"orderId":5}', "/orderId", "Expected `str`, got `int`"),
        ("{}", "/orderId", "Required field is missing"),
        ('{"orderId":"1","items":[{}]}', "/items/0/name", "Required field is missing"),
        ('{"orderId":"1","ordreId":1}', "/ordreId", "Unknown field"),
        ('{"orderId":"1","a/b~c":1}', "/a~1b~0c", "Unknown field"),
        ('{"orderId":"1","`":1}', "/`", "Unknown field"),
        (
            '{"orderId":"1","items":[{"name":"a"},{"name":"a","x.y":1}]}',
            "/items/1/x.y",
            "Unknown field",
        ),
        ('{"orderId":"1","items":[{"name":null}]}', "/items/0/name", "Expected `str`, got `null`"),
        ('{"orderId":"1","items":[]}', "/items", "Expected `array` of length >= 1"),
        ('{"orderId":"1","payload":[]}', "/payload", "Expected `object | null`, got `array`"),
        ("[]", "", "Expected `object`, got `array`"),
        ("null", "", "Expected `object`, got `null`"),
    ],
)
def test_points_at_what_is_wrong(text: str, pointer: str, message: str) -> None:
    assert _error(ORDER, text) == (pointer, message)


@pytest.mark.parametrize(
    "text",
    [
        *("{", '{"orderId":"1"', '{"orderId":"1"}}', '{"orderId":"1",}', "{'orderId':1}", "NaN"),
        *("x", "\ufeff{}", '{"orderId":"1","payload":{"a":"line\nbreak"}}'),
        *(
            f'{{"orderId":"1","payload":{{"a":{bad}}}}}'
            for bad in ("NaN", "-Infinity", "01", "1.", "", r'"\x"', "[1,]", "tru")
        ),
    ],
)
def test_what_is_not_json_is_refused_as_a_whole(text: str) -> None:
    pointer, message = _error(ORDER, text)
    assert pointer == ""
    assert "malformed" in message or "truncated" in message


def test_only_a_request_without_required_members_may_be_empty() -> None:
    assert NOTE.read(b"") == (NOTE.read(b"{}")[0], "{}")
    assert _error(ORDER, "") == ("", "A JSON body is required")


def test_what_it_may_hold_nests_as_deep_as_the_setting_says() -> None:
    for depth, is_good in ((64, True), (65, False)):
        payload = '{"a":' * (depth - 1) + "{}" + "}" * (depth - 1)
        text = f'{{"orderId":"1","payload":{payload}}}'
        if is_good:
            ORDER.read(text.encode())
        else:
            assert _error(ORDER, text) == ("", "Nested deeper than 65 levels")


def test_ten_thousand_levels_are_refused_before_anything_recurses() -> None:
    for opening, closing in (("[", "]"), ('{"a":', "}")):
        value = opening * 10_000 + "1" + closing * 10_000
        text = f'{{"orderId":"1","payload":{{"a":{value}}}}}'
        assert _error(ORDER, text) == ("", "Nested deeper than 65 levels")


def test_the_text_goes_on_as_it_came() -> None:
    text = '{ "orderId" : "1", "payload":{"n":123456789012345678901234567890,"f":1.10} }\n'
    order, unchanged = ORDER.read(text.encode())
    assert order.order_id == "1"
    assert unchanged == text


def test_limits_come_from_the_settings() -> None:
    three = '{"orderId":"1","items":[{"name":"a"},{"name":"a"},{"name":"a"}]}'
    assert _error(ORDER, three) == ("/items", "Expected `array` of length <= 2")
    assert Body(Order, Settings()).read(three.encode())
    long = '{"orderId":"1","items":[{"name":"abcdef"}]}'
    assert _error(ORDER, long) == ("/items/0/name", "Expected `str` of length <= 5")


@pytest.mark.parametrize("name", ["\n", "a\n", "\ta", "\x01", "\x1f"])
def test_what_only_an_escape_can_break_is_checked_where_there_is_one(name: str) -> None:
    text = msgspec.json.encode({"orderId": "1", "items": [{"name": name}]}).decode()
    assert _error(ORDER, text)[0] == "/items/0/name"


def test_a_type_within_two_others_is_one_type() -> None:
    assert bounded(Item, SETTINGS) is bounded(Item, Settings(**msgspec.structs.asdict(SETTINGS)))
    assert bounded(Item, SETTINGS).__name__ == "Item"


@given(st.text())
def test_any_complaint_can_be_located(complaint: str) -> None:
    located(complaint)


def test_within_a_map_the_pointer_ends_at_the_map() -> None:
    assert located("Expected `str`, got `int` - at `$.variables[...].type`") == (
        "/variables",
        "Expected `str`, got `int`",
    )
    missing = "Object missing required field `value` - at `$.variables[...]`"
    assert located(missing) == ("/variables", "Required field is missing")

"""Typed values against what was sent, and against what the Java client's mappers read."""

from __future__ import annotations

import base64
import re
from datetime import datetime
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import Raw

from broker.api.camunda7.values import Note, TypedValue, file_of, plain, typed
from broker.errors import Invalid

DEPTH_MAX = 6

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
)
shallow = st.recursive(
    scalars | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
)
simple = st.none() | st.booleans() | st.integers() | texts
infos: st.SearchStrategy[dict[str, Any]] = (
    st.just({}) | st.just({"transient": True}) | st.dictionaries(texts, simple, max_size=2)
)
base64s = st.binary(max_size=20).map(lambda data: base64.b64encode(data).decode())
offsets = st.builds(
    "{}{:02}{:02}".format, st.sampled_from("+-"), st.integers(0, 18), st.sampled_from([0, 30, 45])
)


@st.composite
def dates(draw: st.DrawFn) -> str:
    at = draw(st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30)))  # noqa: DTZ001
    return at.isoformat(timespec="milliseconds") + draw(offsets)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _whole(bits: int) -> st.SearchStrategy[str]:
    edge = 2 ** (bits - 1)
    return (st.integers(-edge, edge - 1) | st.sampled_from([-edge, edge - 1, 0, 7])).map(str)


file_infos = st.fixed_dictionaries(
    {"filename": texts},
    optional={"mimetype": texts, "encoding": st.none() | texts, "transient": st.booleans()},
)
object_infos = st.fixed_dictionaries(
    {"objectTypeName": texts, "serializationDataFormat": texts}, optional={"more": simple}
)
JSON_TEXTS = (
    shallow.map(_json)
    | texts
    | st.sampled_from(['{"a": 1.50,  "a": 2}', "[1, 2]", "12", '"a"', "null", "a", "5 ", "tru"])
)

# Type, value as JSON text, valueInfo.
cases = st.one_of(
    st.tuples(st.just("Null"), st.just("null"), infos),
    st.tuples(st.just("Boolean"), st.booleans().map(_json), infos),
    st.tuples(st.just("Short"), _whole(16), infos),
    st.tuples(st.just("Integer"), _whole(32), infos),
    st.tuples(st.just("Long"), _whole(64), infos),
    st.tuples(
        st.just("Double"),
        st.floats(allow_nan=False, allow_infinity=False).map(_json)
        | st.integers(-(10**25), 10**25).map(str)
        | st.sampled_from(["1E5", "1.50", "-0", "0.10e-3"]),
        infos,
    ),
    st.tuples(st.just("String"), texts.map(_json), infos),
    st.tuples(st.just("Date"), dates().map(_json), infos),
    st.tuples(st.just("Bytes"), base64s.map(_json), infos),
    st.tuples(st.just("Json"), JSON_TEXTS.map(str.strip).map(_json), infos),
    st.tuples(st.just("Xml"), texts.map(_json), infos),
    st.tuples(st.just("Object"), texts.map(_json), object_infos),
    st.tuples(st.just("File"), base64s.map(_json), file_infos),
    st.tuples(
        st.sampled_from(["Boolean", "Short", "Integer", "Long", "Double", "String", "Date", "Bytes", "Json", "Xml"]),
        st.just("null"),
        infos,
    ),
    st.tuples(st.just("Object"), st.just("null"), object_infos),
)  # fmt: skip


def _given(kind: str | None, value: str, info: object = None) -> TypedValue:
    body = f'{{"type":{_json(kind)},"value":{value},"valueInfo":{_json(info)},"more":[]}}'
    return msgspec.json.decode(body, type=TypedValue)


def _stored(**variables: TypedValue) -> tuple[dict[str, Raw], dict[str, Note]]:
    values, notes = plain(variables, depth_max=DEPTH_MAX, pointer="/variables")
    return msgspec.json.decode(values, type=dict[str, Raw]), msgspec.json.decode(
        notes, type=dict[str, Note]
    )


def _shown(values: dict[str, Raw], notes: dict[str, Note] | None) -> dict[str, dict[str, Raw]]:
    text = msgspec.json.encode(typed(values, notes))
    return msgspec.json.decode(text, type=dict[str, dict[str, Raw]])


def _loaded(raw: Raw) -> Any:
    return msgspec.json.decode(raw)


@given(cases, st.sampled_from([str, str.lower, str.upper]))
@example(("Json", '"null"', {}), str)
@example(("Json", '"\\"5\\""', {}), str)
@example(("Json", '"\\"a\\""', {}), str)
@example(("Json", '"a"', {}), str)
def test_every_type_comes_back_as_it_was_sent(
    case: tuple[str, str, dict[str, Any]], written: Any
) -> None:
    kind, value, info = case
    values, notes = _stored(v=_given(written(kind), value, info))
    shown = _shown(values, notes)["v"]
    assert _loaded(shown["type"]) == kind
    assert _loaded(shown["valueInfo"]) == info
    if kind == "File":
        assert bytes(shown["value"]) == b"null"
        content = file_of(values["v"], notes["v"])
        assert content is not None
        assert content.data == base64.b64decode(msgspec.json.decode(value))
    elif kind in ("Double", "Integer", "Long", "Short"):
        assert bytes(shown["value"]).decode() == value
    else:
        assert _loaded(shown["value"]) == msgspec.json.decode(value)


@given(st.dictionaries(texts, shallow, max_size=3))
def test_untyped_values_are_stored_as_they_are_and_need_no_notes(values: dict[str, Any]) -> None:
    given_values = {name: TypedValue(Raw(_json(value))) for name, value in values.items()}
    stored = plain(given_values, depth_max=DEPTH_MAX, pointer="")
    assert stored == (_json(values), "{}")


def _java_reads(kind: str, value: Any, info: dict[str, Any]) -> bool:
    """The Java client's mappers, canReadValue and what readValue throws over, one by one."""
    if kind == "Null":
        return value is None
    if kind in ("Short", "Integer", "Long", "Double"):
        return value is None or (isinstance(value, int | float) and not isinstance(value, bool))
    if kind == "Boolean":
        return value is None or isinstance(value, bool)
    if kind == "Date":
        return value is None or bool(
            re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d{4}", value, re.ASCII)
        )
    if kind == "File":
        strings = [info.get(member) for member in ("mimetype", "encoding")]
        return isinstance(info["filename"], str) and all(
            given is None or isinstance(given, str) for given in strings
        )
    if kind == "Object" and not isinstance(info["serializationDataFormat"], str):
        return False
    return kind in ("String", "Bytes", "Json", "Xml", "Object") and (
        value is None or isinstance(value, str)
    )


_any_info = st.none() | st.dictionaries(
    st.sampled_from(
        ["filename", "mimetype", "encoding", "objectTypeName", "serializationDataFormat"]
    ),
    shallow,
)
_names = ["Null", "Boolean", "Short", "Integer", "Long", "Double", "Number", "String", "Date", "Bytes", "File", "Object", "Json", "Xml", "Other"]  # fmt: skip
_values = shallow | dates() | st.integers(-(2**70), 2**70)


@given(
    st.dictionaries(st.sampled_from("abcd"), _values),
    st.dictionaries(
        st.sampled_from("abcde"), st.tuples(st.sampled_from(_names), _any_info, st.booleans())
    ),
)
def test_whatever_native_clients_and_old_notes_say_java_can_read(
    values: dict[str, Any], notes: dict[str, tuple[str, Any, bool]]
) -> None:
    raws = msgspec.json.decode(_json(values), type=dict[str, Raw])
    noted = {
        name: msgspec.convert({"type": kind, "valueInfo": None, "isText": is_text}, Note)
        for name, (kind, _, is_text) in notes.items()
    }
    for name, (_, info, _) in notes.items():
        noted[name].value_info = (
            None if info is None else {key: Raw(_json(value)) for key, value in info.items()}
        )
    shown = _shown(raws, noted)
    assert shown.keys() == values.keys()
    for name, variable in shown.items():
        assert variable.keys() == {"type", "value", "valueInfo"}
        kind, value = _loaded(variable["type"]), _loaded(variable["value"])
        assert _java_reads(kind, value, _loaded(variable["valueInfo"])), (values[name], variable)
        if kind not in ("Json", "File"):
            assert bytes(variable["value"]) == bytes(raws[name])


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("null", "Null"),
        *(("true", "Boolean"), ("false", "Boolean"), ('""', "String"), ("{}", "Json"), ("[]", "Json")),
        *(("0", "Integer"), ("2147483647", "Integer"), ("-2147483648", "Integer")),
        *(("2147483648", "Long"), ("-2147483649", "Long"), ("9223372036854775807", "Long")),
        *(("-9223372036854775808", "Long"), ("9223372036854775808", "Json")),
        *(("-9223372036854775809", "Json"), ("1" + 30 * "0", "Json")),
        *(("1.0", "Double"), ("1e3", "Double"), ("1E3", "Double"), ("-0.5", "Double")),
    ],
)  # fmt: skip
def test_a_plain_value_shows_its_type(value: str, kind: str) -> None:
    shown = _shown({"v": Raw(value.encode())}, None)["v"]
    assert _loaded(shown["type"]) == kind
    assert bytes(shown["value"]).decode() == (_json(value) if kind == "Json" else value)


@pytest.mark.parametrize(
    ("kind", "value", "stored"),
    [
        *(("Integer", '"5"', "5"), ("Integer", '" +05 "', "5"), ("Integer", '""', "null")),
        *(("Short", '"-7"', "-7"), ("Long", '"5"', "5"), ("Boolean", '"True"', "true")),
        *(("Boolean", '"false"', "false"), ("Boolean", '" "', "null"), ("String", "5", '"5"')),
        *(("String", "1.50", '"1.50"'), ("String", "true", '"true"'), ("Double", '"1.50"', "1.50")),
        *(("Double", '".5"', "0.5"), ("Double", '"+1"', "1.0"), ("Double", '""', "null")),
        *(("Number", '"5"', "5"), ("Number", '"+5"', "5"), ("number", "5.5", "5.5")),
        ("Number", "123456789012345678901234567890", "123456789012345678901234567890"),
        ("Date", '"2026-01-31T10:00:00.123UTC+00:00"', '"2026-01-31T10:00:00.123+0000"'),
        ("Date", '"2026-01-31T10:00:00.123GMT"', '"2026-01-31T10:00:00.123+0000"'),
        ("Date", '"2026-01-31T10:00:00.123-02:30"', '"2026-01-31T10:00:00.123-0230"'),
        ("Date", '""', "null"),
        *(("Bytes", '"_-8"', '"/+8="'), ("Bytes", '"YQ"', '"YQ=="'), ("Bytes", '"YWJj\\nYWJj"', '"YWJjYWJj"')),
        *(("Json", '{"a": 1}', '{"a": 1}'), ("Json", '"{\\"a\\": 1.0}"', '{"a": 1.0}'), ("Json", "5", "5")),
    ],
)  # fmt: skip
def test_a_value_becomes_what_its_type_says(kind: str, value: str, stored: str) -> None:
    values, _ = _stored(v=_given(kind, value))
    assert bytes(values["v"]).decode() == stored


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        *(("Null", "1"), ("Boolean", "1"), ("Boolean", '"yes"'), ("Boolean", "{}")),
        *(("Short", "32768"), ("Short", "-32769"), ("Integer", "2147483648"), ("Integer", "1.0")),
        *(("Integer", '"a"'), ("Integer", "true"), ("Integer", '"٥"'), ("Integer", "[]")),
        *(("Long", "9223372036854775808"), ("Long", "1e3"), ("Long", "1" + 5000 * "0")),
        *(("Double", '"NaN"'), ("Double", '"Infinity"'), ("Double", '"1e999"'), ("Double", "true")),
        *(("Double", "{}"), ("Number", '"a"'), ("Number", "true"), ("String", "{}"), ("String", "[]")),
        *(("Date", "5"), ("Date", '"2026-01-31T10:00:00+0000"'), ("Date", '"2026-01-31T10:00:00.123Z"')),
        *(("Date", '"2026-02-30T10:00:00.123+0000"'), ("Date", '"2026-01-31T10:00:00.123+2500"')),
        *(("Date", '"2026-01-31T10:00:00.123456+0000"'), ("Date", '"2026-01-31T10:00:00.123CET"')),
        *(("Bytes", '"?"'), ("Bytes", "5"), ("Bytes", '"a"'), ("Bytes", "[1]"), ("Bytes", '"é"')),
    ],
)  # fmt: skip
def test_refuses_what_is_not_of_its_type(kind: str, value: str) -> None:
    with pytest.raises(
        Invalid, match=r"Cannot convert value '.*' of type '.*' to java type"
    ) as raised:
        _stored(v=_given(kind, value))
    [error] = raised.value.facts["errors"]
    assert error["pointer"] == "/variables/v/value"
    assert len(error["message"]) < 300


@pytest.mark.parametrize(
    ("given_value", "pointer", "message"),
    [
        (_given("Strin", '"a"'), "/variables/v/type", "Unsupported value type 'Strin'"),
        (_given("", "1"), "/variables/v/type", "Unsupported value type ''"),
        (_given("Xml", "1"), "/variables/v/value", "Must provide 'null' or String value"),
        (
            _given("Object", "{}", {"objectTypeName": "a", "serializationDataFormat": "b"}),
            "/variables/v/value",
            "Must provide 'null' or String value for value of SerializableValue type 'Object'",
        ),
        (_given("Object", '"a"', {"serializationDataFormat": "b"}), "/variables/v/valueInfo/objectTypeName", "string"),
        (_given("Object", "null", {"a": "b"}), "/variables/v/valueInfo/serializationDataFormat", "string"),
        (_given("File", '""'), "/variables/v/valueInfo/filename", "string"),
        (_given("File", '""', {"filename": 5}), "/variables/v/valueInfo/filename", "string"),
        (_given("File", '""', {"filename": "a", "mimetype": 5}), "/variables/v/valueInfo/mimetype", "string"),
        (_given(None, "5", {"a": 1.5}), "/variables/v/valueInfo", "integer"),
        (_given("String", '"a"', {"a": {}}), "/variables/v/valueInfo", "integer"),
        (_given("Json", r'"[\"\\u0000\"]"'), "/variables/v/value", "NUL or a lone surrogate"),
        (_given("Json", r'"[\"\\ud800\"]"'), "/variables/v/value", "surrogate"),
        (_given("Json", r'"[\"\\ud800 and more, enough of it\"]"'), "/variables/v/value", "surrogate"),
        (_given("Json", '"[1e400]"'), "/variables/v/value", "beyond the range of a double"),
        (_given("Json", f'"{"[" * 100_000}{"]" * 100_000}"'), "/variables/v/value", "Nested deeper"),
    ],
)  # fmt: skip
def test_refusals_point_at_what_is_wrong(
    given_value: TypedValue, pointer: str, message: str
) -> None:
    with pytest.raises(Invalid, match=re.escape(message)) as raised:
        _stored(v=given_value)
    [error] = raised.value.facts["errors"]
    assert error["pointer"] == pointer


def test_a_pointer_keeps_names_that_have_its_own_characters() -> None:
    with pytest.raises(Invalid) as raised:
        plain({"a/b~c": _given("Short", "1.5")}, depth_max=DEPTH_MAX, pointer="/modifications")
    assert raised.value.facts["errors"][0]["pointer"] == "/modifications/a~1b~0c/value"


def test_json_in_a_string_may_nest_as_deep_as_beside_it() -> None:
    levels = DEPTH_MAX - 1  # The plain object is one.
    _stored(v=_given("Json", _json("[" * levels + "]" * levels)))
    with pytest.raises(Invalid, match="Nested deeper"):
        _stored(v=_given("Json", _json("[" * (levels + 1) + "]" * (levels + 1))))


@pytest.mark.parametrize(
    ("variable", "stored", "note"),
    [
        (_given("Json", '"null"'), '"null"', '{"type":"Json","isText":true}'),
        (_given("Json", "null"), "null", '{"type":"Json"}'),
        (_given("Json", '"no json"'), '"no json"', '{"type":"Json","isText":true}'),
        (_given("Json", '"\\"a\\""'), '"a"', '{"type":"Json"}'),
        (_given("Json", '"[1]"'), "[1]", None),
        (_given("Json", '"123456789012345678901"'), "123456789012345678901", None),
        (_given("Short", "1"), "1", '{"type":"Short"}'),
        (_given("Long", "1"), "1", '{"type":"Long"}'),
        (_given("Long", "2147483648"), "2147483648", None),
        (_given("Double", "1"), "1", '{"type":"Double"}'),
        (_given("Double", "1.0"), "1.0", None),
        (_given("Integer", "null"), "null", '{"type":"Integer"}'),
        (_given("Number", "null"), "null", None),
        (_given("Null", "null"), "null", None),
        (_given("String", '"a"', {"transient": True}), '"a"', '{"type":"String","valueInfo":{"transient":true}}'),
        (_given("Object", "null"), "null", None),
        (_given(None, "5", {"a": 150}), "5", '{"type":"Integer","valueInfo":{"a":150}}'),
        (_given(None, "5", {}), "5", None),
        (TypedValue(), "null", None),
    ],
)  # fmt: skip
def test_a_note_says_only_what_the_value_does_not(
    variable: TypedValue, stored: str, note: str | None
) -> None:
    notes = "{}" if note is None else f'{{"v":{note}}}'
    assert plain({"v": variable}, depth_max=DEPTH_MAX, pointer="") == (f'{{"v":{stored}}}', notes)


@pytest.mark.parametrize(
    ("kind", "value", "counts"),
    [
        *(("Number", "5", "Integer"), ("Number", "null", "Null"), ("Other", "5", "Integer")),
        *(("Short", "32768", "Integer"), ("Integer", "2147483648", "Long"), ("Long", "1.5", "Double")),
        *(("Boolean", "1", "Integer"), ("Null", "5", "Integer"), ("Double", '"5"', "String")),
        *(("Date", '"2026-01-31"', "String"), ("Bytes", "5", "Integer"), ("Xml", "[]", "Json")),
        *(("Object", '"a"', "String"), ("File", '"a"', "String"), ("File", "null", "Null")),
    ],
)  # fmt: skip
def test_a_note_that_does_not_fit_does_not_count(kind: str, value: str, counts: str) -> None:
    shown = _shown({"v": Raw(value.encode())}, {"v": Note(kind)})["v"]
    assert _loaded(shown["type"]) == counts
    assert _loaded(shown["valueInfo"]) == {}


def _note(kind: str, **info: object) -> Note:
    return Note(kind, {name: Raw(_json(value)) for name, value in info.items()})

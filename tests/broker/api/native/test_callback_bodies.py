"""The three forms of a callback's body, read into one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.api.native.callback_bodies import read_callback
from broker.errors import Forbidden, Invalid

API: Final = Path(__file__).parents[4] / "docs" / "api.md"
TASK_ID: Final = "019aa5f0-7c1e-7b44-9d2a-3f5c8e1b6a01"


def _read(body: bytes) -> dict[str, Any]:
    said: dict[str, Any] = msgspec.json.decode(read_callback(body, TASK_ID, 64).text())
    return {"output": {}, **said}


def _output(body: bytes) -> bytes:
    return bytes(read_callback(body, TASK_ID, 64).output)


def _said(value: object) -> dict[str, Any]:
    return _read(msgspec.json.encode(value))


def _refused(body: bytes) -> tuple[str, str]:
    with pytest.raises(Invalid) as raised:
        read_callback(body, TASK_ID, 64)
    [error] = raised.value.facts["errors"]
    return error["pointer"], error["message"]


def _event(**members: object) -> dict[str, object]:
    return {"taskId": TASK_ID, "status": "SUCCESS", **members}


def _envelope(body: object = None, **members: object) -> dict[str, object]:
    return {"command_response": {"body": body, **members}}


# 3. Any other JSON is the result itself ----------------------------------------


@pytest.mark.parametrize(
    ("body", "output"),
    [
        (b'{"a":1}', b'{"a":1}'),
        (b' \n{ "a" : 1.10, "n":123456789012345678901234567890 }\t', None),
        (b"[1, 2.0]", b'{"value":[1, 2.0]}'),
        (b" 5 ", b'{"value":5}'),
        (b'"text"', b'{"value":"text"}'),
        (b"null", b'{"value":null}'),
        (b"{}", b"{}"),
        # Near the other forms, but none of them.
        (b'{"taskId":5,"status":"SUCCESS"}', None),
        (b'{"taskId":"x","status":"DONE"}', None),
        (b'{"taskId":"x"}', None),
        (b'{"status":"SUCCESS"}', None),
        (b'{"commandResponse":{"body":1}}', None),
        (b'[{"command_response":{"body":1}}]', b'{"value":[{"command_response":{"body":1}}]}'),
    ],
)
def test_any_json_is_the_result_itself(body: bytes, output: bytes | None) -> None:
    assert _read(body)["isSuccess"] is True
    assert _output(body) == (body.strip() if output is None else output)


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.text(alphabet="abc"), inner, max_size=3)
        ),
        max_leaves=8,
    )
)
def test_any_json_is_kept(value: Any) -> None:
    assert _said(value)["output"] == (value if isinstance(value, dict) else {"value": value})


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b" ", b"{", b"[1, 2", b'{"a":1}}', b"nul", b"NaN", b"1 2", b"\xff", b'"\xff"'),
        *(b"1e400", rb'"\u0000"', rb'{"a":"\ud800"}', b"{'a':1}", b'"\n"', b"01"),
        b"[" * 10_000 + b"]" * 10_000,
    ],
)
def test_what_is_no_json_or_cannot_be_kept_is_refused(body: bytes) -> None:
    assert _refused(body)[0] == ""


@pytest.mark.parametrize(
    "frame",
    [
        b"%b",
        b'{"taskId":"%s","status":"SUCCESS","output":%%b}' % TASK_ID.encode(),
        b'{"command_response":{"body":%b}}',
    ],
)
def test_a_result_nests_as_deep_as_any_other(frame: bytes) -> None:
    for depth, is_good in ((64, True), (65, False)):
        of_objects = b'{"a":' * (depth - 1) + b"{}" + b"}" * (depth - 1)
        # What is no object gets a level more.
        of_lists = b"[" * (depth - 1) + b"]" * (depth - 1)
        for result in (of_objects, of_lists):
            if is_good:
                assert result in _output(frame % result)
            else:
                assert _refused(frame % result)[1].startswith("Nested deeper than")


# 1. VibeIQ ----------------------------------------------------------------------


def test_a_success_of_vibeiq() -> None:
    said = _said(
        _event(
            logs="line one\nline two",
            output={"zipFileLocation": "https://example.com/jpeg"},
            subtext="Completed with 90/100 passing",
        )
    )
    assert said == {
        "isSuccess": True,
        "output": {"zipFileLocation": "https://example.com/jpeg"},
        "logs": ["line one\nline two"],
        "subtext": "Completed with 90/100 passing",
    }


def test_a_failure_of_vibeiq() -> None:
    assert _said(_event(status="FAILURE", output={"a": 1}, logs=["1", "2"])) == {
        "isSuccess": False,
        "output": {},
        "errorMessage": "The callback said FAILURE.",
        "logs": ["1", "2"],
    }
    said = _said(_event(status="FAILURE", subtext="10 of 100 failed"))
    assert (said["errorMessage"], said["subtext"]) == ("10 of 100 failed", "10 of 100 failed")


@pytest.mark.parametrize(
    ("output", "kept"),
    [
        (b"{}", b"{}"),
        (b"null", b"{}"),
        (b"[1]", b'{"value":[1]}'),
        (b"5", b'{"value":5}'),
        (b'"x"', b'{"value":"x"}'),
        (b"1e2", b'{"value":1e2}'),
        (b'{"n": 123456789012345678901234567890}', b'{"n": 123456789012345678901234567890}'),
    ],
)
def test_the_output_of_vibeiq_is_an_object(output: bytes, kept: bytes) -> None:
    body = b'{"taskId":"%b","output": %b ,"status":"SUCCESS"}' % (TASK_ID.encode(), output)
    assert _output(body) == kept
    assert _output(msgspec.json.encode(_event())) == b"{}"


def test_the_task_of_vibeiq_is_that_of_the_url() -> None:
    assert _said({**_event(), "taskId": TASK_ID.upper()})["isSuccess"] is True
    with pytest.raises(Forbidden):
        _said({**_event(), "taskId": TASK_ID[:-1] + "2"})


@pytest.mark.parametrize(
    ("members", "pointer"),
    [
        ({"logs": 5}, "/logs"),
        ({"logs": ["a", 5]}, "/logs/1"),
        ({"subtext": 5}, "/subtext"),
        # Not a typo for `output`, or the result would be lost without a word.
        ({"outputs": {}}, "/outputs"),
    ],
)
def test_what_is_wrong_in_vibeiqs_form_is_refused(members: dict[str, Any], pointer: str) -> None:
    assert _refused(msgspec.json.encode(_event(**members)))[0] == pointer


def test_words_beside_a_result_can_be_kept_too() -> None:
    for logs in ("\0", ["a", "b\0"]):
        assert _refused(msgspec.json.encode(_event(logs=logs)))[1].startswith("NUL")
        assert _refused(msgspec.json.encode(_envelope(1) | {"spiff__logs": logs}))[0] == ""
    body = b'{"taskId":"%b","status":"FAILURE","subtext":"\\ud800"}' % TASK_ID.encode()
    assert _refused(body)[0] == ""


def test_words_beside_a_result_are_cut_to_size() -> None:
    lines = [f"{number}{'x' * 5_000}" for number in range(1_001)]
    said = _said(_event(logs=lines, subtext="one\ntwo\x9b" + "x" * 2_000))
    assert said["logs"] == [line[:4_096] for line in lines[1:]]
    assert said["subtext"] == ("one two " + "x" * 2_000)[:1_024]


# 2. Spiff -----------------------------------------------------------------------


def test_a_success_of_spiff() -> None:
    said = _said(
        {
            "command_response": {
                "body": {"ok": True},
                "mimetype": "application/json",
                "http_status": 200,
            },
            "command_response_version": 2,
            "error": None,
            "spiff__logs": ["one", "two"],
        }
    )
    assert said == {"isSuccess": True, "output": {"ok": True}, "logs": ["one", "two"]}


@pytest.mark.parametrize(
    ("body", "mimetype", "kept"),
    [
        ('{"n":1.10}', "application/json", b'{"n":1.10}'),
        (' [1, "\\u00e9"] ', "Application/JSON; charset=utf-8", b'{"value":[1, "\\u00e9"]}'),
        ("5", "application/problem+json", b'{"value":5}'),
        ('{"n":1}', "text/plain", b'{"value":"{\\"n\\":1}"}'),
        ('{"n":1}', None, b'{"value":"{\\"n\\":1}"}'),
        ([1], "application/json", b'{"value":[1]}'),
        (None, "application/json", b'{"value":null}'),
        ({}, "text/html", b"{}"),
    ],
)
def test_a_body_of_spiff_may_be_a_text(body: object, mimetype: str | None, kept: bytes) -> None:
    assert _output(msgspec.json.encode(_envelope(body, mimetype=mimetype))) == kept


@pytest.mark.parametrize(
    "body",
    [
        *("", "x", "{", '{"a":1}}', "NaN", "1e400", '"\\u0000"', '"\\ud800"'),
        "[" * 64 + "]" * 64,
        "[" * 9_000 + "]" * 9_000,
    ],
)
def test_a_text_that_says_it_is_json_must_be(body: str) -> None:
    refused = _refused(msgspec.json.encode(_envelope(body, mimetype="application/json")))
    # Only once it is an object is it known to be too deep.
    assert refused[0] in ("/command_response/body", "")
    # Of a failure nobody wants the body.
    failed = _envelope(body, mimetype="application/json", http_status=502)
    assert _said(failed)["errorMessage"] == "The callback said HTTP status 502."


@pytest.mark.parametrize(
    ("members", "status", "is_success", "code", "message"),
    [
        ({}, 299, True, None, None),
        ({}, None, True, None, None),
        ({}, 300, False, None, "The callback said HTTP status 300."),
        ({"error": {}}, 200, False, None, "The callback said error."),
        ({"error": {"error_code": "E1", "message": "no"}}, 200, False, "E1", "no"),
        (
            {"error": {"error_code": "", "message": ""}},
            500,
            False,
            None,
            "The callback said error.",
        ),
        ({"error": {"error_code": "E1", "more": 1}}, 500, False, "E1", "The callback said error."),
        (
            {"error": {"error_code": "c" * 300, "message": "m" * 5_000}},
            500,
            False,
            "c" * 255,
            "m" * 4_096,
        ),
    ],
)
def test_a_failure_of_spiff(
    members: dict[str, Any],
    status: int | None,
    is_success: bool,
    code: str | None,
    message: str | None,
) -> None:
    said = _said(_envelope({"a": 1}, http_status=status) | members)
    assert said["isSuccess"] is is_success
    assert (said.get("errorCode"), said.get("errorMessage")) == (code, message)
    assert said["output"] == ({"a": 1} if is_success else {})


@pytest.mark.parametrize(
    ("envelope", "pointer"),
    [
        ({"command_response": {}}, "/command_response/body"),
        ({"command_response": {"mimetype": "x"}}, "/command_response/body"),
        ({"command_response": None}, "/command_response"),
        ({"command_response": "x"}, "/command_response"),
        (_envelope(1, http_status="200"), "/command_response/http_status"),
        (_envelope(1, http_status=10**400), "/command_response/http_status"),
        (_envelope(1, mimetype=5), "/command_response/mimetype"),
        (_envelope(1) | {"error": "x"}, "/error"),
        (_envelope(1) | {"spiff__logs": "x"}, "/spiff__logs"),
        (_envelope(1) | {"spiff__logs": [5]}, "/spiff__logs/0"),
    ],
)
def test_what_is_wrong_in_spiffs_form_is_refused(envelope: object, pointer: str) -> None:
    assert _refused(msgspec.json.encode(envelope))[0] == pointer


def test_the_examples_in_the_documentation_are_what_they_are_said_to_be() -> None:
    examples = re.findall(r"```json\n(.*?)```", API.read_text(encoding="utf-8"), re.DOTALL)
    said = [_read(example.encode()) for example in examples]
    assert [(each["isSuccess"], each["output"]) for each in said] == [
        (True, {"zipFileLocation": "https://example.com/jpeg"}),
        (True, {"chargeId": "ch_abc123"}),
        (False, {}),
        (True, {"paymentValid": True, "chargeId": "ch_abc123"}),
    ]


def test_the_first_form_that_fits_counts() -> None:
    assert _refused(msgspec.json.encode(_event(command_response={"body": 1})))[0] == (
        "/command_response"
    )


@given(
    st.binary(max_size=200) | st.text(alphabet='{}[]":,taskIdsuSUCCESFAILR12e\\ ').map(str.encode)
)
def test_any_body_is_read_or_refused(body: bytes) -> None:
    try:
        said = read_callback(body, TASK_ID, 64)
    except Invalid as error:
        assert error.facts["errors"]  # noqa: PT017
    else:
        assert isinstance(msgspec.json.decode(said.output), dict)
        assert msgspec.json.decode(said.text())["isSuccess"] in (True, False)

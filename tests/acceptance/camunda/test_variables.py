"""Variables of every type, through Camunda's clients and to native ones, there and back."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import msgspec
import pytest

from tests.acceptance.camunda.workers import CLIENTS, FINISHED_S, camunda_worker, shown, typed_task
from worker_sdk import Client, NewTask

pytestmark = pytest.mark.acceptance

_CONTENT: Final = "Grüße 🦊\n".encode()
_FILE: Final = base64.b64encode(_CONTENT).decode()
_ABOUT_FILE: Final = {"filename": "file.txt", "mimetype": "text/plain", "encoding": "UTF-8"}
_ABOUT_OBJECT: Final = {
    "objectTypeName": "a.B",
    "serializationDataFormat": "application/json",
}
_BYTES: Final = base64.b64encode(b"\x00\xff\x01").decode()

RESULT: Final = {
    "nothing": None,
    "yes": True,
    "integer": 7,
    "long": 2**40,
    "double": 1.5,
    "text": "Grüße 🦊",
    "date": "2026-01-31T10:00:00.123+0000",
    "object": {"a": [1, {"b": None}]},
    "list": [1, "two"],
    "file": _FILE,
    "short": 8,
    "smallLong": 9,
    "wholeDouble": 3,
    "bytes": _BYTES,
    "xml": '<a b="c"/>',
    "jsonText": {"z": 1, "a": [2.5]},
    "jsonNumber": 5,
    "nullDate": None,
    "java": '{"n":1}',
}
"""What the handlers `types` complete with, as a native client sees it."""

RESULT_TYPES: Final = {
    "date": {"type": "Date"},
    "file": {"type": "File", "valueInfo": _ABOUT_FILE},
    "short": {"type": "Short"},
    "smallLong": {"type": "Long"},
    "wholeDouble": {"type": "Double"},
    "bytes": {"type": "Bytes"},
    "xml": {"type": "Xml"},
    "jsonNumber": {"type": "Json"},
    "nullDate": {"type": "Date"},
    "java": {"type": "Object", "valueInfo": _ABOUT_OBJECT},
}
"""The types that the plain values do not show."""

NATIVE: Final[dict[str, Any]] = {
    "nothing": None,
    "no": False,
    "integer": -(2**31),
    "long": 2**31,
    "beyondLong": 2**70,
    "double": 0.25,
    "text": "Grüße 🦊",
    "object": {"a": [1, {"b": None}]},
    "list": [],
    "file": "replaced",
}
"""What a native producer gives, who knows no types."""

TYPED: Final[dict[str, dict[str, Any]]] = {
    "date": {"type": "date", "value": "2026-01-31T10:00:00.123+0000"},
    "short": {"type": "short", "value": 8},
    "smallLong": {"type": "Long", "value": 9, "valueInfo": None},
    "wholeDouble": {"type": "Double", "value": 3},
    "bytes": {"type": "Bytes", "value": _BYTES},
    "xml": {"type": "Xml", "value": '<a b="c"/>'},
    "jsonText": {"type": "json", "value": '{"z": 1}'},
    "jsonNumber": {"type": "Json", "value": "5"},
    "untyped": {"value": {"a": 1}},
    "nullText": {"type": "String", "value": None},
    "java": {"type": "Object", "value": '{"n":1}', "valueInfo": _ABOUT_OBJECT},
    "file": {"type": "File", "value": _FILE, "valueInfo": _ABOUT_FILE},
}
"""What comes to the variables by `POST /process-instance/{id}/variables`."""


class Seen(NamedTuple):
    """A value in a worker's hands. Either client hands it over as it sees fit."""

    type: str
    python: Any
    javascript: Any
    value_info: Mapping[str, Any] = MappingProxyType({})


_SAME: Final = {
    "nothing": ("Null", None),
    "no": ("Boolean", False),
    "integer": ("Integer", -(2**31)),
    "long": ("Long", 2**31),
    "double": ("Double", 0.25),
    "text": ("String", "Grüße 🦊"),
    "short": ("Short", 8),
    "smallLong": ("Long", 9),
    "wholeDouble": ("Double", 3),
    "bytes": ("Bytes", _BYTES),
    "xml": ("Xml", '<a b="c"/>'),
    "nullText": ("String", None),
}
"""Those that both clients leave as they are on the wire."""

_JSON: Final = {
    "beyondLong": 2**70,
    "object": {"a": [1, {"b": None}]},
    "list": [],
    "jsonText": {"z": 1},
    "jsonNumber": 5,
    "untyped": {"a": 1},
}
"""Text on the wire, as Python has it too. JavaScript's client parses it."""

SEEN: Final = {
    **{name: Seen(type_name, value, value) for name, (type_name, value) in _SAME.items()},
    **{name: Seen("Json", value, value) for name, value in _JSON.items()},
    "date": Seen("Date", TYPED["date"]["value"], "2026-01-31T10:00:00.123Z"),
    "java": Seen("Object", '{"n":1}', '{"n":1}', _ABOUT_OBJECT),
    # Its content is only for whoever asks for it, as the handler for JavaScript does.
    "file": Seen("File", None, _FILE, _ABOUT_FILE),
}


@pytest.mark.parametrize("client_name", CLIENTS)
async def test_a_result_of_every_type(
    client_name: str, broker: str, client: Client, tmp_path: Path
) -> None:
    file = tmp_path / "file.txt"
    file.write_bytes(_CONTENT)
    with await camunda_worker(client_name, broker, "one", {"t": "types"}):
        done = await client.create(NewTask("t", {"path": str(file)}), wait_s=FINISHED_S)
    assert done.state == "COMPLETED"
    task = await shown(broker, done.id)
    assert task["result"] == RESULT
    assert task["resultTypes"] == RESULT_TYPES


@pytest.mark.parametrize("client_name", CLIENTS)
async def test_variables_of_every_type(client_name: str, broker: str, client: Client) -> None:
    with await camunda_worker(client_name, broker, "one", {"t": "echo"}):
        done = await typed_task(broker, client, NewTask("t", NATIVE), TYPED)
    assert done.state == "COMPLETED"
    assert done.result is not None
    seen: dict[str, dict[str, Any]] = done.result["seen"]
    assert seen.keys() == SEEN.keys()
    for name, expected in SEEN.items():
        _assert_seen(client_name, seen[name], expected)


def _assert_seen(client_name: str, typed: dict[str, Any], expected: Seen) -> None:
    assert typed["valueInfo"] == expected.value_info
    if client_name == "javascript":
        # It writes all types in small letters, whatever is on the wire.
        assert (typed["type"], typed["value"]) == (expected.type.lower(), expected.javascript)
        return
    assert typed["type"] == expected.type
    value = msgspec.json.decode(typed["value"]) if expected.type == "Json" else typed["value"]
    assert value == expected.python


@pytest.mark.parametrize("client_name", ["python", "async_python"])
async def test_a_file_is_downloaded(client_name: str, broker: str, client: Client) -> None:
    with await camunda_worker(client_name, broker, "one", {"t": "download"}):
        done = await typed_task(broker, client, NewTask("t"), {"file": TYPED["file"]})
    assert done.result is not None, done
    # The client breaks its Base64 into lines, which decoding does not mind.
    assert base64.b64decode(done.result["content"]) == _CONTENT


async def test_variables_of_a_failure_are_there_the_next_time(broker: str, client: Client) -> None:
    with await camunda_worker("javascript", broker, "one", {"t": "noting"}):
        new = NewTask("t", {"text": "old", "kept": 1})
        done = await client.create(new, wait_s=FINISHED_S)
    assert (done.state, done.attempt) == ("COMPLETED", 2)
    assert done.result == {
        "seen": {
            "text": {"type": "string", "value": "new", "valueInfo": {}},
            "kept": {"type": "integer", "value": 1, "valueInfo": {}},
            "note": {"type": "short", "value": 8, "valueInfo": {}},
        }
    }

"""The content of files: what is one, and what its info says of it."""

from __future__ import annotations

import pytest
from msgspec import Raw

from broker.api.camunda7.values import File, Note, file_of
from tests.broker.api.camunda7.test_values import _note


def test_a_file_has_its_content_and_what_its_info_says() -> None:
    note = _note("File", filename="ä.pdf", mimetype="application/pdf", encoding="UTF-8")
    assert file_of(Raw(b'"YWI="'), note) == File(b"ab", "application/pdf", "ä.pdf", "UTF-8")
    assert file_of(Raw(b"null"), _note("File", filename="a")) == File(b"", None, "a", None)
    assert file_of(Raw(rb'"\/w=="'), Note("Bytes")) == File(b"\xff", None, None, None)


@pytest.mark.parametrize(
    ("value", "note"),
    [
        (b'"YWI="', None),
        (b'"YWI="', Note("String")),
        (b'"YWI="', Note("File")),
        (b"5", Note("Bytes")),
        (b'"\xc3\xa9"', Note("Bytes")),
        (b'"a"', Note("Bytes")),
    ],
)
def test_what_is_no_file_gives_none(value: bytes, note: Note | None) -> None:
    assert file_of(Raw(value), note) is None


@pytest.mark.parametrize("mimetype", ["text/plain\r\nSet-Cookie: a", "é/a", "text", "a/b\n"])
def test_a_mimetype_that_would_not_stay_in_its_header_is_dropped(mimetype: str) -> None:
    content = file_of(Raw(b'""'), _note("File", filename="a", mimetype=mimetype))
    assert content == File(b"", None, "a", None)

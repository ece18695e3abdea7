"""What the native dialect takes beside bodies: ids in paths, headers, query parameters."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Container, Iterator
from datetime import datetime
from typing import Any, Final, NoReturn, get_args
from urllib.parse import parse_qsl

import msgspec

from broker.api import instant
from broker.api.endpoint import Call
from broker.api.native.answers import State
from broker.api.native.wire import Create
from broker.errors import Invalid, TaskNotFound
from broker.store import ListFilters

WAIT_S_MAX: Final = 60
"""Of a `Prefer: wait`. Many proxies give a request up after a minute."""

PAGE_MAX: Final = 200
"""Tasks of one page of a search: each may have a megabyte of variables."""

LINES_MAX: Final = 1_000
"""Log lines of one page."""

LINE_NUMBER_MAX: Final = 2**31 - 1

_WAIT: Final = re.compile(rb"(?:^|[,;])\s*wait\s*=\s*\"?(\d{1,9})\"?\s*(?:$|[,;])", re.IGNORECASE)
_ENTITY_TAG: Final = re.compile(rb'(?:W/)?("[\x21\x23-\x7e\x80-\xff]*")')
_KEY: Final = re.compile(rb"[\x20-\x7e]{1,255}")
_NAMES: Final = {
    "topic": "topic",
    "state": "state",
    "workerId": "worker_id",
    "businessKey": "business_key",
    "processInstanceId": "process_instance_id",
    "createdAfter": "created_after",
    "createdBefore": "created_before",
    "limit": "limit",
    "after": "after",
}


def task_id(call: Call) -> str:
    """The id in the path. Raises `TaskNotFound` for a text that PostgreSQL cannot even compare."""
    given = call.parameters["id"]
    if "\0" in given:
        raise TaskNotFound("There is no task with this id.", {"taskId": given})
    return given


def worker_id(call: Call) -> str:
    """The worker's name in the path. Raises `Invalid` for what is none."""
    given = call.parameters["workerId"]
    if not 1 <= len(given) <= 255 or "\0" in given:
        _refuse("workerId", "Expected 1 to 255 characters, and no NUL")
    return given


def topic(call: Call, length_max: int) -> str:
    """The topic in the path. Raises `Invalid` for what is none."""
    given = call.parameters["topic"]
    if not 1 <= len(given) <= length_max or any(character < " " for character in given):
        _refuse("topic", f"Expected 1 to {length_max} characters, and no control characters")
    return given


def of_worker(worker: str, text: str) -> str:
    """The text of a request (a JSON object with members) as that of this worker."""
    return f'{{"workerId":{_quoted(worker)},{text.lstrip()[1:]}'


def of_task(task: str, text: str) -> str:
    """The text of a request about one task (a JSON object with members) as that of a list of one."""
    return f'{{"tasks":[{{"id":{_quoted(task)},{text.lstrip()[1:]}]}}'


def with_unique_key(task: Create, text: str, header: bytes | None) -> str:
    """The text of a task to create, with the Idempotency-Key header as its `uniqueKey`.

    Raises:
        Invalid: the header is no key, or not the body's.
    """
    if header is None:
        return text
    if not _KEY.fullmatch(header):
        _refuse("uniqueKey", "Idempotency-Key takes 1 to 255 printable ASCII characters")
    key = header.decode()
    if task.unique_key is None:
        # Of members with the same name the last counts, so a null before it does no harm.
        return f'{text.rstrip()[:-1]},"uniqueKey":{_quoted(key)}}}'
    if task.unique_key != key:
        _refuse("uniqueKey", "Idempotency-Key says another key")
    return text


def preferred_wait_s(header: bytes | None) -> int | None:
    """How long the caller wants to wait (RFC 7240). What is not understood is not applied."""
    match = _WAIT.search(header) if header else None
    return min(int(match[1]), WAIT_S_MAX) if match else None


def entity_tag(body: bytes) -> bytes:
    """A strong ETag: the same for the same bytes only."""
    return b'"%b"' % hashlib.blake2b(body, digest_size=8).hexdigest().encode()


def is_known(tag: bytes, if_none_match: bytes | None) -> bool:
    """Whether the caller has what has this ETag already (RFC 9110, 13.1.2)."""
    if if_none_match is None:
        return False
    return if_none_match.strip() == b"*" or tag in _ENTITY_TAG.findall(if_none_match)


def log_page(query: bytes) -> tuple[int, int]:
    """After which line of a log, and how many.

    Raises:
        Invalid: a parameter is unknown, given twice, or out of its range.
    """
    most = {"after": LINE_NUMBER_MAX, "limit": LINES_MAX}
    page = {"after": 0, "limit": 200}
    for name, text in _parameters(query, most):
        page[name] = _number(name, text, 0 if name == "after" else 1, most[name])
    return page["after"], page["limit"]


def list_filters(query: bytes) -> ListFilters:
    """The search that a query string describes.

    Raises:
        Invalid: a parameter is unknown, given twice, or out of its range.
    """
    filters: dict[str, Any] = {
        _NAMES[name]: _value(name, text) for name, text in _parameters(query, _NAMES)
    }
    return ListFilters(**filters)


def _parameters(query: bytes, names: Container[str]) -> Iterator[tuple[str, str]]:
    """The parameters of a query, which may have these names, each once."""
    try:
        pairs = parse_qsl(
            query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=50
        )
    except ValueError:
        _refuse("", "The query is not URL-encoded UTF-8")
    seen: set[str] = set()
    for name, text in pairs:
        if name not in names:
            _refuse(name, "Unknown parameter")
        if name in seen:
            _refuse(name, "Given twice")
        seen.add(name)
        yield name, text


def _value(name: str, text: str) -> str | int | datetime:
    if "\0" in text:
        _refuse(name, "NUL character")
    if name == "limit":
        return _number(name, text, 1, PAGE_MAX)
    if name == "state" and text not in get_args(State):
        _refuse(name, f"Expected one of {', '.join(get_args(State))}")
    if name in ("createdAfter", "createdBefore"):
        try:
            return instant.parse(text)
        except ValueError as error:
            _refuse(name, str(error))
    return text


def _number(name: str, text: str, least: int, most: int) -> int:
    # Not `isdigit`, which knows more digits than the ten; and few, since Python minds many.
    if not re.fullmatch(r"[0-9]{1,18}", text) or not least <= int(text) <= most:
        _refuse(name, f"Expected a number from {least} to {most}")
    return int(text)


def _refuse(name: str, message: str) -> NoReturn:
    pointer = f"/{name.replace('~', '~0').replace('/', '~1')}" if name else ""
    raise Invalid(f"{pointer or 'The query'}: {message}.", [(pointer, message)])


def _quoted(text: str) -> str:
    return msgspec.json.encode(text).decode()

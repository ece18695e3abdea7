"""Single values of Camunda's filters: flags, numbers, dates and lists, as texts or as JSON.

Errors name the parameter and the value as Camunda's do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final, NoReturn
from urllib.parse import parse_qsl

import msgspec

from broker.api.camunda7 import coercions
from broker.errors import Invalid
from broker.store.searching import FIRST_RESULT_MAX

_LONG_MAX: Final = 2**63 - 1
_LONG: Final = re.compile(r"[+-]?[0-9]{1,19}", re.ASCII)
_FLAGS: Final = {"true": True, "1": True, "false": False, "0": False, "null": False}

# Jackson reads numbers and texts as flags, and texts as numbers.
Flag = bool | int | str
Long = int | str


def parameters(query: bytes, names: frozenset[str]) -> Iterator[tuple[str, str]]:
    """The parameters of a query, which may have these names, each once.

    Raises:
        Invalid: one is unknown, given twice, or no text that PostgreSQL knows.
    """
    try:
        pairs = parse_qsl(
            query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=100
        )
    except ValueError:
        refuse("", "The query is not URL-encoded UTF-8")
    seen: set[str] = set()
    for name, text in pairs:
        if name not in names:
            refuse(name, f"Unknown query parameter '{name}'")
        if name in seen:
            refuse(name, f"Query parameter '{name}' is given twice")
        if "\0" in text:
            refuse(name, f"Query parameter '{name}' has a NUL character")
        seen.add(name)
        yield name, text


def listed(text: str) -> list[str]:
    """Java's `split`, which drops what is empty at the end."""
    bare = text.rstrip(",")
    return bare.split(",") if bare.strip() else []


def flag(name: str, given: Flag | None) -> bool:
    """Whether it is set. Raises `Invalid` for a text that is neither true nor false."""
    if not isinstance(given, str):
        return bool(given)
    known = _FLAGS.get(given.strip().lower())
    if known is None:
        refuse_value(name, given, f"Cannot convert value {given} to java type java.lang.Boolean")
    return known


def long(name: str, given: Long | None) -> int | None:
    """A number of Java's `long`. Raises `Invalid` for any other."""
    if given is None:
        return None
    # A number of a body has been read already; Python minds texts of thousands of digits.
    number = given if isinstance(given, int) else None
    if isinstance(given, str) and _LONG.fullmatch(given.strip()):
        number = int(given)
    if number is None or not -_LONG_MAX - 1 <= number <= _LONG_MAX:
        refuse(name, f"Query parameter '{name}' cannot be converted to java type java.lang.Long")
    return number


def page_number(name: str, text: str) -> int:
    """How many tasks to pass over, or to show. Raises `Invalid` for what is no such number."""
    if not _LONG.fullmatch(text) or not 0 <= int(text) <= FIRST_RESULT_MAX:
        refuse_value(name, text, f"Expected a number from 0 to {FIRST_RESULT_MAX}")
    return int(text)


def date(name: str, given: str | None) -> datetime | None:
    """The instant of a date; a blank is none. Raises `Invalid` for what is not in the format."""
    if given is None or not given.strip():
        return None
    found = instant(msgspec.json.encode(given))
    if found is None:
        refuse_value(name, given, f'Cannot convert value "{given}" to java type java.util.Date')
    return found


def instant(text: bytes) -> datetime | None:
    """The instant that a JSON string says in Camunda's format, if it does."""
    try:
        said = msgspec.json.decode(coercions.as_date(text), type=str | None)
        return None if said is None else datetime.fromisoformat(said).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def refuse_value(name: str, given: str, why: str) -> NoReturn:
    """Raise `Invalid` about a value, in Camunda's words."""
    refuse(name, f"Cannot set query parameter '{name}' to value '{given}': {why}")


def refuse(name: str, message: str) -> NoReturn:
    """Raise `Invalid` about a member or parameter; no name is the whole query."""
    pointer = f"/{name.replace('~', '~0').replace('/', '~1')}" if name else ""
    raise Invalid(message, [(pointer, message)])

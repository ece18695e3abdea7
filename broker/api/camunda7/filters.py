"""Camunda's filters and orders of external tasks, from a query string or a body, as a search.

Both come down to the same members, of which null and, where it is a flag, false
are as good as absent, and an empty list too. Members of a listing's body that
Camunda does not know it passes over, and clients send such; so does this file.
An unknown parameter of a query string is refused all the same: it is most likely
a filter with a typo, and to leave a filter out shows what nobody asked for. Where
tasks are not shown, but changed, a body is as strict.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final, cast, get_args

import msgspec
from msgspec import Raw, Struct

from broker.api.body import decode, decoder_of
from broker.api.camunda7.filter_values import (
    Flag,
    Long,
    date,
    flag,
    instant,
    listed,
    long,
    page_number,
    parameters,
    refuse,
    refuse_value,
)
from broker.api.json_text import checked_text
from broker.store.searching import (
    SORTS,
    Condition,
    Filters,
    Operator,
    Search,
    Sort,
)

_DEPTH_MAX: Final = 64
"""Of a body: what clients send beside the filters may nest, but not without end."""

CONDITIONS_MAX: Final = 100
"""Of one search: each is held against every task that is looked at."""

_NUMBER_LENGTH_MAX: Final = 400
"""Characters. The longest double has 309 digits before its point, or 324 places behind it."""

_HUGE_EXPONENT: Final = re.compile(rb"e[+-]?0*[1-9][0-9]{3}", re.IGNORECASE)
"""No double's: those are of three digits."""

_OPERATORS: Final = frozenset(get_args(Operator))
_TRAILING_ESCAPE: Final = re.compile(r"(?<!\\)(?:\\\\)*\\\Z")

_PAGE: Final = frozenset({"firstResult", "maxResults"})
_HARMLESS: Final = frozenset({"deserializeValues"})
"""Sent along by clients that send it with everything; no variables are shown here."""

_TOPIC_FLAGS: Final = frozenset({"withLockedTasks", "withUnlockedTasks", "withRetriesLeft"})


class _Variable(Struct):
    name: str
    operator: str | None = None
    value: Raw = Raw(b"null")


class _Sorting(Struct, rename="camel"):
    sort_by: str | None = None
    sort_order: str | None = None


class _Query(Struct, rename="camel", kw_only=True):
    """The members, by Camunda's names."""

    external_task_id: str | None = None
    external_task_id_in: list[str] | None = None
    execution_id: str | None = None
    topic_name: str | None = None
    worker_id: str | None = None
    locked: Flag | None = None
    not_locked: Flag | None = None
    with_retries_left: Flag | None = None
    no_retries_left: Flag | None = None
    lock_expiration_after: str | None = None
    lock_expiration_before: str | None = None
    activity_id: str | None = None
    activity_id_in: list[str] | None = None
    process_instance_id: str | None = None
    process_instance_id_in: list[str] | None = None
    process_definition_id: str | None = None
    process_definition_key: str | None = None
    process_definition_key_in: list[str] | None = None
    process_definition_name: str | None = None
    process_definition_name_like: str | None = None
    tenant_id_in: list[str] | None = None
    active: Flag | None = None
    suspended: Flag | None = None
    priority_higher_than_or_equals: Long | None = None
    priority_lower_than_or_equals: Long | None = None
    process_variables: Sequence[_Variable] | None = None
    variable_names_ignore_case: Flag | None = None
    variable_values_ignore_case: Flag | None = None
    sort_by: str | None = None
    sort_order: str | None = None
    sorting: Sequence[_Sorting] | None = None


class _StrictVariable(_Variable, forbid_unknown_fields=True):
    pass


class _StrictSorting(_Sorting, forbid_unknown_fields=True):
    pass


class _StrictQuery(_Query, forbid_unknown_fields=True):
    """The same members, and no others."""

    process_variables: Sequence[_StrictVariable] | None = None
    sorting: Sequence[_StrictSorting] | None = None


_decoder: Final = decoder_of(_Query)
_strict_decoder: Final = decoder_of(_StrictQuery)
_NAMES: Final = frozenset(field.encode_name for field in msgspec.structs.fields(_Query)) - {
    "sorting"
}
_LISTS: Final = frozenset(name for name in _NAMES if name.endswith("In"))


def search_of_query(query: bytes) -> Search:
    """The search that a query string describes: lists are comma-separated, flags are words.

    Raises:
        Invalid: a parameter is unknown, given twice, or not what Camunda takes.
    """
    members: dict[str, Any] = {}
    page: dict[str, str] = {}
    for name, text in parameters(query, _NAMES | _PAGE | _HARMLESS):
        if name in _PAGE:
            page[name] = text
        elif name in _LISTS:
            members[name] = listed(text)
        elif name == "processVariables":
            members[name] = list(_variables(text))
        elif name in _NAMES:
            members[name] = text
    return _search(msgspec.convert(members, _Query), page)


def search_of_body(body: bytes, query: bytes) -> Search:
    """The search that a JSON body describes; which page of it, the query string says.

    Raises:
        Invalid: the body is no JSON object, or something is not what Camunda takes.
    """
    checked_text(body, _DEPTH_MAX)
    page = dict(parameters(query, _PAGE | _HARMLESS))
    return _search(decode(_decoder, body or b"{}"), page)


def search_to_change(body: bytes) -> Search:
    """The search for tasks that are then changed, from a JSON object.

    What it does not know, and what would mean each and every task, it does not take: a
    filter with a typo must not redrive all that has failed.

    Raises:
        Invalid: a member is unknown or not what Camunda takes, or no task is ruled out.
    """
    checked_text(body, _DEPTH_MAX)
    search = _search(decode(_strict_decoder, body), {})
    # How variables are compared rules out none.
    narrowing = msgspec.structs.replace(
        search.filters, ignores_case_of_names=False, ignores_case_of_values=False
    )
    if narrowing == Filters():
        refuse("", "A query that means every task is not taken here: it must have a filter")
    return search


def lock_flags(query: bytes) -> Filters:
    """What of a topic's tasks must be for it to be named.

    Raises:
        Invalid: a parameter is unknown, given twice, or neither true nor false.
    """
    flags = {name: flag(name, text) for name, text in parameters(query, _TOPIC_FLAGS)}
    return Filters(
        locked=flags.get("withLockedTasks", False),
        not_locked=flags.get("withUnlockedTasks", False),
        with_retries_left=flags.get("withRetriesLeft", False),
    )


# From Camunda's words to ours -------------------------------------------------


def _search(query: _Query, page: dict[str, str]) -> Search:
    most = page.get("maxResults")
    return Search(
        _filters(query),
        tuple(_sorts(query)),
        page_number("firstResult", page.get("firstResult", "0")),
        None if most is None else page_number("maxResults", most),
    )


def _filters(query: _Query) -> Filters:
    after, before = query.lock_expiration_after, query.lock_expiration_before
    least, most = query.priority_higher_than_or_equals, query.priority_lower_than_or_equals
    return Filters(
        ids=_ids(query),
        topic=query.topic_name,
        worker_id=query.worker_id,
        locked=flag("locked", query.locked),
        not_locked=flag("notLocked", query.not_locked),
        with_retries_left=flag("withRetriesLeft", query.with_retries_left),
        no_retries_left=flag("noRetriesLeft", query.no_retries_left),
        lock_expires_after=date("lockExpirationAfter", after),
        lock_expires_before=date("lockExpirationBefore", before),
        activity_ids=_one_of(query.activity_id, query.activity_id_in),
        process_instance_ids=_one_of(query.process_instance_id, query.process_instance_id_in),
        process_definition_ids=_one_of(query.process_definition_id, None),
        process_definition_keys=_one_of(
            query.process_definition_key, query.process_definition_key_in
        ),
        tenant_ids=_one_of(None, query.tenant_id_in),
        priority_min=long("priorityHigherThanOrEquals", least),
        priority_max=long("priorityLowerThanOrEquals", most),
        conditions=_conditions(query.process_variables or ()),
        ignores_case_of_names=flag("variableNamesIgnoreCase", query.variable_names_ignore_case),
        ignores_case_of_values=flag("variableValuesIgnoreCase", query.variable_values_ignore_case),
    )


def _ids(query: _Query) -> tuple[str, ...] | None:
    """Of which tasks it must be one. A task is its own execution."""
    # Whether they are, all are active.
    flag("active", query.active)
    # No task is ever suspended, and no definition has a name.
    names = query.process_definition_name, query.process_definition_name_like
    if flag("suspended", query.suspended) or names != (None, None):
        return ()
    ids = _one_of(query.external_task_id, query.external_task_id_in)
    if query.execution_id is None:
        return ids
    return (query.execution_id,) if ids is None or query.execution_id in ids else ()


def _one_of(name: str | None, names: Sequence[str] | None) -> tuple[str, ...] | None:
    """The names that both filters let pass. An empty list is none."""
    if name is None:
        return tuple(names) if names else None
    return (name,) if not names or name in names else ()


def _conditions(said: Sequence[_Variable]) -> tuple[Condition, ...] | None:
    if len(said) > CONDITIONS_MAX:
        refuse("processVariables", f"There may be {CONDITIONS_MAX} conditions at most")
    return tuple(map(_condition, said)) or None


def _condition(said: _Variable) -> Condition:
    value = bytes(said.value)
    operator = cast("Operator", said.operator)
    if operator not in _OPERATORS:
        refuse("processVariables", f"Invalid process variable comparator specified: {operator}")
    if value.startswith((b"{", b"[")):
        refuse("processVariables", "Object values cannot be used to query")
    if not value.startswith(b'"'):
        if operator in ("like", "notLike"):
            refuse("processVariables", f"'{operator}' takes a text")
        _check_bare(operator, value)
        return Condition(said.name, operator, said.value)
    if operator in ("like", "notLike"):
        if _TRAILING_ESCAPE.search(msgspec.json.decode(value, type=str)):
            refuse("processVariables", "The pattern ends in the middle of an escape")
        return Condition(said.name, operator, said.value)
    return Condition(said.name, operator, said.value, instant(value))


def _check_bare(operator: Operator, value: bytes) -> None:
    """Raise `Invalid` for an order of what has none, and for a number that JSON may write, but
    PostgreSQL could not read."""
    if value in (b"null", b"true", b"false"):
        if operator not in ("eq", "neq"):
            refuse("processVariables", f"Booleans and null cannot be used with '{operator}'")
    elif len(value) > _NUMBER_LENGTH_MAX or _HUGE_EXPONENT.search(value):
        refuse("processVariables", "A number to compare with is written longer than any double")


def _variables(text: str) -> Iterator[_Variable]:
    """The value is a text, even where it spells a number: so it stands in Camunda's reference,
    and so a caller's search finds the same here as there. A body can ask for numbers."""
    for expression in listed(text):
        parts = expression.split("_")
        if len(parts) != 3 or not parts[2]:
            refuse_value(
                "processVariables",
                text,
                "variable query parameter has to have format KEY_OPERATOR_VALUE.",
            )
        name, operator, value = parts
        yield _Variable(name, operator, Raw(msgspec.json.encode(value)))


def _sorts(query: _Query) -> Iterator[Sort]:
    for entry in (_Sorting(query.sort_by, query.sort_order), *(query.sorting or ())):
        by, order = entry.sort_by, entry.sort_order
        if by is not None and by not in SORTS:
            refuse("sortBy", f"sortBy parameter has invalid value: {by}")
        if order not in (None, "asc", "desc"):
            refuse("sortOrder", f"sortOrder parameter has invalid value: {order}")
        if (by is None) != (order is None):
            refuse(
                "sortOrder" if order is None else "sortBy",
                "Only a single sorting parameter specified. sortBy and sortOrder required",
            )
        if by is not None:
            yield Sort(by, order == "desc")

"""Limits that an operator may set, inside types that C code checks.

A wire type names the setting in an annotation:

    max_tasks: Annotated[int, Meta(ge=1), Bound(le="max_tasks_max")]

and `bounded` makes, once at start, the same type with the setting's value in
place of its name. So a limit costs nothing per request, holds for each of a
thousand items as for one, and stands in the OpenAPI document as what it is.
"""

from __future__ import annotations

import operator
from functools import cache, reduce
from types import UnionType
from typing import Annotated, Any, NamedTuple, TypeVar, Union, cast, get_args, get_origin

import msgspec
from msgspec import NODEFAULT, Meta, Struct

from broker.settings import Settings

S = TypeVar("S", bound=Struct)


class Bound:
    """msgspec's constraints, each by the name of the setting that holds it."""

    def __init__(self, **setting_by_constraint: str) -> None:
        self._setting_by_constraint = setting_by_constraint

    def resolve(self, settings: Settings) -> Meta:
        """The constraints with their values."""
        named = self._setting_by_constraint.items()
        return Meta(**{constraint: getattr(settings, setting) for constraint, setting in named})


class IfEscaped(NamedTuple):
    """A pattern that only a JSON text with a backslash in it can break.

    Control characters are the case: in JSON they must be written as escapes. A
    pattern costs more than all the rest of a task's decoding, and most texts have
    no backslash.
    """

    pattern: str


def bounded(kind: type[S], settings: Settings, *, escapes: bool = True) -> type[S]:
    """A subclass of `kind`, under its name, with each `Bound` in it and below it resolved.

    Without `escapes` it is for texts that have none.
    """
    return cast("type[S]", _bounded(kind, settings, escapes))


@cache  # A type that stands in two others must be one and the same, in the document too.
def _bounded(kind: type[Struct], settings: Settings, escapes: bool) -> type[Struct]:
    def resolved(annotation: Any) -> Any:
        origin, arguments = get_origin(annotation), get_args(annotation)
        if origin is Annotated:
            metas = [meta for mark in arguments[1:] for meta in _metas(mark, settings, escapes)]
            return reduce(lambda base, meta: Annotated[base, meta], metas, resolved(arguments[0]))
        if origin in (Union, UnionType):
            return reduce(operator.or_, map(resolved, arguments))
        if origin is dict:
            return dict[str, resolved(arguments[1])]  # type: ignore[misc]
        if origin is list:
            return list[resolved(arguments[0])]  # type: ignore[misc]
        if isinstance(annotation, type) and issubclass(annotation, Struct):
            return _bounded(annotation, settings, escapes)
        return annotation

    fields = [
        (field.name, resolved(field.type))
        if field.default is NODEFAULT
        else (field.name, resolved(field.type), field.default)
        for field in msgspec.structs.fields(kind)
    ]
    documented = {"__doc__": kind.__doc__}
    return msgspec.defstruct(
        kind.__name__, fields, bases=(kind,), namespace=documented, kw_only=True
    )


def _metas(mark: object, settings: Settings, escapes: bool) -> list[Any]:
    if isinstance(mark, Bound):
        return [mark.resolve(settings)]
    if isinstance(mark, IfEscaped):
        return [Meta(pattern=mark.pattern)] if escapes else []
    return [mark]

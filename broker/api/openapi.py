"""The OpenAPI 3.1 document, generated from the wire types and the routes.

docs/openapi.json is the document of the default settings, committed so that a
change of the contract is seen in review; `make check` compares it:

    python -m broker.api.openapi --write docs/openapi.json
    python -m broker.api.openapi --check docs/openapi.json
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, get_args, get_origin

import msgspec

from broker.api.bounds import bounded
from broker.api.instant import Instant
from broker.api.native import answers
from broker.api.native.operations import IN_PATHS, OPERATIONS
from broker.api.native.routes import ROUTES
from broker.settings import Settings

Json = dict[str, Any]

_REFUSALS: Final = {
    403: "No key of this broker has signed it, or it is about another task",
    404: "No such task",
    409: "The lock is not the caller's, or the task's state forbids it",
    410: "The time of the callback, or its attempt, is over",
    413: "The body is too large",
    415: "The body is not JSON by its Content-Type",
    422: "The request breaks the contract",
    429: "The caller asks for more than its share: try again after Retry-After",
    503: "Not now: try again after Retry-After",
}
_SUCCESSES: Final = {200: "Done", 202: "Accepted", 204: "Done", 304: "As the caller knows it"}


def document(settings: Settings) -> bytes:
    """The document as JSON, with these settings' limits in it."""
    taken = [kind for each in OPERATIONS.values() for kind in (each.request, *each.forms) if kind]
    told = [kind for each in OPERATIONS.values() for kind in each.answers.values() if kind]
    _, schemas = msgspec.json.schema_components(
        [*(bounded(kind, settings) for kind in taken), *told, answers.Problem, answers.Health],
        schema_hook=_schema_of,
        ref_template="#/components/schemas/{name}",
    )
    paths: Json = {}
    for method, path, verb in sorted(ROUTES, key=lambda route: route[1]):
        paths.setdefault(path, {})[method.lower()] = _operation(verb, path)
    whole = {
        "openapi": "3.1.0",
        "info": {
            "title": "Fetchlock",
            "version": version("fetchlock"),
            "summary": "An external-task broker: workers fetch, lock and complete tasks over HTTP.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths | _FOR_OPERATORS,
        "components": {
            "schemas": schemas,
            "responses": {str(status): _refusal(status) for status in _REFUSALS},
        },
    }
    # The end of a text is \\Z in Python's patterns, and $ in those of JSON Schema.
    text = msgspec.json.encode(whole).replace(rb'\\Z"', b'$"')
    return msgspec.json.format(text, indent=2) + b"\n"


def _operation(verb: str, path: str) -> Json:
    told = OPERATIONS[verb]
    responses: Json = {
        str(status): _answer(_SUCCESSES[status], kind, told.tells)
        for status, kind in told.answers.items()
    }
    refusals = {*told.refusals, 503, *((413, 415, 422) if told.request or told.forms else ())}
    for status in sorted(refusals):
        responses[str(status)] = {"$ref": f"#/components/responses/{status}"}
    operation: Json = {"operationId": verb, "summary": told.summary}
    in_path = [IN_PATHS[name] for name in re.findall(r"\{(\w+)\}", path)]
    if parameters := [*in_path, *told.parameters]:
        operation["parameters"] = parameters
    if told.request:
        needed = any(field.required for field in msgspec.structs.fields(told.request))
        operation["requestBody"] = _body(_reference(told.request), needed)
    elif told.forms:
        operation["requestBody"] = _body({"anyOf": [*map(_reference, told.forms), {}]}, True)
    return operation | {"responses": responses}


def _body(schema: Json, needed: bool) -> Json:
    return {"required": needed, "content": {"application/json": {"schema": schema}}}


def _refusal(status: int) -> Json:
    headers = ("Retry-After",) if status in (429, 503) else ()
    return _answer(_REFUSALS[status], answers.Problem, headers)


def _answer(description: str, kind: Any, headers: tuple[str, ...] = ()) -> Json:
    answer: Json = {"description": description}
    if headers:
        answer["headers"] = {name: {"schema": {"type": "string"}} for name in headers}
    if kind is not None:
        media = "application/problem+json" if kind is answers.Problem else "application/json"
        answer["content"] = {media: {"schema": _reference(kind)}}
    return answer


def _reference(kind: Any) -> Json:
    if get_origin(kind) is list:
        return {"type": "array", "items": _reference(get_args(kind)[0])}
    return {"$ref": f"#/components/schemas/{kind.__name__}"}


def _schema_of(kind: type) -> Json:
    assert kind is Instant
    return {"type": "string", "format": "date-time"}


_FOR_OPERATORS: Final[Json] = {
    "/livez": {
        "get": {
            "operationId": "livez",
            "summary": "Whether the process runs; never asks the database",
            "responses": {"200": _answer("It does", answers.Health)},
        }
    },
    "/readyz": {
        "get": {
            "operationId": "readyz",
            "summary": "Whether requests should be sent here",
            "responses": {
                "200": _answer("They should", answers.Health),
                "503": {"$ref": "#/components/responses/503"},
            },
        }
    },
    "/metrics": {
        "get": {
            "operationId": "metrics",
            "summary": "Figures for Prometheus",
            "responses": {"200": {"description": "Its text format", "content": {"text/plain": {}}}},
        }
    },
    "/openapi.json": {
        "get": {
            "operationId": "openapi",
            "summary": "This document",
            "responses": {
                "200": {
                    "description": "OpenAPI 3.1",
                    "content": {"application/json": {"schema": {"type": "object"}}},
                }
            },
        }
    },
}


def main(arguments: list[str]) -> None:
    """Write the document of the default settings, or compare it with what is written."""
    match arguments:
        case ["--write", path]:
            Path(path).write_bytes(document(Settings()))
        case ["--check", path]:
            if Path(path).read_bytes() != document(Settings()):
                sys.exit(f"{path} is not what the types say: write it anew, with --write.")
        case _:
            sys.exit("usage: python -m broker.api.openapi --write|--check FILE")


if __name__ == "__main__":
    main(sys.argv[1:])

"""The OpenAPI 3.1 document, generated from the wire types and the routes.

docs/openapi.json is the document of the default settings, committed so that a
change of the contract is seen in review; `make check` compares it:

    python -m broker.api.openapi --write docs/openapi.json
    python -m broker.api.openapi --check docs/openapi.json
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, NamedTuple, get_args, get_origin

import msgspec
from msgspec import Struct

from broker.api.bounds import bounded
from broker.api.instant import Instant
from broker.api.native import answers, wire
from broker.api.native.parameters import PAGE_MAX, WAIT_S_MAX
from broker.api.native.routes import ROUTES
from broker.settings import Settings

Json = dict[str, Any]

_REFUSALS: Final = {
    404: "No such task",
    409: "The lock is not the caller's, or the task's state forbids it",
    413: "The body is too large",
    415: "The body is not JSON by its Content-Type",
    422: "The request breaks the contract",
    429: "The caller asks for more than its share: try again after Retry-After",
    503: "Not now: try again after Retry-After",
}
_SUCCESSES: Final = {200: "Done", 202: "Accepted", 204: "Done"}
_HELD: Final = (404, 409)
_REPLAYED: Final = "Idempotency-Replayed"


class Operation(NamedTuple):
    """What the document says of one verb, beside what its types say."""

    summary: str
    request: type[Struct] | None
    answers: dict[int, Any]
    refusals: tuple[int, ...] = ()
    tells: tuple[str, ...] = ()
    """Headers that successful answers may carry."""


OPERATIONS: Final = {
    "create": Operation(
        "Create a task",
        wire.Create,
        {200: answers.Task, 202: answers.Task},
        (409,),
        ("Location", "Preference-Applied", _REPLAYED),
    ),
    "create_batch": Operation("Create many tasks", wire.CreateBatch, {202: answers.ResultList}),
    "list_tasks": Operation("Search tasks, newest first", None, {200: answers.TaskPage}, (422,)),
    "get_task": Operation("Look at a task", None, {200: answers.Task}, (404,)),
    "fetch_and_lock": Operation(
        "Lock tasks, waiting until there are some",
        wire.FetchAndLock,
        {200: list[answers.LockedTask]},
        (429,),
    ),
    "complete": Operation("Finish a task", wire.Complete, {204: None}, _HELD, (_REPLAYED,)),
    "complete_batch": Operation("Finish many tasks", wire.CompleteBatch, {200: answers.ResultList}),
    "fail": Operation("Report a failure", wire.Fail, {200: answers.Failed}, _HELD),
    "fail_batch": Operation("Report many failures", wire.FailBatch, {200: answers.ResultList}),
    "bpmn_error": Operation(
        "Finish a task with a business outcome", wire.BpmnError, {204: None}, _HELD, (_REPLAYED,)
    ),
    "extend_lock": Operation("Extend a lock", wire.ExtendLock, {200: answers.Extended}, _HELD),
    "extend_lock_batch": Operation(
        "Extend many locks", wire.ExtendLockBatch, {200: answers.ResultList}
    ),
    "unlock": Operation("Give a task back", wire.Unlock, {204: None}, _HELD),
    "retry_timeout": Operation(
        "Move a task that waits for its retry",
        wire.RetryTimeout,
        {200: answers.Rescheduled},
        _HELD,
    ),
    "retries": Operation(
        "Set the retries; redrive a failed task", wire.Retries, {200: answers.Redriven}, _HELD
    ),
    "cancel": Operation("Cancel a task", wire.Cancel, {200: answers.Cancelled}, _HELD),
}
"""By the verb's name in `ROUTES`."""


def document(settings: Settings) -> bytes:
    """The document as JSON, with these settings' limits in it."""
    requests = [bounded(each.request, settings) for each in OPERATIONS.values() if each.request]
    told = [kind for each in OPERATIONS.values() for kind in each.answers.values() if kind]
    _, schemas = msgspec.json.schema_components(
        [*requests, *told, answers.Problem, answers.Health],
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
    refusals = {*told.refusals, 503, *((413, 415, 422) if told.request else ())}
    for status in sorted(refusals):
        responses[str(status)] = {"$ref": f"#/components/responses/{status}"}
    operation: Json = {"operationId": verb, "summary": told.summary}
    if parameters := [*_parameters(verb, path)]:
        operation["parameters"] = parameters
    if told.request:
        operation["requestBody"] = {
            "required": any(f.required for f in msgspec.structs.fields(told.request)),
            "content": {"application/json": {"schema": _reference(told.request)}},
        }
    return operation | {"responses": responses}


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


def _parameters(verb: str, path: str) -> Iterator[Json]:
    if "{id}" in path:
        yield _parameter("path", "id", {"type": "string"}, required=True)
    if verb == "create":
        key = {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]*$"}
        yield _parameter("header", "Idempotency-Key", key)
        wait = f"`wait=N`: wait up to N seconds (at most {WAIT_S_MAX}) for the task to finish."
        yield _parameter("header", "Prefer", {"type": "string"}, description=wait)
    if verb == "list_tasks":
        for name, schema in _SEARCH.items():
            yield _parameter("query", name, schema)


def _parameter(place: str, name: str, schema: Json, **more: Any) -> Json:
    return {"name": name, "in": place, "schema": schema, **more}


_SEARCH: Final[dict[str, Json]] = {
    "topic": {"type": "string"},
    "state": {"enum": list(get_args(answers.State))},
    "workerId": {"type": "string"},
    "businessKey": {"type": "string"},
    "processInstanceId": {"type": "string"},
    "createdAfter": {"type": "string", "format": "date-time"},
    "createdBefore": {"type": "string", "format": "date-time"},
    "limit": {"type": "integer", "minimum": 1, "maximum": PAGE_MAX, "default": 50},
    "after": {"type": "string", "description": "The `next` of the page before."},
}

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

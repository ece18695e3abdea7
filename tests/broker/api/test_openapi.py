"""The document says what is served: its routes, its limits, and what is committed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from starlette.routing import Route

from broker.api.app import native_routes
from broker.api.native.operations import OPERATIONS
from broker.api.openapi import document, main
from broker.core import Core
from broker.errors import BY_CODE
from broker.settings import Settings

COMMITTED = Path(__file__).parents[3] / "docs" / "openapi.json"


def _document(settings: Settings | None = None) -> Any:
    return msgspec.json.decode(document(settings or Settings()))


def test_what_is_committed_is_what_the_types_say() -> None:
    main(["--check", str(COMMITTED)])


def test_a_document_that_is_out_of_date_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "openapi.json"
    main(["--write", str(path)])
    main(["--check", str(path)])
    path.write_bytes(path.read_bytes().replace(b"255", b"254"))
    with pytest.raises(SystemExit, match="not what the types say"):
        main(["--check", str(path)])


async def test_every_route_is_documented_and_every_documented_route_is_there(core: Core) -> None:
    paths = _document()["paths"]
    # What a parameter may hold is the router's business.
    routes = {
        route.path.replace(":anything}", "}"): route
        for route in native_routes(core).routes
        if isinstance(route, Route)
    }
    assert routes.keys() == paths.keys()
    methods = {
        (path, method)
        for path in routes
        for method in ("get", "put", "post", "delete", "patch")
        if method in paths[path]
    }
    served = {
        (path, method.lower())
        for path, route in routes.items()
        for method in getattr(route.endpoint, "methods", ())
    }
    assert methods == served


def test_operations_are_the_verbs() -> None:
    verbs = {
        operation["operationId"]
        for path, methods in _document()["paths"].items()
        if path.startswith("/api/")
        for operation in methods.values()
    }
    assert verbs == OPERATIONS.keys()


def test_limits_are_those_of_the_settings() -> None:
    schemas = _document(Settings(max_tasks_max=7, lock_duration_ms_max=8_000))["components"][
        "schemas"
    ]
    assert schemas["FetchAndLock"]["properties"]["maxTasks"]["maximum"] == 7
    assert schemas["ExtendLock"]["properties"]["lockDurationMs"]["maximum"] == 8_000
    assert schemas["ExtendLockItem"]["properties"]["lockDurationMs"]["maximum"] == 8_000


def test_unknown_members_are_not_allowed_in_requests() -> None:
    schemas = _document()["components"]["schemas"]
    for operation in OPERATIONS.values():
        if operation.request:
            assert schemas[operation.request.__name__]["additionalProperties"] is False


def test_all_that_is_referred_to_is_there() -> None:
    # Two types of one name would each get another one.
    whole = _document()
    referred = set(re.findall(r'"#/components/(\w+)/(\w+)"', document(Settings()).decode()))
    assert referred
    for kind, name in referred:
        assert name in whole["components"][kind]


def test_patterns_are_those_of_json_schema() -> None:
    assert rb"\\Z" not in document(Settings())


def test_documented_refusals_have_a_code() -> None:
    statuses = {error.status for error in BY_CODE.values()}
    assert {int(status) for status in _document()["components"]["responses"]} <= statuses

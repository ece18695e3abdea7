"""Errors as RFC 9457 problem details: how this broker's own dialect says no."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from broker.api.endpoint import Headers, Reply
from broker.errors import BY_CODE, BrokerError, Overloaded
from broker.store import Results

CONTENT_TYPE: Final = b"application/problem+json"


class NoSuchRoute(BrokerError):
    """No endpoint has this path. Not for dialects to raise: there is no task in it."""

    status, code, title = 404, "not_found", "No such path"


class MethodNotAllowed(BrokerError):
    """The path exists, for other methods."""

    status, code, title = 405, "method_not_allowed", "Method not allowed"


def problem(error: BrokerError) -> Reply:
    """The error's answer. `type` is a name and not an address: nobody is to fetch it."""
    told = {
        "type": f"urn:fetchlock:problem:{error.code}",
        "title": error.title,
        "status": error.status,
        "code": error.code,
        "detail": error.detail,
        **error.facts,
    }
    headers: Headers = ()
    if isinstance(error, Overloaded):
        headers = ((b"retry-after", b"%d" % error.retry_after_s),)
    return Reply(error.status, msgspec.json.encode(told), headers, CONTENT_TYPE)


def only_result(results: Results) -> dict[str, Any]:
    """The result of a command about one task. Raises the error that it tells of, if it does."""
    [result] = msgspec.json.decode(results.body, type=list[dict[str, Any]])
    if "code" not in result:
        return result
    error = BY_CODE[result.pop("code")](result.pop("detail"))
    if "id" in result:
        result["taskId"] = result.pop("id")
    error.facts = result
    raise error

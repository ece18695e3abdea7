"""What the core's results are as replies."""

from __future__ import annotations

from typing import Any

import msgspec

from broker.api.endpoint import Headers, Reply


def done(result: dict[str, Any]) -> Reply:
    """It is done, and there is nothing to tell."""
    return Reply(204, headers=replayed("replayed" in result))


def told(result: dict[str, Any]) -> Reply:
    """What the verb has to tell, without what the status says."""
    members = {name: result[name] for name in result.keys() - {"id", "outcome", "replayed"}}
    return Reply(200, msgspec.json.encode(members), replayed("replayed" in result))


def replayed(is_replay: bool) -> Headers:
    """Whether this had been done before."""
    return ((b"idempotency-replayed", b"true"),) if is_replay else ()

"""What the native dialect takes of long work: heartbeats, hand-overs, and what outside parties say.

The rules are those of wire.py, which has the bodies that every worker sends.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from broker.api.bounds import Bound
from broker.api.native.wire import LockDurationMs, LockToken, Request, Variables, WorkerId

SUBTEXT_LENGTH_MAX = 1_024
LINE_LENGTH_MAX = 4_096
LINES_MAX = 1_000
"""Of one request."""

# Some of them end a line or steer a terminal, and JSON lets them stand unescaped.
CONTROLS = r"\x00-\x1f\x7f-\x9f\u2028\u2029"

OneLine = Annotated[
    str,
    Meta(
        max_length=SUBTEXT_LENGTH_MAX,
        pattern=rf"^[^{CONTROLS}]*\Z",
        description="For people. No control characters. Empty: none.",
    ),
]
LogLine = Annotated[str, Meta(max_length=LINE_LENGTH_MAX)]
# A callback URL is a secret in somebody else's hands: not for longer than a year.
CallbackTimeoutMs = Annotated[
    int, Meta(ge=1_000, le=31_536_000_000, description="How long the callback is waited for.")
]


class HeartbeatItem(Request):
    """One task that is still worked on, and what is new of it."""

    id: str
    lock_token: LockToken
    sequence: (
        Annotated[
            int,
            Meta(
                ge=1, le=2**63 - 1, description="Numbers the news of one lock: none counts twice."
            ),
        ]
        | None
    ) = None
    percent: Annotated[float, Meta(ge=0, le=100)] | None = None
    subtext: OneLine | None = None
    logs: (
        Annotated[LogLine, Meta(description="One line, whatever is in it.")]
        | Annotated[list[LogLine], Meta(max_length=LINES_MAX)]
        | None
    ) = None
    checkpoint: Annotated[
        Raw | UnsetType, Meta(description="For the next attempt. Any JSON but null, kept exactly.")
    ] = UNSET


class Heartbeat(Request):
    """A worker lives, and so do its locks: each shall last so long from now."""

    lock_duration_ms: LockDurationMs
    tasks: Annotated[list[HeartbeatItem], Bound(max_length="batch_tasks_max")]


class Subtext(Request):
    """How the task stands."""

    subtext: OneLine


class CallbackUrl(Request):
    """An address is wanted at which somebody else can say how the task ends."""

    worker_id: WorkerId
    lock_token: LockToken | None = None
    timeout_ms: CallbackTimeoutMs | None = None


class HandOver(Request):
    """The worker has done its part. A callback shall end the task."""

    worker_id: WorkerId
    lock_token: LockToken | None = None
    timeout_ms: CallbackTimeoutMs | None = None
    variables: (
        Annotated[Variables, Meta(description="The callback's output is merged over them.")] | None
    ) = None


class ExternalEvent(Request):
    """An outside party says how a task ended."""

    task_id: str
    status: Literal["SUCCESS", "FAILURE"]
    output: Annotated[
        Raw | UnsetType, Meta(description="An object; anything else becomes `value` of one.")
    ] = UNSET
    logs: str | list[str] | None = None
    subtext: str | None = None


class CommandResponse(Struct):
    """What a connector's command came to."""

    body: Annotated[Raw, Meta(description="Any JSON, or the text of one by its `mimetype`.")]
    mimetype: str | None = None
    http_status: (
        Annotated[int, Meta(ge=0, le=999, description="From 300 on it is a failure.")] | None
    ) = None


class CommandError(Struct):
    """Why a connector's command failed."""

    error_code: str | None = None
    message: str | None = None


class Envelope(Struct):
    """What Spiff's connectors say. It is theirs to grow, so other members are passed over."""

    command_response: CommandResponse
    error: CommandError | None = None
    spiff__logs: list[str] | None = None

"""The nouns, and the lifecycle of a task as one table.

Rule 1: everything that says which verb may move a task from which state to
which lives in `TRANSITIONS`, here, and nowhere else in Python. The SQL of the
verbs is tested against this table (tests/broker/test_lifecycle.py walks it at
random over two broker cores), so a change of the lifecycle starts here.

Rule 2: this file does no I/O and knows neither HTTP nor PostgreSQL.

    (create) ──▶ delayed ──▶ ready ──▶ locked ─────────────────▶ finished
        └──────────────────▶  ▲ ▲        │ │ └─▶ awaiting ── callback ──▲ │
                              │ └────────┘ │        │  unlocked, expired, failed with retries
                              │            ▼        ▼  left: by the worker, or by a callback
                              └───────── failed ◀───┘  failed for good, expired too often, timed out

Where somebody waits for it, (create) and the fetch are one step, and the task is
born `locked`.

A task that has run out of its lock is still `locked` until somebody sweeps it;
the sweep is a verb of the broker's own (`release_due`), as is the promotion of
a delayed task whose time has come. What runs out otherwise (a timeout, a
hand-over nobody called back for, a worker that did not let go of a cancelled
task in time) and what was recorded before it could be applied is for
`settle_due`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class State(StrEnum):
    """Where a task is. The first five are rows of `open_task`, the rest rows of `outcome`.

    The values are those of the PostgreSQL enums; `API_STATES` gives the API's words.
    """

    DELAYED = "delayed"
    READY = "ready"
    LOCKED = "locked"
    AWAITING = "awaiting"
    FAILED = "failed"
    COMPLETED = "completed"
    BPMN_ERROR = "bpmn_error"
    CANCELLED = "cancelled"


FINISHED: Final = frozenset({State.COMPLETED, State.BPMN_ERROR, State.CANCELLED})
"""The states nothing leads out of."""

API_STATES: Final = {
    State.DELAYED: "CREATED",
    State.READY: "CREATED",
    State.LOCKED: "LOCKED",
    State.AWAITING: "AWAITING",
    State.FAILED: "FAILED",
    State.COMPLETED: "COMPLETED",
    State.BPMN_ERROR: "BPMN_ERROR",
    State.CANCELLED: "CANCELLED",
}
"""The API does not tell waiting from waiting: a delayed task shows `availableAt`."""

API_FINISHED: Final = frozenset(API_STATES[state] for state in FINISHED)
"""`FINISHED` in the API's words."""

TRANSITIONS: Final[dict[str, dict[State, frozenset[State]]]] = {
    "fetch_and_lock": {State.READY: frozenset({State.LOCKED})},
    # From `ready` where late work is welcome: the lock ran out, nobody took the task since.
    "complete": {
        State.LOCKED: frozenset({State.COMPLETED}),
        State.READY: frozenset({State.COMPLETED}),
    },
    "bpmn_error": {
        State.LOCKED: frozenset({State.BPMN_ERROR}),
        State.READY: frozenset({State.BPMN_ERROR}),
    },
    # A retry timeout of zero puts the task back at once; retries of zero make an incident.
    # Whose cancellation was requested is cancelled, by a failure as by an unlock.
    "fail": {
        State.LOCKED: frozenset({State.DELAYED, State.READY, State.FAILED, State.CANCELLED}),
        State.READY: frozenset({State.DELAYED, State.READY, State.FAILED}),
    },
    "extend_lock": {State.LOCKED: frozenset({State.LOCKED})},
    "heartbeat": {State.LOCKED: frozenset({State.LOCKED})},
    # Where nobody is asked who holds it, what nobody holds stays what it is. Failed: it has no
    # retries left.
    "unlock": {
        State.LOCKED: frozenset({State.READY, State.FAILED, State.CANCELLED}),
        State.DELAYED: frozenset({State.DELAYED}),
        State.READY: frozenset({State.READY}),
        State.AWAITING: frozenset({State.AWAITING}),
        State.FAILED: frozenset({State.FAILED}),
    },
    "lock": {State.READY: frozenset({State.LOCKED}), State.LOCKED: frozenset({State.LOCKED})},
    "callback_url": {State.LOCKED: frozenset({State.LOCKED})},
    # It goes further at once where its callback, or the wish to cancel it, came before.
    "hand_over": {
        State.LOCKED: frozenset(
            {
                State.AWAITING,
                State.COMPLETED,
                State.DELAYED,
                State.READY,
                State.FAILED,
                State.CANCELLED,
            }
        )
    },
    "callback": {
        # Too early: it is recorded.
        State.LOCKED: frozenset({State.LOCKED}),
        State.AWAITING: frozenset({State.COMPLETED, State.DELAYED, State.READY, State.FAILED}),
    },
    "retry_timeout": {State.DELAYED: frozenset({State.DELAYED, State.READY})},
    # A failed task is redriven, and with no retries left one fails that nobody holds; elsewhere
    # the number alone changes.
    "retries": {
        State.DELAYED: frozenset({State.DELAYED, State.FAILED}),
        State.READY: frozenset({State.READY, State.FAILED}),
        State.LOCKED: frozenset({State.LOCKED}),
        State.AWAITING: frozenset({State.AWAITING}),
        State.FAILED: frozenset({State.READY, State.FAILED}),
    },
    "priority": {
        State.DELAYED: frozenset({State.DELAYED}),
        State.READY: frozenset({State.READY}),
        State.LOCKED: frozenset({State.LOCKED}),
        State.AWAITING: frozenset({State.AWAITING}),
        State.FAILED: frozenset({State.FAILED}),
    },
    "cancel": {
        State.DELAYED: frozenset({State.CANCELLED}),
        State.READY: frozenset({State.CANCELLED}),
        # Its worker is asked to let go of it, if the lock has not run out.
        State.LOCKED: frozenset({State.LOCKED, State.CANCELLED}),
        State.AWAITING: frozenset({State.CANCELLED}),
        State.FAILED: frozenset({State.CANCELLED}),
        # Said twice, done once.
        State.CANCELLED: frozenset({State.CANCELLED}),
    },
    "release_due": {
        State.LOCKED: frozenset({State.READY, State.FAILED}),
        State.DELAYED: frozenset({State.READY}),
    },
    "settle_due": {
        State.DELAYED: frozenset({State.FAILED}),
        State.READY: frozenset({State.FAILED}),
        State.LOCKED: frozenset(
            {State.COMPLETED, State.CANCELLED, State.DELAYED, State.READY, State.FAILED}
        ),
        State.AWAITING: frozenset(
            {State.COMPLETED, State.CANCELLED, State.DELAYED, State.READY, State.FAILED}
        ),
    },
}
"""verb → state before → states it may lead to. A pair that is not here is refused."""

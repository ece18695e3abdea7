"""What the random walk may say of a task, and how it is drawn."""

from __future__ import annotations

from typing import Final, NamedTuple

from hypothesis import strategies as st

from broker.task import State
from tests.factories import TaskJson

LATER_MS: Final = 3_600_000
"""Nothing happens by itself during the walk: what becomes due is made due."""


class Said(NamedTuple):
    """A verb, and what it says of the task."""

    verb: str
    members: TaskJson

    @property
    def wants(self) -> State | None:
        """The end that the verb brings about."""
        ends = {"complete": State.COMPLETED, "bpmn_error": State.BPMN_ERROR}
        return ends.get(self.verb)

    @property
    def content(self) -> TaskJson:
        """What makes it the same when it is said again."""
        return {name: value for name, value in self.members.items() if name != "acceptsLate"}


BROKERS = st.integers(0, 1)
PICKS = st.integers(0, 9_999)
WORKERS = st.sampled_from(["w1", "w2"])
PRIORITIES = st.sampled_from([0, 0, 5])
_LATE = {"acceptsLate": st.booleans()}
WISHES = st.tuples(  # Of a new task: its priority, whether it is delayed, retries, a timeout.
    PRIORITIES, st.sampled_from([False, False, True]),
    st.integers(1, 3), st.booleans(),
)  # fmt: skip
WORKER_VERBS = st.one_of(
    st.builds(
        Said,
        st.just("complete"),
        st.fixed_dictionaries({"variables": st.sampled_from([{}, {"a": 1}])}, optional=_LATE),
    ),
    st.builds(
        Said,
        st.just("bpmn_error"),
        st.fixed_dictionaries({"errorCode": st.sampled_from("EF")}, optional=_LATE),
    ),
    st.builds(
        Said,
        st.just("fail"),
        st.fixed_dictionaries(
            {"errorMessage": st.just("m"), "retryTimeoutMs": st.sampled_from([0, LATER_MS])},
            optional={"retries": st.sampled_from([0, 1, 3]), **_LATE},
        ),
    ),
    st.builds(Said, st.just("extend_lock"), st.just({"lockDurationMs": LATER_MS})),
    st.builds(Said, st.just("unlock"), st.sampled_from([{}, {}, {"whoever": True}])),
    st.builds(Said, st.just("callback_url"), st.just({"timeoutMs": LATER_MS})),
    st.builds(
        Said,
        st.just("hand_over"),
        st.fixed_dictionaries(
            {"timeoutMs": st.just(LATER_MS)},
            optional={"variables": st.just({"own": 1, "both": 1})},
        ),
    ),
    st.builds(
        Said,
        st.just("heartbeat"),
        st.fixed_dictionaries(
            {},
            optional={
                "sequence": st.integers(1, 3),
                "percent": st.just(50),
                "logs": st.sampled_from([[], ["a"], ["b", "c"]]),
                "checkpoint": st.just({"n": 1}),
            },
        ),
    ),
)  # fmt: skip
OUTSIDE_VERBS = st.builds(
    Said,
    st.just("callback"),
    st.fixed_dictionaries(
        {"isSuccess": st.booleans()}, optional={"output": st.just({"theirs": 2, "both": 2})}
    ),
)
OPERATOR_VERBS = st.one_of(
    st.just(Said("cancel", {})),
    st.builds(Said, st.just("priority"), st.fixed_dictionaries({"priority": PRIORITIES})),
    st.builds(Said, st.just("retries"), st.fixed_dictionaries({"retries": st.integers(0, 3)})),
    st.builds(
        Said,
        st.just("retry_timeout"),
        st.fixed_dictionaries({"retry_timeout_ms": st.sampled_from([0, LATER_MS])}),
    ),
)

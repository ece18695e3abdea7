"""All that a test believes of one task, and what each verb does to it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from hypothesis import strategies as st

from broker.errors import Conflict, LockLost
from broker.task import TRANSITIONS, State
from tests.factories import TaskJson

LATER_MS: Final = 3_600_000
"""Nothing happens by itself during the walk: what becomes due is made due."""


class Lock(NamedTuple):
    """What a worker says to be obeyed. Without a token its name alone decides."""

    worker_id: str
    token: str | None


class Said(NamedTuple):
    """A verb, and what it says of the task."""

    verb: str
    members: TaskJson

    @property
    def wants(self) -> State | None:
        """The end that the verb brings about."""
        ends = {"complete": State.COMPLETED, "bpmn_error": State.BPMN_ERROR}
        return ends.get(self.verb)


@dataclass(frozen=True)
class Known:
    """One task, as the test believes it to be."""

    state: State
    retries: int
    priority: int
    place: int
    attempt: int = 0
    failures: int = 0
    expiries: int = 0
    lock: Lock | None = None
    end: tuple[Lock, TaskJson] | None = None

    def is_as(self, row: dict[str, Any]) -> bool:
        """Whether the database says the same."""
        counts = ("state", "retries", "attempt", "failures", "expiries")
        return all(row[name] == getattr(self, name) for name in counts) and (
            self.lock is None or self.lock == (row["worker_id"], row["lock_token"])
        )

    def is_held(self, lock: Lock) -> bool:
        return self.lock is not None and lock in (self.lock, Lock(self.lock.worker_id, None))

    def worker_says(self, said: Said, lock: Lock) -> tuple[str, Known]:
        """The answer to a worker, and the task afterwards."""
        if self.state not in TRANSITIONS[said.verb] or not self.is_held(lock):
            if self.end and self.state == said.wants and said.members == self.end[1]:
                ended_by = self.end[0]
                if lock in (ended_by, Lock(ended_by.worker_id, None)):
                    return "replayed", self
            return LockLost.code, self
        match said.verb:
            case "complete" | "bpmn_error":
                assert said.wants is not None
                assert self.lock is not None
                after = self._to(said.wants, end=(self.lock, said.members))
            case "fail":
                retries = said.members.get("retries", max(self.retries - 1, 0))
                is_later = said.members["retryTimeoutMs"] > 0
                state = State.DELAYED if is_later else State.READY
                state = state if retries else State.FAILED
                after = self._to(state, retries=retries, failures=self.failures + 1)
            case "unlock":
                after = self._to(State.READY)
            case _:
                after = self
        return "done", after

    def operator_says(self, said: Said) -> tuple[str, Known]:
        """The answer to an operator, and the task afterwards."""
        if self.state not in TRANSITIONS[said.verb]:
            return Conflict.code, self
        match said.verb:
            case "cancel":
                after = dataclasses.replace(self, state=State.CANCELLED, lock=None)
            case "retries":
                after = dataclasses.replace(self, **said.members)
                if self.state is State.FAILED:
                    after = dataclasses.replace(after, state=State.READY, expiries=0)
            case _:
                state = State.DELAYED if said.members["retry_timeout_ms"] else State.READY
                after = dataclasses.replace(self, state=state)
        return "done", after

    def fetched(self, lock: Lock) -> Known:
        return dataclasses.replace(self, state=State.LOCKED, lock=lock, attempt=self.attempt + 1)

    def expired(self, expiries_max: int) -> Known:
        expiries = self.expiries + 1
        state = State.FAILED if expiries >= expiries_max else State.READY
        return self._to(state, expiries=expiries)

    def _to(self, state: State, **changes: Any) -> Known:
        return dataclasses.replace(self, state=state, lock=None, **changes)


WORKER_VERBS = st.one_of(
    st.builds(Said, st.just("complete"), st.fixed_dictionaries({"variables": st.sampled_from([{}, {"a": 1}])})),
    st.builds(Said, st.just("bpmn_error"), st.fixed_dictionaries({"errorCode": st.sampled_from("EF")})),
    st.builds(
        Said,
        st.just("fail"),
        st.fixed_dictionaries(
            {"errorMessage": st.just("m"), "retryTimeoutMs": st.sampled_from([0, LATER_MS])},
            optional={"retries": st.sampled_from([0, 1, 3])},
        ),
    ),
    st.builds(Said, st.just("extend_lock"), st.just({"lockDurationMs": LATER_MS})),
    st.builds(Said, st.just("unlock"), st.just({})),
)  # fmt: skip
OPERATOR_VERBS = st.one_of(
    st.just(Said("cancel", {})),
    st.builds(Said, st.just("retries"), st.fixed_dictionaries({"retries": st.integers(0, 3)})),
    st.builds(
        Said,
        st.just("retry_timeout"),
        st.fixed_dictionaries({"retry_timeout_ms": st.sampled_from([0, LATER_MS])}),
    ),
)

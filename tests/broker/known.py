"""All that a test believes of one task, and what each verb does to it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import msgspec

from broker.errors import CallbackExpired, Conflict, LockLost
from broker.task import FINISHED, TRANSITIONS, State
from tests.broker.said import Said
from tests.factories import TaskJson

STORED: Final = """
    SELECT id::text, count(*) AS rows, min(state) AS state, min(retries) AS retries,
           min(attempt) AS attempt, min(failures) AS failures, min(expiries) AS expiries,
           min(worker_id) AS worker_id, min(lock_token::text) AS lock_token,
           min(lost_token::text) AS lost_token, bool_or(called_back) AS called_back,
           bool_or(cancel_requested) AS cancel_requested, min(result) AS result
    FROM (
        SELECT id, state::text, retries, attempt, failures, expiries, worker_id, lock_token,
               lost_token, called_back, cancel_requested,
               (SELECT c.own_result::text FROM fetchlock.callback c
                WHERE c.id = o.id AND c.lock_token = o.lock_token AND o.state = 'awaiting') AS result
        FROM fetchlock.open_task o WHERE id = ANY ($1::uuid[])
        UNION ALL
        SELECT id, state::text, retries, attempt, failures, expiries, worker_id, lock_token,
               NULL, false, false, result::text
        FROM fetchlock.outcome WHERE id = ANY ($1::uuid[])
    ) t GROUP BY id
"""
"""What the database says of tasks, each a row however many rows it has there."""


class Lock(NamedTuple):
    """What a worker says to be obeyed. Without a token its name alone decides."""

    worker_id: str
    token: str | None


OPERATORS: Final = {"cancel", "retries", "retry_timeout", "priority"}
_CLOSED_BY_A_CALLBACK: Final = {"complete", "bpmn_error", "fail", "unlock"}
"""They are refused once the callback of a task that is still locked has come."""


@dataclass(frozen=True)
class Known:
    """One task, as the test believes it to be."""

    state: State
    retries: int
    priority: int
    place: int
    has_timeout: bool = False
    attempt: int = 0
    failures: int = 0
    expiries: int = 0
    lock: Lock | None = None
    lost: Lock | None = None
    """The last lock, if it has run out and nobody has had the task since."""
    end: tuple[Lock, TaskJson] | None = None
    result: TaskJson | None = None
    cancel_requested: bool = False
    has_url: bool = False
    handed_over: str | None = None
    """The token of the lock that the task was handed over under, until it goes back."""
    own_result: TaskJson | None = None
    called_back: TaskJson | None = None
    """A callback that is recorded, and not applied yet."""
    callbacks: tuple[tuple[str, TaskJson], ...] = ()
    """Those that were taken, each under its token."""

    def is_as(self, row: dict[str, Any]) -> bool:
        """Whether the database says the same."""
        counts = ("state", "retries", "attempt", "failures", "expiries", "cancel_requested")
        token = self.lock.token if self.lock else self.handed_over
        result = {State.AWAITING: self.own_result, State.COMPLETED: self.result}.get(self.state)
        return (
            all(row[name] == getattr(self, name) for name in counts)
            and row["called_back"] == (self.called_back is not None)
            and (self.lock is None or self.lock.worker_id == row["worker_id"])
            and (token is None or token == row["lock_token"])
            and (self.state is not State.READY or self._lost_token == row["lost_token"])
            and (result is None or result == msgspec.json.decode(row["result"]))
        )

    @property
    def _lost_token(self) -> str | None:
        return self.lost.token if self.lost else None

    def says(self, said: Said, lock: Lock) -> tuple[str, Known]:
        """The answer to whoever says it, under a lock if need be, and the task afterwards."""
        if said.verb in OPERATORS:
            return self.operator_says(said)
        if said.verb == "callback":
            return self.outsider_says(said, lock.token)
        return self.worker_says(said, lock)

    def worker_says(self, said: Said, lock: Lock) -> tuple[str, Known]:
        """The answer to a worker, and the task afterwards."""
        if self.state not in TRANSITIONS[said.verb] or not self._obeys(said, lock):
            return self._refusal(said, lock), self
        holder = self.lock or self.lost
        match said.verb:
            case "complete" | "bpmn_error":
                assert said.wants is not None
                assert holder is not None
                end = holder, said.content
                after = self._to(said.wants, end=end, result=said.members.get("variables", {}))
            case "fail":
                retries = said.members.get("retries", max(self.retries - 1, 0))
                is_later = said.members["retryTimeoutMs"] > 0
                state = State.DELAYED if is_later else State.READY
                state = state if retries else State.FAILED
                state = State.CANCELLED if self.cancel_requested else state
                after = self._to(state, retries=retries, failures=self.failures + 1)
            case "unlock":
                after = self._unlocked()
            case "callback_url":
                after = dataclasses.replace(self, has_url=True)
            case "hand_over":
                assert holder is not None
                after = dataclasses.replace(
                    self, state=State.AWAITING, lock=None, handed_over=holder.token,
                    own_result=said.members.get("variables", {}),
                )  # fmt: skip
                if self.called_back is not None or self.cancel_requested:
                    after = after.settled()
            case _:
                after = self
        return "done", after

    def _unlocked(self) -> Known:
        if self.state is not State.LOCKED:
            return dataclasses.replace(self, lost=None)
        state = State.READY if self.retries else State.FAILED
        return self._to(State.CANCELLED if self.cancel_requested else state)

    def _obeys(self, said: Said, lock: Lock) -> bool:
        if said.verb in _CLOSED_BY_A_CALLBACK and self.called_back is not None:
            return False
        if said.members.get("whoever"):
            return True
        holder = self.lost if said.members.get("acceptsLate") and self.lost else self.lock
        if holder is None or lock not in (holder, Lock(holder.worker_id, None)):
            return False
        return said.verb != "heartbeat" or lock.token is not None

    def _refusal(self, said: Said, lock: Lock) -> str:
        if said.verb == "hand_over" and self.handed_over and self.handed_over == lock.token:
            return "done"
        if self.end and self.state == said.wants and said.content == self.end[1]:
            ended_by = self.end[0]
            if lock in (ended_by, Lock(ended_by.worker_id, None)):
                return "replayed"
        return LockLost.code

    def operator_says(self, said: Said) -> tuple[str, Known]:
        """The answer to an operator, and the task afterwards."""
        if self.state not in TRANSITIONS[said.verb]:
            return Conflict.code, self
        match said.verb:
            case "cancel" if self.state is State.LOCKED:
                after = dataclasses.replace(self, cancel_requested=True)
            case "cancel":
                after = self._to(State.CANCELLED)
            case "priority":
                after = dataclasses.replace(self, **said.members)
            case "retries":
                after = self._with_retries(said.members["retries"])
            case _:
                state = State.DELAYED if said.members["retry_timeout_ms"] else State.READY
                after = dataclasses.replace(self, state=state)
        return "done", after

    def _with_retries(self, retries: int) -> Known:
        after = dataclasses.replace(self, retries=retries)
        if not retries and self.state in (State.DELAYED, State.READY):
            return dataclasses.replace(after, state=State.FAILED)
        if retries and self.state is State.FAILED:
            return dataclasses.replace(
                after, state=State.READY, expiries=0, has_timeout=False, lost=None
            )
        return after

    def locked_by(self, worker_id: str, token: str | None) -> tuple[str, Known]:
        """The answer to a worker that wants this very task, and the task afterwards."""
        match self.state:
            case State.READY:
                return "done", self.fetched(Lock(worker_id, token))
            case State.LOCKED if self.called_back is not None:
                return LockLost.code, self
            case State.LOCKED:
                assert self.lock is not None
                return ("done" if self.lock.worker_id == worker_id else LockLost.code), self
        return Conflict.code, self

    def outsider_says(self, said: Said, token: str | None) -> tuple[str, Known]:
        """The answer to a callback, and the task afterwards."""
        current = self.lock.token if self.lock else self.handed_over
        is_waited_for = self.state is State.AWAITING or (
            self.state is State.LOCKED and self.has_url and self.called_back is None
        )
        if is_waited_for and token in (current, None):
            assert current is not None
            callbacks = (*self.callbacks, (current, said.members))
            after = dataclasses.replace(self, called_back=said.members, callbacks=callbacks)
            return "done", after.settled() if self.state is State.AWAITING else after
        # Without a token the last one is meant.
        before = [members for of, members in self.callbacks if token in (of, None)]
        if before:
            return "replayed" if before[-1] == said.members else Conflict.code, self
        return CallbackExpired.code if token else Conflict.code, self

    def fetched(self, lock: Lock) -> Known:
        return dataclasses.replace(
            self, state=State.LOCKED, lock=lock, lost=None, attempt=self.attempt + 1
        )

    def expired(self, expiries_max: int) -> Known:
        expiries = self.expiries + 1
        is_over = expiries >= expiries_max or not self.retries
        return self._to(State.FAILED if is_over else State.READY, expiries=expiries, lost=self.lock)

    def settled(self, *, is_overdue: bool = False) -> Known:
        """The task once something that is not its lock has run out, or can be applied."""
        if self.called_back is not None and self.called_back["isSuccess"]:
            result = (self.own_result or {}) | self.called_back.get("output", {})
            return self._to(State.COMPLETED, result=result)
        if self.cancel_requested:
            return self._to(State.CANCELLED)
        if is_overdue:
            return self._to(State.FAILED)
        # Between two tries is no wait here.
        state = State.READY if self.retries > 1 else State.FAILED
        return self._to(state, retries=max(self.retries - 1, 0), failures=self.failures + 1)

    def _to(self, state: State, **changes: Any) -> Known:
        handed_over = self.handed_over if state in FINISHED else None
        cleared: dict[str, Any] = {
            "lock": None, "lost": None, "has_url": False, "called_back": None,
            "cancel_requested": False, "own_result": None,
        }  # fmt: skip
        return dataclasses.replace(self, state=state, handed_over=handed_over, **cleared | changes)

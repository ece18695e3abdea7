from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec
import pytest

from worker_sdk import NewTask, Task
from worker_sdk._wire import TASK


def test_unknown_members_are_skipped_and_missing_ones_have_defaults() -> None:
    task = TASK.decode(b'{"id":"1","topic":"t","fromTheFuture":{"x":[1]}}')
    assert (task.id, task.topic, task.variables, task.lock_token) == ("1", "t", {}, None)


def test_instants_are_aware() -> None:
    task = TASK.decode(b'{"id":"1","topic":"t","createdAt":"2026-11-22T10:00:00.25Z"}')
    assert task.created_at == datetime(2026, 11, 22, 10, 0, 0, 250_000, tzinfo=UTC)


def test_task_is_frozen_but_can_be_told_to_stop() -> None:
    task = Task(id="1", topic="t")
    with pytest.raises(AttributeError):
        task.state = "COMPLETED"  # type: ignore[misc]
    assert not task.cancelled
    task.stop_requested.set()
    assert task.cancelled


@pytest.mark.parametrize(
    "say",
    [
        lambda task: task.progress(50),
        lambda task: task.log("line"),
        lambda task: task.checkpoint({}),
        lambda task: task.callback_url(),
    ],
)
def test_task_in_nobodys_hands_can_say_nothing(say: Callable[[Task], object]) -> None:
    with pytest.raises(RuntimeError, match="in no handler's hands"):
        say(Task(id="1", topic="t"))


def test_mistakes_are_found_before_anybody_is_told() -> None:
    task = Task(id="1", topic="t")
    with pytest.raises(ValueError, match="0 to 100"):
        task.progress(101)
    with pytest.raises(ValueError, match="4096"):
        task.log("x" * 5000)
    with pytest.raises(ValueError, match="null"):
        task.checkpoint(None)


def test_hand_over_is_something_to_return() -> None:
    handed_over = Task(id="1", topic="t").hand_over({"a": 1}, timeout_s=1.5)
    assert (handed_over.variables, handed_over.timeout_ms) == ({"a": 1}, 1500)


def test_first_reason_to_stop_stays() -> None:
    task = Task(id="1", topic="t")
    assert task.stop_reason is None
    assert task.stop_requested.set("cancel_requested")
    assert not task.stop_requested.set("worker_stopping")
    assert task.stop_reason == "cancel_requested"


def test_wait_for_a_stop_ends_when_it_is_asked_for() -> None:
    task = Task(id="1", topic="t")
    assert not task.stop_requested.wait(0)
    waits = threading.Thread(target=task.stop_requested.wait)
    waits.start()
    task.stop_requested.set()
    waits.join(30)
    assert not waits.is_alive()
    assert task.stop_requested.wait(30)
    assert task.stop_requested.is_set()


def test_tasks_do_not_share_what_can_change() -> None:
    one, other = Task(id="1", topic="t"), Task(id="1", topic="t")
    one.stop_requested.set()
    one.variables["x"] = 1
    assert not other.cancelled
    assert other.variables == {}


def test_new_task_sends_only_what_was_said() -> None:
    assert msgspec.json.encode(NewTask("t", delay_ms=0)) == b'{"topic":"t","delayMs":0}'

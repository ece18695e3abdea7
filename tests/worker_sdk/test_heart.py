"""What a keeper says and what it makes of the answers, seen from the other end of the wire."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import pytest

from tests.worker_sdk.hearing import Beat, Hearing, listening
from tests.worker_sdk.serving import DEADLINE_S
from worker_sdk import Client, News, Task
from worker_sdk._keeper import LeaseKeeper
from worker_sdk._lease import Lease
from worker_sdk._news import checkpoint_news, log_news

# One whose thirds come soon, before news would be told without them, and yet no lease of it ends on
# a slow machine; and one whose thirds never come in a test.
SHORT_MS, LONG_MS = 2_400, 600_000


@pytest.fixture
async def broker() -> AsyncIterator[Hearing]:
    """Somebody who hears."""
    async with listening() as broker:
        yield broker


@asynccontextmanager
async def keeping(
    broker: Hearing, *durations_ms: int, drain: Callable[[], object] = lambda: None
) -> AsyncIterator[LeaseKeeper]:
    """A keeper at work while the block runs."""
    keeper = LeaseKeeper(
        lambda: Client(broker.base_url, timeout_s=DEADLINE_S), "w", durations_ms or [LONG_MS]
    )
    with anyio.fail_after(DEADLINE_S):
        async with anyio.create_task_group() as group:
            group.start_soon(keeper.run, drain)
            try:
                yield keeper
            finally:
                keeper.stop()  # Its thread does not hear of a cancellation.


def lease(name: object, duration_ms: int = LONG_MS, *, trusted_s: float | None = None) -> Lease:
    task = Task(id=str(name), topic="t", worker_id="w", lock_token=f"token {name}")
    made = Lease(task, duration_ms, time.monotonic())
    if trusted_s is not None:
        made.trusted_until_s = time.monotonic() + trusted_s
    return made


# Rhythm


async def test_leases_of_one_duration_are_one_heartbeat_every_third(broker: Hearing) -> None:
    async with keeping(broker, SHORT_MS, LONG_MS) as keeper:
        keeper.keep([lease("a", SHORT_MS), lease("b", SHORT_MS), lease("long")])
        began_s = time.monotonic()
        await broker.until(lambda heard: len(heard.heartbeats) == 4)
        assert time.monotonic() - began_s >= 2.4
    assert {
        (beat["lockDurationMs"], *(item["id"] for item in beat["tasks"]))
        for beat in broker.heartbeats
    } == {(SHORT_MS, "a", "b")}
    assert broker.items[0] == {"id": "a", "lockToken": "token a"}


async def test_idle_worker_shows_up_in_its_shortest_rhythm_only(broker: Hearing) -> None:
    async with keeping(broker, 2 * SHORT_MS, SHORT_MS) as keeper:
        await broker.until(lambda heard: len(heard.heartbeats) == 3)
        assert [beat["tasks"] for beat in broker.heartbeats] == [[]] * 3
        assert {beat["lockDurationMs"] for beat in broker.heartbeats} == {SHORT_MS}
        # Who has a task is heard of by it.
        keeper.keep([lease("a", 2 * SHORT_MS)])
        await broker.until(lambda heard: "a" in [item["id"] for item in heard.items])
        shown_up = sum(not beat["tasks"] for beat in broker.heartbeats)
        await broker.until(lambda heard: len(heard.items) > 3)
    assert sum(not beat["tasks"] for beat in broker.heartbeats) <= shown_up + 1


async def test_worker_is_told_to_drain(broker: Hearing) -> None:
    broker.drain, drained = True, anyio.Event()
    async with keeping(broker, SHORT_MS, drain=drained.set):
        await drained.wait()


async def test_heartbeat_has_no_more_tasks_than_the_broker_takes(broker: Hearing) -> None:
    async with keeping(broker, 3_000) as keeper:
        keeper.keep([lease(number, 3_000) for number in range(2_500)])
        await broker.until(lambda heard: len(heard.items) >= 2_500)
    assert [len(beat["tasks"]) for beat in broker.heartbeats[:3]] == [1000, 1000, 500]


# News


async def test_news_do_not_wait_for_the_third_and_concern_only_their_task(broker: Hearing) -> None:
    async with keeping(broker) as keeper:
        held, other = lease("a"), lease("b")
        keeper.keep([held, other])
        began_s = time.monotonic()
        keeper.note(held.task, News(percent=1))
        keeper.note(held.task, News(percent=2, subtext="two"))
        keeper.note(held.task, log_news(["a line"]))
        keeper.note(held.task, checkpoint_news({"page": 1}))
        await broker.until(lambda heard: heard.heartbeats)
        assert time.monotonic() - began_s < 10
    [item] = broker.items
    assert item == {
        "id": "a",
        "lockToken": "token a",
        "sequence": 1,
        "percent": 2,
        "subtext": "two",
        "logs": ["a line"],
        "checkpoint": {"page": 1},
    }


async def test_news_of_many_tasks_are_one_request(broker: Hearing) -> None:
    async with keeping(broker) as keeper:
        leases = [lease(number) for number in range(50)]
        keeper.keep(leases)
        for held in leases:
            keeper.note(held.task, News(percent=1))
        await broker.until(lambda heard: heard.heartbeats)
    assert [len(beat["tasks"]) for beat in broker.heartbeats] == [50]


async def test_heartbeat_for_all_carries_the_news(broker: Hearing) -> None:
    async with keeping(broker, SHORT_MS) as keeper:
        held, other = lease("a", SHORT_MS), lease("b", SHORT_MS)
        keeper.keep([held, other])
        keeper.note(held.task, News(percent=1))
        await broker.until(lambda heard: len(heard.heartbeats) == 2)
    assert [[item.get("percent") for item in beat["tasks"]] for beat in broker.heartbeats[:2]] == [
        [1, None],
        [None, None],
    ]


async def test_news_are_told_again_unchanged_when_they_may_not_have_arrived(
    broker: Hearing,
) -> None:
    statuses = [503, 200, 200]
    broker.status = lambda items: statuses.pop(0) if statuses else 200
    async with keeping(broker) as keeper:
        held = lease("a")
        keeper.keep([held])
        broker.gate = anyio.Event()
        keeper.note(held.task, log_news(["first"]))
        await broker.until(lambda heard: heard.heartbeats)
        keeper.note(held.task, log_news(["second"]))
        broker.gate.set()
        await broker.until(lambda heard: "second" in heard.lines)
    assert [(item["sequence"], item["logs"]) for item in broker.news] == [
        (1, ["first"]),
        (1, ["first"]),
        (2, ["second"]),
    ]


async def test_locks_come_first_after_a_heartbeat_that_failed(broker: Hearing) -> None:
    statuses = [503, 200, 200]
    broker.status = lambda items: statuses.pop(0) if statuses else 200
    async with keeping(broker, SHORT_MS) as keeper:
        held = lease("a", SHORT_MS, trusted_s=DEADLINE_S)
        keeper.keep([held])
        keeper.note(held.task, News(percent=1))
        await broker.until(lambda heard: len(heard.news) == 2)
    assert [item.get("sequence") for item in broker.items[:3]] == [1, None, 1]


async def test_body_is_bounded_and_lines_keep_their_order(broker: Hearing) -> None:
    async with keeping(broker) as keeper:
        leases = [lease(number) for number in range(20)]
        keeper.keep(leases)
        for held in leases:
            keeper.note(held.task, log_news(["\x1b" * 4096] * 80))
        await broker.until(lambda heard: len(heard.lines) == 1_600)
    assert max(broker.bytes) < 4 * 2**20
    assert len(broker.heartbeats) < 20


async def test_news_that_were_not_read_are_told_again(broker: Hearing) -> None:
    unread = [{"member": "sequence", "code": "too_many_requests", "detail": "at the same time"}]
    broker.verdict = lambda item: {"refused": unread} if len(broker.news) == 1 else {}
    async with keeping(broker) as keeper:
        held = lease("a")
        keeper.keep([held])
        keeper.note(held.task, log_news(["a"]))
        await broker.until(lambda heard: len(heard.news) == 2)
    assert broker.news[0] == broker.news[1]


async def test_what_is_too_large_is_warned_of_once(
    broker: Hearing, caplog: pytest.LogCaptureFixture
) -> None:
    refused = [{"member": "logs", "code": "too_large", "detail": "10000 lines"}]
    broker.verdict = lambda item: {"refused": refused} if "logs" in item else {}
    async with keeping(broker, SHORT_MS) as keeper:
        held = lease("a", SHORT_MS)
        keeper.keep([held])
        keeper.note(held.task, log_news(["a"]))
        await broker.until(lambda heard: len(heard.news) == 1)
        keeper.note(held.task, log_news(["a"]))
        await broker.until(lambda heard: len(heard.news) == 2)
        await broker.until(lambda heard: "sequence" not in heard.items[-1])
    assert broker.lines == ["a", "a"]
    assert caplog.messages == ["news were refused: logs"]


async def test_news_that_spoil_an_item_are_dropped_and_the_lock_renewed_at_once(
    broker: Hearing, caplog: pytest.LogCaptureFixture
) -> None:
    broker.verdict = lambda item: {"code": "invalid", "detail": "no"} if "logs" in item else {}
    async with keeping(broker) as keeper:
        held = lease("a")
        keeper.keep([held])
        keeper.note(held.task, log_news(["a"]))
        await broker.until(lambda heard: len(heard.items) == 2)
    assert "sequence" not in broker.items[1]
    assert caplog.messages == ["news are dropped, the broker does not take them"]


async def test_news_that_spoil_a_whole_heartbeat_are_found_and_dropped(
    broker: Hearing, caplog: pytest.LogCaptureFixture
) -> None:
    def status(items: list[Beat]) -> int:
        return 413 if any("bad" in item.get("logs", ()) for item in items) else 200

    broker.status = status
    async with keeping(broker, 3_000) as keeper:
        leases = [lease(number, 3_000, trusted_s=DEADLINE_S) for number in range(4)]
        keeper.keep(leases)
        for held in leases:
            keeper.note(held.task, log_news(["bad" if held.task.id == "2" else "good"]))
        await broker.until(lambda heard: caplog.messages)
        await broker.until(
            lambda heard: (
                {item["id"] for item in heard.news if status([item]) == 200} == {"0", "1", "3"}
            )
        )
    [record] = caplog.records
    assert vars(record)["task_id"] == "2"


async def test_news_of_a_released_lease_are_not_told(broker: Hearing) -> None:
    async with keeping(broker, SHORT_MS) as keeper:
        held, other = lease("a", SHORT_MS), lease("b", SHORT_MS)
        keeper.keep([held, other])
        keeper.note(held.task, News(percent=1))
        keeper.release(held)
        keeper.note(held.task, News(percent=2))
        await broker.until(lambda heard: len(heard.heartbeats) == 2)
    assert {item["id"] for item in broker.items} == {"b"}


# The last news


async def test_lease_is_flushed_at_once_when_there_is_nothing_to_tell(broker: Hearing) -> None:
    async with keeping(broker) as keeper:
        held = lease("a")
        keeper.keep([held])
        await keeper.wait_flushed(held)
        assert keeper.held(held.task) is None
    assert broker.heartbeats == []


async def test_last_news_are_told_at_once_and_waited_for(broker: Hearing) -> None:
    async with keeping(broker) as keeper:
        held, other = lease("a"), lease("b")
        keeper.keep([held, other])
        keeper.note(other.task, News(percent=1))
        await broker.until(lambda heard: heard.news)
        # Let the keeper be at rest, until it is woken or the next news are due.
        rhythm = keeper._rhythms[LONG_MS]
        await broker.until(lambda heard: rhythm.awake_s > time.monotonic())
        woken = rhythm.woken
        keeper.note(other.task, News(percent=2))
        keeper.note(held.task, log_news([f"line {number}" for number in range(1_500)]))
        keeper.note(held.task, News(percent=100))
        await broker.until(lambda heard: rhythm.woken is not woken)
        await keeper.wait_flushed(held)
        assert keeper.held(held.task) is None
    assert [item["id"] for item in broker.items] == ["b", "a", "a"]
    assert len(broker.lines) == 1_500


async def test_last_news_wait_for_those_under_way(broker: Hearing) -> None:
    async with keeping(broker) as keeper:
        held = lease("a")
        keeper.keep([held])
        broker.gate = anyio.Event()
        keeper.note(held.task, log_news(["first"]))
        await broker.until(lambda heard: heard.heartbeats)
        async with anyio.create_task_group() as group:
            group.start_soon(keeper.wait_flushed, held)
            await anyio.wait_all_tasks_blocked()
            assert keeper.held(held.task) is held
            keeper.note(held.task, log_news(["too late, its handler has ended"]))
            broker.gate.set()
    assert broker.lines == ["first"]


@pytest.mark.parametrize("verdict", ["lock_lost", "task_not_found"])
async def test_lease_lost_meanwhile_is_flushed(verdict: str, broker: Hearing) -> None:
    broker.verdict = lambda item: {"code": verdict, "lockLost": True}
    async with keeping(broker) as keeper:
        held = lease("a")
        keeper.keep([held])
        keeper.note(held.task, News(percent=1))
        await keeper.wait_flushed(held)
    assert held.is_over


async def test_lease_that_ends_during_an_outage_is_flushed(
    broker: Hearing, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "fetchlock.worker")
    broker.status = lambda items: 503
    async with keeping(broker, 3_000) as keeper:
        held = lease("a", 3_000, trusted_s=0.3)
        keeper.keep([held])
        keeper.note(held.task, News(percent=1))
        await keeper.wait_flushed(held)
    assert held.is_over
    assert caplog.messages == []  # That its outcome is thrown away is for the reporter to say.


# Cancellation


async def test_cancelled_task_is_renewed_no_more_but_its_news_are_told(
    broker: Hearing, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "fetchlock.worker")
    broker.verdict = lambda item: {"cancelRequested": item["id"] == "a"}
    async with keeping(broker, SHORT_MS) as keeper:
        held, other = lease("a", SHORT_MS, trusted_s=DEADLINE_S), lease("b", SHORT_MS)
        keeper.keep([held, other])
        end_s = held.trusted_until_s
        await broker.until(lambda heard: held.task.cancelled)
        assert held.task.stop_reason == "cancel_requested"
        keeper.note(held.task, log_news(["cleaning up"]))
        await broker.until(lambda heard: heard.lines)
        heard = len(broker.items)
        await broker.until(lambda heard_: len(heard_.items) >= heard + 3)
        assert held.trusted_until_s == end_s
    assert [item["id"] for item in broker.items[heard:]].count("a") == 0
    assert caplog.messages == ["task is to be cancelled, the handler is stopped"]

"""A thousand callbacks at once: one of them wins, and the others are told so."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import anyio
import pytest

from broker.callbacks import Signer
from tests.acceptance.outside import FAILURE, Answer, Outside
from tests.acceptance.scene import Ledger
from tests.eventually import eventually
from tests.processes import BrokerProcess
from worker_sdk import Client, Failure, HandOver, LockLost, NewTask, Subscription, Task

pytestmark = pytest.mark.acceptance

STORM: Final = 1_000
RACES: Final = 100
RACERS: Final = STORM // RACES
LONG_LOCK_MS: Final = 600_000

SUCCESS: Final = {"by": "outside"}


async def locked(client: Client, count: int = 1, **settings: Any) -> list[Task]:
    """So many tasks in the hands of a worker. One failure, and they are incidents."""
    created = await client.create_batch([NewTask("storm", retries=1, **settings)] * count)
    tasks = await client.fetch_and_lock(
        "worker", [Subscription("storm")], max_tasks=count, lock_duration_ms=LONG_LOCK_MS
    )
    assert [task.id for task in tasks] == created
    return tasks


async def call_back_at_once(
    outside: Outside, callbacks: Sequence[tuple[str, object]]
) -> list[Answer]:
    """All of these, each over a connection of its own; the answers in order."""
    answers: dict[int, Answer] = {}

    async def call_back(place: int, url: str, said: object) -> None:
        answers[place] = await outside.call_back(url, said)

    async with anyio.create_task_group() as group:
        for place, (url, said) in enumerate(callbacks):
            group.start_soon(call_back, place, url, said)
    return [answers[place] for place in range(len(callbacks))]


async def test_duplicates(broker: str, client: Client, ledger: Ledger, outside: Outside) -> None:
    [task] = await locked(client)
    url = (await client.hand_over(task, HandOver({"by": "worker", "kept": True}))).url
    event = {"taskId": task.id, "status": "SUCCESS", "output": SUCCESS, "logs": ["one", "two"]}
    answers = await call_back_at_once(outside, [(url, event)] * STORM)
    assert Counter(answer.status for answer in answers) == {200: STORM}
    assert Counter(answer.is_replay for answer in answers) == {False: 1, True: STORM - 1}
    await ledger.assert_each_completed_once([task.id])
    assert await ledger.result(task.id) == {"by": "outside", "kept": True}
    assert await ledger.log(task.id) == ["one", "two"]


@pytest.mark.parametrize("is_handed_over", [True, False], ids=["handed over", "still locked"])
async def test_both_outcomes_race(
    is_handed_over: bool, database_url: str, ledger: Ledger, outside: Outside
) -> None:
    # No batch of one broker puts them in order.
    with BrokerProcess(database_url) as one, BrokerProcess(database_url) as two:
        async with Client(one.base_url) as client:
            tasks = await locked(client, RACES)
            for_url = client.hand_over if is_handed_over else client.callback_url
            urls = [(await for_url(task)).url for task in tasks]
            calls = [
                (number, said, url.replace(one.base_url, base_url))
                for number, url in enumerate(urls)
                for racer in range(RACERS)
                for said in ((SUCCESS, FAILURE)[racer % 2],)
                for base_url in ((one.base_url, two.base_url)[racer // 2 % 2],)
            ]
            random.shuffle(calls)
            answers = await call_back_at_once(outside, [(url, said) for _, said, url in calls])
            if not is_handed_over:
                for task in tasks:
                    await client.hand_over(task)
            has_won = _winners(calls, answers)
            for number, task in enumerate(tasks):
                seen = await client.get_task(task.id)
                assert seen.state == ("COMPLETED" if has_won[number] is SUCCESS else "FAILED")
    # Both had a chance: otherwise this was no race.
    assert 0 < sum(said is SUCCESS for said in has_won.values()) < RACES
    outcomes = await ledger.outcomes()
    assert outcomes.keys() == {
        task.id for number, task in enumerate(tasks) if has_won[number] is SUCCESS
    }
    for row in await ledger.rows("SELECT * FROM fetchlock.open_task"):
        assert (row["state"], row["failures"], row["retries"]) == ("failed", 1, 0)


def _winners(
    calls: Sequence[tuple[int, dict[str, Any], str]], answers: Sequence[Answer]
) -> dict[int, dict[str, Any]]:
    """What was taken, per task: one callback was, its like are replays, the others were refused."""
    has_won: dict[int, dict[str, Any]] = {}
    for (number, said, _), answer in zip(calls, answers, strict=True):
        if answer.status == 200 and not answer.is_replay:
            assert number not in has_won, "two were first"
            has_won[number] = said
    assert has_won.keys() == set(range(RACES))
    for (number, said, _), answer in zip(calls, answers, strict=True):
        if said is has_won[number]:
            assert answer.status == 200
        else:
            assert (answer.status, answer.said["code"]) == (409, "conflict")
    return has_won


async def test_worker_cannot_overrule_what_was_called_back(
    client: Client, ledger: Ledger, outside: Outside
) -> None:
    [task] = await locked(client)
    url = (await client.callback_url(task)).url
    answer = await outside.call_back(url, FAILURE)
    assert (answer.status, answer.said["state"]) == (200, "LOCKED")
    with pytest.raises(LockLost):
        await client.complete(task)
    with pytest.raises(LockLost):
        await client.fail(task, Failure("by itself"))
    with pytest.raises(LockLost):
        await client.unlock(task)
    assert (await client.hand_over(task)).state == "FAILED"
    assert (await ledger.open_task(task.id))["error_code"] == "OutOfMemory"
    assert await ledger.outcomes() == {}


async def test_forged_and_foreign_callbacks(
    broker: str, client: Client, ledger: Ledger, outside: Outside
) -> None:
    task, other = await locked(client, 2)
    url = (await client.hand_over(task)).url
    await client.hand_over(other)
    before = await ledger.long_work()

    base, _, token = url.rpartition("/")
    assert task.lock_token is not None
    of_another_broker = Signer([b"another database's key"]).token(task.id, task.lock_token, 2**41)
    forged = [
        *(token[:place] + _other(token[place]) + token[place + 1 :] for place in range(len(token))),
        token[:-4],
        token + "AAAA",
        token.lower(),
        of_another_broker,
        "guess",
        "%00",
    ]
    answers = await call_back_at_once(outside, [(f"{base}/{each}", SUCCESS) for each in forged])
    assert {(answer.status, answer.said["code"]) for answer in answers} == {(403, "forbidden")}
    for answer in answers:
        assert token not in str(answer.said)

    about_another = {"taskId": other.id, "status": "SUCCESS"}
    foreign = await outside.call_back(url, about_another)
    assert (foreign.status, foreign.said["code"]) == (403, "forbidden")
    assert await ledger.long_work() == before
    # It was good all the time.
    assert (await outside.call_back(url, SUCCESS)).status == 200


async def test_callbacks_that_come_too_late(
    broker: str, client: Client, ledger: Ledger, outside: Outside
) -> None:
    [unanswered] = await locked(client)
    late_url = (await client.hand_over(unanswered, HandOver(timeout_s=1))).url
    [failed] = await locked(client)
    failed_url = (await client.callback_url(failed)).url
    await client.fail(failed, Failure("by itself"))
    [done] = await locked(client)
    done_url = (await client.callback_url(done)).url
    await client.complete(done)
    await eventually(lambda: ledger.is_in("failed", unanswered.id))
    before = await ledger.long_work()
    for url in (late_url, failed_url, done_url):
        for said in (SUCCESS, FAILURE):
            answer = await outside.call_back(url, said)
            assert (answer.status, answer.said["code"]) == (410, "callback_expired")
    for task in (unanswered, failed, done):
        answer = await outside.tell_event(broker, {"taskId": task.id, "status": "SUCCESS"})
        assert (answer.status, answer.said["code"]) == (409, "conflict")
    assert await ledger.long_work() == before
    assert (await ledger.open_task(unanswered.id))["error_code"] == "callback_timeout"


def _other(character: str) -> str:
    return "B" if character == "A" else "A"

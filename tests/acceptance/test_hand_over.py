"""Work that is handed over to an outside service: its callback ends the task, or sends it back."""

from __future__ import annotations

import pytest

from tests.acceptance.outside import FAILURE, Call, Outside
from tests.acceptance.scene import Gate, Ledger, WorkerProcess
from tests.eventually import eventually
from worker_sdk import Client, NewTask, Task

pytestmark = pytest.mark.acceptance


async def outsourced(client: Client, outside: Outside, number: int = 1) -> Task:
    """A task that a worker passes on to the service."""
    variables = {"service": outside.url, "number": number}
    return await client.create(NewTask("outsource", variables, retries=3))


async def test_failure_called_back_then_success(
    broker: str, client: Client, ledger: Ledger, outside: Outside
) -> None:
    created = await outsourced(client, outside)
    with WorkerProcess(broker, "one"):
        first = await outside.call()
        await eventually(lambda: ledger.is_in("awaiting", created.id))
        failed = await outside.call_back(first.callback_url, FAILURE)
        assert (failed.status, failed.said["state"], failed.said["retries"]) == (200, "CREATED", 2)

        second = await outside.call()
        assert (second.task_id, second.attempt) == (created.id, 2)
        await eventually(lambda: ledger.is_in("awaiting", created.id))
        task = await client.get_task(created.id)
        assert (task.state, task.worker_id, task.error_code) == ("AWAITING", None, "OutOfMemory")
        # The first attempt is over, whatever is said of it now.
        again = await outside.call_back(first.callback_url, FAILURE)
        assert (again.status, again.is_replay) == (200, True)
        assert (await outside.call_back(first.callback_url, {"too": "late"})).status == 409
        assert await ledger.state(created.id) == "awaiting"

        done = await outside.call_back(second.callback_url, {"video": 7, "by": "outside"})
        assert (done.status, done.said["state"]) == (200, "COMPLETED")
    [outcome] = (await ledger.assert_each_completed_once([created.id])).values()
    assert (outcome.attempt, outcome.failures, outcome.expiries) == (2, 1, 0)
    task = await client.get_task(created.id)
    assert (task.state, task.result) == (
        "COMPLETED",
        {"number": 1, "video": 7, "by": "outside"},
    )


async def test_callback_before_the_202(
    broker: str, client: Client, ledger: Ledger, outside: Outside
) -> None:
    said: list[tuple[int, str]] = []

    async def call_back_at_once(call: Call) -> None:
        output = FAILURE if call.attempt == 1 else {"by": "outside"}
        answer = await outside.call_back(call.callback_url, output)
        said.append((answer.status, answer.said["state"]))

    outside.before_202 = call_back_at_once
    created = await outsourced(client, outside)
    with WorkerProcess(broker, "one"):
        await eventually(lambda: ledger.has_finished(1))
    # The worker still had the task each time, so it was noted.
    assert said == [(200, "LOCKED")] * 2
    [outcome] = (await ledger.assert_each_completed_once([created.id])).values()
    assert (outcome.attempt, outcome.failures, outcome.expiries) == (2, 1, 0)
    assert await ledger.result(created.id) == {"number": 1, "by": "outside"}


async def test_callback_before_the_202_and_the_worker_dies(
    broker: str, client: Client, ledger: Ledger, outside: Outside
) -> None:
    async with Client(broker) as http:
        with WorkerProcess(broker, "victim") as victim:

            async def call_back_and_kill(call: Call) -> None:
                answer = await outside.call_back(call.callback_url, {"by": "outside"})
                assert (answer.status, answer.said["state"]) == (200, "LOCKED")
                victim.kill()

            outside.before_202 = call_back_and_kill
            created = await outsourced(http, outside)
            # Nobody is left to hand it over. It is done all the same, when the lock runs out.
            await eventually(lambda: ledger.has_finished(1))
    [outcome] = (await ledger.assert_each_completed_once([created.id])).values()
    assert outcome.attempt == 1
    assert await ledger.result(created.id) == {"by": "outside"}


async def test_event_by_the_id_alone(
    broker: str, client: Client, ledger: Ledger, outside: Outside, gate: Gate
) -> None:
    created = await client.create(gate.task("event"))
    early = {"taskId": created.id, "status": "SUCCESS"}
    refused = await outside.tell_event(broker, early)
    assert (refused.status, refused.said["code"]) == (409, "conflict")
    with WorkerProcess(broker, "one") as worker:
        assert await worker.says() == f"started {created.id}"
        await eventually(lambda: ledger.is_in("awaiting", created.id))
    event = {
        "taskId": created.id,
        "logs": "line one\nline two",
        "status": "SUCCESS",
        "output": {"zipFileLocation": "https://example.com/jpeg", "by": "outside"},
        "subtext": "Completed with 90/100 passing",
    }
    answers = [await outside.tell_event(broker, event) for _ in range(2)]
    assert [(answer.status, answer.said["state"]) for answer in answers] == [(200, "COMPLETED")] * 2
    assert [answer.is_replay for answer in answers] == [False, True]
    contrary = await outside.tell_event(broker, {"taskId": created.id, "status": "FAILURE"})
    assert (contrary.status, contrary.said["code"]) == (409, "conflict")
    unknown = await outside.tell_event(broker, {"taskId": "12345678", "status": "SUCCESS"})
    assert (unknown.status, unknown.said["code"]) == (404, "task_not_found")

    await ledger.assert_each_completed_once([created.id])
    task = await client.get_task(created.id)
    assert task.result == {
        "zipFileLocation": "https://example.com/jpeg",
        "by": "outside",
        "kept": True,
    }
    assert task.last_progress is not None
    assert task.last_progress.subtext == "Completed with 90/100 passing"
    # A string is one line, whatever is in it.
    assert await ledger.log(created.id) == ["line one\nline two"]

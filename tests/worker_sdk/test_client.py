"""Every verb against its golden request and answer, and what goes wrong on the way."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.worker_sdk.conftest import Scripted
from worker_sdk import (
    BpmnError,
    Client,
    ConnectionFailed,
    Failure,
    FetchlockError,
    HandOver,
    LockLost,
    News,
    NewTask,
    Subscription,
    Task,
    TaskNotFound,
)
from worker_sdk._errors import BY_CODE, Invalid
from worker_sdk._news import Refusal, Renewal
from worker_sdk._task import Progress

CONTRACT = Path(__file__).parents[1] / "contract"
ID, OTHER_ID = "019aa5f0-7c1e-7b44-9d2a-3f5c8e1b6a01", "019aa5f0-7c1e-7b44-9d2a-3f5c8e1b6a02"
WORKER = "payment-worker-1"
TASK = Task(id=ID, topic="t", worker_id=WORKER, lock_token="5b1f0c9e-3d52-4c0e-8a37-0c6c1f8e2d11")
OTHER = Task(
    id=OTHER_ID, topic="t", worker_id=WORKER, lock_token="a3d9e1b4-6f27-4b8d-9c15-7e2f4a8b0c22"
)
HUGE = 123456789012345678901234567890


def at(hour: int, minute: int, second: float = 0) -> datetime:
    whole = int(second)
    return datetime(2026, 11, 22, hour, minute, whole, round((second - whole) * 1e6), tzinfo=UTC)


def golden(verb: str) -> dict[str, Any]:
    return msgspec.json.decode((CONTRACT / f"{verb}.json").read_bytes(), type=dict[str, Any])


VERBS: dict[str, Callable[[Client], Awaitable[Any]]] = {
    "create": lambda client: client.create(
        NewTask(
            "validatePayment",
            {"amount": 12.5, "orderNumber": HUGE, "customer": "Jörg ✓"},
            priority=5,
            business_key="order-4711",
            retries=3,
            delay_ms=1500,
            unique_key="order-4711/validate",
            process_instance_id="instance-1",
            process_definition_id="payment:1",
            process_definition_key="payment",
            activity_id="validate",
            traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            execution_timeout_ms=600_000,
            total_timeout_ms=86_400_000,
            process_definition_version_tag="v7",
            tenant_id="tenant-1",
        ),
        wait_s=9.5,
    ),
    "create_batch": lambda client: client.create_batch(
        [NewTask("validatePayment", {"amount": 1}), NewTask("bad\x01topic")]
    ),
    "fetch_and_lock": lambda client: client.fetch_and_lock(
        WORKER,
        [
            Subscription(
                "validatePayment", ["payment:1"], 60_000, ["amount", "orderNumber", "customer"]
            ),
            Subscription("sendReceipt"),
        ],
    ),
    "complete": lambda client: client.complete(TASK, {"paymentValid": True, "orderNumber": HUGE}),
    "complete_batch": lambda client: client.complete_batch(
        [(TASK, {"paymentValid": True}), (OTHER, None)]
    ),
    "fail": lambda client: client.fail(
        TASK,
        Failure(
            "Payment gateway timeout",
            retries=2,
            retry_after=5,
            details="Traceback …",
            variables={"gateway": "eu-2"},
        ),
    ),
    "fail_batch": lambda client: client.fail_batch(
        [
            (TASK, Failure("Payment gateway timeout", variables={"gateway": "eu-2"})),
            (OTHER, Failure("gone", retries=0)),
        ]
    ),
    "bpmn_error": lambda client: client.bpmn_error(
        TASK, BpmnError("CARD_DECLINED", "insufficient funds", variables={"balance": 3})
    ),
    "extend_lock": lambda client: client.extend_lock(TASK, 60_000),
    "extend_lock_batch": lambda client: client.extend_lock_batch([TASK, OTHER], 60_000),
    "unlock": lambda client: client.unlock(TASK),
    "heartbeat": lambda client: client.heartbeat(
        WORKER,
        60_000,
        [
            (
                TASK,
                News(
                    sequence=3,
                    percent=90,
                    subtext="Completed with 90/100 passing",
                    logs=["line one", "line two"],
                    checkpoint={"page": 90, "orderNumber": HUGE},
                ),
            ),
            (OTHER, None),
        ],
    ),
    "callback_url": lambda client: client.callback_url(TASK, timeout_s=3600),
    "hand_over": lambda client: client.hand_over(
        TASK, HandOver({"chargeId": "ch_abc123"}, timeout_s=3600)
    ),
    "retry_timeout": lambda client: client.retry_timeout(ID, 60_000),
    "retries": lambda client: client.retries(ID, 2),
    "priority": lambda client: client.priority(ID, 9),
    "lock": lambda client: client.lock(Task(id=ID, topic="t", attempt=3), WORKER, 60_000),
    "variables": lambda client: client.variables(
        ID, {"amount": 13, "orderNumber": HUGE}, deletions=["customer"]
    ),
    "late_work": lambda client: client.late_work("validatePayment", is_accepted=True),
    "forget_late_work": lambda client: client.forget_late_work("validatePayment"),
    "cancel": lambda client: client.cancel(ID, "ordered twice"),
    "subtext": lambda client: client.subtext(ID, "Completed with 90/100 passing"),
    "drain": lambda client: client.drain(WORKER),
    "undrain": lambda client: client.undrain(WORKER),
    "get_task": lambda client: client.get_task(ID),
    "log_lines": lambda client: client.log_lines(ID, after=1, limit=100),
    "list_tasks": lambda client: client.list_tasks(
        topic="validatePayment",
        state="COMPLETED",
        worker_id=WORKER,
        business_key="order-4711",
        process_instance_id="instance-1",
        created_after=at(0, 0),
        created_before=datetime(2026, 11, 23, tzinfo=UTC),
        limit=1,
        after="b3JkZXI",
    ),
}
"""The call of each verb that must give the golden request."""


NOT_THE_SDKS = {"problems", "callback", "external_event"}
"""Callbacks come from outside parties, who have no SDK."""


def test_each_verb_has_its_golden_file_and_its_method() -> None:
    assert set(VERBS) == {path.stem for path in CONTRACT.glob("*.json")} - NOT_THE_SDKS
    assert all(hasattr(Client, verb) for verb in VERBS)


async def ask(verb: str, scripted: Scripted, client: Client) -> Any:
    answer = golden(verb)["response"]
    body = b"" if answer["body"] is None else answer["body"]
    scripted.will_answer(answer["status"], body, **answer["headers"])
    return await VERBS[verb](client)


@pytest.mark.parametrize("verb", VERBS)
async def test_request_is_the_golden_one(verb: str, scripted: Scripted, client: Client) -> None:
    await ask(verb, scripted, client)
    expected = golden(verb)["request"]
    [sent] = scripted.requests
    assert sent["headers"].items() >= expected["headers"].items()
    assert {name: sent[name] for name in ("method", "path", "body")} == {
        name: expected[name] for name in ("method", "path", "body")
    }


async def test_locked_tasks_are_read_whole(scripted: Scripted, client: Client) -> None:
    task, bare = await ask("fetch_and_lock", scripted, client)
    assert task.variables == {"amount": 12.5, "orderNumber": HUGE, "customer": "Jörg ✓"}
    assert (task.state, task.worker_id, task.lock_token) == ("LOCKED", WORKER, TASK.lock_token)
    assert task.lock_expires_at == at(10, 0, 40.5)
    assert (task.business_key, task.process_definition_key) == ("order-4711", "payment")
    assert (task.process_definition_version_tag, task.tenant_id) == ("v7", "tenant-1")
    assert task.traceparent == "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    assert (task.failures, bare.failures) == (0, 1)
    assert (bare.attempt, bare.business_key, bare.error_message) == (2, None, "gateway timeout")


async def test_every_member_of_a_task_has_its_field(scripted: Scripted, client: Client) -> None:
    members = golden("fetch_and_lock")["response"]["body"][0]
    fields = {field.encode_name for field in msgspec.structs.fields(Task)}
    # Of what is not on the wire: whether it should stop, and who hears what its handler says.
    assert fields - {"stopRequested", "_desk"} == set(members)


async def test_finished_task_has_its_result(scripted: Scripted, client: Client) -> None:
    task = await ask("get_task", scripted, client)
    assert task.result == {"paymentValid": True, "chargeId": "ch_abc123"}
    assert task.finished_at == at(10, 0, 11.25)


async def test_listing_gives_tasks_and_cursor(scripted: Scripted, client: Client) -> None:
    tasks, cursor = await ask("list_tasks", scripted, client)
    assert [task.id for task in tasks] == [ID]
    assert cursor == "bmV4dA"


async def test_created_tasks_are_ids_or_refusals(scripted: Scripted, client: Client) -> None:
    created, refused = await ask("create_batch", scripted, client)
    assert created == ID
    assert isinstance(refused, Invalid)
    assert refused.facts["errors"][0]["pointer"] == "/tasks/1/topic"


async def test_items_of_a_batch_are_none_or_refusals(scripted: Scripted, client: Client) -> None:
    done, lost = await ask("complete_batch", scripted, client)
    assert done is None
    assert isinstance(lost, LockLost)
    assert lost.facts["holder"] == "payment-worker-2"
    done, unknown = await ask("fail_batch", scripted, client)
    assert done is None
    assert isinstance(unknown, TaskNotFound)
    done, cancelled = await ask("extend_lock_batch", scripted, client)
    assert done is None
    assert cancelled.facts["state"] == "CANCELLED"


async def test_standings_and_instants(scripted: Scripted, client: Client) -> None:
    standing = await ask("fail", scripted, client)
    assert (standing.state, standing.retries) == ("CREATED", 2)
    assert standing.available_at == at(10, 0, 16)
    assert (await ask("retries", scripted, client)).available_at == at(10, 0, 11)
    assert await ask("extend_lock", scripted, client) == at(10, 1)
    assert await ask("retry_timeout", scripted, client) == at(10, 1)


async def test_heartbeat_tells_per_task_and_of_the_worker(
    scripted: Scripted, client: Client
) -> None:
    (renewal, lost), drain = await ask("heartbeat", scripted, client)
    assert isinstance(renewal, Renewal)
    assert (renewal.lock_expires_at, renewal.cancel_requested) == (at(10, 1), False)
    assert not renewal.refused
    assert isinstance(lost, LockLost)
    assert lost.facts["state"] == "CANCELLED"
    assert drain is False


async def test_heartbeat_tells_what_was_refused_and_what_is_wanted(
    scripted: Scripted, client: Client
) -> None:
    item = {
        "id": ID,
        "outcome": "done",
        "lockLost": False,
        "cancelRequested": True,
        "lockExpiresAt": "2026-11-22T10:01:00+00:00",
        "refused": [{"member": "logs", "code": "too_large", "detail": "10000 lines"}],
    }
    scripted.will_answer(200, {"results": [item], "drain": True})
    [renewal], drain = await client.heartbeat(WORKER, 60_000, [(TASK, None)])
    assert isinstance(renewal, Renewal)
    assert renewal.cancel_requested
    assert renewal.refused == [Refusal("logs", "too_large", "10000 lines")]
    assert drain


async def test_heartbeat_without_tasks_is_one(scripted: Scripted, client: Client) -> None:
    scripted.will_answer(200, {"results": [], "drain": False})
    assert await client.heartbeat("w/1", 60_000) == ([], False)
    [sent] = scripted.requests
    assert sent["path"] == "/api/workers/w%2F1/heartbeat"
    assert sent["body"] == {"lockDurationMs": 60_000, "tasks": []}


async def test_heartbeat_answered_by_something_else_is_an_error(
    scripted: Scripted, client: Client
) -> None:
    for results, complaint in (([], "0 results"), ([{"id": ID}], "not what a Fetchlock broker")):
        scripted.will_answer(200, {"results": results})
        with pytest.raises(FetchlockError, match=complaint):
            await client.heartbeat(WORKER, 60_000, [(TASK, None)])


async def test_progress_and_checkpoint_of_earlier_attempts_are_read(
    scripted: Scripted, client: Client
) -> None:
    task, bare = await ask("fetch_and_lock", scripted, client)
    assert task.last_progress == Progress(
        percent=90.5, subtext="Completed with 90/100 passing", updated_at=at(10, 0, 5)
    )
    assert task.last_checkpoint == {"page": 90, "orderNumber": HUGE}
    assert (task.started_at, task.times_out_at) == (at(10, 0, 10.5), at(10, 10, 10.5))
    assert (bare.last_progress, bare.last_checkpoint, bare.times_out_at) == (None, None, None)


async def test_callback_url_and_hand_over_tell_where_and_until_when(
    scripted: Scripted, client: Client
) -> None:
    callback = await ask("callback_url", scripted, client)
    assert callback.url.startswith("http://127.0.0.1:8080/api/callbacks/")
    assert callback.expires_at == at(11, 0)
    handed_over = await ask("hand_over", scripted, client)
    assert (handed_over.state, handed_over.url) == ("AWAITING", callback.url)


async def test_a_locked_task_is_one_to_work_on(scripted: Scripted, client: Client) -> None:
    task = await ask("lock", scripted, client)
    assert (task.id, task.state, task.attempt) == (ID, "LOCKED", 2)
    assert (task.worker_id, task.lock_token) == (WORKER, TASK.lock_token)
    assert task.lock_expires_at == at(10, 1)
    scripted.will_answer(204, b"")
    await client.complete(task)
    body = scripted.requests[-1]["body"]
    assert body == {"workerId": WORKER, "lockToken": TASK.lock_token}


async def test_log_is_read_in_pages(scripted: Scripted, client: Client) -> None:
    page = await ask("log_lines", scripted, client)
    [line] = page.lines
    assert (line.number, line.line, line.logged_at) == (2, "line two", at(10, 0, 5))
    assert page.next == 2


async def test_finish_is_waited_for_by_the_broker(scripted: Scripted, client: Client) -> None:
    scripted.will_answer(200, {"id": ID, "topic": "t"})
    await client.get_task(ID, wait_s=9.5)
    assert scripted.requests[0]["headers"]["Prefer"] == "wait=10"


@pytest.mark.parametrize("code", BY_CODE)
async def test_every_problem_is_its_exception(
    code: str, scripted: Scripted, client: Client
) -> None:
    answers = msgspec.json.decode((CONTRACT / "problems.json").read_bytes())["responses"]
    [answer] = [answer for answer in answers if answer["body"]["code"] == code]
    scripted.will_answer(answer["status"], answer["body"], **answer["headers"])
    with pytest.raises(BY_CODE[code]) as caught:
        await client.get_task(ID)
    error = caught.value
    assert (error.status, error.code) == (answer["status"], code)
    assert error.detail == answer["body"]["detail"]
    assert error.retry_after_s == (1.0 if "Retry-After" in answer["headers"] else None)
    assert error.facts == {
        name: value
        for name, value in answer["body"].items()
        if name not in ("type", "title", "status", "code", "detail")
    }


async def test_names_cannot_leave_their_place_in_the_path(
    client: Client, scripted: Scripted
) -> None:
    scripted.will_answer(404, b"")
    with pytest.raises(FetchlockError):
        await client.get_task("../../other?x=1#y")
    path = scripted.requests[0]["path"]
    assert path == "/api/external-tasks/..%2F..%2Fother%3Fx%3D1%23y"
    scripted.will_answer(204, b"")
    await client.forget_late_work("a/b?c")
    assert scripted.requests[1]["path"] == "/api/topics/a%2Fb%3Fc/late-work"


async def test_base_url_may_have_a_path(scripted: Scripted) -> None:
    scripted.will_answer(200, {"id": ID, "topic": "t"})
    async with Client(f"{scripted.base_url}/broker/") as client:
        await client.get_task(ID)
    assert scripted.requests[0]["path"] == f"/broker/api/external-tasks/{ID}"


@pytest.mark.parametrize("url", ["", "localhost:8080", "ftp://broker", "/api"])
def test_base_url_must_be_one(url: str) -> None:
    with pytest.raises(ValueError, match="http"):
        Client(url)


async def test_redirect_is_not_followed(client: Client, scripted: Scripted) -> None:
    scripted.will_answer(302, b"", Location="/elsewhere")
    with pytest.raises(FetchlockError) as caught:
        await client.unlock(TASK)
    assert caught.value.status == 302
    assert len(scripted.requests) == 1


async def test_refused_connection_is_a_failed_one(free_tcp_port: int) -> None:
    async with Client(f"http://127.0.0.1:{free_tcp_port}") as client:
        with pytest.raises(ConnectionFailed):
            await client.get_task(ID)

"""Verbs about many tasks: what is not sent, and what is made of the answers."""

from __future__ import annotations

import pytest

from tests.worker_sdk.conftest import Scripted
from tests.worker_sdk.test_client import ID, OTHER, TASK
from worker_sdk import Client, Failure, FetchlockError, Task
from worker_sdk._errors import BY_CODE


async def test_empty_batches_ask_nothing(client: Client, scripted: Scripted) -> None:
    assert await client.create_batch([]) == []
    assert await client.complete_batch([]) == []
    assert scripted.requests == []


async def test_batch_of_two_workers_is_refused(client: Client) -> None:
    stranger = Task(id="x", topic="t", worker_id="somebody else")
    with pytest.raises(ValueError, match="one worker"):
        await client.complete_batch([(TASK, None), (stranger, None)])


async def test_batch_is_not_sent_beyond_the_callers_bound(
    client: Client, scripted: Scripted
) -> None:
    results = [(TASK, {"x": "é" * 50})]
    scripted.will_answer(200, {"results": [{"id": ID, "outcome": "done"}]})
    await client.complete_batch(results, bytes_max=1_000)
    size = int(scripted.requests[0]["headers"]["Content-Length"])
    assert await client.complete_batch(results, bytes_max=size) == [None]
    for verb in (
        client.complete_batch(results, bytes_max=size - 1),
        client.fail_batch([(TASK, Failure("no"))], bytes_max=10),
    ):
        with pytest.raises(BY_CODE["too_large"]):
            await verb
    assert len(scripted.requests) == 2


async def test_answer_with_too_few_results_is_an_error(client: Client, scripted: Scripted) -> None:
    scripted.will_answer(200, {"results": [{"id": ID, "outcome": "done"}]})
    with pytest.raises(FetchlockError, match="1 results for 2 tasks"):
        await client.extend_lock_batch([TASK, OTHER], 1_000)

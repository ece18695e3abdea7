"""What is kept of the news of a task: a line of text, a log without gaps, a checkpoint."""

from __future__ import annotations

from functools import partial

import anyio
import asyncpg
import msgspec
import pytest

from broker.errors import Conflict, TaskNotFound
from broker.settings import Settings
from broker.store import Store, queries
from broker.store.database import SHARD
from broker.task import API_STATES, FINISHED, State
from tests.broker.conftest import Statements
from tests.broker.store.test_operator_verbs import in_state
from tests.factories import (
    TaskJson,
    ask,
    beat,
    behind,
    called_back,
    create,
    everything,
    held,
    lock,
    request,
    row_of,
    shown,
)

Connection = asyncpg.Connection

LIMITS = (65_536, 10_000, 1_000)
"""Of checkpoints and logs, as the statement takes them."""


@pytest.fixture
def settings(database_url: str) -> Settings:
    """Limits that a test can reach."""
    return Settings(
        database_url=database_url,
        checkpoint_bytes_max=20,
        log_lines_max=12,
        log_lines_per_minute_max=5,
    )


@pytest.fixture
async def task(store: Store) -> TaskJson:
    """A task that is locked by the worker w1."""
    await create(store, {})
    return (await lock(store))[0]


async def log_of(store: Store, task_id: str, after: int = 0, limit: int = 1_000) -> TaskJson:
    told: TaskJson = msgspec.json.decode(await store.log_lines(task_id, after, limit))
    assert set(told) == {"lines", "next"}
    return told


async def lines_of(store: Store, task: TaskJson) -> list[tuple[int, str]]:
    return [(line["number"], line["line"]) for line in (await log_of(store, task["id"]))["lines"]]


async def forget_the_minute(connection: Connection) -> None:
    """Let the minute end in which the last lines came."""
    await connection.execute(
        "UPDATE fetchlock.progress SET minute_at = clock_timestamp() - interval '1 minute'"
    )


# A log ------------------------------------------------------------------------


async def test_a_text_is_a_line_and_an_array_is_several(store: Store, task: TaskJson) -> None:
    await beat(store, held(task, logs="one\ntwo"))
    await beat(store, held(task, logs=["", "ü\t☃"]))
    await beat(store, held(task, logs=[]))
    assert await lines_of(store, task) == [(1, "one\ntwo"), (2, ""), (3, "ü\t☃")]


async def test_a_log_is_read_page_by_page(store: Store, task: TaskJson) -> None:
    task_id = task["id"]
    assert await log_of(store, task_id) == {"lines": [], "next": 0}
    assert await log_of(store, task_id, after=7) == {"lines": [], "next": 7}
    await beat(store, held(task, logs=["a", "b", "c"]))
    first = await log_of(store, task_id, limit=2)
    assert [line["line"] for line in first["lines"]] == ["a", "b"]
    assert {frozenset(line) for line in first["lines"]} == {
        frozenset({"number", "loggedAt", "line"})
    }
    assert first["next"] == 2
    second = await log_of(store, task_id, first["next"], 2)
    assert ([line["number"] for line in second["lines"]], second["next"]) == ([3], 3)
    assert await log_of(store, task_id, second["next"]) == {"lines": [], "next": 3}


async def test_logs_are_no_progress_and_stay_when_the_task_is_finished(
    store: Store, task: TaskJson
) -> None:
    await beat(store, held(task, logs="a"))
    assert (await shown(store, task["id"]))["progress"] is None
    await ask(store.complete, "w1", held(task))
    assert await lines_of(store, task) == [(1, "a")]


async def test_each_task_has_its_own(store: Store, task: TaskJson) -> None:
    await create(store, {})
    [other] = await lock(store)
    await beat(store, held(task, logs=["a", "b"]), held(other, logs=["c"]))
    await beat(store, held(other, logs=["d"]))
    assert await lines_of(store, task) == [(1, "a"), (2, "b")]
    assert await lines_of(store, other) == [(1, "c"), (2, "d")]


@pytest.mark.parametrize("task_id", ["00000000-0000-7000-8000-000000000000", "", "no id"])
async def test_nobody_has_no_log_and_no_subtext(store: Store, task_id: str) -> None:
    with pytest.raises(TaskNotFound) as refusal:
        await store.log_lines(task_id, 0, 10)
    assert refusal.value.facts == {"taskId": task_id}
    with pytest.raises(TaskNotFound):
        await store.subtext(task_id, "s")


async def test_reading_is_one_statement(
    store: Store, task: TaskJson, statements: Statements
) -> None:
    await beat(store, held(task, logs="a"))
    await statements.forget()
    await store.log_lines(task["id"], 0, 10)
    assert await statements.calls() == {"log_lines": 1}


# Limits -----------------------------------------------------------------------


async def refused(store: Store, task: TaskJson, **news: object) -> list[tuple[str, str]]:
    """Which of the news a heartbeat did not take. It renews the lock all the same."""
    [answer] = await beat(store, held(task, **news))
    assert (answer["outcome"], answer["lockLost"]) == ("done", False)
    told = answer.get("refused", [])
    assert all(each["detail"] for each in told)
    return [(each["member"], each["code"]) for each in told]


async def test_a_checkpoint_has_so_many_bytes(store: Store, task: TaskJson) -> None:
    full = "ü" * 9  # Two bytes each, and the quotation marks.
    assert await refused(store, task, checkpoint=full) == []
    more = {"checkpoint": full + "x", "percent": 5, "logs": "a"}
    assert await refused(store, task, **more) == [("checkpoint", "too_large")]
    seen = await shown(store, task["id"])
    assert (seen["checkpoint"], seen["progress"]["percent"]) == (full, 5)
    assert await lines_of(store, task) == [(1, "a")]


async def test_a_log_has_so_many_lines(
    store: Store, task: TaskJson, connection: Connection
) -> None:
    for _ in range(2):
        assert await refused(store, task, logs=["a"] * 4) == []
        await forget_the_minute(connection)
    assert await refused(store, task, logs=["b"] * 5, percent=1) == [("logs", "too_large")]
    assert (await shown(store, task["id"]))["progress"]["percent"] == 1
    assert await refused(store, task, logs=["c"] * 4) == []
    await forget_the_minute(connection)
    assert await refused(store, task, logs=["d"]) == [("logs", "too_large")]
    assert await lines_of(store, task) == [
        (number, "aaaaaaaacccc"[number - 1]) for number in range(1, 13)
    ]


async def test_a_log_has_so_many_lines_a_minute(
    store: Store, task: TaskJson, connection: Connection
) -> None:
    assert await refused(store, task, logs=["a"] * 3) == []
    assert await refused(store, task, logs=["b"] * 3) == [("logs", "too_many_requests")]
    assert await refused(store, task, logs=["c"] * 2) == []
    assert await refused(store, task, logs=["d"]) == [("logs", "too_many_requests")]
    # Almost over is not over.
    await connection.execute(
        "UPDATE fetchlock.progress SET minute_at = clock_timestamp() - interval '50 s'"
    )
    minute_at = await connection.fetchval("SELECT minute_at FROM fetchlock.progress")
    assert await refused(store, task, logs=["d"]) == [("logs", "too_many_requests")]
    assert await connection.fetchval("SELECT minute_at FROM fetchlock.progress") == minute_at
    await forget_the_minute(connection)
    assert await refused(store, task, logs=["d"] * 5) == []
    assert await refused(store, task, logs=["e"]) == [("logs", "too_many_requests")]
    assert [line for _, line in await lines_of(store, task)] == [*"aaaccddddd"]


async def test_several_limits_are_told_together(store: Store, task: TaskJson) -> None:
    news = {"checkpoint": "x" * 20, "logs": ["a"] * 13, "subtext": "s"}
    assert await refused(store, task, **news) == [
        ("logs", "too_large"),
        ("checkpoint", "too_large"),
    ]
    assert (await shown(store, task["id"]))["progress"]["subtext"] == "s"
    assert await lines_of(store, task) == []


async def test_refused_news_of_a_number_are_not_said_again_under_it(
    store: Store, task: TaskJson
) -> None:
    """It was taken as far as it could be, so what is repeated changes nothing."""
    await refused(store, task, sequence=1, logs=["a"] * 6, percent=1)
    assert await refused(store, task, sequence=1, logs=["a"], percent=2) == []
    assert await lines_of(store, task) == []
    assert (await shown(store, task["id"]))["progress"]["percent"] == 1


async def test_refused_or_not_it_is_one_statement(
    store: Store, task: TaskJson, statements: Statements
) -> None:
    await statements.forget()
    await refused(store, task, checkpoint="x" * 20, logs=["a"] * 6)
    assert await statements.calls() == {"heartbeat": 1}


# A checkpoint -----------------------------------------------------------------


async def test_a_checkpoint_is_kept_to_the_letter(store: Store, task: TaskJson) -> None:
    for written in ("1.0", "12345678901234567890", '{"a":1.50,"a":2}', "false", '"ü"'):
        said = '{"workerId":"w1","lockDurationMs":30000,"tasks":[{"id":"%s","lockToken":"%s","checkpoint":%s}]}'
        await store.heartbeat([said % (task["id"], task["lockToken"], written)])
        [(body, _)] = (await store.get_tasks([task["id"]])).values()
        assert f'"checkpoint":{written}}}'.encode() in body
    await ask(store.unlock, "w1", held(task))
    [again] = await lock(store)
    assert again["checkpoint"] == "ü"


async def test_a_percentage_may_be_written_in_any_way(store: Store, task: TaskJson) -> None:
    for written, percent in (
        ("null", 7), ("33.5", 33.5), ("0." + "3" * 400, 1 / 3), ("1e1", 10), ("5E-1", 0.5),
        ("1e-400", 0), ("100", 100), ("-0.0", 0),
    ):  # fmt: skip
        await beat(store, held(task, percent=7, logs=[]))
        said = '{"workerId":"w1","lockDurationMs":30000,"tasks":[{"id":"%s","lockToken":"%s","percent":%s}]}'
        batch = await store.heartbeat([said % (task["id"], task["lockToken"], written)])
        assert batch.results[0].refused == 0
        shows = (await shown(store, task["id"]))["progress"]["percent"]
        assert shows == pytest.approx(percent), written


async def test_no_checkpoint_leaves_the_last(store: Store, task: TaskJson) -> None:
    assert "checkpoint" not in await shown(store, task["id"])
    await beat(store, held(task, checkpoint=[1]))
    await beat(store, held(task, checkpoint=None, percent=1))
    assert (await shown(store, task["id"]))["checkpoint"] == [1]


# Subtext ----------------------------------------------------------------------


@pytest.mark.parametrize("state", list(State))
async def test_whoever_is_not_finished_can_be_spoken_of(
    store: Store, connection: Connection, statements: Statements, state: State
) -> None:
    task_id = await in_state(store, state)
    before = await everything(connection)
    await statements.forget()
    if state in FINISHED:
        with pytest.raises(Conflict) as refusal:
            await store.subtext(task_id, "s")
        assert refusal.value.facts == {"taskId": task_id, "state": API_STATES[state]}
        assert await everything(connection) == before
    else:
        await store.subtext(task_id, "s")
        assert await statements.calls() == {"subtext": 1}
        progress = (await shown(store, task_id))["progress"]
        assert (progress["percent"], progress["subtext"]) == (None, "s")
        assert (await row_of(connection, task_id))["reported"]


async def test_the_last_subtext_counts_and_none_clears_it(store: Store, task: TaskJson) -> None:
    await beat(store, held(task, percent=5, subtext="a", checkpoint=1, sequence=4, logs="l"))
    await store.subtext(task["id"], "b")
    seen = await shown(store, task["id"])
    assert (seen["progress"]["percent"], seen["progress"]["subtext"]) == (5, "b")
    assert seen["checkpoint"] == 1
    await beat(store, held(task, subtext="c", sequence=4))  # Old, so not taken.
    assert (await shown(store, task["id"]))["progress"]["subtext"] == "b"
    await store.subtext(task["id"], "")
    assert (await shown(store, task["id"]))["progress"]["subtext"] is None
    await beat(store, held(task, logs="m"))
    assert await lines_of(store, task) == [(1, "l"), (2, "m")]


async def test_it_is_told_to_the_first_worker(store: Store) -> None:
    [task_id] = await create(store, {})
    await store.subtext(task_id, "s")
    [task] = await lock(store)
    assert task["progress"]["subtext"] == "s"


# Races ------------------------------------------------------------------------


async def test_a_first_heartbeat_behind_a_subtext_does_not_guess(
    store: Store, task: TaskJson, connection: Connection, watcher: Connection
) -> None:
    await connection.execute("BEGIN")
    await connection.fetch(queries.SUBTEXT, SHARD, task["id"], "s")
    said = held(task, sequence=1, logs=["a"])
    [answer] = await behind(connection, watcher, lambda: beat(store, said))
    assert [each["member"] for each in answer["refused"]] == ["sequence"]
    assert await refused(store, task, sequence=1, logs=["a"]) == []
    assert await lines_of(store, task) == [(1, "a")]
    assert (await shown(store, task["id"]))["progress"]["subtext"] == "s"


async def test_a_subtext_behind_a_first_heartbeat_keeps_its_news(
    store: Store, task: TaskJson, connection: Connection, watcher: Connection
) -> None:
    await connection.execute("BEGIN")
    said = request("w1", held(task, percent=7, logs=["a"]), lockDurationMs=30_000)
    await connection.fetch(queries.HEARTBEAT, SHARD, [said], *LIMITS)
    await behind(connection, watcher, partial(store.subtext, task["id"], "s"))
    progress = (await shown(store, task["id"]))["progress"]
    assert (progress["percent"], progress["subtext"]) == (7, "s")
    assert await lines_of(store, task) == [(1, "a")]


async def test_a_callback_behind_a_first_heartbeat_goes_on_counting(
    store: Store, task: TaskJson, connection: Connection, watcher: Connection
) -> None:
    await ask(store.callback_url, "w1", held(task))
    await connection.execute("BEGIN")
    said = request("w1", held(task, subtext="s", logs=["a", "b"]), lockDurationMs=30_000)
    await connection.fetch(queries.HEARTBEAT, SHARD, [said], *LIMITS)
    said = called_back(task, logs=["c", "d"])
    await behind(connection, watcher, lambda: store.callback([said]))
    await beat(store, held(task, logs=["e"]))
    assert (await shown(store, task["id"]))["progress"]["subtext"] == "s"
    assert await lines_of(store, task) == [*enumerate("abcde", start=1)]


async def test_however_many_write_at_once_no_number_is_missing(store: Store) -> None:
    """And a reader that goes on from the last line it saw misses none."""
    store._settings = Settings()
    await create(store, {})
    [task] = await lock(store)
    read: list[TaskJson] = []

    async def write(writer: int) -> None:
        for number in range(20):
            news = held(task, logs=[f"{writer}.{number}.{place}" for place in range(3)])
            while "refused" in (await beat(store, news))[0]:
                pass

    async def read_on(until: int) -> None:
        while len(read) < until:
            after = read[-1]["number"] if read else 0
            read.extend((await log_of(store, task["id"], after, 7))["lines"])

    async with anyio.create_task_group() as group:
        group.start_soon(read_on, 240)
        for writer in range(4):
            group.start_soon(write, writer)
    assert [line["number"] for line in read] == list(range(1, 241))
    assert len({line["line"] for line in read}) == 240
    for writer in range(4):
        own = [line["line"] for line in read if line["line"].startswith(f"{writer}.")]
        assert own == [f"{writer}.{number}.{place}" for number in range(20) for place in range(3)]

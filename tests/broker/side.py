"""One broker that a random program runs over, and what its callers know.

Its store runs one statement after the other and writes down which requests
each of them took: that is the order in which batches took effect. What callers
are told is put into words that every database shares: names for ids, attempts
for lock tokens, and whole hours from now for instants.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

import anyio
import asyncpg
import msgspec
from anyio.lowlevel import checkpoint

from broker.core import Core
from broker.errors import BrokerError
from broker.store import Claim, Store
from tests.broker.programs import HOUR_MS, Create, Mention, Poll, Work
from tests.factories import Client, TaskJson, decoded, poll, subscribe

_NOBODY: Final = str(UUID(int=0))
"""No task has this id, and no lock this token."""

_LOOK: Final = """
    SELECT t.id::text, t.state::text, t.lock_token::text, l.topic
    FROM fetchlock.open_task t JOIN fetchlock.lane l USING (lane_id)
    ORDER BY l.priority DESC, t.position
"""

_TABLES: Final = {
    "open_task": """
        SELECT l.topic, l.process_definition_id, l.priority, t.*
        FROM fetchlock.open_task t JOIN fetchlock.lane l USING (lane_id) ORDER BY t.position
    """,
    "task": "SELECT l.topic, t.* FROM fetchlock.task t JOIN fetchlock.lane l USING (lane_id)",
    "outcome": "SELECT l.topic, t.* FROM fetchlock.outcome t JOIN fetchlock.lane l USING (lane_id)",
    "progress": "SELECT * FROM fetchlock.progress",
    "log_line": "SELECT * FROM fetchlock.log_line",
    "callback": "SELECT * FROM fetchlock.callback",
    "unique_key": "SELECT task_id AS id, * FROM fetchlock.unique_key",
}


_TURNS: Final = 10
"""Turns of the event loop after which whoever can go on has done so."""


async def turns() -> None:
    """Let whoever can go on do so."""
    for _ in range(_TURNS):
        await checkpoint()


class Ran(NamedTuple):
    """A statement that was committed, and what it left behind."""

    verb: str
    places: list[int]
    """The steps of the phase whose requests it took, in its order."""
    locked: list[tuple[str, str]]
    """Id and token of what it locked, in the order of handing out."""
    ready_topics: set[str]


class RecordedStore(Store):
    """Runs the verbs one after the other, and writes down what each of them did."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.ran: list[Ran] = []
        self._may_run = anyio.Event()
        self._may_run.set()
        self._turn = anyio.Lock()
        self._claims = 0
        self._locks: set[tuple[str, str]] = set()

    async def create(self, *args: Any) -> Any:
        return await self._run("create", super().create, *args)

    async def fetch_and_lock(self, *args: Any) -> Any:
        return await self._run("fetch_and_lock", super().fetch_and_lock, *args)

    async def complete(self, *args: Any) -> Any:
        return await self._run("complete", super().complete, *args)

    async def bpmn_error(self, *args: Any) -> Any:
        return await self._run("bpmn_error", super().bpmn_error, *args)

    async def fail(self, *args: Any) -> Any:
        return await self._run("fail", super().fail, *args)

    async def extend_lock(self, *args: Any) -> Any:
        return await self._run("extend_lock", super().extend_lock, *args)

    async def unlock(self, *args: Any) -> Any:
        return await self._run("unlock", super().unlock, *args)

    async def heartbeat(self, *args: Any) -> Any:
        return await self._run("heartbeat", super().heartbeat, *args)

    async def hand_over(self, *args: Any) -> Any:
        return await self._run("hand_over", super().hand_over, *args)

    async def callback(self, *args: Any) -> Any:
        return await self._run("callback", super().callback, *args)

    async def _run(self, verb: str, statement: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        # A claim is put together from what is known, and is to be true when it runs: so it goes
        # before all that waits, once whoever has to react to the last statement has done so.
        is_claim = any(isinstance(arg, Claim) for arg in args)
        self._claims += is_claim
        await self._may_run.wait()
        await self._turn.acquire()
        await turns()
        while self._claims and not is_claim:
            self._turn.release()
            await self._turn.acquire()
            await turns()
        try:
            outcome = await statement(*args)
            requests: Sequence[str] = () if verb == "fetch_and_lock" else args[0]
            await self.look(verb, [msgspec.json.decode(text)["place"] for text in requests])
            return outcome
        finally:
            self._claims -= is_claim
            self._turn.release()

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """Around what is to meet while a statement runs."""
        self._may_run = anyio.Event()
        try:
            yield
        finally:
            self._may_run.set()

    async def look(self, verb: str, places: list[int]) -> None:
        """Write down what there is now."""
        rows = await self._pool.fetch(_LOOK)
        locks = [(row["id"], row["lock_token"]) for row in rows if row["state"] == "locked"]
        new_locks = [lock for lock in locks if lock not in self._locks]
        self._locks.update(new_locks)
        ready_topics = {row["topic"] for row in rows if row["state"] == "ready"}
        self.ran.append(Ran(verb, places, new_locks, ready_topics))


class Lock(NamedTuple):
    """A lock that a worker has been told of."""

    worker_id: str
    token: str


class Side:
    """One of the brokers."""

    def __init__(self, core: Core, connection: asyncpg.Connection) -> None:
        assert isinstance(core._store, RecordedStore)
        self.core = core
        self.store = core._store
        self._connection = connection
        self._walk = 0
        self._ids: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self._locks: dict[str, dict[int, Lock]] = {}
        """By the task's name, and the attempt's number."""
        self._known: list[str] = []
        """The tasks that a phase can speak of."""

    async def begin(self, walk: int) -> None:
        """Go to new topics, without any task."""
        self._walk = walk
        for table in _TABLES:
            await self._connection.execute(f"DELETE FROM fetchlock.{table}")  # noqa: S608
        for memory in (self._ids, self._names, self._locks):
            memory.clear()

    async def begin_phase(self) -> None:
        """From now on, what was told in the phases before is known to everybody."""
        self._known = sorted(self._ids)
        self.store.ran.clear()
        await self.store.look("begin", [])

    # Asking -----------------------------------------------------------------

    async def ask(self, place: int, asked: Create | Work) -> list[TaskJson]:
        """The answers, or one that has only the code of an error."""
        if isinstance(asked, Create):
            request: TaskJson = {"tasks": [self._creation(task) for task in asked.tasks]}
        else:
            mentions = [self._mention(mention) for mention in asked.mentions]
            request = {
                "workerId": self.worker_of(asked),
                "lockDurationMs": 5 * HOUR_MS,
                "tasks": mentions,
            }
        text = msgspec.json.encode(request | {"place": place}).decode()
        try:
            results = await getattr(self.core, asked.verb)(text)
        except BrokerError as error:
            return [{"code": error.code}]
        answers = decoded(results.body)
        assert results.refused == sum("code" in answer for answer in answers)
        return answers

    async def poll(self, asked: Poll, client: Client | None = None) -> list[TaskJson]:
        """The tasks. Without a client who may leave, it does not park."""
        delivery = await poll(
            self.core.dispatcher, asked.tasks_max, asked.worker_id, client=client,
            timeout_ms=HOUR_MS if client else 0,
            subscriptions=subscribe(
                *self.topics(asked), lock_duration_ms=asked.lock_hours * HOUR_MS
            ),
        )  # fmt: skip
        return decoded(delivery.body)

    def topics(self, asked: Poll) -> list[str]:
        return [self._topic(number) for number in asked.topics]

    def _topic(self, number: int) -> str:
        return f"{self._walk}-{number}"

    def _creation(self, task: TaskJson) -> TaskJson:
        return task | {"topic": self._topic(task["topic"])}

    def worker_of(self, asked: Work) -> str:
        """Who says it."""
        locks = self._locks_of(asked.mentions[0])
        return asked.worker_id or (locks[-1].worker_id if locks else "w1")

    def _mention(self, mention: Mention) -> TaskJson:
        name = self._name(mention)
        locks = self._locks_of(mention)
        nobody = "no id" if mention.lock == "absent" else _NOBODY
        said = {"id": self._ids[name] if name else nobody, **mention.members}
        if mention.lock == "wrong" or (mention.lock != "absent" and not locks):
            said["lockToken"] = _NOBODY
        elif mention.lock != "absent":
            said["lockToken"] = locks[0 if mention.lock == "first" else -1].token
        return said

    def _name(self, mention: Mention) -> str | None:
        if mention.task is None or not self._known:
            return None
        return self._known[mention.task % len(self._known)]

    def _locks_of(self, mention: Mention) -> list[Lock]:
        locks = self._locks.get(self._name(mention) or "", {})
        return [locks[attempt] for attempt in sorted(locks)]

    # What it was told ---------------------------------------------------------

    def name_created(self, prefix: str, answers: list[TaskJson]) -> None:
        """Give names to the tasks that a step has created."""
        for item, answer in enumerate(answers):
            if "id" in answer and "replayed" not in answer:
                name = f"{prefix}.{item}"
                self._ids[name], self._names[answer["id"]] = answer["id"], name

    def learn_locks(self, tasks: list[TaskJson]) -> None:
        """Remember the locks that a poll has brought."""
        for task in tasks:
            locks = self._locks.setdefault(self._names[task["id"]], {})
            assert task["attempt"] not in locks
            assert task["lockToken"] not in {lock.token for lock in locks.values()}
            locks[task["attempt"]] = Lock(task["workerId"], task["lockToken"])

    def worded(self, told: Any) -> Any:
        """An answer in words that both sides share. Tokens are compared with the tables."""
        if isinstance(told, list):
            return [self.worded(each) for each in told]
        if not isinstance(told, dict):
            return told
        worded = {
            name: self.worded(value)
            for name, value in told.items()
            if name not in ("lockToken", "expiresMs")
        }
        if "id" in told:
            worded["id"] = self._names.get(told["id"], told["id"])
        for name, value in told.items():
            if name.endswith("At") and value is not None:
                worded[name] = _hours_from_now(datetime.fromisoformat(value))
        return worded

    async def tables(self) -> dict[str, list[dict[str, Any]]]:
        """All rows, in words that both sides share; open tasks in the order of their positions."""
        tables = {}
        for table, select in _TABLES.items():
            rows = [self._worded_row(row) for row in await self._connection.fetch(select)]
            if table != "open_task":
                rows.sort(
                    key=lambda row: (str(row["id"]), row.get("number"), row.get("lock_token"))
                )
            tables[table] = rows
        return tables

    def _worded_row(self, row: Any) -> dict[str, Any]:
        worded = {
            name: _hours_from_now(value) if isinstance(value, datetime) else value
            for name, value in row.items()
            if name not in ("position", "lane_id", "task_id")
        }
        worded["id"] = name = self._names[str(row["id"])]
        if worded.get("lock_token"):
            [worded["lock_token"]] = [
                attempt
                for attempt, lock in self._locks[name].items()
                if lock.token == str(row["lock_token"])
                and row.get("worker_id") in (lock.worker_id, None)
            ]
        return worded


def _hours_from_now(instant: datetime) -> int:
    return round((instant - datetime.now(UTC)).total_seconds() * 1_000 / HOUR_MS)

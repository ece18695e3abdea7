"""It makes no difference to anybody that requests share statements.

A random program runs twice. Over one database everything of a phase is asked
for at once, and goes through the core in batches. Over the other each request
is a statement of its own, in an order that the batches can be said to have
had: the requests of one in their order, and a poll after what brought its
tasks. Every answer and every row must be the same.

Two differences are meant. Why a task was refused is told as it is right after
the batch, so there the other side asks once more. And of several heartbeats of
one batch with news of one task only the first have theirs taken: the others
are told so, and the other side leaves those news out.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import chain, count
from typing import Final

import anyio
import asyncpg
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings

from broker import core as core_module
from broker.core import open_core
from broker.errors import CallbackExpired, Conflict, Invalid, LockLost, TaskNotFound
from broker.settings import Settings
from tests.broker.programs import PROGRAMS, Create, Phase, Poll, Program, Step, Work
from tests.broker.side import Ran, RecordedStore, Side, turns
from tests.eventually import eventually
from tests.factories import Client, TaskJson, is_at_rest

Told = list[TaskJson]
"""Answers, or one that has only the code of an error."""

_REASONED: Final = {LockLost.code, TaskNotFound.code, Conflict.code, CallbackExpired.code}

_walks = count(1)


@pytest.fixture
async def sides(
    database_url: str, other_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Side, Side]]:
    """Two brokers, each over a database of its own."""
    monkeypatch.setattr(core_module, "Store", RecordedStore)
    # The wait for a retry is drawn at random up to a bound: here it is none.
    one, other = (
        Settings(database_url=url, retry_base_ms=0) for url in (database_url, other_database_url)
    )
    connections = [await asyncpg.connect(url) for url in (database_url, other_database_url)]
    async with open_core(one) as one_core, open_core(other) as other_core:
        yield Side(one_core, connections[0]), Side(other_core, connections[1])
    for connection in connections:
        await connection.close()


@pytest.mark.timeout(600)  # To make a counterexample short takes its time; to find none does not.
@hypothesis_settings(
    max_examples=25,
    deadline=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
@given(program=PROGRAMS)
async def test_batches_do_what_their_requests_do_one_by_one(
    sides: tuple[Side, Side], program: Program
) -> None:
    together, alone = sides
    walk = next(_walks)
    for side in sides:
        await side.begin(walk)
    for number, phase in enumerate(program):
        for side in sides:
            await side.begin_phase()
        told = await run_together(together, phase)
        for place, answers in told.items():
            if isinstance(phase[place].asked, Create):
                together.name_created(f"{number}.{place}", answers)
        check_batches(together, phase)
        one_by_one = OneByOne(together, alone, phase, told, f"{number}")
        await one_by_one.run()
        for place, tasks in one_by_one.polled.items():
            together.learn_locks(told[place])
            alone.learn_locks(tasks)
        assert await together.tables() == await alone.tables()


async def run_together(side: Side, phase: Phase) -> dict[int, Told]:
    """What became of the steps, by their places. All statements wait until everybody has asked."""
    told: dict[int, Told] = {}
    clients = [Client() for _ in phase]
    others = {place for place, step in enumerate(phase) if not is_parked(step)}

    async def ask(place: int) -> None:
        asked = phase[place].asked
        if isinstance(asked, Poll):
            told[place] = await side.poll(asked, clients[place] if asked.parks else None)
        else:
            told[place] = await side.ask(place, asked)

    async def are_others_told() -> bool:
        return others <= told.keys() and is_at_rest(side.core.dispatcher)

    async with anyio.create_task_group() as group:
        with side.store.held_back():
            for is_late in (False, True):
                for place in (place for place, step in enumerate(phase) if step.is_late == is_late):
                    group.start_soon(ask, place)
                # Everybody has submitted, and the batchers have taken what they can.
                await turns()
        await eventually(are_others_told)
        for client in clients:
            client.leave()
    return told


def is_parked(step: Step) -> bool:
    return isinstance(step.asked, Poll) and step.asked.parks


def check_batches(side: Side, phase: Phase) -> None:
    """Requests did share statements, and each of them was in exactly one that was committed."""
    requests = [(place, step, step.asked) for place, step in enumerate(phase)
                if not isinstance(step.asked, Poll)]  # fmt: skip
    for verb in {asked.verb for _, _, asked in requests}:
        batches = [
            [place for place, step, asked in requests
             if asked.verb == verb and step.is_late == is_late and not asked.is_flawed]
            for is_late in (False, True)
        ]  # fmt: skip
        ran = [statement.places for statement in side.store.ran if statement.verb == verb]
        assert list(chain(*ran)) == list(chain(*batches))
        # Where one is flawed, the batch is halved until that one is alone.
        if not any(asked.is_flawed for _, _, asked in requests if asked.verb == verb):
            assert ran == [batch for batch in batches if batch]


class OneByOne:
    """A phase once more, on the other side and each request on its own."""

    def __init__(
        self, together: Side, alone: Side, phase: Phase, told: dict[int, Told], name: str
    ) -> None:
        self._together = together
        self._alone = alone
        self._phase = phase
        self._told = told
        self._name = name
        self.polled: dict[int, list[TaskJson]] = {}

    async def run(self) -> None:
        """Compare the answers."""
        for statement in self._together.store.ran:
            await self._run_one_by_one(statement)
        for place, step in enumerate(self._phase):
            if isinstance(step.asked, Poll) and place not in self.polled:
                self._check_nothing_was_there(place, step.asked)
            elif not isinstance(step.asked, Poll) and step.asked.is_flawed:
                await self._ask(place)

    async def _run_one_by_one(self, statement: Ran) -> None:
        for place in statement.places:
            await self._ask(place)
        for place in statement.places:
            await self._ask_for_reasons(place)
        for place in self._served_by(statement):
            await self._poll(place)

    async def _ask(self, place: int) -> None:
        asked, told = self._phase[place].asked, self._told[place]
        assert not isinstance(asked, Poll)
        answers = await self._alone.ask(place, without_refused_news(asked, told))
        told = [{name: each[name] for name in each if name != "refused"} for each in told]
        if isinstance(asked, Create):
            self._alone.name_created(f"{self._name}.{place}", answers)
        assert without_reasons(self._together.worded(told)) == without_reasons(
            self._alone.worded(answers)
        )
        assert (told == [{"code": Invalid.code}]) == asked.is_flawed

    async def _ask_for_reasons(self, place: int) -> None:
        asked, told = self._phase[place].asked, self._told[place]
        if not isinstance(asked, Work):
            return
        worker_id = self._alone.worker_of(asked)
        for mention, answer in zip(asked.mentions, told, strict=True):
            if is_reasoned(answer):
                again = await self._alone.ask(place, Work(asked.verb, worker_id, [mention]))
                assert [self._together.worded(answer)] == self._alone.worded(again)

    def _served_by(self, statement: Ran) -> list[int]:
        """The polls that got the statement's locks, in its order."""
        order = {lock: place for place, lock in enumerate(statement.locked)}
        served = []
        for place, step in enumerate(self._phase):
            if isinstance(step.asked, Poll) and (tasks := self._told[place]):
                first = (tasks[0]["id"], tasks[0]["lockToken"])
                if first in order:
                    served.append((order[first], place))
        return [place for _, place in sorted(served)]

    async def _poll(self, place: int) -> None:
        asked = self._phase[place].asked
        assert isinstance(asked, Poll)
        self.polled[place] = tasks = await self._alone.poll(asked)
        assert self._together.worded(self._told[place]) == self._alone.worded(tasks)

    def _check_nothing_was_there(self, place: int, asked: Poll) -> None:
        """Who parked saw to the end that nothing came; who did not park, for an instant."""
        assert self._told[place] == []
        topics = set(self._together.topics(asked))
        ran = self._together.store.ran
        seen = [ran[-1]] if asked.parks else ran
        assert any(topics.isdisjoint(statement.ready_topics) for statement in seen)
        self.polled[place] = []


def is_reasoned(answer: TaskJson) -> bool:
    """Whether it is the refusal of a task that was named."""
    return answer.get("code") in _REASONED and "id" in answer


def without_refused_news(asked: Create | Work, told: Told) -> Create | Work:
    """A heartbeat without the news that came at the same time as others."""
    if isinstance(asked, Create) or asked.verb != "heartbeat" or asked.is_flawed:
        return asked
    mentions = []
    for mention, answer in zip(asked.mentions, told, strict=True):
        members = [each["member"] for each in answer.get("refused", ())]
        assert members in ([], ["sequence"])
        mentions.append(mention._replace(members={}) if members else mention)
    return asked._replace(mentions=mentions)


def without_reasons(worded: list[TaskJson]) -> list[TaskJson]:
    """Answers of which the refusals only say that the task is not the worker's."""
    return [
        {"id": answer["id"], "code": answer["code"]} if is_reasoned(answer) else answer
        for answer in worded
    ]

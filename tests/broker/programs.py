"""Random programs for a broker: what its callers ask for, and what of it at once.

A program is a list of phases; the steps of a phase are all asked for at once.
It knows no id and no token, because it runs over several databases: a task is
a number among those that are known when its phase begins, and a lock is the
last one on that task, the first one, a wrong one, or none.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from hypothesis import strategies as st

from tests.factories import TaskJson

HOUR_MS: Final = 3_600_000
"""All times are hours: nothing becomes due and no lock ends while a program runs."""

_NUL: Final = "\0"
"""PostgreSQL refuses a statement that has it in a text."""

_NO_INTEGER: Final = 2**70
"""PostgreSQL refuses a statement that has it as an integer."""


class Create(NamedTuple):
    """Create tasks. Their topics are numbers."""

    tasks: list[TaskJson]
    verb: str = "create"

    @property
    def is_flawed(self) -> bool:
        """Whether PostgreSQL refuses every statement that has it."""
        return any(_NO_INTEGER in task.values() for task in self.tasks)


class Poll(NamedTuple):
    """Fetch tasks, and park where there are none, or do not."""

    worker_id: str
    tasks_max: int
    topics: tuple[int, ...]
    lock_hours: int
    parks: bool


class Mention(NamedTuple):
    """What a worker says of one task, and under which lock. No number is a task nobody knows."""

    task: int | None
    lock: Literal["last", "first", "wrong", "absent"]
    members: TaskJson


class Work(NamedTuple):
    """One of the verbs of who has a task: its worker, or who it was handed over to. No worker's id is that of the worker who fetched the first."""

    verb: str
    worker_id: str | None
    mentions: list[Mention]

    @property
    def is_flawed(self) -> bool:
        """Whether PostgreSQL refuses every statement that has it."""
        values = [value for mention in self.mentions for value in mention.members.values()]
        return self.worker_id == _NUL or _NO_INTEGER in values


class Step(NamedTuple):
    """A part of a phase. A late one comes while the statements of the others run."""

    asked: Create | Poll | Work
    is_late: bool = False


Phase = list[Step]
Program = list[Phase]

_TASKS: Final = st.fixed_dictionaries(
    {"topic": st.sampled_from([0, 1, 2, 3, 3, 3])},
    optional={
        "priority": st.sampled_from([5, 5, 5, 5, _NO_INTEGER]),
        "retries": st.integers(1, 2),
        "delayMs": st.just(2 * HOUR_MS),
        # It excludes the delay, and then only this task is refused.
        "availableAt": st.just("2000-01-01T00:00:00Z"),
        "uniqueKey": st.sampled_from("kl"),
        "processDefinitionId": st.just("d"),
        "variables": st.just({"a": [1.0, "ä"]}),
    },
)
_CREATIONS: Final = st.lists(_TASKS, min_size=1, max_size=3).map(Create)


def _polls(parks: st.SearchStrategy[bool]) -> st.SearchStrategy[Poll]:
    # Few groups, so that there are several polls in a claim.
    topics = st.sampled_from([(0,), (1,), (0, 1), (3,), (3,), (3,)])
    return st.builds(
        lambda worker_id, tasks_max, topics, parks: Poll(
            worker_id, tasks_max, topics, 1 + len(topics), parks
        ),
        st.sampled_from(["w1", "w2"]),
        st.integers(1, 3),
        topics,
        parks,
    )


_NEWS: Final = st.fixed_dictionaries(
    {},
    optional={
        "sequence": st.sampled_from([1, 2, 2, 3, 3, 4, _NO_INTEGER]),
        "percent": st.sampled_from([1.5, 50]),
        "subtext": st.sampled_from(["", "s"]),
        "logs": st.sampled_from(["a", ["b", "c"], []]),
        "checkpoint": st.just({"a": 1.0}),
    },
)

_MEMBERS: Final[dict[str, st.SearchStrategy[TaskJson]]] = {
    "complete": st.fixed_dictionaries({}, optional={"variables": st.just({"a": 1})}),
    "bpmn_error": st.fixed_dictionaries(
        {"errorCode": st.sampled_from("EF")}, optional={"variables": st.just({"a": 1})}
    ),
    "fail": st.fixed_dictionaries(
        {"errorMessage": st.sampled_from("mn")},
        optional={
            "retryTimeoutMs": st.sampled_from([0, 2 * HOUR_MS]),
            "retries": st.sampled_from([0, 1, 1, 3, 3, _NO_INTEGER]),
        },
    ),
    "extend_lock": st.builds(lambda hours: {"lockDurationMs": hours * HOUR_MS}, st.integers(1, 5)),
    "unlock": st.just({}),
    "heartbeat": _NEWS,
    "hand_over": st.fixed_dictionaries(
        {},
        optional={
            "timeoutMs": st.sampled_from([3 * HOUR_MS, 4 * HOUR_MS, 4 * HOUR_MS, _NO_INTEGER]),
            "variables": st.just({"a": 1, "b": 2.0}),
        },
    ),
    "callback": st.fixed_dictionaries(
        {"isSuccess": st.booleans()},
        optional={
            "output": st.just({"a": 3}),
            "errorCode": st.sampled_from("EF"),
            "logs": st.just(["d", "e"]),
            "subtext": st.just("t"),
        },
    ),
}


_HANDED_OVER: Final = [8, 9]
"""Of the first tasks, those that are handed over before the rest of the program."""


def _works(verb: str) -> st.SearchStrategy[Work]:
    mentions = st.builds(
        Mention,
        # The first ones more often: steps are to meet at the same tasks.
        st.sampled_from(
            [*_HANDED_OVER * 2, 0, 10, None]
            if verb == "callback"
            else [0, 0, 0, 1, 1, 2, 5, *_HANDED_OVER, None]
        ),
        st.sampled_from(["last", "last", "last", "last", "absent", "first", "wrong"]),
        _MEMBERS[verb],
    )
    worker_ids = st.sampled_from([None, None, None, None, None, "w1", "w3", _NUL])
    return st.builds(Work, st.just(verb), worker_ids, st.lists(mentions, min_size=1, max_size=3))


def _phases(*asked: st.SearchStrategy[Create | Poll | Work]) -> st.SearchStrategy[Phase]:
    return st.lists(st.builds(Step, st.one_of(asked), st.booleans()), min_size=3, max_size=9)


_MEETINGS: Final = st.builds(
    lambda polls, creations: (
        [Step(poll) for poll in polls] + [Step(creation, is_late=True) for creation in creations]
    ),
    st.lists(_polls(st.just(True)), min_size=1, max_size=5),
    st.lists(_CREATIONS, min_size=1, max_size=4),
)
"""Where nothing was before, these tasks are born locked."""

_KINDS: Final[list[st.SearchStrategy[Create | Poll | Work]]] = [
    _CREATIONS,
    _polls(st.booleans()),
    *(_works(verb) for verb in _MEMBERS),
]


def _first_tasks(topic: int) -> list[TaskJson]:
    return [
        {"topic": topic, "priority": priority} | definition
        for priority in (0, 5)
        for definition in ({}, {"processDefinitionId": "d"})
    ]


_PRELUDE: Final[Program] = [
    [Step(Create([task for topic in (0, 1, 3) for task in _first_tasks(topic)]))],
    [
        Step(Poll("w1", 3, (0,), 2, parks=False)),
        Step(Poll("w2", 3, (1,), 2, parks=False)),
        Step(Poll("w1", 9, (3,), 2, parks=False)),
    ],
    [
        Step(Work("hand_over", None, [Mention(task, "last", {"variables": {"a": 1, "b": 2.0}})]))
        for task in _HANDED_OVER
    ],
]
"""Without locked tasks to begin with, most of what workers say would only be refused. It also
makes all lanes that polls look at: a claim knows only the lanes there were when it was put
together, so one that meets the creation of a lane comes before it or after it."""

_FINALE: Final[Program] = [[Step(Poll("w3", 1_000, (0, 1, 2, 3), 1, parks=False))]]
"""All that is left is there for who asks, and in the same order."""

PROGRAMS: Final[st.SearchStrategy[Program]] = st.builds(
    lambda phases: _PRELUDE + phases + _FINALE,
    st.lists(
        # In a phase of one verb all meet in two statements; in others, what differs meets.
        st.one_of(_phases(*_KINDS), st.sampled_from(_KINDS).flatmap(_phases), _MEETINGS),
        min_size=3,
        max_size=5,
    ),
)

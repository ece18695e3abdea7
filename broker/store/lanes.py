"""The lanes this process knows.

Lanes are made by whoever creates the first task of one and hardly ever go
away, so each process keeps them all in memory: they are few (a topic has at
most 256 priorities, and 4,096 lanes), and every subscription is resolved
against them.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

import orjson

PRIORITIES_MAX: Final = 256
"""Distinct priorities of one topic: a fetch visits lanes one by one, so they must stay few."""

LANES_MAX: Final = 4_096
"""Lanes of one topic, whatever tells them apart: an unfiltered fetch visits all of them."""


class Lane(NamedTuple):
    """One FIFO of tasks. An empty name stands for none."""

    lane_id: int
    topic: str
    process_definition_id: str
    priority: int
    tenant_id: str = ""
    process_definition_key: str = ""
    process_definition_version_tag: str = ""

    def members_json(self) -> str:
        """What the lane gives each of its tasks, as members of the task's JSON object."""
        members = {
            "topic": self.topic,
            "priority": self.priority,
            "processDefinitionId": self.process_definition_id or None,
            "processDefinitionKey": self.process_definition_key or None,
            "processDefinitionVersionTag": self.process_definition_version_tag or None,
            "tenantId": self.tenant_id or None,
        }
        return orjson.dumps(members).decode()[1:-1]


class Lanes:
    """Every lane by its id and by its topic."""

    def __init__(self) -> None:
        self._by_id: dict[int, Lane] = {}
        self._by_topic: defaultdict[str, list[Lane]] = defaultdict(list)
        self._members_json: dict[int, str] = {}
        self.last_id = 0

    def add(self, lanes: Iterable[Lane]) -> None:
        """Learn lanes; known ones are passed over."""
        for lane in lanes:
            if lane.lane_id not in self._by_id:
                self._by_id[lane.lane_id] = lane
                self._by_topic[lane.topic].append(lane)
                self._members_json[lane.lane_id] = lane.members_json()
                self.last_id = max(self.last_id, lane.lane_id)

    def since(self, count: int) -> list[Lane]:
        """The lanes that were learned after the first `count`."""
        if count == len(self._by_id):
            return []
        return list(itertools.islice(self._by_id.values(), count, None))

    def get(self, lane_id: int) -> Lane | None:
        """The lane with this id, if this process knows it."""
        return self._by_id.get(lane_id)

    def members_json(self, lane_id: int) -> str:
        """`Lane.members_json` of a known lane, put together once."""
        return self._members_json[lane_id]

    def count_after(self, lane_id: int) -> int:
        """How many known lanes have a higher id."""
        return sum(known > lane_id for known in self._by_id)

    def of_topic(self, topic: str) -> list[Lane]:
        """Every known lane of a topic."""
        return self._by_topic.get(topic, [])

    def topic_of(self, lane_id: int) -> str:
        """The topic of a lane, for labels; unknown lanes share one word."""
        lane = self._by_id.get(lane_id)
        return lane.topic if lane else "_unknown"

    def __iter__(self) -> Iterator[Lane]:
        return iter(self._by_id.values())

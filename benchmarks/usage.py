"""CPU seconds and memory, by role, and what others took of the machine meanwhile.

Every role is a tree of processes: the broker with its children, PostgreSQL with
its backends. A process that has ended leaves its seconds with its parent, so a
sum over the tree, the reaped ones included, only ever grows.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import psutil


class Reading(NamedTuple):
    """What had been used at one moment, in seconds since whenever."""

    at_s: float
    by_role: dict[str, float]
    ours: float
    everybody: float


class Usage(NamedTuple):
    """What was used between two readings."""

    elapsed_s: float
    cpu_s: dict[str, float]
    other_cpu: float
    """Share of all cores that went to others, 0 to 1."""


class Meter:
    """Reads the clocks of some trees of processes, each named by its root's process id."""

    def __init__(self, roots: Mapping[str, int]) -> None:
        self._roots = {role: psutil.Process(pid) for role, pid in roots.items()}

    def read(self) -> Reading:
        """Take a reading."""
        by_role = {role: _tree_cpu_s(root) for role, root in self._roots.items()}
        harness = psutil.Process(os.getpid()).cpu_times()
        ours = sum(by_role.values()) + harness.user + harness.system
        return Reading(time.monotonic(), by_role, ours, _machine_cpu_s())

    def since(self, before: Reading) -> Usage:
        """What was used since `before`."""
        now = self.read()
        elapsed_s = now.at_s - before.at_s
        capacity_s = elapsed_s * (os.cpu_count() or 1)
        others_s = (now.everybody - before.everybody) - (now.ours - before.ours)
        return Usage(
            elapsed_s,
            {role: now.by_role[role] - before.by_role[role] for role in self._roots},
            min(1.0, max(0.0, others_s / capacity_s)) if capacity_s else 0.0,
        )

    def memory_bytes(self, role: str) -> int:
        """Resident memory of a role's tree."""
        total = 0
        for process in _tree(self._roots[role]):
            try:
                total += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        return total


def _tree(root: psutil.Process) -> Iterator[psutil.Process]:
    yield root
    yield from root.children(recursive=True)


def _tree_cpu_s(root: psutil.Process) -> float:
    total = 0.0
    for process in _tree(root):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue  # Its parent has its seconds, or will have them at the next reading.
        total += times.user + times.system + times.children_user + times.children_system
    return total


def _machine_cpu_s() -> float:
    # What the host of a virtual machine takes for itself is lost to us like any other's.
    times = psutil.cpu_times()
    return sum(times) - times.idle - times.iowait - times.guest - times.guest_nice

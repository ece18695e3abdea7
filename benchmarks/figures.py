"""The nouns of a run, and its JSON: what was measured, of whom, on what, and what is missing.

A figure keeps the value of every repetition, and how much of the machine others
used meanwhile. Whoever reads it may throw away what was disturbed; the
benchmark never does so itself.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import msgspec

FORMAT: Final = 1

OTHER_CPU_MAX: Final = 0.15
"""A repetition is called disturbed if others used more of the machine. Below it is what the kernel
does for us in threads of its own, such as writing to the disk."""

Better = Literal["higher", "lower"]


class Key(NamedTuple):
    """What makes a figure comparable with one of another run."""

    workload: str
    contender: str
    measure: str


class Figure(msgspec.Struct):
    """One measure of one contender in one workload. `values` has one number a repetition."""

    workload: str
    contender: str
    measure: str
    unit: str
    better: Better
    values: list[float]
    other_cpu: list[float]

    @property
    def key(self) -> Key:
        """What makes it comparable."""
        return Key(self.workload, self.contender, self.measure)

    @property
    def median(self) -> float:
        """Of the repetitions."""
        return statistics.median(self.values)

    @property
    def low(self) -> float:
        """The lowest repetition."""
        return min(self.values)

    @property
    def high(self) -> float:
        """The highest repetition."""
        return max(self.values)

    @property
    def is_disturbed(self) -> bool:
        """Whether others used the machine during one of the repetitions."""
        return max(self.other_cpu, default=0.0) > OTHER_CPU_MAX


class Series(msgspec.Struct):
    """How a measure went over the time of one repetition, to be drawn."""

    workload: str
    contender: str
    measure: str
    unit: str
    repetition: int
    points: list[tuple[float, float]]
    """Seconds since the begin, and the value."""


class Participant(msgspec.Struct):
    """A contender as it introduced itself."""

    name: str
    version: str
    settings: str
    durability: str


class Absence(msgspec.Struct):
    """Who is missing in a workload, or with an empty `workload` in all of them, and why."""

    workload: str
    contender: str
    reason: str


class Machine(msgspec.Struct):
    """What it was measured on."""

    cpu: str
    cores: int
    memory_bytes: int
    system: str
    versions: dict[str, str]
    database_settings: dict[str, str]
    """Empty where the broker was somebody's and its database out of sight."""


class Run(msgspec.Struct):
    """Everything that is written down of a run."""

    begun_at: str
    seconds: float
    is_quick: bool
    is_whole: bool
    """False if it was stopped before its end."""
    url: str | None
    machine: Machine
    scale: dict[str, Any]
    """How many of everything."""
    participants: list[Participant]
    workloads: dict[str, str]
    """The titles, by name, in the order they were run."""
    figures: list[Figure]
    series: list[Series]
    absences: list[Absence]
    format: int = FORMAT

    def find(self, workload: str, contender: str, measure: str) -> Figure | None:
        """The figure with this key, if it was measured."""
        wanted = Key(workload, contender, measure)
        return next((figure for figure in self.figures if figure.key == wanted), None)


class NotARun(Exception):
    """The file is not one that a run has written. The text says what is wrong with it."""


def write(run: Run, path: Path) -> None:
    """Write the run as JSON, for people too."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(run), indent=1))


def read(path: Path) -> Run:
    """The run that a file holds. Raises `NotARun`."""
    try:
        run = msgspec.json.decode(path.read_bytes(), type=Run)
    except (OSError, msgspec.DecodeError) as error:
        raise NotARun(f"{path}: {error}") from error
    if run.format != FORMAT:
        raise NotARun(f"{path}: written in format {run.format}, this reads {FORMAT}")
    return run

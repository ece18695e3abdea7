"""One contender in one workload, once: give orders, watch what they cost, note what came out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

from benchmarks.figures import Better, Figure, Key, Series
from benchmarks.scale import Scale
from benchmarks.stand import Session
from benchmarks.usage import Usage


class Notes:
    """The figures and series of a run as they come in, repetition by repetition."""

    def __init__(self) -> None:
        self._figures: dict[Key, Figure] = {}
        self.series: list[Series] = []

    @property
    def figures(self) -> list[Figure]:
        """In the order in which they first came."""
        return list(self._figures.values())

    def add(self, key: Key, value: float, unit: str, better: Better, other_cpu: float) -> None:
        """Note one repetition's value."""
        figure = self._figures.setdefault(key, Figure(*key, unit, better, [], []))
        figure.values.append(value)
        figure.other_cpu.append(round(other_cpu, 3))


class Cell:
    """What a workload is given to work with. Used once."""

    def __init__(
        self,
        workload: str,
        label: str,
        session: Session,
        scale: Scale,
        notes: Notes,
        progressed: Callable[[str, int, int], None],
        *,
        repetition: int = 0,
        is_slow: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.session = session
        self.scale = scale
        self.is_slow = is_slow
        self.options = dict(options or {})
        self.label = label
        self._workload = workload
        self._notes = notes
        self._progressed = progressed
        self._repetition = repetition
        self._usage: Usage = Usage(0.0, {}, 0.0)

    async def order(self, do: str, total: int = 0, **arguments: object) -> dict[str, Any]:
        """Have the program do something, with progress up to `total`. Raises `Trouble`."""
        self._progressed(do, 0, total)
        return await self.session.driver.order(
            do, lambda done: self._progressed(do, done, total), **arguments
        )

    async def warm_up(self, **draining: object) -> None:
        """Start from nothing left, with everything opened and prepared, and nobody's dirty pages.

        The drain is given these arguments, where it cannot do without.
        """
        await self.order("prepare")
        if (count := self.scale.warm_up) and not self.is_slow:
            await self.order("create_bulk", count, count=count)
            await self.order("drain", count, count=count, **draining)
        await self.checkpoint()

    async def checkpoint(self) -> None:
        """Have PostgreSQL write out what is not on the disk yet, if it is ours."""
        if self.session.database is not None:
            await self.session.database.checkpoint()

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """What happens in the block is what the notes that follow are about."""
        before = self.session.meter.read()
        yield
        self._usage = self.session.meter.since(before)

    def note(
        self,
        measure: str,
        value: float,
        unit: str,
        better: Better = "lower",
        *,
        label: str | None = None,
        workload: str | None = None,
    ) -> None:
        """Note a value of this repetition: of the cell's contender and workload, unless given."""
        key = Key(workload or self._workload, label or self.label, measure)
        self._notes.add(key, value, unit, better, self._usage.other_cpu)

    def note_cpu(self, tasks: int, *, label: str | None = None) -> None:
        """Note the CPU seconds of each role, for a thousand tasks."""
        for role, cpu_s in self._usage.cpu_s.items():
            self.note(f"CPU {role}", cpu_s * 1e6 / tasks, "ms/1k tasks", label=label)

    def draw(self, measure: str, unit: str, points: list[tuple[float, float]]) -> None:
        """Keep how something went over time."""
        self._notes.series.append(
            Series(self._workload, self.label, measure, unit, self._repetition, points)
        )


def percentile(values: list[float], percent: float) -> float:
    """The smallest value that so many percent do not exceed."""
    ordered = sorted(values)
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(0, int(rank) - 1)]


LATENCIES: Final = (50, 95, 99)


def note_latencies(cell: Cell, latencies_ms: list[float], name: str = "{}") -> None:
    """Note the percentiles that people ask for."""
    for percent in LATENCIES:
        cell.note(name.format(f"p{percent}"), percentile(latencies_ms, percent), "ms")

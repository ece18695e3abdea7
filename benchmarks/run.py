"""A run: workload after workload, and in each the contenders in turn, again and again.

A B C, A B C, A B C and never A A A: what drifts on the machine meanwhile then
drifts for all of them. Each measurement begins with a fresh database, a fresh
broker and a fresh program (but see `stand.Kept`).

A contender that is not installed, or fails, is missing with its reason; the
others go on without it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Protocol

import asyncpg

from benchmarks.cell import Cell, Notes
from benchmarks.driver import Trouble
from benchmarks.figures import Absence, Machine, Participant, Run
from benchmarks.scale import Scale
from benchmarks.stand import Stand
from benchmarks.workloads import Entrant, Workload


class Screen(Protocol):
    """Whoever shows a person how far it is."""

    def begin(self, cells: int) -> None:
        """So many measurements are to come."""

    def cell(self, title: str, label: str, repetition: int, repetitions: int) -> None:
        """The next one."""

    def progressed(self, do: str, done: int, total: int) -> None:
        """How far it is. `total` is 0 where nobody knows."""

    def absent(self, label: str, reason: str) -> None:
        """It will not come."""


class Runner:
    """Collects a run. `result` is worth asking for at any time, also when it was cut short."""

    def __init__(
        self, stand: Stand, scale: Scale, workloads: Sequence[Workload], screen: Screen
    ) -> None:
        self._stand = stand
        self._scale = scale
        self._workloads = workloads
        self._screen = screen
        self._notes = Notes()
        self._participants: dict[str, Participant] = {}
        self._absences: list[Absence] = []
        self._unable: set[str] = set()
        self._begun_at = datetime.now(UTC)
        self._begun_at_s = time.monotonic()
        self._is_whole = False

    async def run(self) -> None:
        """Measure everything."""
        self._screen.begin(
            sum(self._repetitions(each) * len(each.entrants) for each in self._workloads)
        )
        for workload in self._workloads:
            await self._measure(workload)
        self._is_whole = True

    def result(self, machine: Machine, *, is_quick: bool, url: str | None) -> Run:
        """What there is so far."""
        return Run(
            begun_at=self._begun_at.isoformat(timespec="seconds"),
            seconds=round(time.monotonic() - self._begun_at_s, 1),
            is_quick=is_quick,
            is_whole=self._is_whole,
            url=url,
            machine=machine,
            scale=self._scale._asdict(),
            participants=list(self._participants.values()),
            workloads={workload.name: workload.title for workload in self._workloads},
            figures=self._notes.figures,
            series=self._notes.series,
            absences=self._absences,
        )

    def _repetitions(self, workload: Workload) -> int:
        return 1 if workload.repeats_itself else self._scale.repetitions

    async def _measure(self, workload: Workload) -> None:
        entrants = [each for each in workload.entrants if self._can_enter(workload, each)]
        repetitions = self._repetitions(workload)
        for repetition in range(repetitions):
            for entrant in tuple(entrants):
                self._screen.cell(workload.title, entrant.label, repetition + 1, repetitions)
                try:
                    await self._measure_one(workload, entrant, repetition)
                except (Trouble, OSError, asyncpg.PostgresError) as error:
                    entrants.remove(entrant)
                    contender = entrant.contender.name
                    if contender in self._unable:
                        self._note_absence("", contender, str(error))
                    else:
                        self._note_absence(workload.name, entrant.label, str(error))

    async def _measure_one(self, workload: Workload, entrant: Entrant, repetition: int) -> None:
        contender = entrant.contender
        # Until it has introduced itself, a failure is the contender's and not the workload's.
        self._unable.add(contender.name)
        async with self._stand.session(contender, entrant.processes) as session:
            self._unable.remove(contender.name)
            self._participants[contender.name] = session.driver.participant
            await (entrant.measure or workload.measure)(
                Cell(
                    workload.name,
                    entrant.label,
                    session,
                    self._scale,
                    self._notes,
                    self._screen.progressed,
                    repetition=repetition,
                    is_slow=contender.rate_max is not None,
                    options=entrant.options,
                )
            )

    def _can_enter(self, workload: Workload, entrant: Entrant) -> bool:
        contender = entrant.contender
        if contender.name in self._unable:
            return False  # Which has been said.
        rate_max = contender.rate_max
        if rate_max is not None and entrant.options.get("rate", 0) > rate_max:
            reason = f"it drains fewer than {rate_max:,} tasks/s"
            self._note_absence(workload.name, entrant.label, reason)
            return False
        return True

    def _note_absence(self, workload: str, label: str, reason: str) -> None:
        self._absences.append(Absence(workload, label, reason))
        self._screen.absent(label, reason)

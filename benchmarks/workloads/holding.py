"""What becomes of the speed while somebody holds an old snapshot: a report, a dump, a forgotten BEGIN.

PostgreSQL may not remove a row version that the snapshot could see, so every
claim that starts at the head of an index walks over more and more dead entries.
The load is as much as the contender takes, in a closed loop: a fixed rate below
its limit would hide the loss of throughput.
"""

from __future__ import annotations

from benchmarks.cell import Cell, percentile

_STEP_S = 5.0

Round = tuple[float, float, int]


async def held_snapshot(cell: Cell) -> None:
    """The last minute of five over the first, under an open REPEATABLE READ transaction.

    The p99 is that of a round: 100 tasks from before their creation to their completion.
    """
    seconds, window_s = cell.scale.flow_s, cell.scale.flow_window_s
    database = cell.session.database
    assert database is not None
    await cell.warm_up()
    async with database.held_snapshot(cell.session.database_name), cell.watched():
        done = await cell.order("flow", seconds=seconds)
    rounds: list[Round] = [tuple(each) for each in done["rounds"]]
    first = [each for each in rounds if each[0] < window_s]
    last = [each for each in rounds if seconds - window_s <= each[0] < seconds]
    rates = _rate(first, window_s), _rate(last, window_s)
    p99s = _p99(first), _p99(last)
    cell.note("rate at first", rates[0], "tasks/s", "higher")
    cell.note("rate at last", rates[1], "tasks/s", "higher")
    cell.note("rate, last over first", rates[1] / rates[0], "×", "higher")
    cell.note("p99 at first", p99s[0], "ms")
    cell.note("p99 at last", p99s[1], "ms")
    cell.note("p99, last over first", p99s[1] / p99s[0], "×")
    cell.draw("rate", "tasks/s", _over_time(rounds, seconds))


def _rate(rounds: list[Round], seconds: float) -> float:
    return sum(completed for _, _, completed in rounds) / seconds


def _p99(rounds: list[Round]) -> float:
    return percentile([took_ms for _, took_ms, _ in rounds], 99)


def _over_time(rounds: list[Round], seconds: float) -> list[tuple[float, float]]:
    steps = [0] * int(seconds / _STEP_S)
    for at_s, _, completed in rounds:
        if (step := int(at_s / _STEP_S)) < len(steps):
            steps[step] += completed
    return [(step * _STEP_S, total / _STEP_S) for step, total in enumerate(steps)]

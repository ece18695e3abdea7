"""`fetchlock bench`: measure, print, and leave a folder with JSON and a page; or compare two runs."""

from __future__ import annotations

import signal
import sys
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import anyio
from cyclopts import App, CycloptsError, Parameter
from rich.console import Console

from benchmarks import figures
from benchmarks.contenders import PEERS, RAW_SQL, Contender
from benchmarks.database import serving_database, temporary_folder
from benchmarks.driver import Trouble
from benchmarks.figures import NotARun, Run
from benchmarks.machine import describe
from benchmarks.report import compare as comparison
from benchmarks.report import page, table
from benchmarks.run import Runner
from benchmarks.scale import FULL, QUICK, Scale
from benchmarks.screen import Screen
from benchmarks.stand import Home, Kept, Outside, Stand
from benchmarks.workloads import WORKLOADS, Workload
from broker.embedded import EmbeddedPostgresError

_REFUSED: Final = 2
_STOPPED: Final = 130

app = App(
    name="fetchlock bench",
    help="Measure a broker from outside, beside raw SQL and other libraries on the same PostgreSQL.",
    help_format="plaintext",
    version_flags=[],
    result_action="return_int_as_exit_code_else_zero",
    exit_on_error=False,
)


class Refusal(Exception):
    """What was asked for cannot be done. The text says why."""


@app.default
def bench(
    *,
    url: Annotated[
        str | None, Parameter(help="A running broker. Only what can be seen from outside.")
    ] = None,
    quick: Annotated[
        bool,
        Parameter(help="Under two minutes, one repetition: to see that it works.", negative=""),
    ] = False,
    only: Annotated[
        list[str] | None, Parameter(help="These workloads.", consume_multiple=True)
    ] = None,
    without_peers: Annotated[bool, Parameter(help="Fetchlock alone.", negative="")] = False,
    backlog: Annotated[int | None, Parameter(help="Tasks of the deep backlog.")] = None,
    out: Annotated[
        Path | None, Parameter(help="Folder of the results. [default: .benchmarks/TIME]")
    ] = None,
) -> int:
    """Measure. A whole run takes about an hour."""
    without = (*PEERS, RAW_SQL) if url is not None else PEERS if without_peers else ()
    workloads = _chosen(only, is_outside=url is not None, without=without)
    scale = QUICK if quick else FULL
    if backlog is not None:
        scale = scale._replace(backlog=backlog)
    if out is None:
        out = Path(".benchmarks", datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ"))
    console = Console(highlight=False)
    run = anyio.run(_run, url, scale, workloads, console, quick)
    out.mkdir(parents=True, exist_ok=True)
    figures.write(run, out / "run.json")
    page.write(run, out / "index.html")
    table.show(run, console)
    console.print(f"\n{out / 'run.json'}\n{out / 'index.html'}")
    return 0 if run.is_whole else _STOPPED


@app.command
def compare(before: Path, after: Path, /) -> int:
    """Print what changed beyond noise between two runs' run.json."""
    comparison.show(figures.read(before), figures.read(after), Console(highlight=False))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command, and answer the exit code."""
    try:
        return int(app(argv))
    except CycloptsError:
        return _REFUSED  # It has said why.
    except (EmbeddedPostgresError, NotARun, Refusal, Trouble) as error:
        sys.stderr.write(f"fetchlock bench: {error}\n")
        return _REFUSED


async def _run(
    url: str | None,
    scale: Scale,
    workloads: Sequence[Workload],
    console: Console,
    is_quick: bool,
) -> Run:
    async with _stand(url, is_quick=is_quick) as stand:
        settings = await stand.database.settings() if stand.database else {}
        with Screen(console) as screen:
            runner = Runner(stand, scale, workloads, screen)
            async with anyio.create_task_group() as group:
                group.start_soon(_obey_signals, group.cancel_scope)
                await runner.run()
                group.cancel_scope.cancel()
        return runner.result(describe(settings), is_quick=is_quick, url=url)


@asynccontextmanager
async def _stand(url: str | None, *, is_quick: bool) -> AsyncIterator[Stand]:
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(temporary_folder())
        stand: Stand
        if url is not None:
            stand = Outside(url, folder)
        else:
            database = serving_database(folder / "database")
            stand = Home(await stack.enter_async_context(database), folder)
        yield await stack.enter_async_context(Kept(stand)) if is_quick else stand


async def _obey_signals(everything: anyio.CancelScope) -> None:
    """The first signal ends the run in order: what was started stops, what was measured is kept."""
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            everything.cancel()
            return


def _chosen(
    only: list[str] | None, *, is_outside: bool, without: Collection[Contender]
) -> list[Workload]:
    known = {workload.name: workload for workload in WORKLOADS}
    if unknown := [name for name in only or () if name not in known]:
        raise Refusal(f"no workload {unknown[0]!r}. There are: {', '.join(known)}")
    chosen = [known[name] for name in only] if only else list(WORKLOADS)
    if is_outside:
        chosen = [workload for workload in chosen if not workload.needs_home]
    return [
        workload._replace(entrants=[e for e in workload.entrants if e.contender not in without])
        for workload in chosen
    ]

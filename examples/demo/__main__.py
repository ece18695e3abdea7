"""`python -m examples.demo [DIR]`. Exit code 0 only if every file was done once, and right."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any, Final

import anyio

from broker.embedded import EmbeddedPostgresError
from examples.demo.files import Unusable, expected
from examples.demo.processes import Cast, Trouble, started
from examples.demo.run import connected, create, pickups_ms, watch
from examples.demo.screen import Screen
from examples.demo.verdict import judge
from worker_sdk import FetchlockError

WORKERS: Final = 3


def main() -> int:
    """Run the demo and answer the exit code."""
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description=__doc__)
    parser.add_argument(
        "folder", metavar="DIR", nargs="?", type=Path, help="instead of the standard library"
    )
    folder: Path | None = parser.parse_args().folder
    # Its default action would leave every process behind.
    signal.signal(signal.SIGTERM, _leave)
    screen = Screen()
    try:
        return _tell(screen, folder)
    except KeyboardInterrupt:
        screen.say("stopped", "yellow")
        return 130
    except (Unusable, Trouble, EmbeddedPostgresError) as error:
        sys.stderr.write(f"demo: {error}\n")
        return 1


def _tell(screen: Screen, folder: Path | None) -> int:
    screen.title("Fetchlock: every task exactly once, whoever dies")
    prints = expected(folder)
    where = folder or "The standard library"
    screen.say(f"{where} has {len(prints):,} files: SHA-256 and lines of each")
    start_s = time.monotonic()
    with started(WORKERS) as cast:
        took_s = time.monotonic() - start_s
        screen.say(f"PostgreSQL, a broker and {WORKERS} workers are up after {took_s:.1f} s")
        try:
            return anyio.run(_work, screen, cast, prints)
        except FetchlockError as error:
            # Its log goes with the folder.
            raise Trouble(f"{error}\n{cast.broker.last_words()}") from error


async def _work(screen: Screen, cast: Cast, prints: dict[str, dict[str, Any]]) -> int:
    async with connected(cast) as (client, connection):
        with screen.watching(len(prints)) as watcher:
            path_of = await create(client, prints)
            death = await watch(cast, client, connection, len(prints), watcher)
        verdict = await judge(client, connection, path_of, prints)
        screen.table(
            verdict,
            files=len(prints),
            workers=WORKERS,
            death=death,
            pickups_ms=await pickups_ms(client),
        )
    screen.verdict(verdict.problems, len(prints))
    return 1 if verdict.problems else 0


def _leave(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())

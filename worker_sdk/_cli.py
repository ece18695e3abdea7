"""`fetchlock worker module:worker`: run a worker that a module has made.

Standard library only, and it never passes through the broker's command line: on
a worker's host nothing but the SDK is installed.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
import threading
from collections.abc import Sequence

from worker_sdk._errors import FetchlockError
from worker_sdk._worker import Worker

# Long enough for threads that are only winding up, short against any supervisor's patience.
THREADS_PATIENCE_S = 1.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the worker that the arguments name. Returns the exit code.

    0 after a stop in good order, 1 when the broker refuses the worker, 2 for wrong arguments.
    """
    parser = argparse.ArgumentParser(
        prog="fetchlock worker",
        description="Run a worker until SIGTERM or Ctrl-C, then let its handlers finish.",
    )
    parser.add_argument("target", metavar="module:worker", help="the module, and its Worker's name")
    parser.add_argument(
        "--concurrency", type=int, help="tasks at once, instead of the worker's own"
    )
    parser.add_argument(
        "--log-level", default="info", choices=["debug", "info", "warning", "error"]
    )
    arguments = parser.parse_args(argv)
    terminal = logging.StreamHandler()
    terminal.setFormatter(_Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=arguments.log_level.upper(), handlers=[terminal])
    try:
        worker = find_worker(arguments.target)
        if arguments.concurrency is not None:
            worker.concurrency = arguments.concurrency
    except ValueError as error:
        parser.error(str(error))
    try:
        worker.run()
    except (FetchlockError, ValueError) as error:
        print(f"fetchlock worker: {error}", file=sys.stderr)  # noqa: T201 - this is the terminal
        return _leave(1)
    return _leave(0)


def find_worker(target: str) -> Worker:
    """The worker that `module:name` names. Raises ValueError that says what is wrong with it."""
    module_name, colon, name = target.partition(":")
    if not (module_name and colon and name):
        raise ValueError(f"{target!r} does not name a worker; write module:worker")
    # The module of a project one stands in is found, as with `python -m`.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # An import that fails inside the module is the user's, and deserves its traceback.
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise ValueError(f"no module named {error.name!r} here or on sys.path") from None
    found = getattr(module, name, None)
    if isinstance(found, Worker):
        return found
    workers = [known for known, value in vars(module).items() if isinstance(value, Worker)]
    there = f"is a {type(found).__name__}, not a Worker" if hasattr(module, name) else "is missing"
    hint = f"; it has {', '.join(workers)}" if workers else "; it has no Worker"
    raise ValueError(f"{name!r} {there} in module {module_name!r}{hint}")


class _Formatter(logging.Formatter):
    """Puts what a record knows behind its text: the texts are constant, the facts are extras."""

    _PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        extras = (f"{k}={v}" for k, v in vars(record).items() if k not in self._PLAIN)
        return " ".join((super().formatMessage(record), *extras))


def _leave(code: int) -> int:
    """Return the code, or end the process with it when a thread would keep it from ending.

    A handler in a thread cannot be stopped. Its task has been given back, so nothing waits for it.
    """
    others = [t for t in threading.enumerate() if not t.daemon and t is not threading.main_thread()]
    for thread in others:
        thread.join(THREADS_PATIENCE_S / len(others))
    if any(thread.is_alive() for thread in others):
        logging.shutdown()
        os._exit(code)
    return code

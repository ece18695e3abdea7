"""The clients as their registries have them, installed once for this environment.

The JavaScript one comes to its worker's side as the benchmarks' peers on Node do.

The Python one has a folder of its own, off the path of everything but its
workers. Among the project's packages it would do harm: its wheel brings a
top-level package `examples`, which would hide the project's own from the
installed `fetchlock worker examples.…`.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Final

import anyio

from benchmarks.contenders import node
from tests.processes import ROOT

_HERE: Final = Path(__file__).parent
_FOLDER: Final = Path(sys.prefix, "camunda_clients")
_REQUIREMENTS: Final = _HERE / "requirements.txt"
_CONSTRAINTS: Final = ROOT / "constraints.txt"
_MARK: Final = ".installed"


@cache
def javascript() -> node.Node:
    """The Node, and the folder with the client and `worker.mjs`. Raises `NodeUnavailable`."""
    with _alone():
        return anyio.run(node.install, _FOLDER / "javascript", _HERE)


@cache
def python() -> Path:
    """The folder that has the client, for a worker's PYTHONPATH. Raises AssertionError."""
    folder = _FOLDER / "python"
    mark = folder / _MARK
    described = _REQUIREMENTS.read_bytes() + _CONSTRAINTS.read_bytes()
    digest = hashlib.sha256(described).hexdigest()
    with _alone():
        if not (mark.exists() and mark.read_text() == digest):
            # pip leaves alone what it finds in a target.
            shutil.rmtree(folder, ignore_errors=True)
            _run_pip(folder)
            mark.write_text(digest)
    return folder


def _run_pip(folder: Path) -> None:
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
            *("--requirement", _REQUIREMENTS, "--constraint", _CONSTRAINTS, "--target", folder),
        ],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, f"pip did not install Camunda's Python client:\n{ran.stderr}"


@contextmanager
def _alone() -> Iterator[None]:
    """One process at a time: those of pytest-xdist come here at the same moment."""
    _FOLDER.mkdir(exist_ok=True)
    with (_FOLDER / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield

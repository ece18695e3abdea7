"""`fetchlock bench`, and `python -m benchmarks`."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command, and answer the exit code."""
    try:
        from benchmarks import cli
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] in ("benchmarks", "broker", "worker_sdk"):
            raise
        sys.stderr.write(f"fetchlock bench: needs {error.name}: pip install 'fetchlock[bench]'\n")
        return 2
    return cli.main(argv)


if __name__ == "__main__":
    sys.exit(main())

"""Which command runs, and what it loads: a worker's host has no broker installed."""

from __future__ import annotations

import subprocess
import sys

from tests.processes import ROOT


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_the_worker_command_needs_nothing_of_the_broker() -> None:
    ran = run(
        """
import sys
for name in ("asyncpg", "cyclopts", "orjson", "starlette", "structlog", "uvicorn", "uvloop"):
    sys.modules[name] = None
sys.argv = ["fetchlock", "worker", "--help"]
from broker.__main__ import main
sys.exit(main())
"""
    )
    assert ran.returncode == 0, ran.stderr
    assert "module:worker" in ran.stdout


def test_a_missing_extra_is_named() -> None:
    ran = run(
        """
import sys
sys.modules["cyclopts"] = None
sys.argv = ["fetchlock", "serve"]
from broker.__main__ import main
sys.exit(main())
"""
    )
    assert ran.returncode == 2
    assert ran.stderr == "fetchlock: the broker needs cyclopts: pip install 'fetchlock[broker]'\n"

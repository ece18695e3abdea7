"""Every example of long work does what its guide says it does."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Final

import pytest

from tests.processes import ROOT

pytestmark = pytest.mark.acceptance

SAYS: Final = {
    "submit_and_follow": ["CREATED", "COMPLETED", "2026-10.pdf"],
    "progress": ["%  8 of 8 scenes", "8 scene 8 done", "COMPLETED {'scenes': 8}"],
    "checkpoint": ["killed after row", "'attempt': 2"],
    "cancel": ["removed export-", "CANCELLED - not wanted any more"],
    "timeouts": ["FAILED execution_timeout", "COMPLETED {'attempt': 2}"],
    "callback": [
        "called back: 200 COMPLETED",
        "'renderedBy': 'outside'",
        "attempt 2",
    ],
}


def test_every_example_is_run() -> None:
    files = {path.stem for path in (ROOT / "examples" / "long_work").glob("[a-z]*.py")}
    assert files == set(SAYS)


@pytest.mark.parametrize("name", SAYS)
def test_an_example_says_what_came_of_it(broker: str, name: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", f"examples.long_work.{name}"],
        cwd=ROOT,
        env={**os.environ, "FETCHLOCK_URL": broker, "PYTHONUNBUFFERED": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    for words in SAYS[name]:
        assert words in ran.stdout, ran.stdout

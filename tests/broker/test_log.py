"""The log, as another process writes it: what is in a line, and what never is."""

from __future__ import annotations

import subprocess
import sys

import orjson

from tests.processes import ROOT

PROGRAM = """
import logging, structlog
from broker import log
log.configure("info", {form!r})
password = "correct-horse"
logger = structlog.stdlib.get_logger("broker.store")
logger.debug("too quiet")
logger.info("database away", url=f"postgresql://broker:{{password}}@db/fetchlock")
logging.getLogger("asyncio").warning("slow by %s ms", 12)
try:
    raise ValueError(f"no route to postgres://broker:{{password}}@db")
except ValueError:
    logger.exception("loop died")
"""


def lines_written(form: str) -> list[str]:
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(form=form)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout == ""
    return ran.stderr.splitlines()


def test_json_is_one_object_a_line() -> None:
    away, slow, died = [orjson.loads(line) for line in lines_written("json")]
    assert away["event"] == "database away"
    assert away["level"] == "info"
    assert away["logger"] == "broker.store"
    assert away["url"] == "postgresql://broker:…@db/fetchlock"
    assert slow["event"] == "slow by 12 ms"
    assert "ValueError" in died["exception"]


def test_no_form_shows_a_password_not_even_of_a_local_variable() -> None:
    for form in ("json", "console"):
        # The traceback quotes source lines; none of them holds the password itself.
        assert "correct-horse" not in "\n".join(lines_written(form))

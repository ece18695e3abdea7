"""The statements, one constant a file of `sql/queries/`.

Constants, so that grep, mypy and "unused" checks see every query, and so that
asyncpg meets the same text each time: it caches prepared statements by text.
"""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from typing import Final

_PACKAGED = Path(str(files("broker"))) / "_sql"
SQL_ROOT: Final = _PACKAGED if _PACKAGED.is_dir() else Path(__file__).parents[2] / "sql"
"""`sql/` of the checkout, or its copy inside an installed wheel."""


def _load(name: str) -> str:
    return (SQL_ROOT / "queries" / f"{name}.sql").read_text(encoding="utf-8")


_BORN_LOCKED: Final = re.compile(
    r"^ *-- <born locked>$.*?^ *-- </born locked>$\n", re.MULTILINE | re.DOTALL
)

BPMN_ERROR: Final = _load("bpmn_error")
CALLBACK: Final = _load("callback")
CALLBACK_REFUSALS: Final = _load("callback_refusals")
CALLBACK_URL: Final = _load("callback_url")
CANCEL: Final = _load("cancel")
COMPLETE: Final = _load("complete")
CREATE: Final = _load("create")
CREATE_UNLOCKED: Final = _BORN_LOCKED.sub("", CREATE)
"""The same where nobody waits for the tasks."""
DRAIN: Final = _load("drain")
EXTEND_LOCK: Final = _load("extend_lock")
FAIL: Final = _load("fail")
FETCH_AND_LOCK: Final = _load("fetch_and_lock")
FINISHED_TASKS: Final = _load("finished_tasks")
FIRST_TASKS: Final = _load("first_tasks")
GET_TASKS: Final = _load("get_tasks")
HAND_OVER: Final = _load("hand_over")
HEARTBEAT: Final = _load("heartbeat")
LIST_TASKS: Final = _load("list_tasks")
LOAD_LANES: Final = _load("load_lanes")
LOG_LINES: Final = _load("log_lines")
MAKE_LANES: Final = _load("make_lanes")
MAKE_PARTITIONS: Final = _load("make_partitions")
READY_LANES: Final = _load("ready_lanes")
REFUSALS: Final = _load("refusals")
RELEASE_DUE: Final = _load("release_due")
RETRIES: Final = _load("retries")
RETRY_TIMEOUT: Final = _load("retry_timeout")
SETTLE_DUE: Final = _load("settle_due")
SIGNING_KEYS: Final = _load("signing_keys")
SUBTEXT: Final = _load("subtext")
UNLOCK: Final = _load("unlock")

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


def _without(part: str, text: str) -> str:
    """A statement without what stands between `-- <part>` and `-- </part>`."""
    between = rf"^ *-- <{part}>$.*?^ *-- </{part}>$\n"
    return re.sub(between, "", text, flags=re.MULTILINE | re.DOTALL)


BPMN_ERROR: Final = _load("bpmn_error")
CALLBACK: Final = _load("callback")
CALLBACK_REFUSALS: Final = _load("callback_refusals")
CALLBACK_URL: Final = _load("callback_url")
CANCEL: Final = _load("cancel")
COMPLETE: Final = _load("complete")
COUNT: Final = _load("count")
CREATE: Final = _load("create")
CREATE_UNLOCKED: Final = _without("born locked", CREATE)
"""The same where nobody waits for the tasks."""
DRAIN: Final = _load("drain")
EXTEND_LOCK: Final = _load("extend_lock")
FAIL: Final = _load("fail")
FETCH_AND_LOCK: Final = _without("filtered", _load("fetch_and_lock"))
FETCH_AND_LOCK_FILTERED: Final = _without("plain", _load("fetch_and_lock"))
"""The same for who wishes for more than a lane tells, or for the newest first."""
FINISHED_TASKS: Final = _load("finished_tasks")
FIRST_TASKS: Final = _load("first_tasks")
GET_TASKS: Final = _load("get_tasks")
HAND_OVER: Final = _load("hand_over")
HEARTBEAT: Final = _load("heartbeat")
INSTANCE_TASKS: Final = _load("instance_tasks")
LANE_BESIDE: Final = _load("lane_beside")
LATE_WORK: Final = _load("late_work")
LIST_TASKS: Final = _load("list_tasks")
LOAD_LANES: Final = _load("load_lanes")
LOCK: Final = _load("lock")
LOG_LINES: Final = _load("log_lines")
MAKE_LANES: Final = _load("make_lanes")
MAKE_PARTITIONS: Final = _load("make_partitions")
PRIORITY: Final = _load("priority")
READY_LANES: Final = _load("ready_lanes")
REFUSALS: Final = _load("refusals")
RELEASE_DUE: Final = _load("release_due")
RETRIES: Final = _load("retries")
RETRY_TIMEOUT: Final = _load("retry_timeout")
SEARCH: Final = _load("search")
SETTLE_DUE: Final = _load("settle_due")
SIGNING_KEYS: Final = _load("signing_keys")
SUBTEXT: Final = _load("subtext")
TOPICS: Final = _load("topics")
UNLOCK: Final = _load("unlock")
VARIABLE: Final = _load("variable")
VARIABLES: Final = _load("variables")

"""What the figures were measured on: they mean nothing without it."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Final

import psutil

from benchmarks.figures import Machine

SETTINGS: Final = (
    "server_version",
    "fsync",
    "synchronous_commit",
    "wal_sync_method",
    "full_page_writes",
    "wal_level",
    "shared_buffers",
    "max_wal_size",
    "autovacuum",
    "autovacuum_naptime",
    "max_connections",
)
"""Of PostgreSQL: what decides about durability and speed. Read back, not assumed."""

_PACKAGES: Final = ("fetchlock", "uvicorn", "uvloop", "starlette", "asyncpg", "httptools")


def describe(database_settings: Mapping[str, str]) -> Machine:
    """This machine, with what its database said of itself."""
    return Machine(
        cpu=_cpu_model(),
        cores=os.cpu_count() or 1,
        memory_bytes=psutil.virtual_memory().total,
        system=f"{platform.system()} {platform.release()}",
        versions={"python": platform.python_version()}
        | {name: version(name) for name in _PACKAGES},
        database_settings=dict(database_settings),
    )


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())

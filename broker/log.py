"""The broker's log: one event a line on standard error, for a person or for a machine.

An event is a constant phrase with facts beside it, so that lines can be counted
and searched. Bodies, variables and settings are never logged. A database
address that slips in through a library's exception loses its password here,
at the last door.

Libraries that log through the standard library come out in the same form.
"""

from __future__ import annotations

import logging
import re
import sys
from typing import Any, Literal

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

_PASSWORD = re.compile(r"(://[^:/@\s]*:)[^@\s]*@")


def configure(level: str, form: Literal["console", "json"]) -> None:
    """Send everything at or above `level` to standard error. Call it once, before the first line."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_renderers(form),
                _without_passwords,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # uvicorn tells of each of its steps; the broker says the ones that matter itself.
    logging.getLogger("uvicorn").setLevel(max(root.level, logging.WARNING))


def _renderers(form: Literal["console", "json"]) -> list[Processor]:
    if form == "console":
        # The pretty tracebacks show local variables, and with them whatever is secret.
        plain = structlog.dev.plain_traceback
        colors = sys.stderr.isatty()
        return [structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain)]
    return [
        structlog.processors.format_exc_info,
        structlog.processors.JSONRenderer(serializer=_json),
    ]


def _json(event: EventDict, **_: object) -> str:
    return orjson.dumps(event, default=str).decode()


def _without_passwords(_logger: WrappedLogger, _method: str, line: Any) -> str:
    return _PASSWORD.sub(r"\1…@", line)

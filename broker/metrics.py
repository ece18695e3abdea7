"""What one broker process counts, in Prometheus' words.

Every figure here belongs to its process: read them as `sum(rate(...))` over
all of them. What the database knows (how many tasks wait, how old the oldest
is) is asked of the database, never counted here.

No label may grow with what callers send. Topics are theirs to name, so only
the first `TOPICS_MAX` get a label of their own: always go through
`topic_label`.

Several processes behind one port write into PROMETHEUS_MULTIPROC_DIR, which
must be set before this module is imported; any of them then answers for all.
"""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from typing import Final

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

TOPICS_MAX: Final = 200
"""A label costs memory here and a series in every Prometheus, for as long as either lives."""

_OTHER_TOPIC: Final = "_other"

# From below a statement over a local socket up to the statement timeout.
_STATEMENT_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
# A long poll may rightly take half an hour; what matters of it is at the short end.
_REQUEST_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

TASKS_CREATED: Final = Counter(
    "fetchlock_tasks_created", "Tasks created, replays of a unique key apart.", ["topic"]
)
TASKS_FETCHED: Final = Counter("fetchlock_tasks_fetched", "Locks handed to workers.", ["topic"])
TASKS_FINISHED: Final = Counter(
    "fetchlock_tasks_finished", "Tasks that reached an outcome.", ["topic", "outcome"]
)
LOCK_EXPIRATIONS: Final = Counter(
    "fetchlock_lock_expirations", "Locks that ran out before the worker answered.", ["topic"]
)
FETCH_SECONDS: Final = Histogram(
    "fetchlock_fetch_seconds",
    "From a fetch-and-lock request to its answer, by what it brought.",
    ["result"],
    buckets=_REQUEST_S,
)
HTTP_REQUEST_DURATION: Final = Histogram(
    "fetchlock_http_request_duration_seconds",
    "From a request's headers to the end of its answer.",
    ["route", "method", "status"],
    buckets=_REQUEST_S,
)
DB_QUERY: Final = Histogram(
    "fetchlock_db_query_seconds", "One statement's round trip.", ["query"], buckets=_STATEMENT_S
)
LONGPOLLS: Final = Gauge(
    "fetchlock_http_longpolls", "Polls parked now.", multiprocess_mode="livesum"
)
BUILD_INFO: Final = Gauge(
    "fetchlock_build_info", "Always 1.", ["version", "python"], multiprocess_mode="max"
)
BUILD_INFO.labels(version("fetchlock"), platform.python_version()).set(1)

_labelled_topics: set[str] = set()


def topic_label(topic: str) -> str:
    """The label a topic is counted under: its own name, or `_other` once there are too many."""
    if topic in _labelled_topics:
        return topic
    if len(_labelled_topics) >= TOPICS_MAX:
        return _OTHER_TOPIC
    _labelled_topics.add(topic)
    return topic


def render() -> tuple[bytes, str]:
    """The answer to a scrape and its content type."""
    registry = REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # The library's own gap.
    return generate_latest(registry), CONTENT_TYPE_LATEST

"""Metrics: names as Prometheus wants them, and labels that cannot grow without end."""

from __future__ import annotations

import pytest

from broker import metrics


@pytest.fixture(autouse=True)
def no_topics_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_labelled_topics", set())


def test_only_so_many_topics_have_a_label() -> None:
    first = [f"topic-{number}" for number in range(metrics.TOPICS_MAX)]
    assert [metrics.topic_label(topic) for topic in first] == first
    assert metrics.topic_label("one-more") == "_other"
    assert metrics.topic_label("topic-0") == "topic-0"


def test_a_scrape_names_everything() -> None:
    body, content_type = metrics.render()
    assert content_type.startswith("text/plain")
    for name in (
        "fetchlock_tasks_created_total",
        "fetchlock_tasks_fetched_total",
        "fetchlock_tasks_finished_total",
        "fetchlock_lock_expirations_total",
        "fetchlock_fetch_seconds",
        "fetchlock_http_request_duration_seconds",
        "fetchlock_db_query_seconds",
        "fetchlock_http_longpolls",
        "fetchlock_build_info",
    ):
        assert f"# HELP {name} " in body.decode()

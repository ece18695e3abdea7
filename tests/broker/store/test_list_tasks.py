"""Searching: newest first, page by page, and never a walk through the whole history."""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec
import pytest

from broker.errors import Invalid
from broker.store import ListFilters, Store, verbs
from broker.task import API_STATES, State
from tests.broker.conftest import Statements
from tests.broker.store.test_operator_verbs import in_state
from tests.factories import TaskJson, create, lock, subscribe


async def page(store: Store, filters: ListFilters) -> tuple[list[str], str | None]:
    body: TaskJson = msgspec.json.decode(await store.list_tasks(filters))
    assert set(body) == {"tasks", "next"}
    return [task["id"] for task in body["tasks"]], body["next"]


async def pages(store: Store, filters: ListFilters) -> list[list[str]]:
    """All pages, one after the other."""
    found, after = await page(store, filters)
    listed = [found]
    while after is not None:
        found, after = await page(store, filters._replace(after=after))
        listed.append(found)
    return listed


async def test_the_newest_are_first(store: Store) -> None:
    created = [(await create(store, {}))[0] for _ in range(3)]
    found, after = await page(store, ListFilters())
    assert found == sorted(created, reverse=True)
    assert after is None


async def test_pages_together_are_everything_once(store: Store) -> None:
    created = await create(store, *({} for _ in range(25)))
    listed = await pages(store, ListFilters(limit=10))
    assert [len(found) for found in listed] == [10, 10, 5]
    assert sorted(task_id for found in listed for task_id in found) == sorted(created)


async def test_each_filter_filters(store: Store) -> None:
    wanted, other = await create(
        store,
        {"topic": "a", "businessKey": "b", "processInstanceId": "p"},
        {"topic": "c", "businessKey": "d", "processInstanceId": "q"},
    )
    await lock(store, worker_id="w1", subscriptions=subscribe("a"))
    for filters in (
        ListFilters(topic="a"),
        ListFilters(business_key="b"),
        ListFilters(process_instance_id="p"),
        ListFilters(worker_id="w1"),
        ListFilters(state="LOCKED"),
        ListFilters("a", "LOCKED", "w1", "b", "p"),
    ):
        assert await page(store, filters) == ([wanted], None), filters
    assert await page(store, ListFilters(topic="c")) == ([other], None)
    assert await page(store, ListFilters(topic="a", business_key="d")) == ([], None)


async def test_every_state_can_be_searched(store: Store) -> None:
    wanted: dict[str, list[str]] = {name: [] for name in API_STATES.values()}
    # The ready one last, so that it is not the one that gets locked for another's sake.
    for state in sorted(State, key=lambda state: state is State.READY):
        wanted[API_STATES[state]].append(await in_state(store, state))
    for name, ids in wanted.items():
        found, _ = await page(store, ListFilters(state=name))
        assert sorted(found) == sorted(ids), name


async def test_an_unknown_state_or_cursor_is_invalid(store: Store) -> None:
    for filters in (ListFilters(state="ready"), ListFilters(after="!"), ListFilters(after="AAAA")):
        with pytest.raises(Invalid):
            await store.list_tasks(filters)


async def test_the_instants_bound_the_search(store: Store) -> None:
    [task_id] = await create(store, {})
    [(body, _)] = (await store.get_tasks([task_id])).values()
    created_at = datetime.fromisoformat(msgspec.json.decode(body)["createdAt"])
    second = timedelta(seconds=1)
    for after, before, is_in in (
        (created_at - second, None, True),
        (created_at + second, None, False),
        (None, created_at + second, True),
        (None, created_at - second, False),
        (created_at - second, created_at + second, True),
    ):
        found, _ = await page(store, ListFilters(created_after=after, created_before=before))
        assert (found == [task_id]) == is_in, (after, before)


async def test_a_page_that_looked_far_enough_is_cut_short(
    store: Store, monkeypatch: pytest.MonkeyPatch, statements: Statements
) -> None:
    monkeypatch.setattr(verbs, "_LISTED_MAX", 10)
    [wanted] = await create(store, {"topic": "rare"})
    # A later millisecond, so that the ids are in the order of the statements.
    await store._pool.fetch("SELECT pg_sleep(0.002)")
    await create(store, *({} for _ in range(25)))
    await statements.forget()
    listed = await pages(store, ListFilters(topic="rare"))
    assert listed == [[], [], [wanted]]
    assert await statements.calls() == {"list_tasks": 3, "get_tasks": 1}

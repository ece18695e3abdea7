"""Locking what more than a lane tells of: other orders, and filters by what only rows say."""

from __future__ import annotations

import time
from typing import Any, Final, cast

import anyio
import asyncpg
import msgspec
import pytest

from broker.dispatcher import Order, Subscription
from broker.dispatcher.waiter import Waiter
from broker.dispatcher.waiters import Waiters
from broker.store import Claim, Filtered, Granted, Scan, Store, verbs
from tests.broker.conftest import Statements
from tests.factories import (
    Client,
    TaskJson,
    ask,
    create,
    decoded,
    held,
    lock,
    row_of,
    subscribe,
)

Connection = asyncpg.Connection

NEWEST_FIRST: Final = Order(newest_first=True)


def any_of(**variables: Any) -> tuple[Subscription, ...]:
    pairs = msgspec.json.encode(list(variables.items())).decode()
    return subscribe(any_variables=pairs)


def claim(
    store: Store,
    looked_at_max: int,
    tasks_max: int = 1,
    business_key: str | None = None,
    pairs: str | None = None,
    floor: int = 0,
) -> Claim:
    """A filtered claim over all lanes of the topic `t`, by priority."""
    lanes = sorted(store.lanes.of_topic("t"), key=lambda lane: -lane.priority)
    scans = [
        Scan(lane.lane_id, rank, returned, floor, 60_000, None, lane.members_json())
        for rank, lane in enumerate(lanes)
        for returned in (True, False)
    ]
    many = len(scans)
    place, filters = (None, []) if pairs is None else (1, [pairs])
    filtered = Filtered([business_key] * many, [place] * many, False, looked_at_max, filters)
    return Claim(scans, ["w1"], [tasks_max], filtered)


def ids(tasks: list[TaskJson]) -> list[str]:
    return [task["id"] for task in tasks]


def granted_ids(granted: Granted) -> list[str]:
    return [task["id"] for body, _ in granted.bodies.values() for task in decoded(body)]


# Lanes ------------------------------------------------------------------------


async def test_each_filter_of_lanes_leaves_the_others(store: Store, statements: Statements) -> None:
    created = await create(
        store,
        {"processDefinitionKey": "k", "tenantId": "a", "processDefinitionVersionTag": "v1"},
        {"processDefinitionKey": "k", "tenantId": "b", "processDefinitionVersionTag": "v2"},
        {"processDefinitionKey": "l", "tenantId": "a", "processDefinitionVersionTag": "w1"},
        {"processDefinitionKey": "k"},
        {"tenantId": "a"},
        {},
    )
    expected: list[tuple[dict[str, Any], list[int]]] = [
        ({"process_definition_keys": ("k",)}, [0, 1, 3]),
        ({"process_definition_keys": ("k", "l")}, [0, 1, 2, 3]),
        ({"version_tag_like": "v%"}, [0, 1]),
        ({"tenant_ids": ("a",)}, [0, 2, 4]),
        ({"tenant_ids": ("",)}, [3, 5]),
        ({"tenant_ids": ("", "b")}, [1, 3, 5]),
        ({"tenant_ids": ("a",), "process_definition_keys": ("k",)}, [0]),
    ]
    for filters, places in expected:
        await statements.forget()
        tasks = await lock(store, 10, subscriptions=subscribe(**filters))
        assert ids(tasks) == [created[place] for place in places]
        assert await statements.calls() == {"fetch_and_lock": 1}
        await ask(store.unlock, "w1", *map(held, tasks))


async def test_a_task_says_what_its_lane_is(store: Store) -> None:
    names = {
        "processDefinitionId": "d", "processDefinitionKey": "k",
        "processDefinitionVersionTag": "v", "tenantId": "a",
    }  # fmt: skip
    await create(store, names, {})
    for task in await lock(store, 2):
        assert {name: task[name] for name in names} in (names, dict.fromkeys(names))


# Order ------------------------------------------------------------------------


async def test_without_priorities_the_oldest_is_first(store: Store, statements: Statements) -> None:
    created = await create(store, *({"priority": priority} for priority in (1, 9, -3, 9, 0)))
    await statements.forget()
    tasks = await lock(store, 10, order=Order(by_priority=False))
    assert ids(tasks) == created
    assert await statements.calls() == {"fetch_and_lock": 1}


async def test_the_newest_is_first_within_a_priority(store: Store) -> None:
    created = await create(store, *({"priority": priority} for priority in (1, 9, 1, 9, 0)))
    fetched = [task for count in (1, 3, 1) for task in await lock(store, count, order=NEWEST_FIRST)]
    assert ids(fetched) == [created[place] for place in (3, 1, 2, 0, 4)]


async def test_the_newest_of_all_is_first_without_priorities(store: Store) -> None:
    created = await create(store, *({"priority": priority} for priority in (1, 9, 1, 9, 0)))
    tasks = await lock(store, 10, order=Order(by_priority=False, newest_first=True))
    assert ids(tasks) == created[::-1]


async def test_a_task_that_came_back_is_as_old_as_it_is(store: Store) -> None:
    created = await create(store, *({} for _ in range(4)))
    tasks = await lock(store, 3)
    await ask(store.unlock, "w1", held(tasks[2]), held(tasks[0]))
    tasks = await lock(store, 10, order=NEWEST_FIRST)
    assert ids(tasks) == [created[place] for place in (3, 2, 0)]


async def test_the_newest_by_their_key(store: Store) -> None:
    created = await create(store, *({"businessKey": key} for key in "abab"))
    tasks = await lock(store, 10, subscriptions=subscribe(business_key="a"), order=NEWEST_FIRST)
    assert ids(tasks) == [created[2], created[0]]


async def test_shares_are_in_the_order_of_the_fetch(store: Store) -> None:
    created = await create(store, *({} for _ in range(5)))
    [lane] = store.lanes.of_topic("t")
    scans = [
        Scan(lane.lane_id, 0, returned, 0, 60_000, None, lane.members_json())
        for returned in (True, False)
    ]
    filtered = Filtered([None] * 2, [None] * 2, True, 5, [])
    granted = await store.fetch_and_lock(Claim(scans, ["w0", "w1"], [2, 3], filtered))
    for place, expected in ((0, created[:2:-1]), (1, created[2::-1])):
        tasks = decoded(granted.bodies[place][0])
        assert ids(tasks) == expected
        assert {task["workerId"] for task in tasks} == {f"w{place}"}


# Rows -------------------------------------------------------------------------


async def test_only_tasks_with_the_business_key(store: Store, statements: Statements) -> None:
    created = await create(store, *({"businessKey": key} for key in "abab"), {})
    await statements.forget()
    assert ids(await lock(store, 10, subscriptions=subscribe(business_key="b"))) == [
        created[1],
        created[3],
    ]
    assert await statements.calls() == {"fetch_and_lock filtered": 1}


async def test_one_of_the_variables_is_enough(store: Store) -> None:
    created = await create(
        store,
        {"variables": {"a": 1, "b": 1}},
        {"variables": {"a": 2, "b": 2}},
        {"variables": {"a": 2}},
        {"variables": {"b": 1}},
        {},
    )
    tasks = await lock(store, 10, subscriptions=any_of(a=1, b=2))
    assert ids(tasks) == created[:2]


async def test_both_filters_must_let_it_pass(store: Store) -> None:
    created = await create(
        store, *({"businessKey": key, "variables": {"a": a}} for key in "xy" for a in (1, 2))
    )
    wish = subscribe(business_key="y", any_variables='[["a",2]]')
    assert ids(await lock(store, 10, subscriptions=wish)) == created[3:]


@pytest.mark.parametrize(
    ("wanted", "variable", "is_equal"),
    [
        ("1", "1.0", True),
        ("1", '"1"', False),
        ("null", "null", True),
        ("null", "0", False),
        ('{"a":1,"b":[2]}', '{ "b": [2.0], "a": 1 }', True),
        ("[1,2]", "[2,1]", False),
        ('"ü"', r'"\u00fc"', True),
        (r'"\u00fc"', '"ü"', True),
        ('"😀"', r'"\ud83d\ude00"', True),
        ('"no 1e500"', '"no 1e500"', True),
        ("1e100", f"1{'0' * 100}", True),
        ("1e101", f"1{'0' * 100}", False),
        (f"[{'9' * 300}]", f"[{'9' * 300}.0]", True),
        ("true", "1e400000", False),
        ("1e400000", "1e400000", False),
        ("1e400000", "1", False),
        ("1e400000", "null", False),
        ("123456789012345678901234567890", "123456789012345678901234567891", False),
    ],
)
async def test_variables_are_equal_as_json(
    store: Store, wanted: str, variable: str, is_equal: bool
) -> None:
    request = f'{{"tasks":[{{"topic":"t","variables":{{"a":{variable},"c":0}}}}]}}'
    await store.create([request])
    for name, expected in (("a", is_equal), ("b", False)):
        wish = subscribe(any_variables=f'[["{name}",{wanted}]]')
        assert bool(await lock(store, subscriptions=wish)) == expected


@pytest.mark.parametrize("wanted", ["1e400000", "[1e400000]"])
async def test_what_is_no_jsonb_hides_no_other(store: Store, wanted: str) -> None:
    created = await create(store, {"variables": {"b": 1}})
    wish = subscribe(any_variables=f'[["a",{wanted}],["b",{wanted}],["b",1]]')
    assert ids(await lock(store, subscriptions=wish)) == created


async def test_variables_are_taken_as_they_are_now(store: Store, connection: Connection) -> None:
    first, second = await create(store, {"variables": {"a": 1}}, {"variables": {"a": 2}})
    for task_id, a in ((first, 2), (second, 1)):
        await connection.execute(
            "SELECT fetchlock.set_variables($1::uuid, $2::json, '{}', '{}', 0::smallint)",
            task_id,
            f'{{"a":{a}}}',
        )
        await connection.execute(
            "UPDATE fetchlock.open_task SET reported = true WHERE id = $1", task_id
        )
    assert ids(await lock(store, 10, subscriptions=any_of(a=1))) == [second]


async def test_each_topic_has_its_own_filter(store: Store) -> None:
    created = await create(
        store,
        *({"topic": topic, "businessKey": key} for topic in "tuv" for key in "ab"),
    )
    wishes = subscribe("t", business_key="a") + subscribe("u", business_key="b") + subscribe("v")
    assert ids(await lock(store, 10, subscriptions=wishes)) == [
        created[place] for place in (0, 3, 4, 5)
    ]


# How far it looks -------------------------------------------------------------


async def test_it_looks_at_so_many_and_goes_on_from_there(
    store: Store, connection: Connection
) -> None:
    created = await create(store, *({} for _ in range(25)), {"businessKey": "x"}, {})
    positions = [(await row_of(connection, task_id))["position"] for task_id in created]
    floor = 0
    for looked_at in (10, 20):
        granted = await store.fetch_and_lock(claim(store, 10, 1, "x", floor=floor))
        [(_, returned, floor)] = granted.tips
        assert (granted.seen, granted.locked, granted.has_more) == (0, 0, True)
        assert (returned, floor) == (False, positions[looked_at - 1])
    granted = await store.fetch_and_lock(claim(store, 10, 1, "x", floor=floor))
    assert granted_ids(granted) == [created[25]]
    assert [tip for _, _, tip in granted.tips] == [positions[25]]
    granted = await store.fetch_and_lock(claim(store, 10, 1, "x", floor=positions[25]))
    assert [tip for _, _, tip in granted.tips] == [positions[26]]
    assert not granted.has_more
    granted = await store.fetch_and_lock(claim(store, 10, 1, "x", floor=positions[26]))
    assert granted == Granted({}, 0, 0, [], held=[])


async def test_it_looks_no_further_than_to_the_last_it_takes(
    store: Store, connection: Connection
) -> None:
    created = await create(store, {}, {"businessKey": "x"}, {}, {"businessKey": "x"}, {})
    granted = await store.fetch_and_lock(claim(store, 10, 1, "x"))
    assert granted_ids(granted) == [created[1]]
    assert granted.has_more
    position = (await row_of(connection, created[1]))["position"]
    assert [tip for _, _, tip in granted.tips] == [position]


async def test_a_lower_priority_waits_until_the_higher_is_looked_through(store: Store) -> None:
    created = await create(
        store,
        {"priority": 1, "businessKey": "x"},
        *({"priority": 5} for _ in range(10)),
        {"priority": 5, "businessKey": "x"},
    )
    granted = await store.fetch_and_lock(claim(store, 10, 2, "x"))
    assert (granted.seen, granted.has_more) == (0, True)
    granted = await store.fetch_and_lock(claim(store, 20, 2, "x"))
    assert granted_ids(granted) == [created[11], created[0]]


async def test_large_variables_are_looked_at_a_few_at_a_time(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verbs, "_REPLY_BYTES_MAX", 250)
    created = await create(store, *({"variables": {"text": "x" * 100, "n": n}} for n in range(5)))
    floor, claims = 0, 0
    while not (granted := await store.fetch_and_lock(
        claim(store, 10, 1, pairs='[["n",4]]', floor=floor)
    )).locked:  # fmt: skip
        assert granted.has_more
        [(_, _, floor)] = granted.tips
        claims += 1
    assert granted_ids(granted) == created[4:]
    assert claims == 1


async def test_a_reply_that_grows_too_large_stops_the_claim(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verbs, "_REPLY_BYTES_MAX", 250)
    created = await create(
        store, *({"businessKey": "x", "variables": {"text": "x" * 100}} for _ in range(5))
    )
    granted = await store.fetch_and_lock(claim(store, 10, 5, "x"))
    assert granted_ids(granted) == created[:3]
    assert granted.seen > granted.locked
    [(_, _, floor)] = granted.tips
    granted = await store.fetch_and_lock(claim(store, 10, 5, "x", floor=floor))
    assert granted_ids(granted) == created[3:]


# Locks ------------------------------------------------------------------------


async def test_no_more_rows_are_locked_than_are_handed_out(
    store: Store, connection: Connection, watcher: Connection
) -> None:
    for order in (Order(), NEWEST_FIRST):
        await create(store, *({"businessKey": key} for key in "xyx" * 10))
        waiters = Waiters(store.lanes)
        waiter = Waiter("w1", 7, Client(), is_impatient=True)
        waiters.add(waiter, subscribe(business_key="x"), time.monotonic(), order)
        running = waiters.next_claim(time.monotonic())
        assert running is not None
        unfinished = Store(cast("asyncpg.Pool", connection), store._settings)
        await connection.execute("BEGIN")
        granted = await unfinished.fetch_and_lock(running.claim)
        free = await watcher.fetch("SELECT id FROM fetchlock.open_task FOR UPDATE SKIP LOCKED")
        await connection.execute("ROLLBACK")
        total = await watcher.fetchval("SELECT count(*) FROM fetchlock.open_task")
        assert granted.locked == 7
        assert len(free) == total - 7


async def test_rows_of_another_claim_are_skipped_not_waited_for(
    store: Store, connection: Connection
) -> None:
    created = await create(store, *({"businessKey": "x"} for _ in range(5)))
    async with connection.transaction():
        await connection.execute(
            "SELECT FROM fetchlock.open_task WHERE id = ANY ($1::uuid[]) FOR UPDATE", created[:2]
        )
        with anyio.fail_after(5):
            granted = await store.fetch_and_lock(claim(store, 10, 4, "x"))
    assert granted_ids(granted) == created[2:4]
    assert (granted.seen, granted.locked) == (4, 2)
    # They may be let go of, and nobody tells.
    [(_, returned, position)] = granted.held
    assert (returned, position) == (False, (await row_of(connection, created[0]))["position"])
    assert (await store.fetch_and_lock(claim(store, 10, 4, "x"))).held == []


async def test_claims_of_all_kinds_lock_each_task_once(
    store: Store, connection: Connection
) -> None:
    created = await create(store, *({"businessKey": key} for key in "xy" * 200))
    fetched: list[str] = []

    async def fetch(wish: tuple[Subscription, ...], order: Order) -> None:
        while tasks := await lock(store, 7, subscriptions=wish, order=order):
            fetched.extend(ids(tasks))

    async with anyio.create_task_group() as group:
        for wish in (subscribe(), subscribe(business_key="x"), subscribe(business_key="y")):
            for order in (Order(), NEWEST_FIRST):
                group.start_soon(fetch, wish, order)
    fetched += ids(await lock(store, 400))
    assert sorted(fetched) == sorted(created)
    assert await connection.fetchval("SELECT max(attempt) FROM fetchlock.open_task") == 1

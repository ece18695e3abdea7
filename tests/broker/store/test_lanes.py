"""What a process knows of the lanes, and how it learns of those that others make."""

from __future__ import annotations

import asyncpg
import pytest

from broker.settings import Settings
from broker.store import Lanes, Store, open_pool
from tests.eventually import eventually
from tests.factories import ask, create, expire_lock, held, lane, lock, make_due, row_of

Connection = asyncpg.Connection


def test_lanes_are_found_by_id_and_by_topic() -> None:
    lanes = Lanes()
    a, b, other = lane(1), lane(2, priority=5), lane(3, "u")
    lanes.add([a, b, other, a])
    assert lanes.of_topic("t") == [a, b]
    assert lanes.of_topic("nobody's") == []
    assert (lanes.get(3), lanes.get(4)) == (other, None)
    assert (lanes.topic_of(3), lanes.topic_of(4)) == ("u", "_unknown")
    assert list(lanes) == [a, b, other]


async def test_lanes_of_others_are_learned_once(store: Store, settings: Settings) -> None:
    await create(store, {}, {"topic": "u"})
    assert settings.database_url is not None
    pool = await open_pool(settings.database_url, size=1, statement_timeout_ms=5_000)
    other = Store(pool, settings)
    assert [lane.topic for lane in await other.load_lanes()] == ["t", "u"]
    assert await other.load_lanes() == []
    await create(other, {"topic": "v"})
    assert [lane.topic for lane in await store.load_lanes()] == ["v"]
    pool.terminate()


async def test_ready_lanes_are_those_with_work_beyond_their_floor(
    store: Store, connection: Connection
) -> None:
    fresh, _ = await create(store, {}, {"topic": "locked"})
    await create(store, {"topic": "delayed", "delayMs": 60_000})
    [lane] = store.lanes.of_topic("t")
    [locked] = store.lanes.of_topic("locked")
    [delayed] = store.lanes.of_topic("delayed")
    await connection.execute(
        """
        UPDATE fetchlock.open_task SET state = 'locked', worker_id = 'w', locked_at = now(),
            lock_token = gen_random_uuid(), lock_expires_at = now() + interval '1 h'
        WHERE lane_id = $1
        """,
        locked.lane_id,
    )
    position = (await row_of(connection, fresh))["position"]
    ids = [lane.lane_id, locked.lane_id, delayed.lane_id]
    assert (await store.ready_lanes(dict.fromkeys(ids, 0)))[0] == [lane.lane_id]
    assert (await store.ready_lanes(dict.fromkeys(ids, position - 1)))[0] == [lane.lane_id]
    assert (await store.ready_lanes(dict.fromkeys(ids, position)))[0] == []
    assert (await store.ready_lanes({}))[0] == []


@pytest.mark.parametrize("came_back", ["unlocked", "expired", "delayed"])
async def test_what_came_back_is_seen_below_the_floor(
    store: Store, connection: Connection, came_back: str
) -> None:
    [task_id] = await create(store, {"delayMs": 60_000} if came_back == "delayed" else {})
    if came_back == "delayed":
        await make_due(connection, task_id)
    else:
        [task] = await lock(store)
        if came_back == "unlocked":
            await ask(store.unlock, "w1", held(task))
        else:
            await expire_lock(connection, task_id)
    await store.release_due(None, 0)
    [lane] = store.lanes.of_topic("t")
    ready, _ = await store.ready_lanes({lane.lane_id: 1_000_000})
    assert ready == [lane.lane_id]


async def test_it_tells_of_lanes_that_are_new(store: Store, connection: Connection) -> None:
    await create(store, {})
    assert not (await store.ready_lanes({}))[1]
    await connection.execute(
        "INSERT INTO fetchlock.lane (topic, priority, shard) VALUES ('new', 0, 0)"
    )
    assert (await store.ready_lanes({}))[1]
    assert [lane.topic for lane in await store.load_lanes()] == ["new"]
    assert not (await store.ready_lanes({}))[1]


async def test_a_lane_that_is_committed_late_is_learned_too(
    store: Store, connection: Connection
) -> None:
    """Its number is below those of lanes that this process knows already."""
    await connection.execute("BEGIN")
    await connection.execute(
        "INSERT INTO fetchlock.lane (topic, priority, shard) VALUES ('late', 0, 0)"
    )
    await create(store, *({"priority": priority} for priority in range(256)))
    assert store.lanes.of_topic("late") == []
    await connection.execute("COMMIT")

    async def is_learned() -> bool:
        _, has_new_lanes = await store.ready_lanes({})
        return has_new_lanes and [lane.topic for lane in await store.load_lanes()] == ["late"]

    assert await eventually(is_learned)
    assert not (await store.ready_lanes({}))[1]

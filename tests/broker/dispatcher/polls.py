"""Long polls in the background, and how to tell that a broker has done all it can for them."""

from __future__ import annotations

from broker.core import Core
from broker.dispatcher import Delivery, Subscription
from tests.eventually import eventually
from tests.factories import TaskJson, creation, decoded, is_at_rest, poll


async def create(core: Core, *tasks: TaskJson) -> list[str]:
    results = await core.create(creation(*tasks))
    return [answer["id"] for answer in decoded(results.body)]


async def parked(core: Core, polls: int) -> None:
    """Return once so many polls are parked and the broker has found nothing for them."""

    async def are_parked() -> bool:
        return len(core.dispatcher._waiters) == polls and is_at_rest(core.dispatcher)

    await eventually(are_parked)


async def listening(*cores: Core) -> None:
    """Return once the brokers hear each other."""

    async def do_listen() -> bool:
        wakeups = [core.dispatcher._wakeups for core in cores]
        return all(way is not None and way.is_listening for way in wakeups)

    await eventually(do_listen)


class Polls:
    """Polls in the background, and what they brought."""

    def __init__(self) -> None:
        self.deliveries: list[tuple[str, Delivery]] = []

    async def run(
        self,
        core: Core,
        worker_id: str = "w1",
        tasks_max: int = 1,
        subscriptions: tuple[Subscription, ...] | None = None,
    ) -> None:
        delivery = await poll(core.dispatcher, tasks_max, worker_id, subscriptions=subscriptions)
        self.deliveries.append((worker_id, delivery))

    @property
    def ids(self) -> list[str]:
        return [task["id"] for _, delivery in self.deliveries for task in decoded(delivery.body)]

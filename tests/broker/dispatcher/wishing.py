"""The lanes of the walks, and who wishes for what on them."""

from __future__ import annotations

from broker.dispatcher.waiter import Order, Subscription, Waiter
from tests.factories import Client, lane

LANES = [
    lane(1, "a"), lane(2, "a", 5), lane(3, "b"), lane(4, "b", 0, "x"), lane(5, "c", 5),
]  # fmt: skip


def business_key(position: int) -> str:
    return "odd" if position % 2 else "even"


def takes(subscriptions: tuple[Subscription, ...], lane_id: int) -> bool:
    return any(wish.takes(LANES[lane_id - 1]) for wish in subscriptions)


def wants(subscriptions: tuple[Subscription, ...], lane_id: int, position: int) -> bool:
    """Whether a task is wished for: what its lane says, and what its row says."""
    wishes = (wish for wish in subscriptions if wish.takes(LANES[lane_id - 1]))
    wish = next(wishes, None)
    return wish is not None and wish.business_key in (None, business_key(position))


class Parked:
    """A waiter and what the test knows of it."""

    def __init__(
        self, waiter: Waiter, subscriptions: tuple[Subscription, ...], order: Order
    ) -> None:
        self.waiter = waiter
        self.subscriptions = subscriptions
        self.order = order

    @property
    def may_miss(self) -> bool:
        """Of the newest, only so many are looked at."""
        return self.order.newest_first and any(wish.row_filter for wish in self.subscriptions)

    @property
    def client(self) -> Client:
        assert isinstance(self.waiter.caller, Client)
        return self.waiter.caller

    @property
    def is_waiting(self) -> bool:
        return not (
            self.waiter.settled.is_set() or self.waiter.is_leaving or self.waiter.caller.is_gone
        )

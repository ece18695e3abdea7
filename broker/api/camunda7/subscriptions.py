"""What a worker of Camunda's wishes for, as subscriptions of the dispatcher's.

Absent, null and an empty list do not narrow a wish. A topic that is wished for
twice counts once, by its last wish: to Camunda it is the key of a map.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NoReturn

import msgspec

from broker.api.camunda7 import wire
from broker.dispatcher import Order, Subscription
from broker.errors import Invalid

_WANTED_MAX: Final = 100
"""Variables of a topic that are looked for in each task."""

_WANTED_BYTES_MAX: Final = 16 * 1024
"""All that is wanted of variables: a broker keeps it for as long as the poll is parked, and after
that for a while, lest the next one starts anew."""


def subscriptions_of(wish: wire.FetchAndLock) -> list[Subscription]:
    """One subscription a topic."""
    by_topic = {topic.topic_name: topic for topic in wish.topics or ()}
    subscriptions = [_subscription(topic) for topic in by_topic.values()]
    wanted_bytes = sum(len((each.any_variables or "").encode()) for each in subscriptions)
    if wanted_bytes > _WANTED_BYTES_MAX:
        _refuse(f"processVariables have more than {_WANTED_BYTES_MAX} bytes in all")
    return subscriptions


def order_of(wish: wire.FetchAndLock) -> Order:
    """Priority only where it is asked for; and the oldest first, unless the newest are wished for.

    The same entry of `sorting` twice is one; of two that contradict each other the first counts,
    as in any sorting.
    """
    first = wish.sorting[0].sort_order if wish.sorting else "asc"
    return Order(by_priority=bool(wish.use_priority), newest_first=first == "desc")


def _subscription(topic: wire.TopicWish) -> Subscription:
    tenants = _all_of(topic.tenant_id_in)
    if topic.without_tenant_id:
        tenants = () if tenants is not None else ("",)
    return Subscription(
        topic=topic.topic_name,
        lock_duration_ms=int(topic.lock_duration),
        variables=None if topic.variables is None else tuple(topic.variables),
        process_definition_ids=_all_of(
            _only(topic.process_definition_id), topic.process_definition_id_in
        ),
        process_definition_keys=_all_of(
            _only(topic.process_definition_key), topic.process_definition_key_in
        ),
        version_tag_like=topic.process_definition_version_tag,
        tenant_ids=tenants,
        business_key=topic.business_key,
        any_variables=_pairs(topic.process_variables),
    )


def _only(name: str | None) -> list[str] | None:
    return None if name is None else [name]


def _all_of(*filters: Iterable[str] | None) -> tuple[str, ...] | None:
    """The names that each of these lists has; None where there is no list.

    The empty one is nobody's name: to the dispatcher it stands for having none.
    """
    given = [{name for name in names if name} for names in filters if names]
    return tuple(sorted(set.intersection(*given))) if given else None


def _pairs(variables: dict[str, msgspec.Raw] | None) -> str | None:
    if not variables:
        return None
    if len(variables) > _WANTED_MAX:
        _refuse(f"processVariables of a topic are more than {_WANTED_MAX}")
    return msgspec.json.encode(list(variables.items())).decode()


def _refuse(words: str) -> NoReturn:
    raise Invalid(f"/topics: {words}.", [("/topics", words)])

"""The walk next door on two lanes, where most who wait look at rows."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from broker.dispatcher import claims as claims_module
from broker.dispatcher.waiter import FIRST_IN_FIRST_OUT
from tests.broker.dispatcher.test_waiters_walk import LOOKED_AT_MAX, WaitersMachine, walk
from tests.factories import subscribe


class FilteredMachine(WaitersMachine):
    """It rests more often: only then is it seen who waits beside a task."""

    wishes: ClassVar = [subscribe("a", business_key=key) for key in ("odd", "even", None)]

    @initialize(wishes=st.lists(st.sampled_from(wishes), min_size=1, max_size=3))
    def begin(self, wishes: list[Any]) -> None:
        self.start(2)
        for wish in wishes:
            self.park(wish, FIRST_IN_FIRST_OUT, 1, is_impatient=False)
        self.come_to_rest()

    @rule(lane_id=st.integers(1, 2), tasks=st.integers(1, 2 * LOOKED_AT_MAX), rests=st.booleans())
    def create(self, lane_id: int, tasks: int, rests: bool) -> None:
        for _ in range(tasks):
            self.commit_creation(self.begin_creation(lane_id), is_told=True)
        if rests:
            self.come_to_rest()

    @precondition(lambda self: self.delivered)
    @rule(data=st.data())
    def give_back_and_rest(self, data: Any) -> None:
        self.give_back(data, is_told=True)
        self.come_to_rest()


@pytest.mark.timeout(600)
async def test_whatever_rows_say_no_waiter_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims_module, "LOOKED_AT_MAX", LOOKED_AT_MAX)
    walk(FilteredMachine)

"""The line protocol, both sides of it, with a real process in between."""

from __future__ import annotations

import sys
from pathlib import Path

import anyio
import msgspec
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.driver import Driver, Trouble, driving
from benchmarks.program import PAYLOAD_BYTES, payload

_COMMAND = (sys.executable, "-m", "tests.benchmarks.contender_for_tests")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "program.log"


async def test_a_program_introduces_itself_and_obeys(log: Path) -> None:
    heard: list[int] = []
    async with driving([*_COMMAND, "present"], log) as driver:
        assert driver.participant.name == "for tests"
        done = await driver.order("count", heard.append, to=4, pause_s=0.3)
        assert done == {"counted": 4}
        with pytest.raises(Trouble, match="ValueError: two lines"):
            await driver.order("fail")
        with pytest.raises(Trouble, match="no workload aclose"):
            await driver.order("aclose")
        assert await driver.order("count", to=0, pause_s=0) == {"counted": 0}
    assert heard, "no progress was told"
    assert heard == sorted(heard)
    assert "what a library prints" in await anyio.Path(log).read_text()


async def test_closing_its_input_ends_a_program_amid_its_work(log: Path) -> None:
    async with driving([*_COMMAND, "present"], log) as driver, anyio.create_task_group() as group:
        process = psutil.Process(driver.pid)
        group.start_soon(_wait, driver)
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()
    assert not process.is_running()
    assert "closed" in await anyio.Path(log).read_text(), "it was killed"


async def _wait(driver: Driver) -> None:
    await driver.order("wait")


async def test_who_cannot_take_part_says_why(log: Path) -> None:
    with pytest.raises(Trouble, match="RuntimeError: there is nothing to connect to"):
        async with driving([*_COMMAND, "absent"], log):
            raise AssertionError("it is not there")


async def test_what_is_not_installed_is_told_from_its_log(log: Path) -> None:
    with pytest.raises(Trouble, match="No module named"):
        async with driving([sys.executable, "-m", "benchmarks.contenders.nobody", "x"], log):
            raise AssertionError("there is none")
    with pytest.raises(Trouble, match="no-such-program: No such file"):
        async with driving(["no-such-program", "x"], log):
            raise AssertionError("there is none")


async def test_a_program_that_dies_leaves_its_last_error(log: Path) -> None:
    async with driving([*_COMMAND, "present"], log) as driver:
        with pytest.raises(Trouble, match="SomeError: it was too much"):
            await driver.order("die")
        with pytest.raises(Trouble):
            await driver.order("count", to=1, pause_s=0)


@given(st.integers(0, 10**9))
def test_the_payload_is_as_long_for_every_task(counter: int) -> None:
    assert len(msgspec.json.encode(payload(counter))) == PAYLOAD_BYTES
    assert payload(counter)["i"] == counter

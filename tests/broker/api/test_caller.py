"""What uvicorn says of a client that has gone, and what a lost reply comes to, over real sockets."""

from __future__ import annotations

import anyio
import pytest

from broker.api.endpoint import Call, Endpoint, Reply
from broker.api.problem import problem
from tests.broker.api.conftest import Serve

REQUEST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"


class Poll:
    """A verb that parks until it is told to answer."""

    def __init__(self, body: bytes = b"[]") -> None:
        self.parked = anyio.Event()
        self.may_answer = anyio.Event()
        self.gone = anyio.Event()
        self.undone = anyio.Event()
        self.finished = anyio.Event()
        self.call: Call | None = None
        self._body = body
        self._endpoint = Endpoint(self._verb, "/poll", problem)

    async def __call__(self, scope: object, receive: object, send: object) -> None:
        await self._endpoint(scope, receive, send)  # type: ignore[arg-type]  # As ASGI has it.
        self.finished.set()

    async def _verb(self, call: Call) -> Reply:
        await call.body(100)
        self.call = call
        self.parked.set()
        await self.may_answer.wait()
        return Reply(200, self._body, if_lost=self._undo)

    async def _undo(self) -> None:
        self.undone.set()

    @property
    def is_gone(self) -> bool:
        assert self.call is not None
        return self.call.caller.is_gone

    async def wait_gone(self) -> None:
        assert self.call is not None
        await self.call.caller.wait_gone()


async def test_a_client_that_stays_is_there_and_gets_its_answer(serve: Serve) -> None:
    poll = Poll()
    async with serve(poll) as port, await anyio.connect_tcp("127.0.0.1", port) as client:
        await client.send(REQUEST)
        await poll.parked.wait()
        assert not poll.is_gone
        assert not poll.is_gone
        poll.may_answer.set()
        assert (await client.receive()).startswith(b"HTTP/1.1 200 OK")
        await poll.finished.wait()
    assert not poll.undone.is_set()


async def test_a_client_that_leaves_is_gone_without_anybody_watching(serve: Serve) -> None:
    poll = Poll()
    async with serve(poll) as port:
        async with await anyio.connect_tcp("127.0.0.1", port) as client:
            await client.send(REQUEST)
            await poll.parked.wait()
        with anyio.fail_after(10):
            while not poll.is_gone:
                await anyio.lowlevel.checkpoint()
        poll.may_answer.set()
        await poll.finished.wait()
    assert poll.undone.is_set()


async def test_a_poll_that_waits_for_it_hears_that_the_client_left(serve: Serve) -> None:
    poll = Poll()
    async with serve(poll) as port, anyio.create_task_group() as group:
        client = await anyio.connect_tcp("127.0.0.1", port)
        await client.send(REQUEST)
        await poll.parked.wait()
        group.start_soon(poll.wait_gone)
        # To ask meanwhile does not disturb who waits.
        await anyio.wait_all_tasks_blocked()
        assert not poll.is_gone
        await client.aclose()
        with anyio.fail_after(10):
            await poll.wait_gone()
        poll.may_answer.set()
        await poll.finished.wait()
    assert poll.undone.is_set()


async def test_a_wait_may_be_given_up_and_begun_again(serve: Serve) -> None:
    poll = Poll()
    async with serve(poll) as port:
        client = await anyio.connect_tcp("127.0.0.1", port)
        await client.send(REQUEST)
        await poll.parked.wait()
        for _ in range(3):
            with anyio.move_on_after(0):
                await poll.wait_gone()
            assert not poll.is_gone
        await client.aclose()
        with anyio.fail_after(10):
            await poll.wait_gone()
        poll.may_answer.set()
        await poll.finished.wait()


async def test_the_next_request_on_a_connection_is_not_a_disconnect(serve: Serve) -> None:
    poll = Poll()
    async with serve(poll) as port, await anyio.connect_tcp("127.0.0.1", port) as client:
        await client.send(REQUEST + REQUEST)
        await poll.parked.wait()
        assert not poll.is_gone
        poll.may_answer.set()
        answer = b""
        with anyio.fail_after(10):
            while answer.count(b"HTTP/1.1 200 OK") < 2:
                answer += await client.receive()


async def test_a_client_that_leaves_in_the_middle_of_a_large_reply_has_lost_it(
    serve: Serve,
) -> None:
    poll = Poll(b"x" * 50_000_000)
    async with serve(poll) as port:
        async with await anyio.connect_tcp("127.0.0.1", port) as client:
            await client.send(REQUEST)
            await poll.parked.wait()
            poll.may_answer.set()
            assert await client.receive()
        with anyio.fail_after(10):
            await poll.finished.wait()
    assert poll.undone.is_set()


@pytest.mark.parametrize("size", [10, 10_000_000])
async def test_a_large_reply_that_is_read_is_not_undone(serve: Serve, size: int) -> None:
    poll = Poll(b"x" * size)
    async with serve(poll) as port, await anyio.connect_tcp("127.0.0.1", port) as client:
        await client.send(REQUEST)
        poll.may_answer.set()
        read = 0
        while read < size:
            read += len(await client.receive())
        await poll.finished.wait()
    assert not poll.undone.is_set()

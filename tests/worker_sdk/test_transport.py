"""Connections: that they are used again, end in time, and end without losing an answer."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream

from tests.worker_sdk.conftest import Scripted
from worker_sdk import Answer, ConnectionFailed
from worker_sdk._transport import AiohttpTransport

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]"


@asynccontextmanager
async def server(talk: Callable[[SocketStream], Awaitable[None]]) -> AsyncIterator[str]:
    """A server that speaks to each connection as told, byte by byte."""

    async def serve(stream: SocketStream) -> None:
        async with stream:
            await talk(stream)

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, serve)
        yield f"http://127.0.0.1:{listener.extra(SocketAttribute.local_port)}/"
        group.cancel_scope.cancel()


@pytest.fixture
async def transport() -> AsyncIterator[AiohttpTransport]:
    transport = AiohttpTransport()
    yield transport
    await transport.aclose()


async def poll(transport: AiohttpTransport, url: str, timeout_s: float = 30) -> Answer:
    return await transport.request("POST", url, {}, b"{}", timeout_s)


async def test_silent_server_does_not_hold_us(transport: AiohttpTransport) -> None:
    async def say_nothing(stream: SocketStream) -> None:
        await anyio.sleep_forever()

    async with server(say_nothing) as url:
        with anyio.fail_after(10), pytest.raises(ConnectionFailed):
            await poll(transport, url, timeout_s=0.2)


async def test_server_that_stops_amid_its_answer_does_not_hold_us(
    transport: AiohttpTransport,
) -> None:
    async def say_half(stream: SocketStream) -> None:
        await stream.send(ANSWER[:-1])
        await anyio.sleep_forever()

    async with server(say_half) as url:
        with anyio.fail_after(10), pytest.raises(ConnectionFailed):
            await poll(transport, url, timeout_s=0.2)


@pytest.mark.parametrize(
    "said", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n[]", b"huh?\r\n"]
)
async def test_broken_answer_is_a_failed_connection(
    said: bytes, transport: AiohttpTransport
) -> None:
    async def break_off(stream: SocketStream) -> None:
        await stream.receive()
        if said:
            await stream.send(said)

    async with server(break_off) as url:
        with pytest.raises(ConnectionFailed):
            await poll(transport, url)


async def test_connection_is_used_again(scripted: Scripted, transport: AiohttpTransport) -> None:
    for _ in range(3):
        await poll(transport, scripted.base_url)
    assert len(scripted.peers) == 1


async def test_connection_is_probed_while_it_is_silent(
    scripted: Scripted, transport: AiohttpTransport
) -> None:
    await poll(transport, scripted.base_url)
    [sock] = transport._sockets
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    if hasattr(socket, "TCP_KEEPIDLE"):
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 15


async def test_hang_up_tells_the_server_and_still_reads_its_answer(
    transport: AiohttpTransport,
) -> None:
    asked = anyio.Event()

    async def answer_after_hearing_the_end(stream: SocketStream) -> None:
        await stream.receive()
        asked.set()
        with pytest.raises(anyio.EndOfStream):
            await stream.receive()
        await stream.send(ANSWER)

    answers: list[Answer] = []

    async def ask(url: str) -> None:
        answers.append(await poll(transport, url))

    async with server(answer_after_hearing_the_end) as url, anyio.create_task_group() as group:
        group.start_soon(ask, url)
        await asked.wait()
        transport.hang_up()
    assert [answer.body for answer in answers] == [b"[]"]


async def test_hang_up_ends_a_request_that_is_not_answered(transport: AiohttpTransport) -> None:
    asked = anyio.Event()

    async def close_when_hearing_the_end(stream: SocketStream) -> None:
        await stream.receive()
        asked.set()
        with pytest.raises(anyio.EndOfStream):
            await stream.receive()

    async def ask(url: str) -> None:
        with pytest.raises(ConnectionFailed):
            await poll(transport, url)

    with anyio.fail_after(10):
        async with server(close_when_hearing_the_end) as url, anyio.create_task_group() as group:
            group.start_soon(ask, url)
            await asked.wait()
            transport.hang_up()


async def test_hang_up_without_a_connection_is_nothing(transport: AiohttpTransport) -> None:
    transport.hang_up()

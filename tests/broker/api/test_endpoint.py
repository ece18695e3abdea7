"""Endpoints, called as a server calls them: with scopes, and with bodies in pieces."""

from __future__ import annotations

from typing import Any

import anyio
import msgspec
import pytest
from starlette.types import Message
from structlog.testing import capture_logs

from broker.api.endpoint import Call, Endpoint, Reply
from broker.api.problem import problem
from broker.errors import LockLost, TooManyRequests
from broker.metrics import HTTP_REQUEST_DURATION

DISCONNECT: Message = {"type": "http.disconnect"}


class Client:
    """The other side of an ASGI application: sends these parts, keeps what is answered."""

    def __init__(self, *parts: bytes, headers: dict[str, str] | None = None) -> None:
        self.headers = headers or {}
        self.received: list[Message] = []
        self.parts_read = 0
        self._parts = list(parts)

    async def receive(self) -> Message:
        if self.parts_read == len(self._parts):
            return DISCONNECT
        self.parts_read += 1
        more = self.parts_read < len(self._parts)
        part = self._parts[self.parts_read - 1]
        return {"type": "http.request", "body": part, "more_body": more}

    async def send(self, message: Message) -> None:
        self.received.append(message)

    async def post(self, app: Endpoint) -> None:
        headers = [(name.lower().encode(), value.encode()) for name, value in self.headers.items()]
        scope = {"type": "http", "method": "POST", "headers": headers, "query_string": b""}
        await app(scope, self.receive, self.send)

    @property
    def status(self) -> int:
        status: int = self.received[0]["status"]
        return status

    @property
    def answer_headers(self) -> dict[bytes, bytes]:
        return dict(self.received[0]["headers"])

    @property
    def answer(self) -> Any:
        return msgspec.json.decode(b"".join(each.get("body", b"") for each in self.received[1:]))


def _reading(bytes_max: int) -> Endpoint:
    async def verb(call: Call) -> Reply:
        return Reply(200, msgspec.json.encode(len(await call.body(bytes_max))))

    return Endpoint(verb, "/read", problem)


def _raising(error: Exception) -> Endpoint:
    async def verb(_call: Call) -> Reply:
        raise error

    return Endpoint(verb, "/raise", problem)


async def test_a_body_may_come_in_pieces() -> None:
    client = Client(b"a" * 6, b"", b"b" * 4)
    await client.post(_reading(10))
    assert (client.status, client.answer) == (200, 10)


async def test_a_body_is_counted_as_it_streams_whatever_it_said() -> None:
    client = Client(*[b"x" * 4] * 1_000, headers={"Content-Length": "3"})
    await client.post(_reading(10))
    assert (client.status, client.answer["code"]) == (413, "too_large")
    assert client.parts_read == 3


async def test_a_body_that_says_it_is_too_large_is_not_read() -> None:
    client = Client(b"x" * 11, headers={"Content-Length": "11"})
    await client.post(_reading(10))
    assert (client.status, client.answer["bytesMax"], client.parts_read) == (413, 10, 0)


@pytest.mark.parametrize("said", ["-5", "x", "", "1e3", "9" * 5_000])
async def test_a_strange_content_length_is_not_believed(said: str) -> None:
    client = Client(b"x" * 11, headers={"Content-Length": said})
    await client.post(_reading(10))
    assert client.status == 413


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 200),
        ("application/json; charset=utf-8", 200),
        ("Application/JSON ;charset=utf-8", 200),
        ("application/vnd.acme+json", 200),
        ("application/problem+json", 200),
        ("application/x-www-form-urlencoded", 415),
        ("text/json", 415),
        ("application/jsonp", 415),
        ("application/xml", 415),
        ("json", 415),
    ],
)
async def test_a_body_is_json_by_its_content_type(content_type: str, status: int) -> None:
    client = Client(b"{}", headers={"Content-Type": content_type})
    await client.post(_reading(10))
    assert client.status == status


async def test_no_body_has_no_content_type() -> None:
    client = Client(b"", headers={"Content-Type": "application/x-www-form-urlencoded"})
    await client.post(_reading(10))
    assert (client.status, client.answer) == (200, 0)


async def test_nobody_is_answered_who_left_while_sending() -> None:
    client = Client()
    await client.post(_reading(10))
    assert client.received == []


async def test_a_refusal_is_told_with_its_facts() -> None:
    client = Client(b"")
    await client.post(_raising(LockLost("Gone.", {"taskId": "t", "holder": "w"})))
    assert client.status == 409
    assert client.answer_headers[b"content-type"] == b"application/problem+json"
    assert client.answer == {
        "type": "urn:fetchlock:problem:lock_lost",
        "title": "The lock is not yours",
        "status": 409,
        "code": "lock_lost",
        "detail": "Gone.",
        "taskId": "t",
        "holder": "w",
    }


async def test_a_refusal_that_passes_says_when() -> None:
    client = Client(b"")
    await client.post(_raising(TooManyRequests("Later.")))
    assert (client.status, client.answer_headers[b"retry-after"]) == (429, b"1")


async def test_a_bug_is_logged_and_not_told() -> None:
    client = Client(b"")
    with capture_logs() as lines:
        await client.post(_raising(ZeroDivisionError("secret")))
    assert [(line["event"], line["exc_info"]) for line in lines] == [("request failed", True)]
    assert (client.status, client.answer["code"]) == (500, "internal")
    assert "secret" not in str(client.received)


def _call(host: str | None, server: tuple[str, int] = ("10.0.0.7", 8080)) -> Call:
    headers = [] if host is None else [(b"host", host.encode())]
    scope = {"headers": headers, "query_string": b"", "scheme": "https", "server": server}
    return Call(scope, Client().receive)


@pytest.mark.parametrize(
    "host",
    [
        *(
            "broker.example.com",
            "broker_1:8080",
            "127.0.0.1:80",
            "[::1]:8080",
            "[fe80::1]",
            "x" * 253,
        ),
    ],
)
def test_the_broker_is_where_the_caller_says(host: str) -> None:
    assert _call(host).base_url == f"https://{host}"


@pytest.mark.parametrize(
    "host",
    [
        *(None, "", "a b", "a/b", "a?b", "a#b", "user@host", "a:b", "a:123456", "a\n", "a:80\n"),
        *("[a/b]", "::1", "höst", "x" * 254, "[::1", "a,b", '"', "<a>"),
    ],
)
def test_the_broker_is_where_it_was_reached_when_the_caller_says_nothing_sound(
    host: str | None,
) -> None:
    assert _call(host).base_url == "https://10.0.0.7:8080"
    assert _call(host, ("::1", 80)).base_url == "https://[::1]:80"


async def test_what_is_as_the_caller_knows_it_has_no_body() -> None:
    async def verb(_call: Call) -> Reply:
        return Reply(304, headers=((b"etag", b'"x"'),))

    client = Client(b"")
    await client.post(Endpoint(verb, "/known", problem))
    assert client.answer_headers == {b"etag": b'"x"'}


async def test_durations_are_counted_by_route_method_and_status() -> None:
    def counted() -> float:
        [metric] = HTTP_REQUEST_DURATION.collect()
        labels = {"route": "/read", "method": "POST", "status": "413"}
        return sum(
            sample.value
            for sample in metric.samples
            if sample.name.endswith("_count") and sample.labels == labels
        )

    before = counted()
    for _ in range(3):
        await Client(b"xx").post(_reading(1))
    assert counted() == before + 3


class Loss:
    """A reply that may not get lost, and whether it was undone."""

    def __init__(self) -> None:
        self.undone = 0
        self.endpoint = Endpoint(self._verb, "/lossy", problem)

    async def _verb(self, call: Call) -> Reply:
        await call.body(100)
        return Reply(200, b'["task"]', if_lost=self._undo)

    async def _undo(self) -> None:
        # Whatever ended the request, there is time for a statement.
        await anyio.lowlevel.checkpoint()
        self.undone += 1


class Leaving(Client):
    """A client that leaves after so many messages of the answer. Until then it says nothing."""

    def __init__(self, messages: int) -> None:
        super().__init__(b"{}")
        self._messages = messages

    async def receive(self) -> Message:
        if self.parts_read == 0:
            return await super().receive()
        if len(self.received) < self._messages:
            await anyio.sleep_forever()
        return DISCONNECT


@pytest.mark.parametrize("messages", [0, 1, 2, 3])
async def test_a_reply_is_undone_if_the_client_left_before_its_end(messages: int) -> None:
    loss = Loss()
    client = Leaving(messages)
    await client.post(loss.endpoint)
    assert loss.undone == 1
    assert all(each.get("more_body", True) for each in client.received)
    assert client.received or not messages
    assert not client.received or messages


async def test_a_reply_is_not_undone_once_it_is_written() -> None:
    loss = Loss()
    client = Leaving(4)
    await client.post(loss.endpoint)
    assert loss.undone == 0
    assert client.answer == ["task"]
    assert client.received[-1].get("more_body", False) is False


async def test_a_reply_is_undone_if_it_cannot_be_written() -> None:
    class Broken(Leaving):
        async def send(self, message: Message) -> None:
            raise OSError("closed")

    loss = Loss()
    with pytest.raises(OSError, match="closed"):
        await Broken(9).post(loss.endpoint)
    assert loss.undone == 1


async def test_a_reply_is_undone_if_the_server_is_cancelled_while_writing() -> None:
    writing = anyio.Event()

    class Stuck(Leaving):
        async def send(self, message: Message) -> None:
            writing.set()
            await anyio.sleep_forever()

    loss = Loss()
    async with anyio.create_task_group() as group:
        group.start_soon(Stuck(9).post, loss.endpoint)
        await writing.wait()
        group.cancel_scope.cancel()
    assert loss.undone == 1

"""Paths, methods, and what operators ask, over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import httpx2
import pytest

from broker.api.app import build_app
from broker.api.native.routes import ROOT
from broker.core import Core
from tests.broker.api.conftest import Serve


@pytest.fixture
async def client(core: Core, serve: Serve) -> AsyncIterator[httpx2.AsyncClient]:
    async with (
        serve(build_app(core)) as port,
        httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}") as opened,
    ):
        yield opened


async def test_health(client: httpx2.AsyncClient, core: Core) -> None:
    assert (await client.get("/livez")).json() == {"status": "alive"}
    assert (await client.get("/readyz")).json() == {"status": "ready"}
    core.begin_shutdown()
    assert (await client.get("/livez")).status_code == 200
    unready = await client.get("/readyz")
    assert unready.status_code == 503
    assert unready.headers["Retry-After"] == "1"
    assert unready.json()["code"] == "unavailable"


async def test_metrics_know_routes_by_their_templates(client: httpx2.AsyncClient) -> None:
    await client.get(f"{ROOT}/some-id")
    await client.get("/made/up/path")
    figures = (await client.get("/metrics")).text
    assert f'method="GET",route="{ROOT}/{{id}}",status="404"' in figures
    assert 'method="GET",route="_unknown",status="404"' in figures
    assert "some-id" not in figures
    assert "made/up" not in figures


async def test_the_document_is_served(client: httpx2.AsyncClient) -> None:
    assert (await client.get("/openapi.json")).json()["openapi"] == "3.1.0"


@pytest.mark.parametrize("path", ["/", "/api", f"{ROOT}/", f"{ROOT}/a/b", f"{ROOT}/a%2Fcomplete"])
async def test_an_unknown_path_is_a_problem(client: httpx2.AsyncClient, path: str) -> None:
    answer = await client.get(path)
    assert answer.status_code in (404, 405)
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["status"] == answer.status_code


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("DELETE", ROOT, "GET, HEAD, POST"),
        ("GET", f"{ROOT}/fetch-and-lock", "POST"),
        # These words are no ids, so this is not a search for the task `complete`.
        ("GET", f"{ROOT}/complete", "POST"),
        ("GET", f"{ROOT}/batch", "POST"),
        ("POST", f"{ROOT}/some-id", "GET, HEAD"),
        ("OPTIONS", f"{ROOT}/some-id/complete", "POST"),
        ("POST", "/livez", "GET, HEAD"),
    ],
)
async def test_a_wrong_method_is_told_the_right_ones(
    client: httpx2.AsyncClient, method: str, path: str, allow: str
) -> None:
    answer = await client.request(method, path)
    assert answer.status_code == 405
    assert answer.json()["code"] == "method_not_allowed"
    assert sorted(answer.headers["Allow"].split(", ")) == allow.split(", ")


async def test_head_is_get_without_the_body(client: httpx2.AsyncClient) -> None:
    answer = await client.head("/livez")
    assert (answer.status_code, answer.content) == (200, b"")


async def test_a_large_body_is_refused_and_the_connection_lives_on(
    client: httpx2.AsyncClient, core: Core
) -> None:
    large = b'{"topic":"t","businessKey":"%b"}' % (b"x" * core.settings.body_bytes_max)

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(large), 65_536):
            yield large[start : start + 65_536]

    for content in (large, pieces()):
        answer = await client.post(
            ROOT, content=content, headers={"Content-Type": "application/json"}
        )
        assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
        assert (await client.get("/livez")).status_code == 200


async def test_a_websocket_is_refused(core: Core) -> None:
    sent = []

    async def receive() -> dict[str, str]:
        return {"type": "websocket.connect"}

    async def send(message: object) -> None:
        sent.append(message)

    await build_app(core)({"type": "websocket", "path": "/", "headers": []}, receive, send)
    assert sent == [{"type": "websocket.close"}]


async def test_parked_polls_end_with_the_broker(client: httpx2.AsyncClient, core: Core) -> None:
    wish = {
        "workerId": "w",
        "maxTasks": 1,
        "lockDurationMs": 10_000,
        "requestTimeoutMs": 60_000,
        "subscriptions": [{"topic": "t"}],
    }
    answers: list[httpx2.Response] = []

    async def poll() -> None:
        answers.append(await client.post(f"{ROOT}/fetch-and-lock", json=wish, timeout=60))

    async with anyio.create_task_group() as group:
        group.start_soon(poll)
        with anyio.fail_after(10):
            while b"fetchlock_http_longpolls 1.0" not in (await client.get("/metrics")).content:
                await anyio.lowlevel.checkpoint()
        core.begin_shutdown()
    [answer] = answers
    assert (answer.status_code, answer.json()) == (200, [])
    assert answer.headers["Connection"] == "close"


async def test_the_template_of_a_path_is_no_path(client: httpx2.AsyncClient) -> None:
    response = await client.get(f"{ROOT}/%7Bid%7D")
    assert (response.status_code, response.json()["code"]) == (404, "task_not_found")

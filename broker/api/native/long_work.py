"""The verbs of long work: heartbeats and what is read of them, hand-overs and their callbacks.

A callback's URL is a capability. Its token is made here, from what the core
tells of the lock, and read here; it must not get into a log line, a metric's
label or an error (see callbacks.py and endpoint.py).
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from broker.api.body import Body
from broker.api.bulk import Bulk
from broker.api.endpoint import Call, Reply
from broker.api.native import long_work_wire as wire
from broker.api.native.callback_bodies import Said, of_event, read_callback
from broker.api.native.parameters import log_page, of_task, of_worker, task_id, worker_id
from broker.api.native.replies import replayed, told
from broker.api.problem import only_result
from broker.core import Core

CALLBACKS: Final = "/api/callbacks"


class LongWork:
    """The verbs over one core."""

    def __init__(self, core: Core) -> None:
        settings = core.settings
        self._core = core
        self._settings = settings
        self._heartbeat = Bulk(wire.Heartbeat, wire.HeartbeatItem, settings)
        self._subtext = Body(wire.Subtext, settings)
        self._callback_url = Body(wire.CallbackUrl, settings)
        self._hand_over = Body(wire.HandOver, settings)
        self._external_event = Body(wire.ExternalEvent, settings)
        self._public_url = settings.public_url and settings.public_url.rstrip("/")

    # News -------------------------------------------------------------------

    async def heartbeat(self, call: Call) -> Reply:
        worker = worker_id(call)
        sifted = self._heartbeat.read(await call.body(self._heartbeat.bytes_max))
        # Also where no task is left: the worker wants to know whether to drain.
        results = await self._core.heartbeat(of_worker(worker, sifted.text))
        drain = b"true" if results.is_to_drain else b"false"
        told_of = sifted.filled_in(results.body)
        return Reply(200, b'{"results":%b,"drain":%b}' % (told_of, drain))

    async def subtext(self, call: Call) -> Reply:
        wish, _ = await call.read(self._subtext)
        await self._core.subtext(task_id(call), wish.subtext)
        return Reply(204)

    async def log_lines(self, call: Call) -> Reply:
        after, limit = log_page(call.query)
        return Reply(200, await self._core.log_lines(task_id(call), after, limit))

    # Hand-over --------------------------------------------------------------

    async def callback_url(self, call: Call) -> Reply:
        _, text = await call.read(self._callback_url)
        result = only_result(await self._core.callback_url(of_task(task_id(call), text)))
        return Reply(200, msgspec.json.encode(self._address(call, result)))

    async def hand_over(self, call: Call) -> Reply:
        _, text = await call.read(self._hand_over)
        result = only_result(await self._core.hand_over(of_task(task_id(call), text)))
        handed = {**self._address(call, result), "state": result["state"]}
        return Reply(200, msgspec.json.encode(handed), replayed("replayed" in result))

    def _address(self, call: Call, result: dict[str, Any]) -> dict[str, str]:
        token = self._core.signer.token(result["id"], result["lockToken"], result["expiresMs"])
        base_url = self._public_url or call.base_url
        return {
            "callbackUrl": f"{base_url}{CALLBACKS}/{token}",
            "expiresAt": result["expiresAt"],
        }

    async def callback(self, call: Call) -> Reply:
        # Before the body is read: nobody needs to listen to what was not asked for.
        addressed = self._core.signer.read(call.parameters["token"])
        body = await call.body(self._settings.body_bytes_max)
        said = read_callback(body, addressed.task_id, self._settings.json_depth_max)
        said.lock_token, said.expires_ms = addressed.lock_token, addressed.expires_ms
        return await self._called_back(addressed.task_id, said)

    async def external_event(self, call: Call) -> Reply:
        event, _ = await call.read(self._external_event)
        return await self._called_back(
            event.task_id, of_event(event, self._settings.json_depth_max)
        )

    async def _called_back(self, task: str, said: Said) -> Reply:
        result = only_result(await self._core.callback(of_task(task, said.text())))
        return told({name: value for name, value in result.items() if value is not None})

    # Workers ----------------------------------------------------------------

    async def drain(self, call: Call) -> Reply:
        await self._core.drain(worker_id(call), is_wished=True)
        return Reply(204)

    async def undrain(self, call: Call) -> Reply:
        await self._core.drain(worker_id(call), is_wished=False)
        return Reply(204)

"""The native dialect's verbs: decode, ask the core, reply. No rule about tasks stands here.

All routes are in the table below; the verbs of long work are in long_work.py.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from broker.api.body import Body
from broker.api.bulk import Bulk
from broker.api.endpoint import Call, Headers, Reply
from broker.api.native import wire
from broker.api.native.long_work import CALLBACKS, LongWork
from broker.api.native.parameters import (
    entity_tag,
    is_known,
    list_filters,
    of_task,
    preferred_wait_s,
    task_id,
    topic,
    with_unique_key,
)
from broker.api.native.replies import done, replayed, told
from broker.api.problem import only_result
from broker.core import Core
from broker.dispatcher import Subscription
from broker.store import NewVariables, Results
from broker.task import API_FINISHED

ROOT: Final = "/api/external-tasks"
WORKERS: Final = "/api/workers"
TOPICS: Final = "/api/topics"

# The order is the router's: the verbs that workers live on come first, and a fixed
# path before one that would take its last word for an id.
ROUTES: Final = (
    ("POST", f"{ROOT}/fetch-and-lock", "fetch_and_lock"),
    ("POST", f"{WORKERS}/{{workerId}}/heartbeat", "heartbeat"),
    ("POST", f"{ROOT}/complete", "complete_batch"),
    ("POST", f"{ROOT}/{{id}}/complete", "complete"),
    ("POST", f"{ROOT}/batch", "create_batch"),
    ("POST", ROOT, "create"),
    ("GET", ROOT, "list_tasks"),
    ("POST", f"{ROOT}/extend-lock", "extend_lock_batch"),
    ("POST", f"{ROOT}/{{id}}/extend-lock", "extend_lock"),
    ("POST", f"{ROOT}/fail", "fail_batch"),
    ("POST", f"{ROOT}/{{id}}/fail", "fail"),
    ("POST", f"{ROOT}/{{id}}/bpmn-error", "bpmn_error"),
    ("POST", f"{ROOT}/{{id}}/unlock", "unlock"),
    ("POST", f"{ROOT}/{{id}}/retry-timeout", "retry_timeout"),
    ("POST", f"{ROOT}/{{id}}/retries", "retries"),
    ("POST", f"{ROOT}/{{id}}/priority", "priority"),
    ("POST", f"{ROOT}/{{id}}/lock", "lock"),
    ("POST", f"{ROOT}/{{id}}/variables", "variables"),
    ("POST", f"{ROOT}/{{id}}/cancel", "cancel"),
    ("GET", f"{ROOT}/{{id}}", "get_task"),
    ("PUT", f"{ROOT}/{{id}}/subtext", "subtext"),
    ("GET", f"{ROOT}/{{id}}/logs", "log_lines"),
    ("POST", f"{ROOT}/{{id}}/callback-url", "callback_url"),
    ("POST", f"{ROOT}/{{id}}/hand-over", "hand_over"),
    ("PUT", f"{CALLBACKS}/{{token}}", "callback"),
    # This path, with its slash, is VibeIQ's.
    ("POST", "/api/external-events/callback/", "external_event"),
    ("PUT", f"{WORKERS}/{{workerId}}/drain", "drain"),
    ("DELETE", f"{WORKERS}/{{workerId}}/drain", "undrain"),
    ("PUT", f"{TOPICS}/{{topic}}/late-work", "late_work"),
    ("DELETE", f"{TOPICS}/{{topic}}/late-work", "forget_late_work"),
)
"""Method, path, and the verb's name, which is its method below."""


class _Created(msgspec.Struct):
    """The one result of a create. The task stays text: not every number in it would survive being
    read. It is absent where a key stood for an earlier task."""

    id: str = ""
    task: msgspec.Raw = msgspec.Raw()
    replayed: bool = False


class _Seen(msgspec.Struct):
    """What of a task says whether to wait for it, and by which id."""

    id: str
    state: str


class _Given(msgspec.Struct):
    """The variables as they came: not every number in them would survive being read."""

    variables: msgspec.Raw


class Native:
    """The verbs over one core."""

    def __init__(self, core: Core) -> None:
        settings = core.settings
        self._core = core
        self._create = Body(wire.Create, settings)
        self._create_batch = Bulk(wire.CreateBatch, wire.Create, settings)
        self._fetch_and_lock = Body(wire.FetchAndLock, settings)
        self._complete = Body(wire.Complete, settings)
        self._complete_batch = Bulk(wire.CompleteBatch, wire.CompleteItem, settings)
        self._fail = Body(wire.Fail, settings)
        self._fail_batch = Bulk(wire.FailBatch, wire.FailItem, settings)
        self._bpmn_error = Body(wire.BpmnError, settings)
        self._extend_lock = Body(wire.ExtendLock, settings)
        self._extend_lock_batch = Bulk(wire.ExtendLockBatch, wire.ExtendLockItem, settings)
        self._unlock = Body(wire.Unlock, settings)
        self._retry_timeout = Body(wire.RetryTimeout, settings)
        self._retries = Body(wire.Retries, settings)
        self._priority = Body(wire.Priority, settings)
        self._lock = Body(wire.Lock, settings)
        self._variables = Body(wire.SetVariables, settings)
        self._late_work = Body(wire.LateWork, settings)
        self._cancel = Body(wire.Cancel, settings)
        # The verbs of long work, with no call in between.
        long_work = LongWork(core)
        self.heartbeat = long_work.heartbeat
        self.subtext = long_work.subtext
        self.log_lines = long_work.log_lines
        self.callback_url = long_work.callback_url
        self.hand_over = long_work.hand_over
        self.callback = long_work.callback
        self.external_event = long_work.external_event
        self.drain = long_work.drain
        self.undrain = long_work.undrain

    # Creating ---------------------------------------------------------------

    async def create(self, call: Call) -> Reply:
        task, text = await call.read(self._create)
        text = with_unique_key(task, text, call.headers.get(b"idempotency-key"))
        results = await self._core.create(f'{{"tasks":[{text}]}}')
        [created] = msgspec.json.decode(results.body, type=list[_Created])
        if results.refused:
            only_result(results)  # Raises what it tells of.
        location = (b"location", f"{ROOT}/{created.id}".encode())
        headers = location, *replayed(created.replayed)
        wait_s = preferred_wait_s(call.headers.get(b"prefer"))
        if wait_s:
            headers = *headers, (b"preference-applied", b"wait=%d" % wait_s)
            finished = await self._core.follow(created.id, wait_s)
            if finished is not None:
                return Reply(200, finished, headers)
        return Reply(202, bytes(created.task) or await self._core.get_task(created.id), headers)

    async def create_batch(self, call: Call) -> Reply:
        return await self._each(call, self._create_batch, self._core.create, status=202)

    # Working ----------------------------------------------------------------

    async def fetch_and_lock(self, call: Call) -> Reply:
        wish, _ = await call.read(self._fetch_and_lock)
        delivery = await self._core.dispatcher.fetch_and_lock(
            wish.worker_id,
            wish.max_tasks,
            wish.request_timeout_ms,
            [_subscription(each, wish.lock_duration_ms) for each in wish.subscriptions],
            call.caller,
        )
        # A stopping server closes idle connections: the worker is told to use another.
        headers: Headers = ((b"connection", b"close"),) if self._core.is_draining else ()
        return Reply(200, delivery.body, headers, if_lost=delivery.give_back)

    async def complete(self, call: Call) -> Reply:
        return done(await self._one(call, self._complete, self._core.complete))

    async def fail(self, call: Call) -> Reply:
        return told(await self._one(call, self._fail, self._core.fail))

    async def bpmn_error(self, call: Call) -> Reply:
        return done(await self._one(call, self._bpmn_error, self._core.bpmn_error))

    async def extend_lock(self, call: Call) -> Reply:
        return told(await self._one(call, self._extend_lock, self._core.extend_lock))

    async def unlock(self, call: Call) -> Reply:
        return done(await self._one(call, self._unlock, self._core.unlock))

    async def complete_batch(self, call: Call) -> Reply:
        return await self._each(call, self._complete_batch, self._core.complete)

    async def fail_batch(self, call: Call) -> Reply:
        return await self._each(call, self._fail_batch, self._core.fail)

    async def extend_lock_batch(self, call: Call) -> Reply:
        return await self._each(call, self._extend_lock_batch, self._core.extend_lock)

    # Operating --------------------------------------------------------------

    async def retry_timeout(self, call: Call) -> Reply:
        wish, _ = await call.read(self._retry_timeout)
        return Reply(200, await self._core.retry_timeout(task_id(call), wish.retry_timeout_ms))

    async def retries(self, call: Call) -> Reply:
        wish, _ = await call.read(self._retries)
        return Reply(200, await self._core.retries([task_id(call)], wish.retries))

    async def priority(self, call: Call) -> Reply:
        wish, _ = await call.read(self._priority)
        return Reply(200, await self._core.priority(task_id(call), wish.priority))

    async def lock(self, call: Call) -> Reply:
        wish, _ = await call.read(self._lock)
        return Reply(
            200, await self._core.lock(task_id(call), wish.worker_id, wish.lock_duration_ms)
        )

    async def variables(self, call: Call) -> Reply:
        wish, text = await call.read(self._variables)
        given = "{}"
        if wish.variables is not None:
            given = bytes(msgspec.json.decode(text, type=_Given).variables).decode()
        await self._core.variables(
            [task_id(call)], NewVariables(given, deletions=wish.deletions or ())
        )
        return Reply(204)

    async def late_work(self, call: Call) -> Reply:
        wish, _ = await call.read(self._late_work)
        await self._core.late_work(self._topic(call), is_accepted=wish.is_accepted)
        return Reply(204)

    async def forget_late_work(self, call: Call) -> Reply:
        await self._core.late_work(self._topic(call), is_accepted=None)
        return Reply(204)

    async def cancel(self, call: Call) -> Reply:
        wish, _ = await call.read(self._cancel)
        return Reply(200, await self._core.cancel(task_id(call), wish.reason))

    def _topic(self, call: Call) -> str:
        return topic(call, self._core.settings.topic_length_max)

    # Reading ----------------------------------------------------------------

    async def get_task(self, call: Call) -> Reply:
        task = await self._core.get_task(task_id(call))
        headers: Headers = ((b"cache-control", b"no-cache"),)
        wait_s = preferred_wait_s(call.headers.get(b"prefer"))
        if wait_s:
            headers = *headers, (b"preference-applied", b"wait=%d" % wait_s)
            seen = msgspec.json.decode(task, type=_Seen)
            if seen.state not in API_FINISHED:
                finished = await self._core.follow(seen.id, wait_s)
                task = finished or await self._core.get_task(seen.id)
        tag = entity_tag(task)
        headers = *headers, (b"etag", tag)
        if is_known(tag, call.headers.get(b"if-none-match")):
            return Reply(304, headers=headers)
        return Reply(200, task, headers)

    async def list_tasks(self, call: Call) -> Reply:
        return Reply(200, await self._core.list_tasks(list_filters(call.query)))

    # What they share --------------------------------------------------------

    async def _one(
        self, call: Call, body: Body[Any], verb: Callable[[str], Awaitable[Results]]
    ) -> dict[str, Any]:
        _, text = await call.read(body)
        return only_result(await verb(of_task(task_id(call), text)))

    async def _each(
        self,
        call: Call,
        bulk: Bulk[Any],
        verb: Callable[[str], Awaitable[Results]],
        status: int = 200,
    ) -> Reply:
        sifted = bulk.read(await call.body(bulk.bytes_max))
        return Reply(status, b'{"results":%b}' % await sifted.results(verb))


def _subscription(wish: wire.Subscription, lock_duration_ms: int) -> Subscription:
    ids, names = wish.process_definition_ids, wish.variables
    return Subscription(
        topic=wish.topic,
        process_definition_ids=None if ids is None else tuple(ids),
        lock_duration_ms=wish.lock_duration_ms or lock_duration_ms,
        variables=None if names is None else tuple(names),
    )

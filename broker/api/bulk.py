"""Bodies that list many tasks, of which a bad one must not fail the others.

A whole body that passes, which is nearly every one, is decoded once and goes
on as it came. Only one that does not pass is looked at item by item: the good
ones go on, and each bad one gets its error in its place of the answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Generic, NamedTuple, TypeVar, get_args

import msgspec
from msgspec import Raw, Struct

from broker.api.body import Body, decode, decoder_of
from broker.api.bounds import bounded
from broker.api.json_text import checked_text, with_surrogates_as_nul
from broker.errors import Invalid
from broker.settings import Settings
from broker.store import Results

S = TypeVar("S", bound=Struct)


class _Named(Struct):
    id: str | None = None


_named = msgspec.json.Decoder(_Named)


class Bulk(Generic[S]):
    """One kind of body with a list of `tasks`, each an `item`."""

    def __init__(self, kind: type[S], item: type[Struct], settings: Settings) -> None:
        self.bytes_max = settings.batch_body_bytes_max
        # Around an item's variables stand the body, its list and the item.
        self._whole = Body(kind, settings, levels=3)
        self._item = Body(item, settings)
        tasks: Any = list[Raw]
        # With the limits that the list of items has.
        [listed] = (each.type for each in msgspec.structs.fields(kind) if each.name == "tasks")
        for mark in get_args(listed)[1:]:
            tasks = Annotated[tasks, mark]
        loose = msgspec.defstruct(kind.__name__, [("tasks", tasks)], bases=(kind,), kw_only=True)
        self._loose: msgspec.json.Decoder[Any] = decoder_of(bounded(loose, settings))

    def read(self, body: bytes) -> Sifted:
        """What of the body may go on, and what of it is refused.

        Raises:
            Invalid: what is wrong is not inside one of the items.
        """
        try:
            return Sifted(self._whole.read(body)[1])
        except Invalid:
            return self._sift(body)

    def _sift(self, body: bytes) -> Sifted:
        request = decode(self._loose, with_surrogates_as_nul(body))
        refused: list[Raw | None] = []
        good: list[Raw] = []
        for place, raw in enumerate(request.tasks):
            try:
                self._item.read(bytes(raw))
            except Invalid as error:
                refused.append(_refusal(error, place, raw))
            else:
                refused.append(None)
                good.append(raw)
        request.tasks = good
        # The members beside the tasks have been decoded, but their text was never looked at.
        text = checked_text(msgspec.json.encode(request), self._whole.depth_max)
        return Sifted(text, refused)


class Sifted(NamedTuple):
    """The body's JSON text with the good items only, and what to answer in each bad one's place."""

    text: str
    refused: list[Raw | None] = []  # noqa: RUF012  # Never changed; empty when all are good.

    async def results(self, verb: Callable[[str], Awaitable[Results]]) -> bytes:
        """The verb's results as a JSON array, one object per item of the body, in order.

        It is not asked about no tasks at all.
        """
        if self.refused and all(self.refused):
            return self.filled_in(b"[]")
        return self.filled_in((await verb(self.text)).body)

    def filled_in(self, results: bytes) -> bytes:
        """The results of the good items, with those of the bad ones between them."""
        if not self.refused:
            return results
        accepted = iter(msgspec.json.decode(results, type=list[Raw]))
        return msgspec.json.encode([next(accepted) if bad is None else bad for bad in self.refused])


def _refusal(error: Invalid, place: int, raw: Raw) -> Raw:
    """The error in the form of the core's results, with its pointer into the whole body."""
    [wrong] = error.facts["errors"]
    pointer = f"/tasks/{place}{wrong['pointer']}"
    told = {
        "code": error.code,
        "detail": f"{pointer}: {wrong['message']}.",
        "errors": [{"pointer": pointer, "message": wrong["message"]}],
    }
    try:
        named = _named.decode(raw).id
    except (msgspec.DecodeError, UnicodeDecodeError):
        named = None
    return Raw(msgspec.json.encode(told if named is None else {"id": named, **told}))

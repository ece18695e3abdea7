"""JSON out: what cannot be said in it is refused here, before anything is sent.

msgspec keeps integers of any size. It has one habit that would corrupt silently:
NaN and the infinities, which JSON cannot say, become null.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import cast

import msgspec


def encode(body: object) -> bytes:
    """The body as JSON text. Raises TypeError or ValueError for what JSON cannot say."""
    try:
        text = msgspec.json.encode(body)
    except RecursionError:
        raise ValueError("the variables are nested too deeply, or contain themselves") from None
    # A NaN can only hide behind a null, so the slow look happens to few bodies.
    if b"null" in text:
        # Nothing but a Raw gets as far as the hook: it is text already, looked at when it was made.
        _refuse_nan(msgspec.to_builtins(body, enc_hook=lambda raw: None))
    return text


def _refuse_nan(value: object) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"JSON has no {value}")
    if isinstance(value, Mapping):
        value = cast("Mapping[str, object]", value).values()
    if isinstance(value, Iterable) and not isinstance(value, str):
        for inner in cast("Iterable[object]", value):
            _refuse_nan(inner)

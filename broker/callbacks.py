"""Callback URLs: what their tokens say, and that a broker of this database has said it.

A token is a capability: whoever has it may end one attempt of one task, once,
without an account. It holds the task's id, the token of the lock that was
handed over, and until when it is good, signed with a key that only the
database has. So nothing need be looked up to refuse what nobody has signed.

Must never do: judge the time, because only PostgreSQL's clock counts; or tell
in an error what it was given, because that may be the secret of another.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import struct
from collections.abc import Sequence
from typing import Final, NamedTuple
from uuid import UUID

from broker.errors import Forbidden

_PURPOSE: Final = b"fetchlock callback\0"
"""Signed with the rest, so that no signature made for anything else is one for a callback."""

_SAID: Final = struct.Struct(">16s16sQ")
_SIGNATURE_BYTES: Final = hashlib.sha256().digest_size
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{96}")
"""Said and signature are 72 bytes: a multiple of three, so that each token has one form only."""


class Callback(NamedTuple):
    """What a token stands for: one attempt of one task, until then."""

    task_id: str
    lock_token: str
    expires_ms: int
    """Unix epoch."""


class Signer:
    """Makes and reads the tokens. The first of the keys signs, all of them verify."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        assert keys, "the migration makes the first key"
        self._keys = tuple(keys)

    def token(self, task_id: str, lock_token: str, expires_ms: int) -> str:
        """The token of one attempt. Said again, it is the same."""
        said = _SAID.pack(UUID(task_id).bytes, UUID(lock_token).bytes, expires_ms)
        return base64.urlsafe_b64encode(said + _signature(self._keys[0], said)).decode()

    def read(self, token: str) -> Callback:
        """What the token stands for.

        Raises:
            Forbidden: no key of this database has signed it.
        """
        # Decoding passes over characters that are not of its alphabet.
        if not _TOKEN.fullmatch(token):
            raise _forged()
        signed = base64.urlsafe_b64decode(token)
        said, signature = signed[:-_SIGNATURE_BYTES], signed[-_SIGNATURE_BYTES:]
        # All keys, whichever fits: how long this takes tells nothing of them.
        fits = [hmac.compare_digest(_signature(key, said), signature) for key in self._keys]
        if not any(fits):
            raise _forged()
        task_id, lock_token, expires_ms = _SAID.unpack(said)
        return Callback(str(UUID(bytes=task_id)), str(UUID(bytes=lock_token)), expires_ms)


def _signature(key: bytes, said: bytes) -> bytes:
    return hmac.digest(key, _PURPOSE + said, "sha256")


def _forged() -> Forbidden:
    return Forbidden("This is no callback URL of this broker.")

"""Tokens: what was signed is read back, and nothing else is."""

from __future__ import annotations

import base64
import hashlib
import hmac
import string
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.callbacks import Callback, Signer
from broker.errors import Forbidden

TASK_ID = "019aa5f0-7c1e-7b44-9d2a-3f5c8e1b6a01"
LOCK_TOKEN = "5b1f0c9e-3d52-4c0e-8a37-0c6c1f8e2d11"
EXPIRES_MS = 1_795_431_600_123
OLD, NEW, FOREIGN = Signer([b"old"]), Signer([b"new", b"old"]), Signer([b"foreign"])
TOKEN = OLD.token(TASK_ID, LOCK_TOKEN, EXPIRES_MS)
ALPHABET = string.ascii_letters + string.digits + "-_"


@given(st.uuids(), st.uuids(), st.integers(0, 2**63 - 1))
def test_what_was_signed_is_read_back(
    task_id: uuid.UUID, lock_token: uuid.UUID, expires_ms: int
) -> None:
    token = OLD.token(str(task_id), str(lock_token), expires_ms)
    assert OLD.read(token) == Callback(str(task_id), str(lock_token), expires_ms)


def test_a_token_is_the_same_each_time_and_fits_into_a_path() -> None:
    assert OLD.token(TASK_ID.upper(), LOCK_TOKEN, EXPIRES_MS) == TOKEN
    assert set(TOKEN) <= set(ALPHABET)


def test_all_keys_verify_and_the_first_signs() -> None:
    assert NEW.read(TOKEN).task_id == TASK_ID
    token = NEW.token(TASK_ID, LOCK_TOKEN, EXPIRES_MS)
    assert token == Signer([b"new"]).token(TASK_ID, LOCK_TOKEN, EXPIRES_MS)
    with pytest.raises(Forbidden):
        OLD.read(token)
    with pytest.raises(Forbidden):
        FOREIGN.read(TOKEN)


@given(st.integers(0, len(TOKEN) - 1), st.sampled_from(ALPHABET))
def test_a_token_with_one_other_character_is_forged(place: int, character: str) -> None:
    changed = TOKEN[:place] + character + TOKEN[place + 1 :]
    if changed != TOKEN:
        with pytest.raises(Forbidden):
            OLD.read(changed)


@pytest.mark.parametrize(
    "token",
    [
        *("", "x", "=" * 96, TOKEN[:-1], TOKEN + "A", TOKEN + "====", TOKEN + "\n", f" {TOKEN}"),
        *(f"{TOKEN[:50]}.{TOKEN[50:]}", TOKEN.replace(TOKEN[0], "é", 1), "A" * 96, "\0" * 96),
        # As the standard alphabet writes it.
        base64.b64encode(b"\xfb\xff" * 36).decode(),
    ],
)
def test_there_is_one_form_of_a_token(token: str) -> None:
    with pytest.raises(Forbidden):
        OLD.read(token)


@given(st.text())
def test_any_other_text_is_forged_and_not_repeated(token: str) -> None:
    with pytest.raises(Forbidden) as raised:
        OLD.read(token)
    assert raised.value.detail == "This is no callback URL of this broker."
    assert raised.value.facts == {}


def test_a_signature_made_for_something_else_is_none_for_a_callback() -> None:
    # What is signed begins with what it is for.
    said = base64.urlsafe_b64decode(TOKEN)[:40]
    for made in (hmac.digest(b"old", said, "sha256"), hashlib.sha256(b"old" + said).digest()):
        with pytest.raises(Forbidden):
            OLD.read(base64.urlsafe_b64encode(said + made).decode())


def test_keys_are_not_shown() -> None:
    assert "old" not in repr(OLD)

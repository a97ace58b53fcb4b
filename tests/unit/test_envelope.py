from __future__ import annotations

import itertools
import os
import traceback
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudpush.credentials.envelope import Binding, Envelope, decrypt, encrypt, read_envelope
from cloudpush.errors import Code, CredentialError

BINDING = Binding("ada", UUID(int=1), "access_key")
KEY = bytes(range(32))
WRAPPED = "vault:v3:" + "QUJD" * 20
PLAINTEXT = b'{"secret_access_key":"canary"}'


def sealed() -> dict[str, Any]:
    return dict(encrypt(PLAINTEXT, KEY, WRAPPED, BINDING).stored())


def opened(stored: dict[str, Any], binding: Binding = BINDING, key: bytes = KEY) -> bytes | Code:
    try:
        return decrypt(read_envelope(stored, binding), key, binding)
    except CredentialError as e:
        return e.code if "canary" not in "".join(traceback.format_exception(e)) else b"told"


def test_what_was_sealed_is_what_is_unsealed() -> None:
    """The plaintext comes back under the binding that it was sealed for."""
    assert opened(sealed()) == PLAINTEXT


def test_stored_form_shows_nothing_of_the_plaintext_or_the_key() -> None:
    """What is stored is the five fields, and no byte of secret in them."""
    stored = sealed()

    assert (sorted(stored), stored["v"], stored["kind"], stored["wrapped"]) == (
        ["ciphertext", "kind", "nonce", "v", "wrapped"],
        1,
        "access_key",
        WRAPPED,
    )
    assert "canary" not in str(stored)


def test_same_secret_sealed_twice_shares_neither_nonce_nor_ciphertext() -> None:
    """Nobody can tell equal secrets by their envelopes."""
    first, second = sealed(), sealed()

    assert (first["nonce"] == second["nonce"], first["ciphertext"] == second["ciphertext"]) == (False, False)


@pytest.mark.parametrize(
    "other",
    [
        Binding("eve", UUID(int=1), "access_key"),
        Binding("ada", UUID(int=2), "access_key"),
        Binding("ada", UUID(int=1), "oauth_grant"),
    ],
    ids=["owner", "id", "kind"],
)
def test_envelope_is_corrupt_under_any_other_binding(other: Binding) -> None:
    """Giving a blob to another owner, id or kind does not open it, even where the stored kind is edited too."""
    assert opened(sealed() | {"kind": other.kind}, other) is Code.CREDENTIAL_CORRUPT


@given(st.data())
def test_envelope_with_any_character_changed_is_corrupt(data: st.DataObject) -> None:
    """No character of nonce or ciphertext is without meaning."""
    stored = sealed()
    field = data.draw(st.sampled_from(["nonce", "ciphertext"]))
    at = data.draw(st.integers(0, len(stored[field]) - 1))
    other = data.draw(st.characters(min_codepoint=33, max_codepoint=126).filter(lambda c: c != stored[field][at]))
    stored[field] = stored[field][:at] + other + stored[field][at + 1 :]

    assert opened(stored) is Code.CREDENTIAL_CORRUPT


@pytest.mark.parametrize(
    "change",
    [
        {"v": 2},
        {"v": "1"},
        {"v": True},
        {"kind": "oauth_grant"},
        {"wrapped": "vault:v0:QUJD"},
        {"wrapped": "v3:QUJD"},
        {"wrapped": None},
        {"nonce": ""},
        {"nonce": "QUJD"},
        {"ciphertext": ""},
        {"ciphertext": ["x"]},
        {"extra": "x"},
    ],
    ids=str,
)
def test_envelope_with_a_wrong_field_is_corrupt(change: dict[str, object]) -> None:
    """A field of another type, format or length is told as corruption, never as a crash."""
    assert opened(sealed() | change) is Code.CREDENTIAL_CORRUPT


@pytest.mark.parametrize("field", ["v", "kind", "wrapped", "nonce", "ciphertext"])
def test_envelope_without_a_field_is_corrupt(field: str) -> None:
    """Every field is needed."""
    assert opened({k: v for k, v in sealed().items() if k != field}) is Code.CREDENTIAL_CORRUPT


@pytest.mark.parametrize("key", [os.urandom(32), b"", b"short"], ids=["other", "empty", "short"])
def test_envelope_is_corrupt_under_any_other_key(key: bytes) -> None:
    """A wrong data key, or what is none, opens nothing."""
    assert opened(sealed(), key=key) is Code.CREDENTIAL_CORRUPT


def test_no_two_bindings_share_their_associated_data() -> None:
    """Fields cannot flow into each other, wherever one ends and the next begins."""
    texts, ids = ("", "a", "aa", "aaa", "\x00"), (UUID(bytes=b"a" * 16), UUID(int=0))
    bindings = [Binding(*fields) for fields in itertools.product(texts, ids, texts)]

    assert len({b.associated_data() for b in bindings}) == len(bindings)


def test_rewrapped_envelope_keeps_its_ciphertext() -> None:
    """Rewrapping changes the wrapped key, its version, and nothing else."""
    envelope = encrypt(PLAINTEXT, KEY, WRAPPED, BINDING)

    rewrapped = envelope.rewrapped("vault:v4:QUJD")

    assert (rewrapped, rewrapped.key_version) == (
        Envelope("access_key", "vault:v4:QUJD", envelope.nonce, envelope.ciphertext),
        4,
    )

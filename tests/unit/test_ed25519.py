"""Signatures and public keys."""

from __future__ import annotations

import itertools
import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cloudpush.credentials.ed25519 import (
    PublicKey,
    jwk_of,
    kid_of,
    pem_of,
    read_public_key,
    verify,
)
from cloudpush.errors import InputError
from cloudpush.push.trust.base64url import from_base64url, to_base64url

#: RFC 8037, appendix A.
RFC = from_base64url("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo", 32)
#: RFC 8032's order of the base point: adding it to a signature's scalar gives another text of the same signature.
ORDER = 2**252 + 27742317777372353535851937790883648493


def test_a_key_s_name_is_its_rfc_7638_thumbprint() -> None:
    assert kid_of(RFC) == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


def test_a_signature_holds_for_its_text_and_its_key_only() -> None:
    ours, others = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    public, signature = ours.public_key().public_bytes_raw(), ours.sign(b"text")

    assert verify(public, signature, b"text")
    assert not verify(public, signature, b"Text")
    assert not verify(others.public_key().public_bytes_raw(), signature, b"text")
    assert not verify(public, signature[:-1], b"text")
    assert not verify(public[:-1], signature, b"text")


def test_a_signature_has_one_form() -> None:
    ours = Ed25519PrivateKey.generate()
    signature = ours.sign(b"text")
    other = signature[:32] + (int.from_bytes(signature[32:], "little") + ORDER).to_bytes(32, "little")

    assert not verify(ours.public_key().public_bytes_raw(), other, b"text")


@pytest.mark.parametrize(
    "text",
    [
        pem_of(RFC).encode(),
        json.dumps(jwk_of(RFC)).encode(),
        json.dumps({"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB"}, jwk_of(RFC), jwk_of(RFC)]}).encode(),
        b"a comment\n" + pem_of(RFC).encode() * 2,
    ],
    ids=["PEM", "JWK", "JWKS", "PEMs"],
)
def test_keys_are_read_as_they_are_written(text: bytes) -> None:
    assert read_public_key(text) == [PublicKey(kid_of(RFC), RFC)]


def test_several_keys_are_all_read() -> None:
    other = Ed25519PrivateKey.generate().public_key().public_bytes_raw()

    assert [key.raw for key in read_public_key((pem_of(RFC) + pem_of(other)).encode())] == [RFC, other]


def _x25519() -> bytes:
    return X25519PrivateKey.generate().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "neither PEM nor JSON"),
        (b"[]", "no JWK"),
        (b'{"keys": {}}', "no JWKS"),
        (b'{"keys": []}', "no Ed25519 public key"),
        (b"[" * 100_000, "neither PEM nor JSON"),
        (b" " * 1_100_000, "longer than"),
        (b"-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----", "no Ed25519 public key"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", "does not decode"),
        (_x25519(), "of another kind"),
        (json.dumps(jwk_of(RFC) | {"crv": "X25519"}).encode(), "no JWK of an Ed25519 key"),
        (json.dumps(jwk_of(RFC) | {"x": to_base64url(RFC) + "="}).encode(), "32 bytes"),
        (json.dumps(jwk_of(RFC) | {"x": to_base64url(RFC[:31])}).encode(), "32 bytes"),
        (json.dumps(jwk_of(RFC) | {"kid": "mine"}).encode(), "thumbprint"),
    ],
    ids=map(str, itertools.count()),
)
def test_what_is_no_public_key_is_refused(text: bytes, why: str) -> None:
    with pytest.raises(InputError, match=why):
        read_public_key(text)


@pytest.mark.parametrize("text", ["AQI", "AQ==", "AR", "A+", "A\u00e9", " AQ", "AQ\n", ""])
def test_base64url_that_is_not_its_bytes_own_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"base64|padding|ASCII|ascii|characters"):
        from_base64url(text, 1)

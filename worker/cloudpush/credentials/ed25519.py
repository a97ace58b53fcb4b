"""Ed25519: checks signatures, and reads and writes public keys. Offline, and without a secret.

A key is called by its thumbprint (RFC 7638), which is its ``kid``: whoever has the key can compute its name, so no name
can be given to another key.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from cloudpush.errors import Code, InputError
from cloudpush.push.trust.base64url import from_base64url, to_base64url

KEY_BYTES = 32
SIGNATURE_BYTES = 64
#: A file of keys is small: what is longer is another file.
MOST_BYTES = 1024 * 1024

_PEM = re.compile(rb"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key: its name, which follows from it, and its 32 bytes."""

    kid: str
    raw: bytes


def verify(public: bytes, signature: bytes, text: bytes) -> bool:
    """Whether ``signature`` is that of ``text`` by ``public``, 32 bytes."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, text)
    except (InvalidSignature, ValueError):
        return False
    return True


def read_public_key(text: bytes) -> list[PublicKey]:
    """The Ed25519 keys in ``text``: PEM, one or more; a JWK; or a JWKS, whose keys of other kinds are passed over.

    Raises InputError BAD_INPUT where there is none, or one that is not as it should be.
    """
    if len(text) > MOST_BYTES:
        raise _bad(f"it is longer than {MOST_BYTES:,} bytes")
    raws = list(_pems(text) if b"-----BEGIN" in text else _jwks(text))
    if not raws:
        raise _bad("there is no Ed25519 public key in it")
    return [PublicKey(kid_of(raw), raw) for raw in dict.fromkeys(raws)]


def kid_of(raw: bytes) -> str:
    """The key's RFC 7638 thumbprint."""
    members = json.dumps({"crv": "Ed25519", "kty": "OKP", "x": to_base64url(raw)}, separators=(",", ":"))
    return to_base64url(hashlib.sha256(members.encode()).digest())


def jwk_of(raw: bytes) -> dict[str, str]:
    """The key as a JWK (RFC 8037)."""
    return {"kty": "OKP", "crv": "Ed25519", "x": to_base64url(raw), "kid": kid_of(raw), "use": "sig", "alg": "EdDSA"}


def pem_of(raw: bytes) -> str:
    """The key as PEM, SubjectPublicKeyInfo."""
    key = Ed25519PublicKey.from_public_bytes(raw)
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def _pems(text: bytes) -> Iterator[bytes]:
    for block in _PEM.findall(text):
        try:
            key = load_pem_public_key(block)
        except (ValueError, UnsupportedAlgorithm) as e:
            raise _bad("a PEM block in it does not decode") from e
        if not isinstance(key, Ed25519PublicKey):
            raise _bad("a key in it is of another kind")
        yield key.public_bytes_raw()


def _jwks(text: bytes) -> Iterator[bytes]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise _bad("it is neither PEM nor JSON") from e
    if not isinstance(document, dict):
        raise _bad("it is no JWK and no JWKS")
    if "keys" not in document:
        yield _jwk(document)
        return
    if not isinstance(document["keys"], list):
        raise _bad("it is no JWKS")
    for key in document["keys"]:
        if isinstance(key, dict) and (key.get("kty"), key.get("crv")) == ("OKP", "Ed25519"):
            yield _jwk(key)


def _jwk(key: dict[str, Any]) -> bytes:
    if (key.get("kty"), key.get("crv")) != ("OKP", "Ed25519") or not isinstance(key.get("x"), str):
        raise _bad("it is no JWK of an Ed25519 key")
    try:
        raw = from_base64url(key["x"], KEY_BYTES)
    except ValueError as e:
        raise _bad("the x of a key in it is not the base64url of 32 bytes") from e
    if "kid" in key and key["kid"] != kid_of(raw):
        raise _bad("the kid of a key in it is not its thumbprint (RFC 7638)")
    return raw


def _bad(why: str) -> InputError:
    return InputError(Code.BAD_INPUT, f"the public key cannot be read: {why}.", field="key")

"""The envelope: a secret under a data key, the data key under Vault's Transit key.

::

    data key    256 bits, made by Transit for this one credential; wrapped by the Transit key
    ciphertext  AES-256-GCM(data key, nonce, plaintext, associated data)
    bound       format version, owner, credential id, kind: a blob decrypts under its own name only
    stored      {v, kind, wrapped, nonce, ciphertext}, nothing of it a secret without Transit

Pure functions: the way to Vault is ``vault.py``.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cloudpush.errors import Code, CredentialError

VERSION = 1
KEY_BITS = 256
NONCE_BYTES = 12  # the 96 bits that GCM is specified for; a data key encrypts once, so a random one never repeats
_WRAPPED = re.compile(r"vault:v([1-9][0-9]{0,8}):[A-Za-z0-9+/]+={0,2}")


@dataclass(frozen=True, slots=True)
class Binding:
    """Whose secret this is. What is bound cannot be changed in Postgres or swapped in Vault unnoticed."""

    owner: str
    credential_id: UUID
    kind: str

    def associated_data(self) -> bytes:
        """The binding as bytes; each field carries its length, so no two bindings share them."""
        fields = (b"cloudpush-credential", str(VERSION).encode(), self.owner.encode(), self.credential_id.bytes)
        return b"".join(len(f).to_bytes(4, "big") + f for f in (*fields, self.kind.encode()))

    def corrupt(self, why: str) -> CredentialError:
        """The error of a blob that is not this credential."""
        return CredentialError(Code.CREDENTIAL_CORRUPT, f"Credential {self.credential_id} {why}.")


@dataclass(frozen=True, slots=True)
class Envelope:
    """What Vault's KV store holds of a credential."""

    kind: str
    wrapped: str  # the data key as Transit wraps it: vault:vN:BASE64
    nonce: bytes
    ciphertext: bytes

    @property
    def key_version(self) -> int:
        """The version of the Transit key that wraps the data key."""
        return key_version(self.wrapped)

    def rewrapped(self, wrapped: str) -> Envelope:
        """The same ciphertext; its data key wrapped anew."""
        return replace(self, wrapped=wrapped)

    def stored(self) -> dict[str, str | int]:
        """The fields as KV stores them."""
        return {
            "v": VERSION,
            "kind": self.kind,
            "wrapped": self.wrapped,
            "nonce": base64.b64encode(self.nonce).decode(),
            "ciphertext": base64.b64encode(self.ciphertext).decode(),
        }


def key_version(wrapped: str) -> int:
    """``N`` of ``vault:vN:…``. Raises ValueError for anything else."""
    match = _WRAPPED.fullmatch(wrapped)
    if match is None:
        raise ValueError("not a wrapped data key")
    return int(match[1])


def read_envelope(stored: Mapping[str, object], binding: Binding) -> Envelope:
    """The envelope that KV returned for ``binding``. Raises CredentialError (corrupt)."""
    match dict(stored):
        case {
            "v": int(version),
            "kind": str(kind),
            "wrapped": str(wrapped),
            "nonce": str(nonce),
            "ciphertext": str(ciphertext),
            **rest,
        } if not rest:
            pass
        case _:
            raise binding.corrupt("lacks a field of its envelope, or has one too many")
    if version != VERSION or isinstance(version, bool):
        raise binding.corrupt(f"is sealed in format {version}, which this version of CloudPush does not know")
    if kind != binding.kind:
        raise binding.corrupt("is sealed as another kind than its record says")
    try:
        key_version(wrapped)
        return Envelope(kind, wrapped, _from_base64(nonce), _from_base64(ciphertext))
    except ValueError:
        raise binding.corrupt("has a damaged envelope") from None


def _from_base64(text: str) -> bytes:
    """Strict: one text for each value. Raises ValueError."""
    try:
        value = base64.b64decode(text, validate=True)
    except binascii.Error:
        raise ValueError("not base64") from None
    if base64.b64encode(value).decode() != text:
        raise ValueError("not canonical base64")
    return value


def encrypt(plaintext: bytes, key: bytes, wrapped: str, binding: Binding) -> Envelope:
    """Seal ``plaintext`` with a data key that is used this once."""
    nonce = os.urandom(NONCE_BYTES)
    return Envelope(binding.kind, wrapped, nonce, AESGCM(key).encrypt(nonce, plaintext, binding.associated_data()))


def decrypt(envelope: Envelope, key: bytes, binding: Binding) -> bytes:
    """The plaintext. Raises CredentialError (corrupt) where a byte, the key or the binding differs."""
    try:
        return AESGCM(key).decrypt(envelope.nonce, envelope.ciphertext, binding.associated_data())
    except (InvalidTag, ValueError):  # ValueError: a key or nonce of a length that AES-GCM does not take
        raise binding.corrupt("does not decrypt under its own name: it was damaged, swapped or given away") from None

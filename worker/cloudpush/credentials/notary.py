"""What the notary does in Vault: signing what auditors are given, and remembering the newest checkpoint.

The private key is made in Vault Transit (Ed25519) and never leaves it. The anchor is one KV v2 entry, ``anchors/checkpoint``:
who owns Postgres but not Vault cannot take it back, so a record that was cut short or restored to an older state is found.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from cloudpush.credentials.connection import Absent, Rejected, VaultConnection
from cloudpush.credentials.ed25519 import KEY_BYTES, SIGNATURE_BYTES, kid_of
from cloudpush.errors import Code, VaultError
from cloudpush.push.trust.checkpoints import Anchored

#: Texts that Vault signs in one request; more are signed in several.
BATCH = 256
ANCHOR = "anchors/checkpoint"


@dataclass(frozen=True, slots=True)
class Signed:
    """Signatures, raw, in the order of the texts, and the version of the key that made them all."""

    signatures: list[bytes]
    version: int


@dataclass(frozen=True, slots=True)
class AuditKey:
    """One version of a key. ``raw``: the public key, 32 bytes; ``kid``: its thumbprint (RFC 7638)."""

    version: int
    raw: bytes
    kid: str
    made_at: datetime


class Signer:
    """Signs with an Ed25519 key of Transit (any role that may), and says what its public keys are. Thread-safe."""

    def __init__(self, connection: VaultConnection, key: str) -> None:
        """``key``: its name in Transit, such as ``settings.vault_audit_key``."""
        self._connection = connection
        self._key = key

    def sign(self, texts: Sequence[bytes]) -> Signed:
        """Sign each text with the newest version of the key. Raises VaultError."""
        signatures: list[bytes] = []
        version: int | None = None
        for start in range(0, len(texts), BATCH):
            answered = self._sign(texts[start : start + BATCH], version)
            for words in answered:
                told, signature = _read_signature(words, self._key)
                version = told if version is None else version
                signatures.append(signature)
        if len(signatures) != len(texts) or version is None:
            raise VaultError(Code.VAULT_DENIED, f"Vault signed {len(signatures)} of {len(texts)} texts.")
        return Signed(signatures, version)

    def _sign(self, texts: Sequence[bytes], version: int | None) -> list[str]:
        batch = [{"input": base64.b64encode(text).decode()} for text in texts]
        answer = self._connection.run(
            lambda vault: vault.secrets.transit.sign_data(
                self._key,
                batch_input=batch,
                key_version=version,
                mount_point=self._connection.settings.vault_transit_mount,
            )
        )
        return [str(result.get("signature", "")) for result in answer.get("batch_results", [])]

    def keys(self) -> list[AuditKey]:
        """Every version that is still there, oldest first; at least one. Raises VaultError."""
        answer = self._connection.run(
            lambda vault: vault.secrets.transit.read_key(
                self._key, mount_point=self._connection.settings.vault_transit_mount
            )
        )
        try:
            found = sorted((int(version), made) for version, made in answer["keys"].items())
            keys = [_read_key(version, made) for version, made in found]
        except (KeyError, TypeError, ValueError, AttributeError):
            keys = []
        if not keys:
            raise VaultError(
                Code.VAULT_DENIED, f"The Transit key {self._key!r} signs nothing here: it must be of type ed25519."
            )
        return keys


class Anchor:
    """The newest checkpoint, as Vault remembers it. It only moves forward."""

    def __init__(self, connection: VaultConnection) -> None:
        self._connection = connection

    def read(self) -> Anchored | None:
        """What was remembered last; None before the first checkpoint. Raises VaultError."""
        return self._read()[0]

    def move(self, to: Anchored) -> Anchored:
        """Remember ``to`` unless something newer is remembered; returns what is there now. Raises VaultError.

        Of two notaries at once only one gets through: the write holds for the version that was read.
        """
        while True:
            there, version = self._read()
            if there is not None and there.number >= to.number:
                return there
            try:
                self._connection.run(
                    lambda vault, version=version: vault.secrets.kv.v2.create_or_update_secret(  # type: ignore[misc]
                        ANCHOR, asdict(to), cas=version, mount_point=self._connection.settings.vault_kv_mount
                    )
                )
            except Rejected:
                if self._read()[1] == version:
                    raise  # not somebody else's write that came between
            else:
                return to

    def _read(self) -> tuple[Anchored | None, int]:
        try:
            found = self._connection.run(
                lambda vault: vault.secrets.kv.v2.read_secret_version(
                    ANCHOR, mount_point=self._connection.settings.vault_kv_mount, raise_on_deleted_version=False
                )
            )
        except Absent:
            return None, 0
        version = int(found["metadata"]["version"])
        # Without data: an operator deleted this version, which the role itself cannot.
        return (_read_anchor(found["data"]) if found["data"] else None), version


def _read_key(version: int, made: Mapping[str, str]) -> AuditKey:
    raw = base64.b64decode(made["public_key"], validate=True)
    if len(raw) != KEY_BYTES:
        raise ValueError
    return AuditKey(version, raw, kid_of(raw), datetime.fromisoformat(made["creation_time"]))


def _read_signature(words: str, key: str) -> tuple[int, bytes]:
    """``vault:v<version>:<base64>``."""
    try:
        _, version, text = words.split(":")
        signature = base64.b64decode(text, validate=True)
        told = int(version.removeprefix("v"))
    except (ValueError, binascii.Error):
        signature, told = b"", 0
    if len(signature) != SIGNATURE_BYTES:
        raise VaultError(Code.VAULT_DENIED, f"The Transit key {key!r} makes no Ed25519 signatures.")
    return told, signature


def _read_anchor(data: Mapping[str, Any]) -> Anchored:
    try:
        return Anchored(int(data["number"]), str(data["sha256"]), int(data["last_id"]), int(data["events"]))
    except (KeyError, TypeError, ValueError):
        raise VaultError(
            Code.VAULT_DENIED, f"What Vault has under {ANCHOR} is no checkpoint: somebody else wrote it."
        ) from None

"""Receipts as an installation would issue them, signed with a key of the tests' own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloudpush.credentials.ed25519 import kid_of, verify
from cloudpush.push.trust.canonical import canonical
from cloudpush.push.trust.receipts import Facts, Summary, document, make_statement, to_sign

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
PUSH = "3c0e0000-0000-4000-8000-000000000001"
KEY = "7a1d0000-0000-4000-8000-000000000002"


class Notary:
    """Signs as Vault does. ``versions``: its keys, the newest last."""

    def __init__(self) -> None:
        self.versions: list[Ed25519PrivateKey] = []
        self.rotate()
        self.calls = 0
        self.rotates_in_mid_call = 0

    def rotate(self) -> None:
        """A new version of the key."""
        self.versions.append(Ed25519PrivateKey.generate())

    def keys(self) -> Sequence[AKey]:
        """Every version."""
        return [AKey(n, k.public_key().public_bytes_raw()) for n, k in enumerate(self.versions, 1)]

    def sign(self, texts: Sequence[bytes]) -> Signatures:
        """With the newest."""
        self.calls += 1
        if self.rotates_in_mid_call:
            self.rotates_in_mid_call -= 1
            self.rotate()
        return Signatures([self.versions[-1].sign(text) for text in texts], len(self.versions))

    @property
    def trusted(self) -> dict[str, bytes]:
        """What a reader has: thumbprint → key."""
        return {key.kid: key.raw for key in self.keys()}


@dataclass(frozen=True)
class AKey:
    version: int
    raw: bytes

    @property
    def kid(self) -> str:
        return kid_of(self.raw)


@dataclass(frozen=True)
class Signatures:
    signatures: Sequence[bytes]
    version: int


def a_file(seq: int, **changes: Any) -> dict[str, Any]:
    """A file's object."""
    made: dict[str, Any] = {
        "error_code": None,
        "etag": "d41d8cd98f00b204e9800998ecf8427e",
        "expected": "md5:d41d8cd98f00b204e9800998ecf8427e",
        "key": f"runs/7/f{seq}",
        "mtime_ns": "1767225600000000000",
        "path": f"f{seq}",
        "seq": seq,
        "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "size": 10,
        "state": "verified",
        "strength": "checksum",
        "uploaded_at": "2026-03-01T11:59:00.000000Z",
        "version_id": None,
    }
    return made | changes


def some_facts(**push: Any) -> Facts:
    """A push of two files that succeeded."""
    made: dict[str, Any] = {
        "id": PUSH,
        "owner": "mara",
        "actor": "pipeline",
        "source": "/data/runs/7",
        "uri": "s3://results/runs/7/",
        "bucket": "results",
        "prefix": "runs/7/",
        "profile": "aws",
        "min_strength": "checksum",
        "overwrite": "never",
        "include": [],
        "exclude": ["*.tmp"],
        "labels": {"project": "Größe"},
        "package": "",
        "retry_of": None,
        "manifest_sha256": None,
        "state": "succeeded",
        "strength": "checksum",
        "created_at": NOON,
        "started_at": NOON,
        "planned_at": NOON,
        "finished_at": NOON,
        "uploaded_at": NOON,
        "parts_total": 1,
        "files_total": 2,
        "files_verified": 2,
        "files_skipped": 0,
        "files_unverified": 0,
        "files_failed": 0,
        "bytes_total": 20,
        "bytes_verified": 20,
        "error_code": None,
        "attempt": 1,
    }
    credential: dict[str, Any] = {
        "id": KEY,
        "kind": "access_key",
        "owner": "mara",
        "grant": None,
        "provider": None,
        "renewals": [],
    }
    return Facts(made | push, credential, {"stream": PUSH, "seq": 5, "hash": bytes(range(32))})


def a_receipt(
    notary: Notary, files: Sequence[dict[str, Any]] | None = None, *, with_files: bool = True, **push: Any
) -> bytes:
    """A whole document."""
    listed = [a_file(1), a_file(2)] if files is None else files
    lines = [canonical(file) for file in listed]
    summary = Summary()
    for file, line in zip(listed, lines, strict=True):
        summary.add(line, file["state"], file["size"])
    return signed(notary, some_facts(**push), summary.told(), lines if with_files else None)


def signed(notary: Notary, facts: Facts, told: dict[str, Any], lines: Sequence[bytes] | None) -> bytes:
    """A document with this summary of its files, whatever they are."""
    key = notary.keys()[-1]
    statement = make_statement(facts, told, issuer="https://push.example", kid=key.kid, at=NOON, software={})
    return b"".join(document(statement, key.kid, notary.sign([to_sign(statement)]).signatures[0], lines))


__all__ = ["AKey", "Notary", "a_file", "a_receipt", "signed", "some_facts", "verify"]

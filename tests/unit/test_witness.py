"""Whose signatures count: those of every key that Vault has, also of one that was made while the record was read."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from cloudpush.credentials.ed25519 import kid_of
from cloudpush.credentials.notary import AuditKey
from cloudpush.wiring.trust import signed_by_keys_of
from notaries import FakeSigner


@dataclass
class Vault:
    """Has so many of these keys; one more each time it is asked."""

    signers: list[FakeSigner]
    asked: int = 0

    def keys(self) -> list[AuditKey]:
        self.asked += 1
        raws = [s.key.public_key().public_bytes_raw() for s in self.signers[: self.asked]]
        return [AuditKey(n, raw, kid_of(raw), datetime.now(UTC)) for n, raw in enumerate(raws, 1)]


def test_a_key_that_was_made_meanwhile_is_asked_for_before_a_signature_counts_as_wrong() -> None:
    """Rotated after the keys were read, and used before the record was."""
    vault = Vault([FakeSigner(), FakeSigner()])
    signed = signed_by_keys_of(vault)
    [signature] = vault.signers[1].sign([b"text"]).signatures

    assert signed(signature, b"text")


def test_vault_is_not_asked_for_every_wrong_signature() -> None:
    """Of a record that was tampered with there may be thousands."""
    vault = Vault([FakeSigner(), FakeSigner()])
    signed = signed_by_keys_of(vault)

    assert not any(signed(bytes(64), b"%d" % n) for n in range(3))
    assert vault.asked == 2

"""What the notary, and whoever verifies the record, work with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import datetime
from importlib.metadata import version
from typing import Protocol

import sqlalchemy as sa

from cloudpush.audit.checkpoints import CheckpointBook
from cloudpush.audit.findings import Witness
from cloudpush.audit.inspections import Inspections
from cloudpush.audit.integrity import verify
from cloudpush.audit.leader import NOTARY, Leader
from cloudpush.audit.receipts import Receipts
from cloudpush.credentials import ed25519
from cloudpush.credentials.connection import VaultConnection
from cloudpush.credentials.notary import Anchor, AuditKey, Signer
from cloudpush.push.trust.checkpoints import MOST
from cloudpush.push.trust.issuing import Issuing
from cloudpush.push.trust.notary import Inspector, Notary
from cloudpush.push.trust.sealing import Sealing
from cloudpush.settings import Settings
from cloudpush.wiring.common import SystemClock


class Keys(Protocol):
    """Where audit keys come from: ``credentials.notary.Signer``."""

    def keys(self) -> Sequence[AuditKey]:
        """Every version, oldest first. Raises VaultError."""


def make_sealing(settings: Settings, database: sa.Engine, closing: ExitStack) -> Sealing:
    """What makes checkpoints (role ``notary``)."""
    connection = VaultConnection(settings, "notary")
    closing.callback(connection.close)
    return Sealing(CheckpointBook(database), Signer(connection, settings.vault_audit_key), Anchor(connection))


def make_erasing(settings: Settings, closing: ExitStack) -> tuple[Signer, Callable[[bytes, bytes], bool]]:
    """What signs erasures (role ``notary``), and whether an audit key signed something. Raises VaultError."""
    connection = VaultConnection(settings, "notary")
    closing.callback(connection.close)
    signer = Signer(connection, settings.vault_audit_key)
    return signer, signed_by_keys_of(signer)


def make_notary(settings: Settings, database: sa.Engine, closing: ExitStack) -> tuple[Notary, Inspector]:
    """The notary of one sweeper process, and its inspector, each for a thread of its own."""
    connection = VaultConnection(settings, "notary")
    closing.callback(connection.close)
    signer = Signer(connection, settings.vault_audit_key)
    sealing = Sealing(CheckpointBook(database), signer, Anchor(connection))
    inspections = Inspections(database)
    issuing = Issuing(
        Receipts(database),
        signer,
        ed25519.verify,
        SystemClock(),
        issuer=settings.web_url.rstrip("/"),
        software={"cloudpush": version("cloudpush")},
    )
    leader = Leader(database, NOTARY)
    closing.callback(leader.close)

    def seal() -> bool:
        made = sealing.once()
        return not sealing.pending and (made is None or made.statement.events < MOST)

    def inspect(started_at: datetime) -> bool:
        report = verify(database, None, witness_of(settings, connection))
        inspections.add(started_at, "notary", report)
        return report.sound

    notary = Notary(
        leader,
        issue=issuing.once,
        seal=seal,
        make_months=inspections.make_months,
        checkpoint_seconds=settings.checkpoint_seconds,
    )
    inspector = Inspector(notary, age=inspections.age, inspect=inspect, every_seconds=settings.inspect_hours * 3600)
    return notary, inspector


def witness_of(settings: Settings, connection: VaultConnection, saved: Sequence[tuple[int, str]] = ()) -> Witness:
    """What Vault says about the record: the audit keys, and the newest checkpoint that it remembers. Raises VaultError.

    Keep ``connection`` open while the record is read.
    """
    signed = signed_by_keys_of(Signer(connection, settings.vault_audit_key))
    return Witness(signed, Anchor(connection).read(), asked=True, saved=tuple(saved))


def signed_by_keys_of(source: Keys) -> Callable[[bytes, bytes], bool]:
    """As ``signed_by``, with the keys that there are. Raises VaultError, and so does what it returns.

    The record may hold what was signed with a key made since: before a signature counts as wrong, Vault is asked once more.
    """

    def known() -> Callable[[bytes, bytes], bool]:
        return signed_by([key.raw for key in source.keys()])  # noqa: SIM118 -- no mapping

    by_known, asked_again = known(), False

    def signed(signature: bytes, text: bytes) -> bool:
        nonlocal by_known, asked_again
        if by_known(signature, text):
            return True
        if asked_again:
            return False
        by_known, asked_again = known(), True
        return by_known(signature, text)

    return signed


def signed_by(keys: Sequence[bytes]) -> Callable[[bytes, bytes], bool]:
    """(signature, text) → whether one of ``keys`` made it, the newest asked first."""

    def signed(signature: bytes, text: bytes) -> bool:
        return any(ed25519.verify(key, signature, text) for key in reversed(keys))

    return signed

"""Signs the receipts that are owed: those of pushes that are over, the oldest first, many with one call to Vault.

A trigger writes down that a receipt is owed, in the verdict's own transaction; so none is owed before its push is over, and
none is forgotten. Whoever issues one twice does no harm: the first that is stored stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

from cloudpush.errors import Code, VaultError
from cloudpush.logs import get_logger
from cloudpush.push.ports import Clock
from cloudpush.push.trust.receipts import Facts, Summary, make_statement, to_sign
from cloudpush.push.trust.signing import Key, KeyedSigner

log = get_logger(__name__)

#: Receipts that are signed with one call.
AT_ONCE = 100
#: The key may be rotated while statements that name the older one are signed.
TRIES = 3


@dataclass(frozen=True, slots=True)
class Page:
    """Files of a push, in order: their canonical lines; how many are in which state; their bytes."""

    lines: Sequence[bytes]
    states: Mapping[str, int]
    size: int


@dataclass(frozen=True, slots=True)
class Issue:
    """A receipt to be stored. ``told``: what its event says."""

    push_id: UUID
    statement: bytes
    signature: bytes
    version: int
    told: Mapping[str, Any]


class ReceiptStore(Protocol):
    """Where receipts are owed and kept. Every method raises StoreError."""

    def owed(self, limit: int) -> Sequence[Facts]:
        """What is known of the pushes that have been owed a receipt longest."""

    def files(self, push_id: UUID) -> Iterator[Page]:
        """The push's files in order, page by page, each in a short transaction."""

    def issue(self, issues: Sequence[Issue]) -> int:
        """Store those that are owed still, each with its event; how many. One transaction."""


class Issuing:
    """Issues receipts. One thread at a time."""

    def __init__(
        self,
        store: ReceiptStore,
        signer: KeyedSigner,
        verify: Callable[[bytes, bytes, bytes], bool],
        clock: Clock,
        *,
        issuer: str,
        software: Mapping[str, str],
        at_once: int = AT_ONCE,
    ) -> None:
        """``issuer``: the address that this installation is known by. ``verify``: (key, signature, text) → it holds."""
        self._store = store
        self._signer = signer
        self._verify = verify
        self._clock = clock
        self._issuer = issuer
        self._software = software
        self._at_once = at_once
        self._key: Key | None = None
        self._unwritable: set[UUID] = set()  # owed still; tried again by the next process

    def once(self) -> int:
        """Issue some receipts that are owed; how many. 0: none is. Raises StoreError, VaultError: all are owed still."""
        while owed := [(facts, self._summary(facts.push["id"])) for facts in self._owed()]:
            issues = self._sign(owed)
            if issues:  # else none of these can be written, and younger ones may
                issued = self._store.issue(issues)
                log.info("receipts issued", receipts=issued)
                return issued
        return 0

    def _owed(self) -> Sequence[Facts]:
        longest = self._store.owed(self._at_once + len(self._unwritable))
        return [facts for facts in longest if facts.push["id"] not in self._unwritable][: self._at_once]

    def _summary(self, push_id: UUID) -> Mapping[str, Any]:
        summary = Summary()
        for page in self._store.files(push_id):
            summary.extend(page.lines, page.states, page.size)
        return summary.told()

    def _sign(self, owed: Sequence[tuple[Facts, Mapping[str, Any]]]) -> Sequence[Issue]:
        """The receipts, signed. A statement names its key, so it is written anew if another version signed it."""
        for _ in range(TRIES):
            key = self._key = self._key or self._newest()
            stated = list(self._statements(owed, key))
            texts = [to_sign(statement) for _, _, statement in stated]
            if not texts:
                return ()
            signed = self._signer.sign(texts)
            if signed.version != key.version:
                self._key = None
                continue
            # What is stored stays: a signature that does not hold would spoil its receipt for good.
            if not all(map(self._verify, [key.raw] * len(texts), signed.signatures, texts)):
                raise VaultError(
                    Code.VAULT_DENIED, "Vault signed receipts with another key than the one that it shows."
                )
            return [
                Issue(facts.push["id"], statement, signature, key.version, {"kid": key.kid, **told})
                for (facts, told, statement), signature in zip(stated, signed.signatures, strict=True)
            ]
        raise VaultError(
            Code.VAULT_UNREACHABLE, f"The signing key was rotated {TRIES} times while receipts were signed."
        )

    def _statements(
        self, owed: Sequence[tuple[Facts, Mapping[str, Any]]], key: Key
    ) -> Iterator[tuple[Facts, Mapping[str, Any], bytes]]:
        """Those that can be written. One that cannot is a defect, or was tampered with: it keeps no other waiting."""
        for facts, told in owed:
            try:
                statement = make_statement(
                    facts, told, issuer=self._issuer, kid=key.kid, at=self._clock.now(), software=self._software
                )
            except (TypeError, ValueError) as e:
                log.error("no receipt can be written", push=str(facts.push["id"]), why=str(e))  # noqa: TRY400 -- no traceback is needed
                self._unwritable.add(facts.push["id"])
                continue
            yield facts, told, statement

    def _newest(self) -> Key:
        return max(self._signer.keys(), key=lambda key: key.version)

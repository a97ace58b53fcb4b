"""Sealing: every so often the events since the last checkpoint are put under a new one, signed and remembered in Vault.

In this order: the leaves are read and stored, the statement is signed, its row committed, the anchor moved. Whoever dies in
between leaves at worst an anchor that is one behind, which the next pass moves. Writers are never held up: what is sealed
ends at an event that was seen, once every transaction is over that had begun by then; nothing older can appear after that.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from cloudpush.errors import Code, StoreError
from cloudpush.logs import get_logger
from cloudpush.push.trust.checkpoints import Anchored, Statement, digest, signed_text
from cloudpush.push.trust.signing import Signer

#: Somebody holds a transaction open for longer than this, and sealing waits for it: told once.
LATE_SECONDS = 60.0

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Frontier:
    """The newest event that was seen, and the transaction before which everything must be over."""

    last_id: int
    transaction: str


@dataclass(frozen=True, slots=True)
class Leaves:
    """What a checkpoint is to cover."""

    last_id: int
    events: int
    root: bytes


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A statement with its signature, and the version of the key that made it."""

    statement: Statement
    text: bytes
    signature: bytes
    version: int


class Anchor(Protocol):
    """Where the newest checkpoint is remembered outside of the database."""

    def read(self) -> Anchored | None:
        """None before the first. Raises VaultError."""

    def move(self, to: Anchored) -> Anchored:
        """Remember ``to`` unless something newer is; returns what is there now. Raises VaultError."""


class Checkpoints(Protocol):
    """Where checkpoints are kept. Every method raises StoreError."""

    def newest(self) -> Anchored | None:
        """The newest one, as an anchor would remember it."""

    def digest_of(self, number: int) -> str | None:
        """SHA-256, hex, of the statement of that number; None where there is none."""

    def frontier(self) -> Frontier | None:
        """The newest event; None where there is none."""

    def settled(self, frontier: Frontier) -> bool:
        """Whether no event at or before ``frontier`` can appear any more."""

    def seal(self, number: int, first_id: int, upto: int, finish: Callable[[Leaves], Checkpoint]) -> Checkpoint | None:
        """Store the leaves of the events from ``first_id`` to ``upto``, and what ``finish`` makes of them. One transaction.

        None where there are no events, or somebody else seals at this moment. Whatever ``finish`` raises undoes it all.
        """


class Sealing:
    """Makes checkpoints. One thread at a time."""

    def __init__(
        self,
        store: Checkpoints,
        signer: Signer,
        anchor: Anchor,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store = store
        self._signer = signer
        self._anchor = anchor
        self._now = now
        self._frontier: Frontier | None = None
        self._since = 0.0
        self._told = False

    @property
    def pending(self) -> bool:
        """Whether there are events that are to be sealed as soon as older transactions are over."""
        return self._frontier is not None

    def once(self, *, accept_loss: bool = False) -> Checkpoint | None:
        """Seal what there is; None where there is nothing new, or older transactions are not over: call again.

        Raises StoreError, VaultError; RECORD_UNSOUND where Vault remembers a checkpoint that the record lacks: sealing on
        would bury that. With ``accept_loss``, an operator's word, the statement says which were lost, and goes on.
        """
        # In this order: another sealer's checkpoint is in the record before Vault remembers it.
        anchored = self._anchor.read()
        newest = self._store.newest()
        gone = self._compare(newest, anchored, accept_loss=accept_loss)
        upto = self._settled(newest.last_id if newest else 0)
        if upto is None:
            return None
        previous, number, first_id = self._place(newest, gone)

        def finish(leaves: Leaves) -> Checkpoint:
            lost = (newest.number + 1 if newest else 1, gone.number) if gone else None
            statement = Statement(
                number, first_id, leaves.last_id, leaves.events, leaves.root, previous, self._now(), lost
            )
            text = statement.text()
            signed = self._signer.sign([signed_text(text)])
            return Checkpoint(statement, text, signed.signatures[0], signed.version)

        made = self._store.seal(number, first_id, upto, finish)
        if made is not None:
            self._frontier = None
            before = newest.events if newest else 0
            self._anchor.move(
                Anchored(number, digest(made.text), made.statement.last_id, before + made.statement.events)
            )
            log.info("checkpoint sealed", checkpoint=number, events=made.statement.events)
        return made

    @staticmethod
    def _place(newest: Anchored | None, gone: Anchored | None) -> tuple[str | None, int, int]:
        """What the next statement calls its predecessor, its number, and the first event id that it covers."""
        before = gone or newest
        return (
            before.sha256 if before else None,
            before.number + 1 if before else 1,
            newest.last_id + 1 if newest else 1,
        )

    def _compare(self, newest: Anchored | None, anchored: Anchored | None, *, accept_loss: bool) -> Anchored | None:
        """Heal an anchor that is behind; the anchor itself where it is ahead and the loss accepted."""
        if anchored is None:
            if newest is not None:
                self._anchor.move(newest)
            return None
        if newest is None or newest.number < anchored.number:
            if accept_loss:
                return anchored
            first = newest.number + 1 if newest else 1
            raise StoreError(
                Code.RECORD_UNSOUND,
                f"Vault remembers checkpoint {anchored.number}, but the newest of the record is {first - 1}: it was "
                "restored to an older state, or cut short. Nothing is sealed until somebody looked at it.",
            )
        if self._store.digest_of(anchored.number) != anchored.sha256:
            raise StoreError(
                Code.RECORD_UNSOUND,
                f"Checkpoint {anchored.number} is not the one that Vault remembers. Nothing is sealed until somebody "
                "looked at it.",
            )
        if newest.number > anchored.number:
            self._anchor.move(newest)
        return None

    def _settled(self, sealed: int) -> int | None:
        """The id up to which events may be sealed; None where there is none newer than ``sealed``, or not yet."""
        if self._frontier is None or self._frontier.last_id <= sealed:
            self._frontier, self._since, self._told = self._store.frontier(), time.monotonic(), False
        if self._frontier is None or self._frontier.last_id <= sealed:
            self._frontier = None
            return None
        if self._store.settled(self._frontier):
            return self._frontier.last_id
        if not self._told and time.monotonic() - self._since > LATE_SECONDS:
            self._told = True
            log.warning("checkpoint late", why="a transaction has been open for long", seconds=round(LATE_SECONDS))
        return None

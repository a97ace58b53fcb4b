"""How a set of signed URLs is sealed: sheet by sheet, while its manifest is read.

::

    open ──> add, add, add … ──> finish ──> active
                    └── abandon ──> purged

The row of each block is committed before the block goes to Vault, several of which are on their way at a time. A crash
leaves rows that the sweep finds, never a URL that nobody knows of.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol
from uuid import UUID, uuid4

from cloudpush.push.credential import Caller, Credential, CredentialState, Reason
from cloudpush.push.custody import Custody
from cloudpush.push.ports import Clock
from cloudpush.push.signed.model import SIGNED_URLS, SheetCard

#: Blocks that are on their way to Vault at a time: each takes two requests.
SEALERS = 8
#: Blocks that may wait for one of these: what is read ahead is held in memory.
AHEAD = 2 * SEALERS


class SheetSealer(Protocol):
    """Puts blocks into Vault; cannot read them back."""

    def seal_sheet(self, credential_id: UUID, owner: str, number: int, plaintext: bytes) -> int:
        """Seal one block and return the version of the key that wraps its data key. Thread-safe.

        Raises VaultError, also where something is sealed under this number already.
        """


class SetStore(Protocol):
    """Postgres. Every call is one transaction that appends its events. Raises StoreError."""

    def add(self, credential: Credential, actor: str) -> None:
        """Insert a row that is ``sealing``."""

    def add_sheet(self, credential_id: UUID, cards: Sequence[SheetCard]) -> None:
        """Insert the blocks of one sheet, before they are sealed.

        Raises CredentialError where the set is not ``sealing`` any more.
        """

    def activate_set(
        self, credential_id: UUID, versions: Mapping[int, Sequence[int]], expires_at: datetime | None, actor: str
    ) -> None:
        """``sealing`` → ``active``: everything is in Vault. ``versions``: of the key → the blocks that it wraps.

        It expires, and is destroyed, at ``expires_at``. Raises CredentialError where it is not ``sealing`` any more.
        """


@dataclass(frozen=True, slots=True)
class Sets:
    """Makes sets. ``custody`` destroys those that come to nothing."""

    store: SetStore
    sealer: SheetSealer
    custody: Custody
    clock: Clock
    new_id: Callable[[], UUID] = uuid4

    def open(self, caller: Caller, owner: str, origin: str) -> SetInMaking:
        """A set of ``owner``'s whose URLs all lead to ``origin``, ``https://host[:port]``. Raises StoreError."""
        made = self.new_id()
        credential = Credential(
            id=made,
            owner=owner,
            kind=SIGNED_URLS,
            name=f"signed-urls-{made.hex}",
            profile="",
            endpoint=origin,
            state=CredentialState.SEALING,
            created_at=self.clock.now(),
            created_by=caller.name,
        )
        self.store.add(credential, caller.name)
        return SetInMaking(self, credential, caller)


class SetInMaking:
    """A set that is being sealed. ``finish`` or ``abandon`` it; for one thread."""

    def __init__(self, sets: Sets, credential: Credential, caller: Caller) -> None:
        self._sets = sets
        self._credential = credential
        self._caller = caller
        self._pool = ThreadPoolExecutor(SEALERS, thread_name_prefix="seal")
        self._under_way: deque[tuple[int, Future[int]]] = deque()
        self._versions: dict[int, list[int]] = {}
        self._last = 0

    @property
    def id(self) -> UUID:
        """The set's id, as a credential."""
        return self._credential.id

    def add(self, first: int, last: int, blocks: Sequence[bytes]) -> None:
        """Seal a sheet of the files ``first`` … ``last``; blocks while too many are on their way.

        Raises StoreError, VaultError (of an earlier sheet, too), CredentialError where it was purged meanwhile: then
        there is nothing to do but to abandon it.
        """
        cards = [SheetCard(self._last + n, first, last, block=n, blocks=len(blocks)) for n in range(1, len(blocks) + 1)]
        self._sets.store.add_sheet(self.id, cards)
        self._last += len(blocks)
        for card, block in zip(cards, blocks, strict=True):
            sealing = self._pool.submit(
                self._sets.sealer.seal_sheet, self.id, self._credential.owner, card.number, block
            )
            self._under_way.append((card.number, sealing))
            self._settle(AHEAD)

    def finish(self, expires_at: datetime | None) -> Credential:
        """Everything was added: the set may be used until ``expires_at``, and is destroyed then.

        Raises as :meth:`add` does.
        """
        self._settle(0)
        self._pool.shutdown()
        self._sets.store.activate_set(self.id, self._versions, expires_at, self._caller.name)
        return replace(self._credential, state=CredentialState.ACTIVE, expires_at=expires_at, purge_after=expires_at)

    def abandon(self, reason: Reason = Reason.ABANDONED) -> None:
        """Destroy what was sealed, ``finish``ed or not. Never raises: what cannot be done now, the sweep does."""
        self._pool.shutdown(cancel_futures=True)
        self._under_way.clear()
        self._sets.custody.discard(self._caller, self.id, reason)

    def _settle(self, left: int) -> None:
        """Wait until no more than ``left`` blocks are on their way."""
        while len(self._under_way) > left:
            number, sealing = self._under_way.popleft()
            self._versions.setdefault(sealing.result(), []).append(number)

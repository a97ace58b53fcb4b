"""The tickets of a push, as its worker reads them: sheet by sheet, unsealed only while they are needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from cloudpush.errors import Code, CredentialError
from cloudpush.push.job import Push
from cloudpush.push.signed.model import SheetCard, Ticket
from cloudpush.push.signed.ports import Safe, SheetStore
from cloudpush.push.signed.sheets import decode, decode_session

#: Sets and, in them, where the URI of a resumable upload lies, as SheetStore.sessions gives them.
Sessions = Sequence[tuple[UUID, SheetCard]]


@dataclass(frozen=True, slots=True)
class Leaf:
    """What the book holds of a run of files, by sequence number. ``sessions``: URIs of resumable uploads."""

    tickets: dict[int, Ticket] = field(repr=False)
    sessions: dict[int, str] = field(repr=False)


class TicketBook:
    """The current set of a push, and the sessions of its files. What was purged is not there: it needs to be renewed."""

    def __init__(
        self, safe: Safe, owner: str, set_id: UUID, cards: Sequence[SheetCard], sessions: Sessions = ()
    ) -> None:
        self._safe = safe
        self._owner = owner
        self.set_id = set_id
        self._sheets = [run for run in _runs(cards) if not run[0].session]
        self._sessions = {card.first: (holder, card) for holder, card in sessions}

    @classmethod
    def of(
        cls, push: Push, safe: Safe, store: SheetStore, first: int, last: int | None, sessions: Sessions = ()
    ) -> TicketBook:
        """The current set of ``push``, files ``first`` to ``last``; None: to the end. Nothing is unsealed yet."""
        set_id, cards = store.sheets(push, first, last)
        return cls(safe, push.owner, set_id, cards, sessions)

    def rows(self) -> Iterator[tuple[int, Ticket]]:
        """Every ticket with its file's number, in order; one sheet in memory at a time.

        Raises VaultError; CredentialError: corrupt, or URL_EXPIRED where any of them was purged meanwhile, since a plan
        that lacks a file would end as a success.
        """
        for sheet in self._sheets:
            tickets = self._open(sheet)
            if not tickets or tickets[-1][0] != sheet[0].last:
                raise CredentialError(
                    Code.URL_EXPIRED, f"The signed URLs of files {sheet[0].first} to {sheet[0].last} were destroyed."
                )
            yield from tickets

    def leaf(self, seqs: Sequence[int]) -> Leaf:
        """What there is of the files ``seqs``; what was purged is not. Raises VaultError, CredentialError (corrupt)."""
        wanted = set(seqs)
        low, high = min(wanted), max(wanted)
        tickets = {
            seq: ticket
            for sheet in self._sheets
            if sheet[0].first <= high and sheet[0].last >= low
            for seq, ticket in self._open(sheet)
            if seq in wanted
        }
        sessions: dict[int, str] = {}
        for seq in wanted & self._sessions.keys():
            block = self._block(*self._sessions[seq])
            if block is not None:
                sessions[seq] = decode_session(block)
        return Leaf(tickets, sessions)

    def _open(self, sheet: Sequence[SheetCard]) -> Sequence[tuple[int, Ticket]]:
        blocks = [self._block(self.set_id, card) for card in sheet]
        present = [block for block in blocks if block is not None]
        return decode(present) if len(present) == len(blocks) else []

    def _block(self, set_id: UUID, card: SheetCard) -> bytes | None:
        try:
            return self._safe.open_sheet(set_id, self._owner, card.number)
        except CredentialError as e:
            if e.code is Code.CREDENTIAL_PURGED:
                return None
            raise


def _runs(cards: Sequence[SheetCard]) -> Iterator[list[SheetCard]]:
    """The blocks of each sheet, complete: a sheet that was not stored to its end is nobody's."""
    run: list[SheetCard] = []
    for card in cards:
        if card.block == 1:
            run = []
        run.append(card)
        if card.block == card.blocks:
            if len(run) == card.blocks:
                yield run
            run = []

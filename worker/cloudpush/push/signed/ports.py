"""What pushes with signed URLs need from the outside world, beside ``push.ports``.

Each docstring is a contract; ``tests/contract`` holds every implementation to it, the fakes included.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from uuid import UUID

from cloudpush.errors import CloudPushError
from cloudpush.push.job import Lease, Part, PlannedFile, Progress, Push
from cloudpush.push.ports import Control
from cloudpush.push.signed.model import Arrival, Need, Piece, SheetCard, Ticket
from cloudpush.push.states import Overwrite


class Safe(Protocol):
    """The worker's hand in Vault: sheets. A sheet's block is sealed once and never overwritten."""

    def open_sheet(self, credential_id: UUID, owner: str, number: int) -> bytes:
        """The plaintext of one block. Repeatable.

        Raises VaultError, or CredentialError: purged (nothing under this number), corrupt.
        """

    def seal_sheet(self, credential_id: UUID, owner: str, number: int, plaintext: bytes) -> int:
        """Seal one block of at most ``sheets.BLOCK_BYTES``; returns the version of the key that wraps it.

        Raises VaultError, also where something is sealed under this number already.
        """


class SheetStore(Protocol):
    """The worker's side of Postgres: metadata of sets, and what arrived so far. Each call is one transaction."""

    def sheets(self, push: Push, first: int, last: int | None) -> tuple[UUID, Sequence[SheetCard]]:
        """The push's current set (the newest that was handed over) and its blocks that hold files first … last.

        In order of number; ``last`` None: to the end. Blocks of sessions are included.
        """

    def sessions(self, part: Part) -> Sequence[tuple[UUID, SheetCard]]:
        """The newest session of each of the part's files that have no verdict yet, by seq: the set that holds it, its block.

        A session outlives the URL that began it, so it may lie in an older set than the current one.
        """

    def pieces(self, part: Part) -> Sequence[Piece]:
        """What arrived of the part's files that have no verdict yet, by seq and number."""

    def record_pieces(self, part: Part, lease: Lease, pieces: Sequence[Piece]) -> None:
        """Store pieces; one that is known is replaced. Repeatable. Raises LeaseLost."""

    def forget_pieces(self, part: Part, lease: Lease, seq: int) -> None:
        """The upload that they belong to is gone: the file begins anew. Raises LeaseLost."""

    def add_session(self, push: Push, part: Part, lease: Lease, seq: int, seconds: float) -> tuple[UUID, int]:
        """Reserve a block for the URI of file ``seq``'s session, before it is sealed: (set, number).

        The set is not purged before ``seconds`` from now, the session's life, unless the push ends. An older session of
        the file is superseded: the highest number counts. Raises LeaseLost.
        """

    def note_resign(self, push: Push, part: Part, lease: Lease, asked: int, got: int, host: str, error: str) -> None:
        """Append ``push.resign_asked``. Raises LeaseLost."""


class Journal(Protocol):
    """What must outlive a worker that is killed, as the uploader sees it. Thread-safe; may block for milliseconds."""

    def arrived(self, piece: Piece) -> None:
        """Keep ``piece``. Stored before the next piece of the same file is begun, or within a second."""

    def flush(self) -> None:
        """Store what was kept so far; returns when it is stored. Raises StoreError, LeaseLost."""

    def began(self, seq: int, session: str) -> None:
        """Keep the URI of a resumable upload, sealed, before its first byte is sent."""

    def lost(self, seq: int) -> None:
        """The upload is gone: its pieces and session are not to be used again."""


class Renewals(Protocol):
    """Where fresh URLs come from while a part runs."""

    def fresh(self, needs: Sequence[Need], control: Control) -> Mapping[int, Ticket]:
        """Tickets by seq for those of ``needs`` that could be renewed; they lead to the same objects. Blocks.

        An empty answer where nobody is registered. Raises Cancelled, LeaseLost; never for what the callback did.
        """


@dataclass(frozen=True, slots=True)
class Errand:
    """One file to be sent: its plan, its ticket (None: expired and purged, ask for a fresh one), what arrived before.

    ``key`` is the whole object key; with a TREE it is not the ticket's own.
    """

    file: PlannedFile
    ticket: Ticket | None
    pieces: Sequence[Piece] = ()
    session: str = field(default="", repr=False)


class UrlSession(Protocol):
    """Uploads of one part."""

    def send(self, errands: Sequence[Errand], control: Control) -> Mapping[int, Arrival | CloudPushError]:
        """Send each file and say what its arrival proves; one outcome for each ``seq``. Repeatable.

        Raises CloudPushError where nothing of the batch can succeed; Cancelled and LeaseLost within two seconds of
        ``control`` saying so, with everything in flight stopped. A file that needs URLs which nobody renews is
        URL_EXPIRED; what arrived of it stays, for the next attempt.
        """

    def abort(self, errands: Sequence[Errand], control: Control) -> Mapping[int, str]:
        """Abort unfinished uploads of these files; by seq what stays behind, in a sentence, where it could not be done.

        Never raises for what a provider answers. For files that end without success.
        """

    def progress(self) -> Progress:
        """Bytes and files sent so far through this session, and the present speed."""


class Uploader(Protocol):
    """Sends files with signed URLs."""

    def open(
        self,
        push: Push,
        root: Path,
        roots: Sequence[str],
        overwrite: Overwrite,
        journal: Journal,
        renewals: Renewals,
        group: str,
    ) -> AbstractContextManager[UrlSession]:
        """A session under the unique name ``group``; leaving the context forgets its URLs.

        ``root``: what the files' paths are relative to; ``roots``: as walk.real_roots gives them, nothing outside them
        is ever read.
        """


class Hook(Protocol):
    """Calls a pipeline's callback for fresh URLs."""

    def ask(self, fields: Mapping[str, str], push: Push, needs: Sequence[Need], control: Control) -> Iterable[object]:
        """The rows that the callback answers with, as a manifest has them, not checked. Blocks; tries a few times.

        ``fields``: of the unsealed credential of kind ``resign_hook``. Raises DestinationError where no usable answer
        came; Cancelled, LeaseLost.
        """

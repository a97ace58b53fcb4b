"""One part's trip with signed URLs: tickets for each batch, what arrived before, and what each arrival proves.

Nothing here decides about retries: the outcome is a value for each file.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from cloudpush.errors import Cancelled, CloudPushError, Code, DestinationError, LeaseLost, StoreError
from cloudpush.logs import get_logger
from cloudpush.push.couriers import group_of, root_of
from cloudpush.push.delivery import changed, failed, not_enough
from cloudpush.push.fingerprint import unchanged
from cloudpush.push.job import FileResult, Lease, Part, PlannedFile, Progress, Push, Verdict
from cloudpush.push.planning import batches
from cloudpush.push.ports import Clock, Control, Store
from cloudpush.push.signed.book import Sessions, TicketBook
from cloudpush.push.signed.journal import Entry, PartJournal
from cloudpush.push.signed.model import Arrival, Kind, Need, Piece, Ticket
from cloudpush.push.signed.ports import Errand, Safe, SheetStore, Uploader, UrlSession
from cloudpush.push.signed.renewal import Callback, HookRenewals
from cloudpush.push.states import FileState, State
from cloudpush.push.walk import real_roots

log = get_logger(__name__)

#: Files whose unfinished uploads are aborted at a time: their tickets are in memory together.
ABORTED_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Kit:
    """What every trip with signed URLs needs. ``callback``: how registered callbacks are asked for fresh ones."""

    store: Store
    sheets: SheetStore
    safe: Safe
    uploader: Uploader
    callback: Callback
    clock: Clock
    roots: tuple[Path, ...]


class UrlTrip:
    """``push.couriers.Trip`` of one attempt of a part. ``opened`` forgets what it holds."""

    def __init__(self, kit: Kit, push: Push, part: Part, lease: Lease, control: Control, opened: ExitStack) -> None:
        self._kit = kit
        self._push = push
        self._part = part
        self._lease = lease
        self._control = control
        self._opened = opened
        self._root = root_of(push)
        self._journal = opened.enter_context(PartJournal(Entry(push, part, lease), kit.sheets, kit.safe))
        self._renewals = _Remembering(HookRenewals(push, part, lease, kit.callback))
        self._errors: dict[int, CloudPushError] = {}
        self._pieces: dict[int, list[Piece]] = {}
        #: What was taken up in this attempt, has not arrived, and may leave something: aborted even while Vault is away.
        self._begun: dict[int, Errand] = {}
        self._looking = threading.Lock()
        self._looked = False
        self._book: TicketBook | None = None
        self._session: UrlSession | None = None

    # -- the steps, in order -----------------------------------------------------------------

    def set_out(self, files: Sequence[PlannedFile]) -> None:  # noqa: ARG002 -- the protocol's; each batch opens its own
        """See :class:`cloudpush.push.couriers.Trip`."""
        book, _ = self._open()
        if book.set_id != self._push.credential_id:
            # Handed over since the push was claimed: this set is unsealed now, too.
            used = replace(self._push, credential_id=book.set_id)
            self._kit.store.record_credential_use(used, self._part, self._lease)

    def batch(self, files: Sequence[PlannedFile]) -> list[FileResult]:
        """See :class:`cloudpush.push.couriers.Trip`."""
        self._control.check()
        _, session = self._open()
        errands = self._errands(files)
        self._begun.update((e.file.seq, e) for e in errands if _may_leave_something(e))
        try:
            outcome = session.send(errands, self._control)
        finally:
            self._flush()
        for seq, end in outcome.items():
            if isinstance(end, Arrival):
                self._begun.pop(seq, None)
        results = [self._result(e.file, outcome[e.file.seq]) for e in errands]
        refused = {f for f, end in outcome.items() if isinstance(end, CloudPushError)}
        hopeless = {r.seq: r for r in results if r.state is FileState.FAILED and r.seq in refused}
        if hopeless:
            left = self._abort(session, [e for e in errands if e.file.seq in hopeless])
            results = [_leaving(r, left[r.seq]) if r.seq in left else r for r in results]
        return results

    def progress(self) -> Progress:
        """See :class:`cloudpush.push.couriers.Trip`."""
        _, session = self._open()
        return session.progress()

    def give_up(self, files: Callable[[], Sequence[PlannedFile]], verdict: Verdict) -> list[FileResult]:
        """See :class:`cloudpush.push.couriers.Trip`."""
        if self._session is None and self._part.attempt == 1:
            return []  # nothing of it was ever begun
        hopeless = {f.seq: f for f in files()}
        if self._session is None:
            # What an earlier attempt began is aborted with its URLs: that is a use, too.
            self._kit.store.record_credential_use(self._push, self._part, self._lease, ending=True)
        try:
            left = self._abort_all(list(hopeless.values()))
        except LeaseLost:
            raise
        except CloudPushError as e:
            log.warning("unfinished uploads not aborted", push=str(self._push.id), error=str(e))
            begun = self._pieces.keys() | self._journal.touched | self._begun.keys()
            left = dict.fromkeys(hopeless.keys() & begun, f"Its unfinished upload was not aborted ({e.code}).")
        state = FileState.CANCELLED if verdict.state is State.CANCELLED else FileState.FAILED
        why = verdict.error or Cancelled()
        return [
            _leaving(FileResult(seq, state, error=self._errors.get(seq, why)), words)
            for seq, words in left.items()
            if seq in hopeless
        ]

    def _flush(self) -> None:
        """Store what the journal holds. That it cannot be stored now does not undo what has arrived."""
        try:
            self._journal.flush()
        except StoreError as e:
            log.warning("pieces not stored yet", push=str(self._push.id), part=self._part.number, error=str(e))

    # -- opening -------------------------------------------------------------------------------

    def _open(self) -> tuple[TicketBook, UrlSession]:
        """The set and the uploader's session, opened once. Raises VaultError, CredentialError."""
        if self._book is None or self._session is None:
            kit, part = self._kit, self._part
            sessions: Sessions = ()
            if part.attempt > 1:
                sessions, pieces = kit.sheets.sessions(part), kit.sheets.pieces(part)
                self._pieces = {seq: list(those) for seq, those in groupby(pieces, lambda piece: piece.seq)}
            self._book = TicketBook.of(self._push, kit.safe, kit.sheets, part.first, part.last, sessions)
            uploads = kit.uploader.open(
                self._push,
                self._root,
                real_roots(kit.roots),
                self._push.overwrite,
                self._journal,
                self._renewals,
                group_of(part, self._lease),
            )
            self._session = self._opened.enter_context(uploads)
        return self._book, self._session

    def _errands(self, files: Sequence[PlannedFile], *, renew: bool = True) -> list[Errand]:
        """``files`` with all that is known of them. ``renew``: ask for what is not there any more."""
        book, _ = self._open()
        keys = {f.seq: f.key for f in files}
        leaf = book.leaf([f.seq for f in files])
        self._journal.resume(leaf.sessions)
        # By number and by key: a set that was handed over while another was being planned may number files its own way.
        there = {seq: ticket for seq, ticket in leaf.tickets.items() if _opens(ticket, keys[seq])}
        tickets = there | self._renewals.known
        bare = [f for f in files if f.seq not in tickets]
        if bare and (tree := self._tree(book)) is not None:
            tickets |= dict.fromkeys((f.seq for f in bare), tree)
        elif bare and renew:
            tickets |= self._renewals.replacements(self._needs(bare, leaf.sessions), self._control)
        sessions = self._journal.sessions
        return [Errand(f, tickets.get(f.seq), self._pieces.get(f.seq, ()), sessions.get(f.seq, "")) for f in files]

    def _needs(self, files: Sequence[PlannedFile], sessions: Mapping[int, str]) -> list[Need]:
        """What has no ticket; an upload that is under way goes on without one, or with the URLs of its other parts."""
        in_parts = self._push.destination.scheme != "az"  # Azure's blocks take the SAS that began them, or another
        return [
            Need(f.seq, f.path, f.key, Kind.MULTIPART if in_parts and f.seq in self._pieces else Kind.PUT)
            for f in files
            if f.seq not in sessions
        ]

    def _tree(self, book: TicketBook) -> Ticket | None:
        """The SAS that opens the whole directory, where the push has one: it lies with the first file."""
        with self._looking:
            if self._renewals.tree is None and not self._looked:
                self._looked = True
                first = TicketBook.of(self._push, self._kit.safe, self._kit.sheets, 1, 1)
                head = first.leaf([1]).tickets.get(1) if first.set_id == book.set_id else None
                if head is not None and head.kind is Kind.TREE:
                    self._renewals.tree = head
            return self._renewals.tree

    # -- judging -------------------------------------------------------------------------------

    def _result(self, f: PlannedFile, outcome: Arrival | CloudPushError) -> FileResult:
        if isinstance(outcome, CloudPushError):
            outcome = self._renewals.blamed(outcome)
            self._errors[f.seq] = outcome
            return failed(f, outcome)
        if not unchanged(self._root / f.path, f):
            # Even where what arrived is whole: it is not what the source holds now, so somebody is still writing.
            return failed(f, changed(f))
        demanded = self._push.min_strength
        enough = outcome.strength >= demanded
        there = FileState.SKIPPED if outcome.skipped else FileState.VERIFIED
        return FileResult(
            f.seq,
            there if enough else FileState.UNVERIFIED,
            outcome.strength,
            sha256=outcome.sha256,
            expected=outcome.expected,
            etag=outcome.etag,
            version_id=outcome.version_id,
            uploaded_at=None if outcome.skipped else self._kit.clock.now(),
            error=None if enough else not_enough(f, outcome.note, outcome.strength, demanded),
        )

    # -- what will not arrive --------------------------------------------------------------------

    def _abort_all(self, files: Sequence[PlannedFile]) -> dict[int, str]:
        left: dict[int, str] = {}
        for some in batches(files, max_files=ABORTED_AT_ONCE, max_bytes=sum(f.size for f in files)):
            _, session = self._open()
            begun = [self._begun[f.seq] for f in some if f.seq in self._begun]
            rest = [f for f in some if f.seq not in self._begun]
            left |= self._abort(session, [*begun, *(self._errands(rest, renew=False) if rest else ())])
        return left

    def _abort(self, session: UrlSession, errands: Sequence[Errand]) -> dict[int, str]:
        """By seq what stays behind of uploads that were begun, by us or by who signed their URLs."""
        known, begun = self._renewals.known, self._journal.sessions
        unfinished = [
            replace(e, ticket=known.get(e.file.seq, e.ticket), session=begun.get(e.file.seq, "")) for e in errands
        ]
        unfinished = [e for e in unfinished if e.file.seq in self._journal.touched or _may_leave_something(e)]
        if not unfinished:
            return {}
        return dict(session.abort(unfinished, _Despite(self._control)))


class _Remembering:
    """Renewals that keep what they got: what was renewed while a file was sent also aborts its upload."""

    def __init__(self, renewals: HookRenewals) -> None:
        self._renewals = renewals
        self._lock = threading.Lock()
        self.known: dict[int, Ticket] = {}
        self.tree: Ticket | None = None

    def fresh(self, needs: Sequence[Need], control: Control) -> Mapping[int, Ticket]:
        """See ``push.signed.ports.Renewals``."""
        return self._keep(self._renewals.fresh(needs, control))

    def replacements(self, needs: Sequence[Need], control: Control) -> Mapping[int, Ticket]:
        """See :meth:`HookRenewals.replacements`."""
        return self._keep(self._renewals.replacements(needs, control))

    def blamed(self, error: CloudPushError) -> CloudPushError:
        """``error``, or why the callback gave no fresh URL: one that is away for a moment pauses no push."""
        trouble = self._renewals.trouble
        if error.code is not Code.URL_EXPIRED or trouble is None:
            return error
        return DestinationError(Code.RESIGN_FAILED, f"{error.message} {trouble.message}", detail=trouble.detail)

    def _keep(self, got: Mapping[int, Ticket]) -> Mapping[int, Ticket]:
        with self._lock:
            self.known = self.known | dict(got)  # replaced, not changed: other lanes read it
            self.tree = next((t for t in got.values() if t.kind is Kind.TREE), self.tree)
        return got


class _Despite:
    """A control that lets an execution tidy up although it was cancelled."""

    def __init__(self, control: Control) -> None:
        self._control = control

    def check(self) -> None:
        """Raise LeaseLost alone."""
        with suppress(Cancelled):
            self._control.check()


def _opens(ticket: Ticket, key: str) -> bool:
    """Whether ``ticket`` leads to the object ``key``."""
    return ticket.kind is Kind.TREE or ticket.key == key


def _may_leave_something(errand: Errand) -> bool:
    ticket = errand.ticket
    return bool(
        errand.pieces
        or errand.session
        or (ticket is not None and (ticket.kind is Kind.MULTIPART or ticket.url.session))
    )


def _leaving(result: FileResult, words: str) -> FileResult:
    """``result``, with what stays behind at the destination."""
    error = result.error or Cancelled()
    told = CloudPushError(error.code, f"{error.message} {words}", detail=error.detail, field=error.field)
    return replace(result, error=told)

"""The store, the broker and the clock in memory: first-class, and held to the same contracts as the real ones."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from builders import NOON
from cloudpush.errors import (
    BrokerError,
    Cancelled,
    CloudPushError,
    Code,
    ConsentRevoked,
    CredentialError,
    LeaseLost,
    StoreError,
)
from cloudpush.push.grants.model import GRANT_KINDS
from cloudpush.push.job import (
    Destination,
    FileResult,
    Lease,
    Page,
    Part,
    PlannedFile,
    Progress,
    Push,
    Refusal,
    Tally,
    Verdict,
)
from cloudpush.push.packages import Arrived, unwritten
from cloudpush.push.ports import Announcer, Clock, Store
from cloudpush.push.preflight import Report
from cloudpush.push.signed.model import SIGNED_URLS, Piece, SheetCard
from cloudpush.push.signed.ports import SheetStore
from cloudpush.push.states import ENDINGS, Event, FileState, State, Strength, Wish

#: When a part is due that waits for others; for how long a preflight that passed is known.
FAR = datetime.max.replace(tzinfo=UTC)
PROVED = timedelta(days=30)


class FakeClock(Clock):
    """Time that stands still until told otherwise; chance is a number that the test owns."""

    def __init__(self, moment: datetime = NOON, chance: float = 1.0) -> None:
        self.moment = moment
        self.chance = chance

    def now(self) -> datetime:
        return self.moment

    def jitter(self) -> float:
        return self.chance

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.moment += timedelta(seconds=seconds)


class FakeAnnouncer(Announcer):
    """Keeps what was said. ``away``: every announcement fails, as with a broker that is down."""

    def __init__(self) -> None:
        self.away = False
        self.pushes: list[UUID] = []
        self.announced: list[tuple[UUID, int]] = []
        self.heard: list[tuple[UUID, Progress]] = []
        self.endings: list[tuple[UUID, State]] = []
        self.waiting = 0

    def push(self, push_id: UUID) -> None:
        self._enter()
        self.pushes.append(push_id)

    def push_many(self, push_ids: Sequence[UUID]) -> None:
        self._enter()
        self.pushes += push_ids

    def parts(self, push_id: UUID, numbers: Sequence[int]) -> None:
        self._enter()
        self.announced += [(push_id, n) for n in numbers]

    def progress(self, push_id: UUID, progress: Progress) -> None:
        self.heard.append((push_id, progress))

    def ended(self, push_id: UUID, state: State) -> None:
        self.endings.append((push_id, state))

    def length(self) -> int:
        """Messages that wait."""
        self._enter()
        return self.waiting

    def _enter(self) -> None:
        if self.away:
            raise BrokerError(Code.BROKER_UNREACHABLE, "The fake broker is away.")


@dataclass(frozen=True)
class Standing:
    """Where a push or a part stands: what a test compares as a whole."""

    state: State
    code: str | None = None
    strikes: int = 0
    attempt: int = 0
    strength: str | None = None
    tally: tuple[int, int, int, int] = (0, 0, 0, 0)  # verified, skipped, unverified, failed


@dataclass(frozen=True)
class FileStanding:
    """Where a file stands."""

    seq: int
    state: FileState
    strength: str | None = None
    code: str | None = None


@dataclass
class FakeSet:
    """A set of signed URLs: its life, and where its blocks lie. Tests change it as they please."""

    state: str = "active"
    expires: datetime | None = None
    purge_after: datetime | None = None
    cards: list[SheetCard] = field(default_factory=list)
    gone: set[int] = field(default_factory=set)  # numbers of sessions whose upload is gone


@dataclass(frozen=True)
class Asked:
    """What ``note_resign`` was told."""

    part: int
    asked: int
    got: int
    host: str
    error: str


@dataclass
class _Row:
    """What pushes and parts have in common: a state, a lease and a next attempt."""

    state: State = State.QUEUED
    attempt: int = 0
    strikes: int = 0
    token: UUID | None = None
    until: datetime | None = None
    due: datetime | None = None
    error: CloudPushError | None = None

    def claimable(self, now: datetime) -> bool:
        if self.state is State.QUEUED:
            return self.due is None or self.due <= now
        return self.state is State.RUNNING and self.until is not None and self.until < now

    def take(self, lease: Lease, now: datetime) -> None:
        self.state, self.attempt, self.due = State.RUNNING, self.attempt + 1, None
        self.token, self.until = lease.token, now + timedelta(seconds=lease.seconds)

    def check(self, lease: Lease) -> None:
        if self.state is not State.RUNNING or self.token != lease.token:
            raise LeaseLost("the fake's row")

    def let_go(self, state: State, error: CloudPushError | None) -> None:
        self.state, self.error, self.token, self.until = state, error, None, None

    def retry(self, verdict: Verdict, now: datetime, *, at_once: bool) -> None:
        self.let_go(State.QUEUED, verdict.error)
        self.strikes += verdict.strike
        self.due = now + timedelta(seconds=0 if at_once else verdict.retry_in or 0)


@dataclass
class _File:
    row: PlannedFile | Refusal
    state: FileState = FileState.PLANNED
    strength: Strength | None = None
    error: CloudPushError | None = None
    result: FileResult | None = None


@dataclass
class _Part(_Row):
    part: Part = field(kw_only=True)


@dataclass
class _Push(_Row):
    push: Push = field(kw_only=True)
    planned: bool = False
    cancelled: bool = False
    parts: dict[int, _Part] = field(default_factory=dict)
    files: dict[int, _File] = field(default_factory=dict)
    renewals: list[UUID] = field(default_factory=list)
    pieces: dict[tuple[int, int], Piece] = field(default_factory=dict)

    @property
    def sets(self) -> list[UUID]:
        """What was handed over, oldest first."""
        return [self.push.credential_id, *self.renewals]

    def files_of(self, part: Part) -> list[_File]:
        return [f for seq, f in sorted(self.files.items()) if part.first <= seq <= part.last]


class FakeStore(Store, SheetStore):
    """``push.ports.Store`` and ``push.signed.ports.SheetStore`` in memory, with the few things that intake does to it.

    ``credential_state`` and ``credential_expires`` are those of every credential but sets, which ``set_of`` gives, and
    grants: ``consent`` raises ConsentRevoked, or CredentialError CONSENT_NEEDED, where a push may not use its grant now
    (a FakeGrantStore sets it). ``consented`` lets what waits for a grant go on.

    ``failing`` is raised by every call while it is set. ``during`` runs once, at the start of the call it names,
    for what happens in between: ``{"record_files": lambda: store.cancel(push.id)}``.
    """

    def __init__(self, clock: FakeClock | None = None) -> None:
        self.clock = clock or FakeClock()
        self.failing: StoreError | None = None
        self.during: dict[str, Callable[[], None]] = {}
        self.credential_state = "active"
        self.credential_expires: datetime | None = None
        self.consent: Callable[[Push], None] = lambda _push: None
        self.moments: dict[UUID, Progress] = {}
        self.calls: Counter[str] = Counter()
        self.asked: list[Asked] = []
        self.reports: list[tuple[UUID, Report]] = []  # what preflights of pushes found
        self._proved: list[tuple[UUID, Destination, datetime]] = []
        self._sets: dict[UUID, FakeSet] = {}
        self._rows: dict[UUID, _Push] = {}
        self._events: list[tuple[UUID, Event]] = []
        self._lock = threading.RLock()

    # -- what intake does ------------------------------------------------------------------

    def add(self, push: Push) -> UUID:
        """Store a request."""
        self._rows[push.id] = _Push(push=push)
        self._tell(push.id, Event.PUSH_QUEUED)
        return push.id

    def cancel(self, push_id: UUID) -> State:
        """Ask a push to stop."""
        row = self._rows[push_id]
        if row.state.final or row.cancelled:
            return row.state
        row.cancelled = True
        self._tell(push_id, Event.PUSH_CANCEL_REQUESTED)
        if row.state is not State.RUNNING and not row.planned:
            row.let_go(State.CANCELLED, Cancelled())
            self._tell(push_id, Event.PUSH_CANCELLED)
            self._end_sets(row)
        else:
            self._resume(row)
        for part in row.parts.values():
            part.due = None
        return row.state

    def resign(self, push_id: UUID, credential_id: UUID) -> State:
        """Hand over another set: what waits is queued again."""
        row = self._rows[push_id]
        row.renewals.append(credential_id)
        row.strikes = 0
        for part in row.parts.values():
            if part.state is State.AWAITING_CONSENT:
                part.strikes = 0
        self._tell(push_id, Event.PUSH_RESIGNED)
        self._resume(row)
        return row.state

    def consented(
        self, credential_id: UUID, owner: str | None = None, *, afresh: bool = False, over: bool = False
    ) -> int:
        """What waits for a grant goes on: it is usable again, or never will be (``over``). How many pushes do."""
        waiting = [
            row
            for row in self._rows.values()
            if row.push.credential_id == credential_id and owner in (None, row.push.owner)
        ]
        for row in waiting if over else ():
            row.due = None
            for part in row.parts.values():
                part.due = None
        return sum(self._resume(row, afresh=afresh) for row in waiting)

    def waiting_for(self, credential_id: UUID) -> list[UUID]:
        """Pushes that wait for a grant, or parts of which do."""
        waiting = State.AWAITING_CONSENT
        return [
            row.push.id
            for row in self._rows.values()
            if row.push.credential_id == credential_id
            and (row.state is waiting or any(p.state is waiting for p in row.parts.values()))
        ]

    def release_impatient(self, patience: float) -> int:
        """What the sweep does with pushes that waited for too long; ``patience`` in seconds."""
        before = self.clock.now() - timedelta(seconds=patience)
        return sum(self._resume(row) for row in self._rows.values() if row.push.created_at < before)

    def set_of(self, credential_id: UUID) -> FakeSet:
        """The set of that id, active and without blocks until somebody changes it."""
        return self._sets.setdefault(credential_id, FakeSet())

    # -- what a test looks at ----------------------------------------------------------------

    def standing(self, push_id: UUID) -> Standing:
        """Where a push stands."""
        row = self._rows[push_id]
        over = [p for p in row.parts.values() if p.state.final]
        files = [f for p in over for f in row.files_of(p.part)]
        return Standing(row.state, _code(row.error), row.strikes, row.attempt, _weakest(files), _counts(files))

    def part_standing(self, push_id: UUID, number: int) -> Standing:
        """Where a part stands."""
        row = self._rows[push_id].parts[number]
        return Standing(row.state, _code(row.error), row.strikes, row.attempt)

    def files(self, push_id: UUID) -> list[FileStanding]:
        """Where the files stand."""
        return [
            FileStanding(seq, f.state, f.strength.word if f.strength is not None else None, _code(f.error))
            for seq, f in sorted(self._rows[push_id].files.items())
        ]

    def result(self, push_id: UUID, seq: int) -> FileResult | None:
        """The last result that was recorded for a file."""
        return self._rows[push_id].files[seq].result

    def error(self, push_id: UUID) -> CloudPushError | None:
        """What a push ended with."""
        return self._rows[push_id].error

    def due(self, push_id: UUID, number: int) -> datetime | None:
        """When a part's next attempt may begin."""
        return self._rows[push_id].parts[number].due

    def events(self, push_id: UUID) -> list[str]:
        """What the record says of a push, in order."""
        return [kind.value for stream, kind in self._events if stream == push_id]

    # -- the port ------------------------------------------------------------------------------

    def claim_push(self, push_id: UUID, lease: Lease) -> Push | None:
        with self._call("claim_push"):
            row = self._rows.get(push_id)
            if row is None or row.planned or not row.claimable(self.clock.now()):
                return None
            row.take(lease, self.clock.now())
            row.parts.clear()
            row.files.clear()
            self._tell(push_id, Event.PUSH_CLAIMED)
            return replace(_as_claimed(row), unproved=self._unproved(row.push))

    def begin_preflight(self, push: Push, lease: Lease) -> None:
        with self._call("begin_preflight"):
            self._rows[push.id].check(lease)
            self._check_usable(push)
            self._tell(push.id, Event.CREDENTIAL_USED)

    def record_preflight(self, push: Push, lease: Lease, report: Report) -> None:
        with self._call("record_preflight"):
            self._rows[push.id].check(lease)
            self.reports.append((push.id, report))
            if report.error is None:
                self._proved.append((push.credential_id, push.destination, self.clock.now()))
            self._tell(push.id, Event.PUSH_PREFLIGHT)

    def record_page(self, push: Push, lease: Lease, page: Page) -> None:
        with self._call("record_page"):
            row = self._rows[push.id]
            row.check(lease)
            part = _Part(part=page.part)
            part.due = FAR if page.part.closing else None
            self._keep(row, page, part)

    def finish_plan(self, push: Push, lease: Lease, *, parts: int, files: int, bytes_: int) -> None:
        with self._call("finish_plan"):
            self._end_plan(push, lease)
            self._tell(push.id, Event.PUSH_PLANNED)

    def finish_plan_with(self, push: Push, lease: Lease, page: Page) -> None:
        with self._call("finish_plan_with"):
            self._check_usable(push)
            self._end_plan(push, lease)
            self._tell(push.id, Event.PUSH_PLANNED)
            part = _Part(part=page.part)
            part.take(lease, self.clock.now())
            self._keep(self._rows[push.id], page, part)
            self._tell(push.id, Event.CREDENTIAL_USED)

    def claim_part(self, push_id: UUID, number: int, lease: Lease) -> tuple[Push, Part] | None:
        with self._call("claim_part"):
            row = self._rows.get(push_id)
            part = row.parts.get(number) if row and row.planned else None
            if row is None or part is None or not part.claimable(self.clock.now()):
                return None
            part.take(lease, self.clock.now())
            self._tell(push_id, Event.PART_CLAIMED)
            return _as_claimed(row), replace(part.part, attempt=part.attempt, strikes=part.strikes)

    def arrived(self, part: Part) -> Iterable[Arrived]:
        with self._call("arrived"):
            files = self._rows[part.push_id].files
            return [_arrived(seq, files[seq]) for seq in sorted(files) if seq < part.first]

    def add_files(self, part: Part, lease: Lease, files: Sequence[PlannedFile]) -> None:
        with self._call("add_files"):
            self._hold(part, lease)
            for f in files:
                self._rows[part.push_id].files.setdefault(f.seq, _File(f))

    def closing_due(self, push_id: UUID) -> int | None:
        with self._call("closing_due"):
            closing = self._closing(self._rows[push_id])
            due = closing is not None and closing.state is State.QUEUED and closing.claimable(self.clock.now())
            return closing.part.number if closing is not None and due else None

    def open_files(self, part: Part) -> Sequence[PlannedFile]:
        with self._call("open_files"):
            files = self._rows[part.push_id].files_of(part)
            return [f.row for f in files if f.state is FileState.PLANNED and isinstance(f.row, PlannedFile)]

    def record_credential_use(self, push: Push, part: Part, lease: Lease, *, ending: bool = False) -> None:
        with self._call("record_credential_use"):
            self._hold(part, lease)
            if not ending:
                self._check_usable(push)
            self._tell(push.id, Event.CREDENTIAL_USED)

    def record_files(self, part: Part, lease: Lease, results: Sequence[FileResult]) -> None:
        with self._call("record_files"):
            if not results:
                return
            self._hold(part, lease)
            files = self._rows[part.push_id].files
            for r in results:
                f = files[r.seq]
                if f.state is FileState.PLANNED:
                    f.state, f.strength, f.error, f.result = r.state, r.strength, r.error, r
                if r.error is not None:
                    self._tell(part.push_id, Event.FILE_FAILED)

    def end_part(
        self, push: Push, part: Part, lease: Lease, verdict: Verdict, results: Sequence[FileResult] = ()
    ) -> State:
        self.record_files(part, lease, results)
        with self._call("end_part"):
            row, mine = self._rows[push.id], self._hold(part, lease)
            if verdict.state is State.AWAITING_CONSENT and not self._came_meanwhile(row, push):
                mine.let_go(State.AWAITING_CONSENT, verdict.error)
                self._tell(push.id, Event.PART_PAUSED)
                return self._pause_where_all_wait(row)
            if verdict.state in (State.QUEUED, State.AWAITING_CONSENT):
                mine.retry(_soon(push, verdict), self.clock.now(), at_once=row.cancelled)
                self._tell(push.id, Event.PART_RETRY_SCHEDULED)
                return row.state
            if part.closing and row.push.package is not None:
                for made in unwritten(row.push.package, row.push.destination.prefix, part.first):
                    row.files.setdefault(made.seq, _File(made))
            if verdict.state is not State.SUCCEEDED:
                for f in row.files_of(part):
                    _close(f, verdict)
            files = row.files_of(part)
            state = _tally(files).state
            mine.let_go(state, _telling(files) or verdict.error)
            self._tell(push.id, Event.PART_FINISHED)
            closing = self._closing(row)
            if closing is not None and closing.attempt == 0 and self._others_over(row):
                closing.due = self.clock.now()
            if all(p.state.final for p in row.parts.values()):
                self._end_with_parts(row)
            return self._pause_where_all_wait(row)

    def end_push(self, push: Push, lease: Lease, verdict: Verdict) -> None:
        with self._call("end_push"):
            row = self._rows[push.id]
            row.check(lease)
            if verdict.state is State.AWAITING_CONSENT and not self._came_meanwhile(row, push):
                row.let_go(State.AWAITING_CONSENT, verdict.error)
                self._tell(push.id, Event.PUSH_AWAITING_CONSENT)
                return
            if verdict.state in (State.QUEUED, State.AWAITING_CONSENT):
                row.retry(_soon(push, verdict), self.clock.now(), at_once=row.cancelled)
                self._tell(push.id, Event.PUSH_RETRY_SCHEDULED)
                return
            row.let_go(verdict.state, verdict.error)
            self._tell(push.id, ENDINGS[verdict.state])
            self._end_sets(row)

    def extend(self, tokens: Iterable[UUID], seconds: float) -> Mapping[UUID, Wish]:
        with self._call("extend"):
            answer: dict[UUID, Wish] = {}
            wanted = set(tokens)
            for push in self._rows.values():
                for row in (push, *push.parts.values()):
                    if row.token in wanted and row.token is not None and row.state is State.RUNNING:
                        row.until = self.clock.now() + timedelta(seconds=seconds)
                        answer[row.token] = self._wish(push)
            return answer

    def note_progress(self, moments: Mapping[UUID, Progress]) -> None:
        with self._call("note_progress"):
            self.moments.update(moments)

    # -- the port of sets --------------------------------------------------------------------------

    def sheets(self, push: Push, first: int, last: int | None) -> tuple[UUID, Sequence[SheetCard]]:
        with self._call("sheets"):
            current = self._rows[push.id].sets[-1]
            found = self.set_of(current)
            cards = sorted(found.cards, key=lambda card: card.number) if found.state == "active" else []
            return current, [
                card
                for card in cards
                if card.last >= first and (last is None or card.first <= last) and card.number not in found.gone
            ]

    def sessions(self, part: Part) -> Sequence[tuple[UUID, SheetCard]]:
        with self._call("sessions"):
            row = self._rows[part.push_id]
            newest: dict[int, tuple[UUID, SheetCard]] = {}
            for credential_id in row.sets:
                found = self.set_of(credential_id)
                cards = sorted(found.cards, key=lambda card: card.number) if found.state == "active" else []
                for card in cards:
                    if card.session and card.number not in found.gone and self._open(row, part, card.first):
                        newest[card.first] = (credential_id, card)
            return [newest[seq] for seq in sorted(newest)]

    def pieces(self, part: Part) -> Sequence[Piece]:
        with self._call("pieces"):
            row = self._rows[part.push_id]
            return [piece for (seq, _), piece in sorted(row.pieces.items()) if self._open(row, part, seq)]

    def record_pieces(self, part: Part, lease: Lease, pieces: Sequence[Piece]) -> None:
        with self._call("record_pieces"):
            self._hold(part, lease)
            self._rows[part.push_id].pieces.update({(p.seq, p.number): p for p in pieces})

    def forget_pieces(self, part: Part, lease: Lease, seq: int) -> None:
        with self._call("forget_pieces"):
            self._hold(part, lease)
            row = self._rows[part.push_id]
            row.pieces = {key: piece for key, piece in row.pieces.items() if key[0] != seq}
            for credential_id in row.sets:
                found = self.set_of(credential_id)
                found.gone |= {card.number for card in found.cards if card.session and card.first == seq}

    def add_session(self, push: Push, part: Part, lease: Lease, seq: int, seconds: float) -> tuple[UUID, int]:
        with self._call("add_session"):
            self._hold(part, lease)
            row, until = self._rows[push.id], self.clock.now() + timedelta(seconds=seconds)
            current = row.sets[-1]
            if self.set_of(current).state != "active":
                current = uuid4()
                row.renewals.append(current)
                self._tell(push.id, Event.PUSH_RESIGNED)
                self.set_of(current).purge_after = until
            found = self.set_of(current)
            if found.purge_after is not None:
                found.purge_after = max(found.purge_after, until)
            number = max((card.number for card in found.cards), default=0) + 1
            found.cards.append(SheetCard(number, seq, seq, session=True))
            return current, number

    def note_resign(self, push: Push, part: Part, lease: Lease, asked: int, got: int, host: str, error: str) -> None:
        with self._call("note_resign"):
            self._hold(part, lease)
            self.asked.append(Asked(part.number, asked, got, host, error))
            self._tell(push.id, Event.PUSH_RESIGN_ASKED)

    # -- pieces ------------------------------------------------------------------------------

    @contextmanager
    def _call(self, name: str) -> Iterator[None]:
        with self._lock:
            self.calls[name] += 1
            if name in self.during:
                self.during.pop(name)()
            if self.failing is not None:
                raise self.failing
            yield

    def _check_usable(self, push: Push) -> None:
        row = self._rows[push.id]
        if row.cancelled:
            raise Cancelled
        if push.credential_kind == SIGNED_URLS:
            self._check_set(row)
            return
        if push.credential_kind in GRANT_KINDS:
            self.consent(row.push)
            return
        if self.credential_state != "active":
            raise CredentialError(Code.CREDENTIAL_PURGED, f"The credential is {self.credential_state}.")
        if self.credential_expires is not None and self.credential_expires <= self.clock.now():
            raise CredentialError(Code.CREDENTIAL_EXPIRED, "The credential expired.")

    def _check_set(self, row: _Push) -> None:
        current = self.set_of(row.sets[-1])
        expired = current.expires is not None and current.expires <= self.clock.now()
        if not expired and current.state == "active":
            return
        if row.push.hook_id is None and not self._sessions_left(row):
            raise CredentialError(Code.URL_EXPIRED, "The push's signed URLs are gone.")

    def _sessions_left(self, row: _Push) -> bool:
        """Whether an upload that is under way needs no fresh URL."""
        live = [found for found in map(self.set_of, row.sets) if found.state == "active"]
        begun = {card.first for found in live for card in found.cards if card.session and card.number not in found.gone}
        return any(row.files[seq].state is FileState.PLANNED for seq in begun if seq in row.files)

    def _open(self, row: _Push, part: Part, seq: int) -> bool:
        """Whether the file is the part's and has no verdict yet."""
        return part.first <= seq <= part.last and row.files[seq].state is FileState.PLANNED

    def _came_meanwhile(self, row: _Push, push: Push) -> bool:
        """Whether fresh URLs, a consent, its end or a wish to stop came after this worker's claim."""
        if row.cancelled or row.sets[-1] != push.credential_id:
            return True
        return push.credential_kind in GRANT_KINDS and not self._needs_consent(row)

    def _needs_consent(self, row: _Push) -> bool:
        try:
            self.consent(row.push)
        except ConsentRevoked:
            return False
        except CredentialError as e:
            return e.code is Code.CONSENT_NEEDED
        return False

    def _wish(self, row: _Push) -> Wish:
        if row.cancelled:
            return Wish.CANCEL
        if row.push.credential_kind in GRANT_KINDS:
            try:
                self.consent(row.push)
            except ConsentRevoked:
                return Wish.REVOKED
            except CredentialError:
                pass  # who runs goes on for as long as what it has lasts
        return Wish.GO_ON

    def _pause_where_all_wait(self, row: _Push) -> State:
        waiting = [p for _, p in sorted(row.parts.items()) if p.state is State.AWAITING_CONSENT]
        closing = self._closing(row)
        rest = [p for p in row.parts.values() if p is not closing or self._others_over(row)]
        if waiting and all(p.state.final or p.state is State.AWAITING_CONSENT for p in rest):
            row.let_go(State.AWAITING_CONSENT, waiting[0].error)
            self._tell(row.push.id, Event.PUSH_AWAITING_CONSENT)
        return row.state

    def _closing(self, row: _Push) -> _Part | None:
        return next((p for p in row.parts.values() if p.part.closing), None)

    def _others_over(self, row: _Push) -> bool:
        """Whether every part but the closing one is over."""
        return all(p.state.final for p in row.parts.values() if not p.part.closing)

    def _unproved(self, push: Push) -> bool:
        """See ``Store.claim_push``."""
        if push.credential_kind == SIGNED_URLS:
            return False
        since, there = self.clock.now() - PROVED, push.destination
        return not any(
            credential == push.credential_id
            and at > since
            and (where.bucket, where.profile.name) == (there.bucket, there.profile.name)
            and (where.prefix in ("", there.prefix) or there.prefix.startswith(where.prefix + "/"))
            for credential, where, at in self._proved
        )

    def _resume(self, row: _Push, *, afresh: bool = False) -> bool:
        """Queue what waits again; whether anything did."""
        waiting = [p for p in row.parts.values() if p.state is State.AWAITING_CONSENT]
        if not waiting and row.state is not State.AWAITING_CONSENT:
            return False
        row.strikes = 0 if afresh else row.strikes
        for part in waiting:
            part.state, part.error, part.due = State.QUEUED, None, None
            part.strikes = 0 if afresh else part.strikes
        if row.state is State.AWAITING_CONSENT:
            over = [p.error for _, p in sorted(row.parts.items()) if p.state.final and p.error]
            row.state, row.error, row.due = (
                State.RUNNING if row.planned else State.QUEUED,
                over[0] if over else None,
                None,
            )
        self._tell(row.push.id, Event.PUSH_RESUMED)
        return True

    def _end_sets(self, row: _Push) -> None:
        """What the database does when a push ends: its sets are due for destruction, its pieces gone."""
        row.pieces.clear()
        if row.push.credential_kind != SIGNED_URLS:
            return
        for found in map(self.set_of, row.sets):
            found.purge_after = min(found.purge_after or self.clock.now(), self.clock.now())

    def _hold(self, part: Part, lease: Lease) -> _Part:
        row = self._rows[part.push_id].parts[part.number]
        row.check(lease)
        return row

    def _keep(self, row: _Push, page: Page, part: _Part) -> None:
        row.parts[page.part.number] = part
        for r in page.rows:
            if isinstance(r, Refusal):
                row.files[r.seq] = _File(r, FileState.FAILED, error=r.error)
                self._tell(row.push.id, Event.FILE_FAILED)
            else:
                row.files[r.seq] = _File(r)

    def _end_plan(self, push: Push, lease: Lease) -> None:
        row = self._rows[push.id]
        row.check(lease)
        row.planned, row.token, row.until, row.error = True, None, None, None

    def _end_with_parts(self, row: _Push) -> None:
        state = _tally(list(row.files.values())).state
        decisive = next(p for _, p in sorted(row.parts.items()) if p.state is state)
        row.let_go(state, decisive.error)
        self._tell(row.push.id, ENDINGS[state])
        self._end_sets(row)

    def _tell(self, push_id: UUID, kind: Event) -> None:
        self._events.append((push_id, kind))


def _arrived(seq: int, f: _File) -> Arrived:
    row, found = f.row, f.result
    size, mtime = (row.size, row.mtime_ns) if isinstance(row, PlannedFile) else (0, 0)
    return Arrived(seq, row.path, size, mtime, f.state, found.sha256 if found else None, _code(f.error) or "")


def _soon(push: Push, verdict: Verdict) -> Verdict:
    """A pause that need not be: what a grant's push waits for is there, and is tried in a second."""
    if verdict.state is State.AWAITING_CONSENT and push.credential_kind in GRANT_KINDS:
        return replace(verdict, retry_in=1.0)
    return verdict


def _as_claimed(row: _Push) -> Push:
    return replace(
        row.push, credential_id=row.sets[-1], attempt=row.attempt, strikes=row.strikes, cancelled=row.cancelled
    )


def _close(f: _File, verdict: Verdict) -> None:
    if f.state is not FileState.PLANNED:
        return
    if verdict.state is State.CANCELLED:
        f.state, f.error = FileState.CANCELLED, verdict.error
    else:
        f.state, f.error = FileState.FAILED, f.error or verdict.error


def _telling(files: Sequence[_File]) -> CloudPushError | None:
    """The error that says most about a part: a cancelled file's, a failed one's, any."""
    order = (FileState.CANCELLED, FileState.FAILED)
    found = [f for f in files if f.error is not None]
    found.sort(key=lambda f: order.index(f.state) if f.state in order else len(order))
    return found[0].error if found else None


def _tally(files: Sequence[_File]) -> Tally:
    counts = Counter(f.state for f in files)
    return Tally(
        counts[FileState.VERIFIED],
        counts[FileState.SKIPPED],
        counts[FileState.UNVERIFIED],
        counts[FileState.FAILED] + counts[FileState.PLANNED],
        counts[FileState.CANCELLED],
    )


def _counts(files: Sequence[_File]) -> tuple[int, int, int, int]:
    tally = _tally(files)
    return (tally.verified, tally.skipped, tally.unverified, tally.failed)


def _weakest(files: Sequence[_File]) -> str | None:
    there = (FileState.VERIFIED, FileState.SKIPPED, FileState.UNVERIFIED)
    found = [f.strength for f in files if f.state in there and f.strength is not None]
    return min(found).word if found else None


def _code(error: CloudPushError | None) -> str | None:
    return error.code.value if error else None

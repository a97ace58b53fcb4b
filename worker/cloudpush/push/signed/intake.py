"""Intake of pushes with signed URLs: read, check and seal in one pass, store, announce.

::

    rows → tickets → sheets → Vault          nothing of a manifest's length is held
                       └ metadata → Postgres, then the push, then the message

What is wrong is refused with its line, and what was sealed by then is destroyed. A crash leaves a set that no push has:
the sweep destroys it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from uuid import UUID

from cloudpush.errors import Code, CredentialError, InputError, SourceError
from cloudpush.push.admission import CredentialCard, demanded
from cloudpush.push.credential import Caller, Credential, CredentialState
from cloudpush.push.intake import Accepted, Preview, announce, check_words, preview_of
from cloudpush.push.job import Destination, PlannedFile, Refusal, Request
from cloudpush.push.ports import Announcer, Clock
from cloudpush.push.signed.demands import ByPath, SamePush, check_complete, check_keeps, check_patterns, check_source
from cloudpush.push.signed.desk import SignedCard, SignedDesk
from cloudpush.push.signed.gathering import Entry, Gathered, Gathering
from cloudpush.push.signed.hosts import Styles
from cloudpush.push.signed.model import MIB, PROFILE, RESIGN_HOOK, SIGNED_URLS, Kind, Ticket
from cloudpush.push.signed.pathbook import FileBook
from cloudpush.push.signed.places import destination_of, read_destination
from cloudpush.push.signed.rows import Rules, read_row, ticket_from_url
from cloudpush.push.signed.sets import SetInMaking, Sets
from cloudpush.push.states import Overwrite, State, Strength
from cloudpush.push.walk import Lookup, real_roots, resolve_source, walk

#: Line number, row: what a manifest consists of.
Rows = Iterable[tuple[int, Mapping[str, object]]]

#: How fast an upload is taken to be when its URLs' lives are judged, in bytes per second.
SPEED = 10 * MIB
#: Rows of a preview that are shown.
SHOWN = 10

_WARNED_MISSING = "{missing} of {files} files are not there yet, or cannot be pushed: {first}."
_WARNED_EXPIRY = (
    "The first URL expires at {at:%Y-%m-%d %H:%M:%S} UTC; {size} MiB take until about {until:%H:%M:%S} at 10 MiB/s. "
    "Register a callback, or have fresh URLs ready for `cloudpush resign`."
)


@dataclass(frozen=True, slots=True)
class Resigned:
    """What came of fresh URLs. ``ignored``: rows about files that are there already, or that the push has not.

    ``missing``: files that are not there yet and got no fresh URL; None before the push is planned.
    """

    accepted: int
    ignored: int
    credential: UUID
    state: State
    missing: int | None = None


class SignedIntake:
    """The door's other side for signed URLs: submit, preview, resign."""

    def __init__(
        self,
        *,
        desk: SignedDesk,
        sets: Sets,
        announcer: Announcer,
        clock: Clock,
        roots: tuple[Path, ...],
        styles: Styles,
    ) -> None:
        self._desk = desk
        self._sets = sets
        self._announcer = announcer
        self._clock = clock
        self._roots = roots
        self._styles = styles

    def submit(self, request: Request, rows: Rows, hook: str = "") -> Accepted:
        """Store a push of the files that ``rows`` name, each where its URL leads, and announce it.

        ``hook``: id or name of a credential of kind resign_hook, whom to ask for fresh URLs. ``request`` names neither
        destination nor credential. Raises InputError, SourceError, CredentialError, VaultError, StoreError: then nothing
        is stored, and what was sealed is destroyed, at once or by the sweep.
        """
        source = self._check(request)
        return self._submit(request, source, self._entries(rows, single=source.is_file()), hook)

    def submit_one(self, request: Request, text: str, hook: str = "") -> Accepted:
        """As :meth:`submit`, for one URL, or one row as a JSON object: of a file, or a SAS for a whole directory."""
        source = self._check(request)
        return self._submit(request, source, self._entry(text, source), hook)

    def preview(self, request: Request, rows: Rows, hook: str = "", *, show: int = SHOWN) -> Preview:
        """Read and check everything as :meth:`submit` would; seal and store nothing."""
        source = self._check(request)
        return self._preview(request, source, self._entries(rows, single=source.is_file()), hook, show)

    def preview_one(self, request: Request, text: str, hook: str = "", *, show: int = SHOWN) -> Preview:
        """As :meth:`preview`, for one URL or row."""
        source = self._check(request)
        return self._preview(request, source, self._entry(text, source), hook, show)

    def resign(self, push_id: UUID, owner: str | None, actor: str, rows: Rows) -> Resigned:
        """Let a push go on with fresh URLs for its files. ``owner`` None: an operator asks.

        They must lead to the same objects. Rows about files that are there already are passed over; before the push
        is planned, all of its files are asked for. Raises as :meth:`submit` does, and InputError UNKNOWN_PUSH, NOT_OWNER.
        """
        card = self._open_push(push_id, owner)
        return self._resign(push_id, card, actor, self._entries(rows, single=_is_file(card)))

    def resign_one(self, push_id: UUID, owner: str | None, actor: str, text: str) -> Resigned:
        """As :meth:`resign`, for one URL or row."""
        card = self._open_push(push_id, owner)
        return self._resign(push_id, card, actor, self._entry(text, Path(card.source)))

    # -- submitting ----------------------------------------------------------------------------

    def _submit(self, request: Request, source: Path, entries: Iterable[Entry], hook: str) -> Accepted:
        hook_id = self._hook(hook, request.owner)
        gathering = self._gathering(request, source)
        gathering.open = self._opener(request.actor, request.owner)
        sizes = _Sizes(source, self._roots)
        try:
            for _, path, ticket in gathering.take(entries):
                sizes.add(path, ticket)
            made = gathering.finish()
        except BaseException:  # an interrupt leaves no URL behind either
            gathering.abandon()
            raise
        try:
            push_id, created = self._store(request, made, gathering.gathered, hook_id)
        except InputError:
            gathering.abandon()
            raise
        # A StoreError leaves open whether the push is there: the sweep destroys the set if it is not.
        if not created:
            gathering.abandon()
        announced = announce(self._announcer, push_id)
        return Accepted(push_id, created, announced, self._warnings(gathering.gathered, sizes))

    def _store(self, request: Request, made: Credential, gathered: Gathered, hook_id: UUID | None) -> tuple[UUID, bool]:
        card = CredentialCard(
            made.id, made.owner, SIGNED_URLS, CredentialState.ACTIVE, made.expires_at, PROFILE, made.endpoint
        )
        destination = _destination(gathered)
        digest = _digest(request, destination, made.endpoint, gathered, hook_id)
        return self._desk.store_signed(
            request, card, destination, digest, hook_id=hook_id, manifest_sha256=gathered.manifest_sha256
        )

    def _preview(self, request: Request, source: Path, entries: Iterable[Entry], hook: str, show: int) -> Preview:
        self._hook(hook, request.owner)
        gathering = self._gathering(request, source)
        sizes = _Sizes(source, self._roots)
        found = preview_of(_planned(gathering.take(entries), sizes), _NOWHERE, show)
        gathered = gathering.gathered
        if gathered.first is None:
            raise InputError(Code.BAD_MANIFEST, "The manifest has no rows.", field="manifest")
        destination = _destination(gathered)
        if gathered.first.kind is Kind.TREE:
            walked = walk(Path(request.source), self._roots, destination, request.include, request.exclude)
            found = preview_of(walked, destination, show)
            sizes.total = found.bytes
        return replace(found, destination=destination.uri, warnings=self._warnings(gathered, sizes))

    def _check(self, request: Request) -> Path:
        """The source, resolved. Raises what is wrong with the request itself."""
        check_words(request)
        for field in ("destination", "credential", "profile"):
            if getattr(request, field):
                raise InputError(
                    Code.BAD_INPUT, f"{field} goes not with signed URLs, which say it themselves.", field=field
                )
        if request.package is not None:
            raise InputError(
                Code.BAD_INPUT,
                "package goes not with signed URLs, which lead to the data's own objects and nowhere else.",
                field="package",
            )
        if request.min_strength is Strength.REREAD:
            raise InputError(
                Code.BAD_INPUT,
                "min_strength 'reread' goes not with signed URLs, which read nothing back; demand 'checksum' or less.",
                field="min_strength",
            )
        return resolve_source(Path(request.source), self._roots)

    def _gathering(self, request: Request, source: Path) -> Gathering:
        def check(ticket: Ticket) -> None:
            check_patterns(request, ticket)
            check_source(source, ticket)
            if request.overwrite is Overwrite.NEVER:
                check_keeps(ticket)

        # By the name that the user knows, which may be a symlink's: a worker plans it under that one.
        return Gathering(self._clock, check, only=Path(request.source).name if source.is_file() else "")

    def _opener(self, actor: str, owner: str) -> _Opener:
        return _Opener(self._sets, Caller(actor), owner)

    def _hook(self, reference: str, owner: str) -> UUID | None:
        """The credential to ask for fresh URLs. Raises InputError, CredentialError."""
        if not reference:
            return None
        card = self._desk.credential(reference, owner)
        if card is None:
            raise InputError(
                Code.UNKNOWN_CREDENTIAL,
                f"resign hook {reference!r} is not known for owner {owner!r}.",
                field="resign_hook",
            )
        if card.owner != owner:
            raise InputError(
                Code.NOT_OWNER, f"resign hook {reference!r} belongs to another owner.", field="resign_hook"
            )
        if card.kind != RESIGN_HOOK:
            raise InputError(
                Code.BAD_INPUT,
                f"resign hook {reference!r} is a credential of kind {card.kind}; add one of kind {RESIGN_HOOK}.",
                field="resign_hook",
            )
        if card.state != "active":
            raise CredentialError(
                Code.CREDENTIAL_PURGED, f"resign hook {reference!r} is {card.state}.", field="resign_hook"
            )
        if card.expires_at is not None and card.expires_at <= self._clock.now():
            raise CredentialError(
                Code.CREDENTIAL_EXPIRED,
                f"resign hook {reference!r} expired at {card.expires_at:%Y-%m-%d %H:%M:%S} UTC.",
                field="resign_hook",
            )
        return card.id

    def _warnings(self, gathered: Gathered, sizes: _Sizes) -> tuple[str, ...]:
        told = []
        if sizes.missing:
            told.append(_WARNED_MISSING.format(missing=sizes.missing, files=gathered.count, first=sizes.first_missing))
        until = self._clock.now() + timedelta(seconds=sizes.total / SPEED)
        if gathered.earliest is not None and gathered.earliest < until:
            told.append(_WARNED_EXPIRY.format(at=gathered.earliest, size=sizes.total // MIB, until=until))
        return tuple(told)

    # -- fresh URLs ----------------------------------------------------------------------------

    def _open_push(self, push_id: UUID, owner: str | None) -> SignedCard:
        card = self._desk.signed_push(push_id, owner)
        if card.state.final:
            raise InputError(Code.BAD_INPUT, f"push {push_id} is {card.state}: it needs no fresh URLs.", field="push")
        return card

    def _resign(self, push_id: UUID, card: SignedCard, actor: str, entries: Iterable[Entry]) -> Resigned:
        only = Path(card.source).name if _is_file(card) else ""
        destination = read_destination(card.uri)
        with closing(FileBook()) as book:
            tree = card.manifest_sha256 is None
            by_path = card.planned and not tree
            waiting = self._open_files(push_id, book) if by_path else 0
            gathering = Gathering(
                self._clock, SamePush(destination, card.endpoint, tree), self._opener(actor, card.owner), only=only
            )
            if by_path:
                gathering.number = ByPath(book, destination, card.endpoint)
            try:
                for _ in gathering.take(entries):
                    pass  # sealing is all there is to do
                gathered = gathering.gathered
                check_complete(card, gathered, by_path=by_path)
                made = gathering.finish()
            except BaseException:  # likewise
                gathering.abandon()
                raise
        try:
            state = self._desk.resign(push_id, made.id, actor, gathered.count, planned=card.planned)
        except InputError:
            gathering.abandon()
            raise
        if state is State.QUEUED:
            announce(self._announcer, push_id)
        missing = waiting - gathered.count if by_path else None
        return Resigned(gathered.count, gathering.passed_over, made.id, state, missing)

    def _open_files(self, push_id: UUID, book: FileBook) -> int:
        count = 0
        for seq, path, key in self._desk.open_files_of(push_id):
            book.put(path, seq, key)
            count += 1
        return count

    # -- reading -------------------------------------------------------------------------------

    def _entries(self, rows: Rows, *, single: bool) -> Iterator[Entry]:
        for line, row in rows:
            entry: Ticket | InputError
            try:
                entry = read_row(row, self._rules(single=single))
            except InputError as e:
                entry = e
            yield line, entry

    def _entry(self, text: str, source: Path) -> Iterator[Entry]:
        yield 0, ticket_from_url(text, self._rules(single=source.is_file()))

    def _rules(self, *, single: bool) -> Rules:
        # Asked for each row: a manifest of a million may be read for as long as its first URLs live.
        return Rules(self._styles, self._clock.now(), single)


@dataclass(frozen=True, slots=True)
class _Opener:
    """Opens a set once it is known where its URLs lead."""

    sets: Sets
    caller: Caller
    owner: str

    def __call__(self, origin: str) -> SetInMaking:
        return self.sets.open(self.caller, self.owner, origin)


class _Sizes:
    """How much there is to send, as far as the source shows it now."""

    def __init__(self, source: Path, roots: tuple[Path, ...]) -> None:
        self._only = source.name if source.is_file() else ""
        self._lookup = Lookup(str(source.parent if self._only else source), real_roots(roots))
        self.total = 0
        self.missing = 0
        self.first_missing = ""

    def add(self, path: str, ticket: Ticket) -> PlannedFile | SourceError | None:
        """The file at ``path``, or why it cannot be pushed; None for a TREE, which is walked later."""
        if ticket.kind is Kind.TREE:
            return None
        try:
            found = self._lookup.file(self._only or path)
        except SourceError as e:
            self.missing += 1
            self.first_missing = self.first_missing or e.message
            return e
        self.total += found.st_size
        return PlannedFile(0, path, ticket.key, found.st_size, found.st_mtime_ns)


def _planned(taken: Iterable[tuple[int, str, Ticket]], sizes: _Sizes) -> Iterator[PlannedFile | Refusal]:
    for seq, path, ticket in taken:
        found = sizes.add(path, ticket)
        if isinstance(found, SourceError):
            yield Refusal(seq, path, found)
        elif found is not None:
            yield replace(found, seq=seq)


#: Until the last row was read nobody knows where a push goes.
_NOWHERE = read_destination("s3://-")


def _destination(gathered: Gathered) -> Destination:
    """Where all of them lead. ``gathered`` has a first ticket."""
    if gathered.first is None:
        raise ValueError("nothing was gathered")
    return destination_of(gathered.first.url, gathered.directory.strip("/"))


def _digest(
    request: Request, destination: Destination, endpoint: str, gathered: Gathered, hook_id: UUID | None
) -> bytes:
    """Identifies what was asked for. Signatures and their times are no part of it: a retry signs anew."""
    asked = {
        "source": request.source,
        "destination": destination.uri,
        "endpoint": endpoint,
        "rows": gathered.rows_sha256,
        "hook": str(hook_id or ""),
        "min_strength": demanded(request, destination).word,
        "overwrite": request.overwrite.value,
        "include": request.include,
        "exclude": request.exclude,
        "labels": dict(sorted(request.labels.items())),
    }
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).digest()


def _is_file(card: SignedCard) -> bool:
    return Path(card.source).is_file()

"""One pass over what was handed over: each ticket is checked against the others and sealed as it comes.

Nothing of a manifest's length is held. With the first row that is wrong nothing more is sealed, but reading goes on for
a while: its owner learns of several mistakes at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from cloudpush.errors import Code, InputError
from cloudpush.push.credential import Credential
from cloudpush.push.ports import Clock
from cloudpush.push.signed.model import Kind, Ticket
from cloudpush.push.signed.pathbook import PathBook
from cloudpush.push.signed.places import common_directory, directory_of
from cloudpush.push.signed.sets import SetInMaking
from cloudpush.push.signed.sheets import SHEET_BYTES, SHEET_TICKETS, encode, weight

if TYPE_CHECKING:
    from hashlib import _Hash

#: Mistakes that are told at once.
ERRORS_TOLD = 20
#: A sheet that fills slowly is sealed after so long: a signer at the other end of a pipe may take its time.
SHEET_PATIENCE = timedelta(seconds=60)
#: The URI of a resumable upload lives for a week.
SESSION_LIFE = timedelta(days=7)

#: A ticket with its place in the manifest, or why there is none. Line 0: it was handed over alone.
Entry = tuple[int, Ticket | InputError]


@dataclass(slots=True)
class Gathered:
    """What is known of the tickets so far. ``first``: the one that says where all of them lead."""

    first: Ticket | None = None
    count: int = 0
    directory: str = ""  # the deepest that all keys are in, with its slash
    earliest: datetime | None = None
    latest: datetime | None = None
    endless: bool = False  # a URL that does not say when it expires
    _pairs: _Hash = field(default_factory=hashlib.sha256)
    _rows: _Hash = field(default_factory=hashlib.sha256)

    def add(self, ticket: Ticket, path: str, now: datetime) -> None:
        """Count ``ticket``, whose file is ``path``."""
        directory = directory_of(ticket)
        if self.first is None:
            self.first, self.directory = ticket, directory
        elif not directory.startswith(self.directory):
            self.directory = common_directory(self.directory, directory)
        self.count += 1
        self._add_times(ticket, now)
        # The length in front keeps a path and a key that end and begin elsewhere apart.
        pair = f"{len(path)} {len(ticket.key)} {path}{ticket.key}"
        self._pairs.update(pair.encode("utf-8", "surrogatepass"))
        told = "".join(f" {name}={value}" for name, value in sorted(ticket.checksums.items()))
        self._rows.update(f"{ticket.kind.value} {ticket.verify_method}{told} {pair}".encode("utf-8", "surrogatepass"))

    @property
    def manifest_sha256(self) -> bytes | None:
        """Of paths and keys in their order, which numbers them; None for a TREE, whose files nobody knows yet."""
        if self.first is not None and self.first.kind is Kind.TREE:
            return None
        return self._pairs.digest()

    @property
    def rows_sha256(self) -> str:
        """Of everything that makes another request of it, which a signature's time does not."""
        return self._rows.hexdigest()

    @property
    def expires_at(self) -> datetime | None:
        """When the last URL expires; None where one does not say."""
        return None if self.endless else self.latest

    def _add_times(self, ticket: Ticket, now: datetime) -> None:
        uploads = ticket.expires_at or ticket.url.expires_at
        if uploads is None and ticket.url.session:
            uploads = now + SESSION_LIFE
        if uploads is None:
            self.endless = True
            return
        last = max(t for t in (uploads, ticket.url.expires_at, ticket.verify and ticket.verify.expires_at) if t)
        self.earliest = min(self.earliest or uploads, uploads)
        self.latest = max(self.latest or last, last)


@dataclass(slots=True)
class Gathering:
    """Checks entries and seals them. ``only``: the path of a source that is one file.

    ``number``: the sequence number of the file at a path, None for a row to pass over; it raises InputError for one
    that must not be there. ``check``: raises InputError for a ticket that is no good for this push. ``open``: a set to
    seal into, whose URLs lead to an origin; None: nothing is sealed.
    """

    clock: Clock
    check: Callable[[Ticket], None]
    open: Callable[[str], SetInMaking] | None = None
    only: str = ""
    number: Callable[[str, Ticket], int | None] | None = None
    gathered: Gathered = field(default_factory=Gathered)
    passed_over: int = 0
    _making: SetInMaking | None = None
    _sheet: list[tuple[int, Ticket]] = field(default_factory=list)
    _weight: int = 0
    _since: datetime | None = None

    def take(self, entries: Iterable[Entry]) -> Iterator[tuple[int, str, Ticket]]:
        """Every ticket with its number and path, sealed soon. Raises InputError once all mistakes are known.

        Raises StoreError, VaultError at once. In any case whoever asks has to ``finish`` or ``abandon``.
        """
        wrong: list[tuple[int, InputError]] = []
        with closing(PathBook()) as book:
            for line, entry in _to_their_end(entries):
                if isinstance(entry, InputError):
                    wrong.append((line, entry))
                else:
                    try:
                        found = self._accepted(line, entry, book)
                    except InputError as e:
                        wrong.append((line, e))
                    else:
                        if found is not None and not wrong:
                            self._seal(found[0], entry)
                            yield *found, entry
                if len(wrong) >= ERRORS_TOLD:
                    break
        if wrong:
            raise refusal(wrong)

    def finish(self) -> Credential:
        """The set, active. Raises StoreError, VaultError, CredentialError."""
        self._close_sheet()
        if self._making is None:
            raise InputError(Code.BAD_MANIFEST, "There is no URL to go on with.", field="manifest")
        return self._making.finish(self.gathered.expires_at)

    def abandon(self) -> None:
        """Destroy what was sealed. Never raises."""
        if self._making is not None:
            self._making.abandon()

    def _accepted(self, line: int, ticket: Ticket, book: PathBook) -> tuple[int, str] | None:
        """The number and path of a ticket that goes with the others; None: it is passed over. Raises InputError."""
        first = self.gathered.first
        if first is not None:
            check_together(first, ticket)
        path = ticket.path
        if self.only and ticket.kind is not Kind.TREE:
            path = check_only(path, self.only)
        for kind, text in (("path", path), ("key", ticket.key)):
            before = book.add(kind, text, line)
            if before is not None:
                raise InputError(Code.BAD_MANIFEST, f"its {kind} {text!r} stands in line {before} already", field=kind)
        self.check(ticket)
        seq = self.gathered.count + 1 if self.number is None else self.number(path, ticket)
        if seq is None:
            self.passed_over += 1
            return None
        self.gathered.add(ticket, path, self.clock.now())
        return seq, path

    def _seal(self, seq: int, ticket: Ticket) -> None:
        if self.open is None:
            return
        now = self.clock.now()
        self._since = self._since or now
        self._sheet.append((seq, ticket))
        self._weight += weight(ticket)
        full = len(self._sheet) >= SHEET_TICKETS or self._weight >= SHEET_BYTES
        if full or now - self._since > SHEET_PATIENCE:
            self._close_sheet()

    def _close_sheet(self) -> None:
        if not self._sheet or self.open is None:
            return
        if self._making is None:
            self._making = self.open(self._sheet[0][1].url.origin.url)
        numbers = [seq for seq, _ in self._sheet]
        self._making.add(min(numbers), max(numbers), encode(self._sheet))
        self._sheet, self._weight, self._since = [], 0, None


def check_together(first: Ticket, ticket: Ticket) -> None:
    """Raise InputError unless both tickets may be of one push."""
    if first.kind is Kind.TREE or ticket.kind is Kind.TREE:
        raise InputError(
            Code.BAD_MANIFEST, "a SAS of a directory is for every file: it stands alone", field="tree_sas_url"
        )
    one, other = first.url, ticket.url
    if (other.provider, other.origin, other.bucket) == (one.provider, one.origin, one.bucket):
        return
    for what, its, theirs in (
        ("provider", other.provider.value, one.provider.value),
        ("host", other.origin.url, one.origin.url),
        ("bucket", other.bucket, one.bucket),
    ):
        if its != theirs:
            raise InputError(
                Code.BAD_MANIFEST,
                f"its {what} is {its!r} and that of the rows before is {theirs!r}; make it a push of its own",
                field="url",
            )


def check_only(path: str, name: str) -> str:
    """The path of the only file of a source that is a file. Raises InputError for another."""
    if path not in {"", name}:
        raise InputError(
            Code.BAD_MANIFEST, f"its path {path!r} is not there: the source is the file {name!r} alone", field="path"
        )
    return name


def refusal(wrong: list[tuple[int, InputError]]) -> InputError:
    """All mistakes as one error, under the code and field of the first."""
    line, first = wrong[0]
    if len(wrong) == 1:
        return InputError(first.code, _told(line, first), field=first.field)
    shown = "\n".join(f"  {_told(line, error)}" for line, error in wrong)
    more = "; there may be more" if len(wrong) >= ERRORS_TOLD else ""
    return InputError(
        first.code, f"{len(wrong)} rows of the manifest cannot be used{more}:\n{shown}", field=first.field
    )


def _told(line: int, error: InputError) -> str:
    return f"line {line}: {error.message}" if line else error.message


def _to_their_end(entries: Iterable[Entry]) -> Iterator[Entry]:
    """The entries; that they cannot be read to their end is one of them, and the last."""
    try:
        yield from entries
    except InputError as e:
        unreadable = e
    else:
        return
    yield 0, unreadable

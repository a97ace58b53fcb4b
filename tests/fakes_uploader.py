"""An uploader in memory, a callback that signs anew, and a worker with both: the story of signed URLs without a network."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from builders import ORIGIN, OWNER, a_signed_push
from cloudpush.credentials.kinds import parse
from cloudpush.errors import CloudPushError, Code, DestinationError
from cloudpush.push.guard import parse_endpoint
from cloudpush.push.job import PlannedFile, Progress, Push
from cloudpush.push.planning import Limits
from cloudpush.push.ports import Control
from cloudpush.push.retry import Policy
from cloudpush.push.signed.courier import UrlCourier
from cloudpush.push.signed.delivery import Kit
from cloudpush.push.signed.model import SIGNED_URLS, Arrival, Kind, Need, Piece, Provider, SheetCard, SignedUrl, Ticket
from cloudpush.push.signed.ports import Errand, Hook, Journal, Renewals, Uploader, UrlSession
from cloudpush.push.signed.renewal import Callback
from cloudpush.push.signed.sheets import encode
from cloudpush.push.states import Overwrite, Strength
from worlds import World

PREFIX = "runs/7"
SIGNATURE = "canary-signature"
HOOK = UUID("c0ffee00-0000-4000-8000-00000000beef")
#: Bytes of a part of a multipart upload, here.
PIECE_BYTES = 4


def a_url(key: str, **changes: Any) -> SignedUrl:
    """A signed URL that leads to ``key`` of the bucket that every push of these tests goes to."""
    values: dict[str, Any] = {
        "text": f"{ORIGIN}/results/{key}?X-Amz-Signature={SIGNATURE}",
        "provider": Provider.S3,
        "flavour": "other",
        "version": "v4",
        "origin": parse_endpoint(ORIGIN),
        "bucket": "results",
        "key": key,
    }
    return SignedUrl(**(values | changes))


def a_ticket(path: str, kind: Kind = Kind.PUT, *, expires: datetime | None = None, **changes: Any) -> Ticket:
    """What somebody signs for ``path``, which goes below the prefix under its own name."""
    key = changes.pop("key", f"{PREFIX}/{path}" if path else PREFIX)
    values: dict[str, Any] = {"path": path, "kind": kind, "url": a_url(key), "expires_at": expires}
    return Ticket(**(values | changes))


class FakeUploader(Uploader, UrlSession):
    """Uploader and session in one: what arrives is in ``there``.

    ``failing`` is raised by every send. ``refused``: path → error of that file alone. ``during`` runs before each file
    (or part of one) is sent. ``weak``: path → what its arrival proves. ``same``: paths whose equal object is there.
    ``behind``: path → what an abort says that stays behind; other aborts succeed.
    """

    def __init__(self, now: Callable[[], datetime]) -> None:
        self.failing: Exception | None = None
        self.refused: dict[str, CloudPushError] = {}
        self.during: Callable[[str], None] = lambda path: None
        self.weak: dict[str, Strength] = {}
        self.same: set[str] = set()
        self.behind: dict[str, str] = {}
        self.there: dict[str, bytes] = {}
        self.sent: list[str] = []
        self.abandoned: list[Errand] = []
        self.errands: dict[int, Errand] = {}
        self.groups: list[str] = []
        self.opened = 0
        self._now = now
        self._lock = threading.Lock()

    @contextmanager
    def open(
        self,
        push: Push,
        root: Path,
        roots: Sequence[str],
        overwrite: Overwrite,
        journal: Journal,
        renewals: Renewals,
        group: str,
    ) -> Iterator[UrlSession]:
        self.groups.append(group)
        self.opened += 1
        self._root, self._journal, self._renewals = root, journal, renewals
        try:
            yield self
        finally:
            self.opened -= 1

    def send(self, errands: Sequence[Errand], control: Control) -> Mapping[int, Arrival | CloudPushError]:
        outcome: dict[int, Arrival | CloudPushError] = {}
        for errand in self._renewed(errands, control):
            self.errands[errand.file.seq] = errand
            try:
                outcome[errand.file.seq] = self._send(errand, control)
            except DestinationError as e:
                outcome[errand.file.seq] = e
        return outcome

    def abort(self, errands: Sequence[Errand], control: Control) -> Mapping[int, str]:
        control.check()
        self.abandoned += errands
        return {e.file.seq: self.behind[e.file.path] for e in errands if e.file.path in self.behind}

    @property
    def aborted(self) -> list[str]:
        """The paths of aborted uploads."""
        return [e.file.path for e in self.abandoned]

    def progress(self) -> Progress:
        return Progress(len(self.sent), len(self.there))

    def _renewed(self, errands: Sequence[Errand], control: Control) -> list[Errand]:
        needs = [_need(e) for e in errands if not self._good(e)]
        fresh = self._renewals.fresh(needs, control) if needs else {}
        return [replace(e, ticket=fresh.get(e.file.seq, e.ticket)) for e in errands]

    def _good(self, errand: Errand) -> bool:
        ticket = errand.ticket
        return bool(errand.session) or (
            ticket is not None and (ticket.expires_at is None or ticket.expires_at > self._now())
        )

    def _send(self, errand: Errand, control: Control) -> Arrival:
        f = errand.file
        self.during(f.path)
        control.check()
        if self.failing is not None:
            raise self.failing
        if f.path in self.refused:
            raise self.refused[f.path]
        if not self._good(errand):
            raise DestinationError(Code.URL_EXPIRED, f"The URL of {f.path!r} has expired.")
        kind = errand.ticket.kind if errand.ticket else Kind.RESUMABLE
        data = (self._root / f.path).read_bytes()
        if f.path not in self.same:
            {Kind.MULTIPART: self._in_parts, Kind.RESUMABLE: self._resumed}.get(kind, self._at_once)(
                errand, data, control
            )
            self.there[f.key] = data
        return Arrival(
            hashlib.sha256(data).digest(),
            self.weak.get(f.path, Strength.CHECKSUM),
            expected="e",
            etag="e",
            version_id="v",
            sent=len(data),
            skipped=f.path in self.same,
            note="the answer had no digest" if f.path in self.weak else "",
        )

    def _at_once(self, errand: Errand, data: bytes, control: Control) -> None:
        with self._lock:
            self.sent.append(errand.file.path)

    def _resumed(self, errand: Errand, data: bytes, control: Control) -> None:
        if not errand.session:
            self._journal.began(errand.file.seq, f"{ORIGIN}/session/{SIGNATURE}")
        self.during(f"{errand.file.path}#session")
        control.check()
        self._at_once(errand, data, control)

    def _in_parts(self, errand: Errand, data: bytes, control: Control) -> None:
        there = {piece.number for piece in errand.pieces}
        for number, offset in enumerate(range(0, len(data), PIECE_BYTES), 1):
            if number not in there:
                name = f"{errand.file.path}#{number}"
                self.during(name)
                control.check()
                if not self._good(errand):
                    raise DestinationError(Code.URL_EXPIRED, f"The URLs of {errand.file.path!r} have expired.")
                self.sent.append(name)
                part = data[offset : offset + PIECE_BYTES]
                md5 = hashlib.md5(part).digest()
                self._journal.arrived(Piece(errand.file.seq, number, offset, len(part), md5.hex(), md5, 0, "upload"))


def _need(errand: Errand) -> Need:
    f = errand.file
    return Need(f.seq, f.path, f.key, errand.ticket.kind if errand.ticket else Kind.PUT)


class FakeHook(Hook):
    """A callback that signs what it is asked for, for ``lives``. ``rows``: another answer. ``failing`` is raised."""

    def __init__(self, now: Callable[[], datetime], lives: timedelta = timedelta(minutes=5)) -> None:
        self.asked: list[list[Need]] = []
        self.fields: list[Mapping[str, str]] = []
        self.failing: Exception | None = None
        self.rows: Callable[[Sequence[Need]], Iterable[object]] | None = None
        self.during: Callable[[], None] = lambda: None
        self.lives = lives
        self._now = now

    def ask(self, fields: Mapping[str, str], push: Push, needs: Sequence[Need], control: Control) -> Iterable[object]:
        self.asked.append(list(needs))
        self.fields.append(fields)
        self.during()
        control.check()
        if self.failing is not None:
            raise self.failing
        if self.rows is not None:
            return self.rows(needs)
        expires = self._now() + self.lives
        return [{"path": n.path, "ticket": a_ticket(n.path, n.kind, expires=expires, key=n.key)} for n in needs]


def read(row: Mapping[str, object]) -> Ticket:
    """What reads rows here: the ticket is in them, under the path that the row says."""
    ticket = row["ticket"]
    assert isinstance(ticket, Ticket)
    return replace(ticket, path=str(row.get("path", "")))


@dataclass(frozen=True)
class Handed:
    """A set that was handed over."""

    id: UUID
    tickets: Sequence[Ticket]


class SignedWorld(World):
    """A worker that carries with keys and with signed URLs."""

    def __init__(self, source: Path, limits: Limits | None = None, policy: Policy | None = None) -> None:
        super().__init__(source, limits, policy)
        self.uploader = FakeUploader(self.clock.now)
        self.hook = FakeHook(self.clock.now)
        self.callback = Callback(self.hook, self.vault, self.store, self.clock, read)
        self.kit = Kit(
            store=self.store,
            sheets=self.store,
            safe=self.vault,
            uploader=self.uploader,
            callback=self.callback,
            clock=self.clock,
            roots=(source,),
        )
        self.couriers[SIGNED_URLS] = UrlCourier(self.kit)
        secret = parse("resign_hook", {"url": "https://hook.example/resign?k=1", "secret": "0123456789abcdef"})
        self.vault.seal(HOOK, OWNER, secret)

    def seal(self, tickets: Sequence[Ticket], *, sheet: int = 2, first: int = 1) -> UUID:
        """What intake does with tickets: sheets of so many, sealed; the set's id."""
        set_id = uuid4()
        found = self.store.set_of(set_id)
        for at in range(0, len(tickets), sheet):
            rows = list(enumerate(tickets[at : at + sheet], first + at))
            blocks = encode(rows)
            for number, block in enumerate(blocks, 1):
                card = SheetCard(len(found.cards) + 1, rows[0][0], rows[-1][0], number, len(blocks))
                self.vault.seal_sheet(set_id, OWNER, card.number, block)
                found.cards.append(card)
        ends = [t.expires_at for t in tickets]
        found.expires = None if None in ends else max((e for e in ends if e is not None), default=None)
        return set_id

    def hand_over(self, *tickets: Ticket, **changes: Any) -> Push:
        """Submit a push of the source with these URLs."""
        push = a_signed_push(changes.pop("source", self.source), **({"credential_id": self.seal(tickets)} | changes))
        self.store.add(push)
        return push

    def resign(self, push: Push, tickets: Mapping[int, Ticket]) -> None:
        """Hand over fresh URLs for some files of a push, by their numbers."""
        set_id = uuid4()
        found = self.store.set_of(set_id)
        for number, (seq, ticket) in enumerate(sorted(tickets.items()), 1):
            (block,) = encode([(seq, ticket)])
            self.vault.seal_sheet(set_id, OWNER, number, block)
            found.cards.append(SheetCard(number, seq, seq))
        self.store.resign(push.id, set_id)

    def purge(self, set_id: UUID) -> None:
        """What the sweep does with a set whose time has come."""
        found = self.store.set_of(set_id)
        found.state = "purged"
        self.vault.purge_sheets(set_id, [card.number for card in found.cards])

    def in_an_hour(self) -> datetime:
        """When most URLs of these tests expire."""
        return self.clock.now() + timedelta(hours=1)


def openings(world: SignedWorld, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of the sheets that are opened from now on."""
    opened: list[int] = []
    open_sheet = world.vault.open_sheet

    def open_and_count(credential_id: UUID, owner: str, number: int) -> bytes:
        opened.append(number)
        return open_sheet(credential_id, owner, number)

    monkeypatch.setattr(world.vault, "open_sheet", open_and_count)
    return opened


def planned(source: Path, seq: int, name: str) -> PlannedFile:
    """The plan's row of a file that is there."""
    found = (source / name).stat()
    return PlannedFile(seq, name, f"{PREFIX}/{name}", found.st_size, found.st_mtime_ns)

"""Every chain of events, link by link, and the file rows that its events tell of.

An event that was edited, inserted, reordered or deleted in its middle breaks the link that follows it; a deleted tail leaves
the chain's head behind; a file row edited after its part ended no longer matches the digest in the part's own event.
An event that lost its salt is believed to have had a name in it by a signed erasure only (``push.trust.erasures``).
Events are read in the order of their streams, page by page, so that a million short chains cost as little as one long one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from cloudpush.audit.findings import Report
from cloudpush.audit.retired import Retirement
from cloudpush.push.states import Event
from cloudpush.push.trust.chain import content_hash, event_hash, event_hash_2, genesis
from cloudpush.push.trust.erasures import Erased, read_erasure

PAGE = 5_000
#: Parts whose file rows are hashed in one statement.
PARTS = 200

Row = Any


Signed = Callable[[bytes, bytes], bool]


def verify_chains(
    c: sa.Connection,
    report: Report,
    stream: UUID | None,
    retirement: Retirement,
    signed: Signed | None,
    *,
    with_files: bool = True,
) -> None:
    """Check one chain, or all. Where a dropped month had a chain's beginning, it begins after that month's last event.

    ``signed``: (signature, text) → whether an audit key made it; None: erasures are believed without, and the report says so.
    """
    parts = _Parts(c, report)
    groups = groupby(_events(c, stream), key=lambda row: row.stream)
    ahead = next(groups, None)
    for name, seq, head, cut_seq, cut_hash in _heads(c, stream, retirement):
        while ahead is not None and ahead[0] < name:
            ahead = next(groups, None)  # events without a head: told elsewhere
        report.streams += 1
        link, begun = (genesis(name), 0) if cut_seq is None else (bytes(cut_hash), cut_seq)
        walk = Chain(report, name, link, begun, signed)
        if ahead is not None and ahead[0] == name:
            for row in ahead[1]:
                walk.add(row)
                if with_files and row.kind == Event.PART_FINISHED and not retirement.has_files_of(name):
                    parts.add(row)
            ahead = next(groups, None)
        walk.end(seq, bytes(head))
        parts.check(at_least=PARTS)
    parts.check()
    if report.pseudonymised and signed is None:
        report.unchecked.append("the signatures of erasures: no public key is at hand")


@dataclass(slots=True)
class Chain:
    """One chain as far as it was read. ``signed``: see :func:`verify_chains`."""

    report: Report
    stream: UUID
    link: bytes
    seq: int = 0
    signed: Signed | None = None
    _replaced: dict[int, tuple[str, Erased]] = field(default_factory=dict)  # number → kind, and what is there now
    _told: dict[int, Erased] = field(default_factory=dict)  # number → what signed erasures say

    def add(self, row: Row) -> None:
        """Check one event, the next of its stream."""
        self.report.events += 1
        if row.seq == self.seq:
            self.report.blame(self.stream, row.seq, f"event {row.seq} ({row.kind}) is there twice")
        elif row.seq != self.seq + 1:
            missing = self.seq + 1
            self.report.blame(self.stream, missing, f"event {missing} is missing; the next one is {row.seq}")
        elif bytes(row.prev) != self.link:
            self.report.blame(self.stream, row.seq, f"event {row.seq} ({row.kind}) does not follow its predecessor")
        if not self._is_itself(row):
            self.report.blame(self.stream, row.seq, f"event {row.seq} ({row.kind}) was edited")
        if row.kind == Event.AUDIT_PSEUDONYMISED:
            self.hear(row)
        self.link, self.seq = bytes(row.hash), row.seq

    def end(self, head_seq: int, head: bytes) -> None:
        """Compare with the chain's head, once all events were added."""
        if (self.seq, self.link) != (head_seq, head):
            what = f"the chain ends at event {self.seq}, but its head says {head_seq}: events were cut off or added"
            self.report.blame(self.stream, self.seq, what)
        for seq, (kind, now) in self._replaced.items():
            if self._told.get(seq) != now:
                what = f"event {seq} ({kind}) was pseudonymised, but no later event tells by what"
                self.report.blame(self.stream, seq, what)

    def untold(self) -> list[Erased]:
        """Events that were replaced by what no later one of those that were added tells."""
        return [now for seq, (_, now) in self._replaced.items() if self._told.get(seq) != now]

    def hear(self, row: Row) -> None:
        """What an event tells to have been replaced before it, if it is signed."""
        try:
            found = read_erasure(row.stream, row.data)
            if found is None:
                return
            erasure, signature = found
            told = {event.seq: event for event in erasure.events if event.seq < row.seq}
            authentic = self.signed is None or self.signed(signature, erasure.to_sign())
        except ValueError:
            authentic = False
        if authentic:
            self._told.update(told)
        else:
            what = f"event {row.seq} ({row.kind}) tells of an erasure that the audit key did not sign"
            self.report.blame(self.stream, row.seq, what)

    def _is_itself(self, row: Row) -> bool:
        """Whether its own hash is that of its fields; what was pseudonymised is noted, to be told of by a later event."""
        prev, told = bytes(row.prev), bytes(row.hash)
        if row.content is None:
            itself = event_hash(prev, row.stream, row.seq, row.at, row.kind, row.actor, row.credential_id, row.data)
            if (
                row.salt is not None
            ):  # pseudonymised: its hash covers what is gone, so the event about that covers the rest
                return self._note(row, itself)
            return told == itself
        content = bytes(row.content)
        if told != event_hash_2(prev, row.stream, row.seq, row.at, row.kind, row.credential_id, content):
            return False
        if row.salt is None:
            return self._note(row, content_hash(b"", row.actor, row.data))
        return content == content_hash(bytes(row.salt), row.actor, row.data)

    def _note(self, row: Row, told: bytes) -> bool:
        """``told``: what a later event must have as the digest of what took the place of the name."""
        self.report.pseudonymised += 1
        self._replaced[row.seq] = row.kind, Erased(row.seq, bytes(row.hash), told)
        return bool(row.kind != Event.AUDIT_PSEUDONYMISED)


class _Parts:
    """Parts whose file rows are still to be compared with the digest that their end recorded."""

    def __init__(self, c: sa.Connection, report: Report) -> None:
        self._c = c
        self._report = report
        self._ends: list[PartEnd] = []

    def add(self, row: Row) -> None:
        """``row``: the event of a part's end."""
        try:
            self._ends.append(PartEnd.of(row))
        except (ValueError, KeyError, TypeError):
            self._report.blame(
                row.stream, row.seq, f"event {row.seq} ({row.kind}) does not tell which files it is about"
            )

    def check(self, *, at_least: int = 1) -> None:
        """Compare those that were added, unless there are fewer."""
        if len(self._ends) < at_least:
            return
        ends, self._ends = self._ends, []
        asked = {
            "streams": [end.stream for end in ends],
            "first": [end.first for end in ends],
            "last": [end.last for end in ends],
        }
        for end, found in zip(ends, self._c.execute(FILES, asked), strict=True):
            self._report.parts += 1
            self._report.files += found.files
            if found.digest != end.digest:
                what = f"file rows of part {end.part} are not those that its end recorded"
                self._report.blame(end.stream, end.seq, what)


@dataclass(frozen=True, slots=True)
class PartEnd:
    """What the event of a part's end says: which file rows it is about, and their digest, hex."""

    stream: UUID
    seq: int
    part: int
    first: int
    last: int
    digest: str

    @classmethod
    def of(cls, row: Row) -> PartEnd:
        """Raises ValueError, KeyError, TypeError for nonsense."""
        data = json.loads(row.data)
        first, last = int(data["first"]), int(data["last"])
        if not -(2**63) <= min(first, last) <= max(first, last) < 2**63:
            raise ValueError
        return cls(row.stream, row.seq, int(data["part"]), first, last, str(data["files_sha256"]))


def _heads(c: sa.Connection, stream: UUID | None, retirement: Retirement) -> Iterator[Row]:
    """(stream, number and hash of its head, number and hash of its last event that was dropped, if any)."""
    statement = HEADS if retirement.months else HEADS_ALONE
    asked: dict[str, Any] = {"stream": stream, "after": None, "months": list(retirement.months), "limit": PAGE}
    while True:
        rows = c.execute(statement, asked).all()
        yield from rows
        if len(rows) < PAGE:
            return
        asked["after"] = rows[-1].stream


def _events(c: sa.Connection, stream: UUID | None) -> Iterator[Row]:
    statement = EVENTS if stream is None else EVENTS_OF_ONE
    asked: dict[str, Any] = {"stream": stream or UUID(int=0), "seq": -(2**31), "at": "-infinity", "limit": PAGE}
    while True:
        rows = c.execute(statement, asked).all()
        yield from rows
        if len(rows) < PAGE:
            return
        asked |= {"stream": rows[-1].stream, "seq": rows[-1].seq, "at": rows[-1].at}


_HEADS = """
    SELECT stream, seq, hash FROM chain
    WHERE (CAST(:stream AS uuid) IS NULL OR stream = :stream) AND (CAST(:after AS uuid) IS NULL OR stream > :after)
    ORDER BY stream LIMIT :limit
"""

HEADS_ALONE = sa.text(f"""
    SELECT h.*, CAST(NULL AS integer) AS cut_seq, CAST(NULL AS bytea) AS cut_hash FROM ({_HEADS}) AS h
""")  # noqa: S608 -- put together from constants

HEADS = sa.text(f"""
    SELECT h.*, k.seq AS cut_seq, k.hash AS cut_hash FROM ({_HEADS}) AS h LEFT JOIN LATERAL (
        SELECT seq, hash FROM cut WHERE cut.stream = h.stream AND cut.month = ANY (CAST(:months AS date[]))
        ORDER BY seq DESC LIMIT 1
    ) AS k ON true
    ORDER BY h.stream
""")  # noqa: S608 -- likewise

_EVENT = "SELECT stream, seq, at, kind, actor, credential_id, data::text AS data, prev, hash, salt, content FROM event"

EVENTS = sa.text(f"""
    {_EVENT} WHERE (stream, seq, at) > (:stream, :seq, CAST(:at AS timestamptz)) ORDER BY stream, seq, at LIMIT :limit
""")

EVENTS_OF_ONE = sa.text(f"""
    {_EVENT} WHERE stream = :stream AND (seq, at) > (:seq, CAST(:at AS timestamptz)) ORDER BY seq, at LIMIT :limit
""")

FILES = sa.text("""
    SELECT encode(cloudpush_files_digest(e.stream, e.first, e.last), 'hex') AS digest,
        (SELECT count(*) FROM file f WHERE f.push_id = e.stream AND f.seq BETWEEN e.first AND e.last) AS files
    FROM unnest(CAST(:streams AS uuid[]), CAST(:first AS bigint[]), CAST(:last AS bigint[]))
        WITH ORDINALITY AS e (stream, first, last, n)
    ORDER BY e.n
""")

"""Events against the checkpoints that sealed them, and checkpoints against their signatures and what Vault remembers.

Against somebody who owns the database: who edits an event and hashes its chain anew does not have the key that signed the
checkpoint, and who takes checkpoints away cannot take back what Vault remembers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from cloudpush.audit.anchors import compare_anchor, compare_saved, verify_anchor, verify_saved
from cloudpush.audit.findings import Report, Witness
from cloudpush.audit.retired import Retirement, cuts_of
from cloudpush.push.trust.checkpoints import Seal, Statement, digest, leaves, signed_text

PAGE = 1_000

Row = Any
Leaf = tuple[int, bytes, int, bytes]  # event id, stream, number in it, hash


def verify_seals(
    c: sa.Connection, report: Report, stream: UUID | None, witness: Witness, retirement: Retirement
) -> None:
    """Check every checkpoint and the events that it covers; of one ``stream``, those that cover its events."""
    events = _Events(c, report, retirement)
    report.newest = c.execute(NEWEST).scalar_one()
    if stream is None:
        line = _Line(report, witness)
        for row in _checkpoints(c):
            line.add(row)
            _verify_leaves(events, row)
        line.end()
    else:
        for row in c.execute(COVERING, {"stream": stream}).all():
            statement = _statement(report, row)
            if statement is not None:
                _verify_signature(report, row, witness)
            _verify_leaves(events, row, stream)
        verify_anchor(c, report, witness)
        verify_saved(c, report, witness)
    if report.newest is not None and witness.signed is None:
        report.unchecked.append("the signatures of checkpoints: no public key is at hand")
    if not witness.asked:
        report.unchecked.append("whether newer checkpoints were taken away: Vault was not asked")


class _Line:
    """Checkpoints in the order of their numbers."""

    def __init__(self, report: Report, witness: Witness) -> None:
        self._report = report
        self._witness = witness
        self._number = 0
        self._last_id = 0
        self._digest: str | None = None
        self._events = 0
        self._known: dict[int, str] = dict.fromkeys((number for number, _ in witness.saved), "")
        if witness.anchor is not None:
            self._known[witness.anchor.number] = ""

    def add(self, row: Row) -> None:
        """Check the next one."""
        report = self._report
        report.checkpoints += 1
        text = row.statement.encode()
        statement = _statement(report, row)
        if statement is not None:
            self._follow(row.number, statement)
            _verify_signature(report, row, self._witness)
        if row.number in self._known:
            self._known[row.number] = digest(text)
        self._number, self._digest, self._last_id = row.number, digest(text), row.last_id
        self._events += row.events

    def _follow(self, number: int, statement: Statement) -> None:
        """It follows its predecessor, or says which were lost between, as an operator acknowledged."""
        missing = (self._number + 1, number - 1)
        acknowledged = statement.gone is not None and statement.gone == missing
        if missing[0] <= missing[1] and not acknowledged:
            self._report.blame(None, None, f"{_numbers(*missing)} missing")
        elif not acknowledged and statement.previous != self._digest:
            self._report.blame(None, None, f"checkpoint {number} does not follow the one before it")
        if statement.first_id != self._last_id + 1:
            what = f"checkpoint {number} begins at event id {statement.first_id}, not at {self._last_id + 1}"
            self._report.blame(None, None, what)

    def end(self) -> None:
        """Compare with what is known from outside, once all were added."""
        anchor = self._witness.anchor
        there = self._known[anchor.number] if anchor is not None else ""
        compare_anchor(self._report, self._witness, self._number, there)
        for number, sha256 in self._witness.saved:
            compare_saved(self._report, number, sha256, self._known[number])


def _statement(report: Report, row: Row) -> Statement | None:
    """What a checkpoint says; None where it says nothing. Its columns must repeat it."""
    try:
        statement = Statement.read(row.statement.encode())
    except ValueError as e:
        report.blame(None, None, f"the statement of checkpoint {row.number} was edited: {e}")
        return None
    told = (
        statement.number,
        statement.first_id,
        statement.last_id,
        statement.events,
        statement.root,
        statement.made_at,
    )
    if told != (row.number, row.first_id, row.last_id, row.events, bytes(row.root), row.made_at):
        report.blame(None, None, f"the row of checkpoint {row.number} differs from its statement")
    return statement


def _verify_signature(report: Report, row: Row, witness: Witness) -> None:
    if witness.signed is not None and not witness.signed(bytes(row.signature), signed_text(row.statement.encode())):
        report.blame(None, None, f"checkpoint {row.number} is not signed by the audit key")


def _verify_leaves(events: _Events, row: Row, stream: UUID | None = None) -> None:
    """A checkpoint's leaves against its root, and its events (of one ``stream``: those) against its leaves."""
    report = events.report
    seal, after, whole = Seal(), row.first_id - 1, True
    for chunk in _chunks(events.c, row.number):
        entries = bytes(chunk.entries)
        try:
            root = seal.add(entries)
            found = list(leaves(entries))
        except ValueError:
            report.blame(None, None, f"chunk {chunk.number} of checkpoint {row.number} was edited")
            whole = False
            continue
        if root != bytes(chunk.root):
            report.blame(None, None, f"chunk {chunk.number} of checkpoint {row.number} was edited")
        last = found[-1][0] if found else after
        events.compare(row.number, found, after, last, stream)
        after = max(after, last)
    if stream is None:
        events.compare(row.number, [], after, row.last_id, None)  # what lies behind its last leaf
    if whole and (seal.root(), seal.events) != (bytes(row.root), row.events):
        report.blame(None, None, f"the leaves of checkpoint {row.number} do not give its root")


@dataclass(frozen=True, slots=True)
class _Events:
    """Events as they are now, to be compared with leaves."""

    c: sa.Connection
    report: Report
    retirement: Retirement

    def compare(self, number: int, sealed: list[Leaf], after: int, last: int, stream: UUID | None) -> None:
        """Events with an id in (after, last] against the leaves of those ids."""
        if last <= after and not sealed:
            return
        asked = {"after": min(after, sealed[0][0] - 1) if sealed else after, "last": last, "stream": stream}
        rows = {row.id: row for row in self.c.execute(SPAN if stream is None else SPAN_OF_ONE, asked)}
        missing = []
        for leaf in sealed:
            event_id, name, _, _ = leaf
            if stream is not None and name != stream.bytes:
                continue
            self.report.sealed += 1
            row = rows.pop(event_id, None)
            if row is None:
                missing.append(leaf)
            else:
                self._compare_one(number, leaf, row)
        self._excuse(number, missing)
        for row in rows.values():
            what = f"event {row.seq} ({row.kind}) was inserted: checkpoint {number} sealed its time without it"
            self.report.blame(row.stream, row.seq, what)

    def _compare_one(self, number: int, leaf: Leaf, row: Row) -> None:
        event_id, name, seq, event_hash = leaf
        if (row.stream.bytes, row.seq) != (name, seq):
            what = (
                f"event {row.seq} ({row.kind}) has changed places: in its place (event id {event_id}) checkpoint {number} "
                f"sealed event {seq} of {UUID(bytes=name)}"
            )
            self.report.blame(row.stream, row.seq, what)
        elif bytes(row.hash) != event_hash:
            what = f"event {row.seq} ({row.kind}) was edited after checkpoint {number} sealed it"
            self.report.blame(row.stream, row.seq, what)

    def _excuse(self, number: int, missing: list[Leaf]) -> None:
        """Events that are gone: by right where a dropped month has their chain's end at or after them, as it was sealed."""
        known = self.retirement.months and missing
        ends = cuts_of(self.c, (name for _, name, _, _ in missing), self.retirement) if known else {}
        for event_id, name, seq, event_hash in missing:
            kept = ends.get(name, {})
            if seq > max(kept, default=0):
                what = f"event {seq} was deleted: checkpoint {number} sealed it (event id {event_id})"
                self.report.blame(UUID(bytes=name), seq, what)
            elif kept.get(seq, event_hash) != event_hash:
                what = f"the chain is said to go on after event {seq}, which checkpoint {number} sealed as another one"
                self.report.blame(UUID(bytes=name), seq, what)


def _numbers(first: int, last: int) -> str:
    return f"checkpoint {first} is" if first == last else f"checkpoints {first} to {last} are"


def _checkpoints(c: sa.Connection) -> Iterator[Row]:
    after = -(2**31)
    while True:
        rows = c.execute(CHECKPOINTS, {"after": after, "limit": PAGE}).all()
        yield from rows
        if len(rows) < PAGE:
            return
        after = rows[-1].number


def _chunks(c: sa.Connection, number: int) -> Iterator[Row]:
    """One at a time: a checkpoint of a million events has sixty megabytes of them."""
    after = -(2**31)
    while True:
        chunk = c.execute(CHUNK_AFTER, {"checkpoint": number, "after": after}).one_or_none()
        if chunk is None:
            return
        yield chunk
        after = chunk.number


NEWEST = sa.text("SELECT max(number) FROM checkpoint")

_CHECKPOINT = (
    "SELECT number, first_id, last_id, events, root, made_at, statement, signature, key_version FROM checkpoint"
)

CHECKPOINTS = sa.text(f"{_CHECKPOINT} WHERE number > :after ORDER BY number LIMIT :limit")

COVERING = sa.text(f"""
    {_CHECKPOINT} k WHERE EXISTS (
        SELECT FROM event e WHERE e.stream = :stream AND e.id BETWEEN k.first_id AND k.last_id)
    ORDER BY number
""")

CHUNK_AFTER = sa.text("""
    SELECT number, entries, root FROM checkpoint_chunk
    WHERE checkpoint = :checkpoint AND number > :after ORDER BY number LIMIT 1
""")

SPAN = sa.text("""
    SELECT id, stream, seq, kind, hash FROM event WHERE id > :after AND id <= :last ORDER BY id
""")

SPAN_OF_ONE = sa.text("""
    SELECT id, stream, seq, kind, hash FROM event WHERE stream = :stream AND id > :after AND id <= :last ORDER BY id
""")

"""Is an archive what was recorded? Nothing but its files and the public keys is needed.

Each event is hashed anew and looked up among the leaves of the checkpoints, whose roots are signed; each chain is followed
through the month; file rows are compared with the digests in the events. What is held of events does not grow with the
month, but for those that were pseudonymised: of one chain, and of all that no event in the archive tells of.
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa

from cloudpush.audit.archives import CHECKPOINTS, LEAVES, Ends, read_manifest, sha256_of
from cloudpush.audit.chains import Chain, PartEnd
from cloudpush.audit.findings import Report, Witness
from cloudpush.audit.retired import RETENTION_STREAM, first_of, following
from cloudpush.errors import Code, InputError
from cloudpush.push.states import Event
from cloudpush.push.trust.chain import EPOCH, genesis
from cloudpush.push.trust.checkpoints import (
    CHUNK,
    LEAF_BYTES,
    Seal,
    Statement,
    digest,
    leaf,
    read_document,
    signed_text,
)

UNTOLD = "events that were pseudonymised, as later events tell that are not in it"
_MICROSECOND = timedelta(microseconds=1)


@dataclass(slots=True)
class Checked:
    """An archive that was looked at. ``digests``: number → SHA-256 of each of its checkpoints' statements.

    ``untold``: events whose name was replaced, as no event in the archive tells; by chain.
    """

    manifest: Any
    sha256: str
    report: Report
    digests: dict[int, str] = field(default_factory=dict)
    untold: list[Chain] = field(default_factory=list)


def check_archive(place: Path, witness: Witness) -> Checked:
    """What is found. Raises InputError where there is no archive at all."""
    text, manifest = read_manifest(place)
    report = Report()
    checked = Checked(manifest, hashlib.sha256(text).hexdigest(), report)
    for name, sha256 in manifest["sha256"].items():
        try:
            whole = sha256_of(place / name) == sha256
        except OSError:
            report.blame(None, None, f"{name} is missing")
            continue
        if not whole:
            report.blame(None, None, f"{name} was changed")
    if not report.sound:
        return checked  # nothing in it can be relied on
    spans = _check_checkpoints(place, checked, witness)
    # An empty file could not be mapped; but there is no archive without events.
    with (place / LEAVES).open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as leaves:
        _check_roots(leaves, spans, report)
        _Rows(place, checked, leaves, witness).check()
    if witness.signed is None:
        report.unchecked.append("the signatures of its checkpoints and erasures: no public key is at hand")
    return checked


def compare_with_record(c: sa.Connection, checked: Checked) -> None:
    """Its place in the record: the same checkpoints, and if the month was dropped, by this archive.

    And erasures of its events that are told of in later months: with one that nobody signed the month is not to be dropped.
    """
    kept = {row.number: digest(row.statement.encode()) for row in c.execute(STATEMENTS, _span(checked))}
    for number, sha256 in checked.digests.items():
        if kept.get(number) != sha256:
            checked.report.blame(None, None, f"checkpoint {number} is not the one that the record has")
    month = datetime.strptime(checked.manifest["month"], "%Y-%m").replace(tzinfo=UTC).date()
    row = c.execute(DROPPED, {"month": month}).one_or_none()
    if row is not None and bytes(row.archive_sha256).hex() != checked.sha256:
        checked.report.blame(RETENTION_STREAM, None, "the month was dropped by another archive than this one")
    _compare_untold(c, checked, month)


def _compare_untold(c: sa.Connection, checked: Checked, month: date) -> None:
    report, checked.untold, unresolved = checked.report, [], checked.untold
    report.unchecked[:] = [word for word in report.unchecked if not word.endswith(UNTOLD)]
    # An erasure may itself be in a later month that was dropped.
    gone = c.execute(LATER_DROPPED, {"month": month}).scalar_one()
    for chain in unresolved:
        for row in c.execute(ERASURES, {"stream": chain.stream, "after": chain.seq}):
            chain.hear(row)
        for event in chain.untold():
            if not gone:
                what = f"event {event.seq} was pseudonymised, but no later event of the record tells by what"
                report.blame(chain.stream, event.seq, what)
        if gone and chain.untold():
            checked.untold.append(chain)
    _tell_untold(checked)


def _tell_untold(checked: Checked) -> None:
    count = sum(len(chain.untold()) for chain in checked.untold)
    if count:
        checked.report.unchecked.append(f"{count} {UNTOLD}")


def _span(checked: Checked) -> dict[str, int]:
    return {"first": min(checked.digests, default=0), "last": max(checked.digests, default=-1)}


# -- checkpoints -------------------------------------------------------------------------------------------


def _check_checkpoints(place: Path, checked: Checked, witness: Witness) -> list[Statement]:
    """Each is signed, and follows the one before it."""
    report, found = checked.report, list[Statement]()
    previous: str | None = None
    saved = dict(witness.saved)
    with (place / CHECKPOINTS).open("rb") as lines:
        for line in lines:
            statement, text, signature = _read_checkpoint(line)
            number, report.checkpoints = statement.number, report.checkpoints + 1
            if witness.signed is not None and not witness.signed(signature, signed_text(text)):
                report.blame(None, None, f"checkpoint {number} is not signed by the audit key")
            if found and (statement.previous != previous or statement.first_id != found[-1].last_id + 1):
                report.blame(None, None, f"checkpoint {number} does not follow the one before it")
            previous = checked.digests[number] = digest(text)
            if saved.get(number, previous) != previous:
                report.blame(None, None, f"checkpoint {number} is not the one of which there is a copy")
            found.append(statement)
    report.newest = found[-1].number if found else None
    anchor = witness.anchor
    if anchor is not None and checked.digests.get(anchor.number, anchor.sha256) != anchor.sha256:
        report.blame(None, None, f"checkpoint {anchor.number} is not the one that Vault remembers")
    return found


def _read_checkpoint(line: bytes) -> tuple[Statement, bytes, bytes]:
    try:
        return read_document(line.rstrip(b"\n"))
    except ValueError as e:
        raise InputError(Code.BAD_INPUT, f"{CHECKPOINTS} has a line that is no checkpoint.", field="archive") from e


def _check_roots(leaves: mmap.mmap, statements: list[Statement], report: Report) -> None:
    at = 0
    for statement in statements:
        seal, end = Seal(), at + statement.events * LEAF_BYTES
        while at < end:
            entries = leaves[at : min(end, at + CHUNK * LEAF_BYTES)]
            if not entries or len(entries) % LEAF_BYTES:
                break
            seal.add(entries)
            at += len(entries)
        if (seal.root(), seal.events) != (statement.root, statement.events):
            report.blame(None, None, f"the leaves of checkpoint {statement.number} do not give its root")
    if at != len(leaves):
        report.blame(None, None, "there are leaves of no checkpoint")


# -- rows --------------------------------------------------------------------------------------------------


class _Row(NamedTuple):
    """An event, as a chain is followed by."""

    id: int
    stream: UUID
    seq: int
    at: datetime
    kind: str
    actor: str
    credential_id: UUID | None
    data: str
    prev: bytes
    hash: bytes
    salt: bytes | None
    content: bytes | None


class _Rows:
    """The events and file rows of an archive."""

    def __init__(self, place: Path, checked: Checked, leaves: mmap.mmap, witness: Witness) -> None:
        self._place, self._checked, self._report, self._leaves = place, checked, checked.report, leaves
        self._signed = witness.signed
        month = datetime.strptime(checked.manifest["month"], "%Y-%m").replace(tzinfo=UTC).date()
        self._since, self._until = first_of(month), first_of(following(month))
        self._files = _Files(self._stored("files"), self._report)

    def check(self) -> None:
        """Chain by chain, and with each push its files: both lie in the order of ids."""
        ends = Ends()
        for stream, rows in groupby(self._events(), key=lambda row: row.stream):
            self._report.streams += 1
            walk, parts = None, list[PartEnd]()
            for row in rows:
                walk = walk or self._begin(row)
                walk.add(row)
                self._compare(row)
                ends.add(str(row.stream), row.seq, row.hash.hex())
                if row.kind == Event.PART_FINISHED:
                    self._add_end(parts, row)
            if walk is not None and walk.untold():
                self._checked.untold.append(walk)
            self._files.check(stream, parts)
        self._files.finish()
        manifest, report = self._checked.manifest, self._report
        told = (report.events, self._files.rows, ends.digest(), ends.streams)
        if told != (manifest["events"], manifest["files"], manifest["cuts_sha256"], manifest["streams"]):
            report.blame(None, None, "its rows are not those that its manifest tells of")
        _tell_untold(self._checked)
        if self._files.untold:
            report.unchecked.append(f"{self._files.untold} file rows of parts that ended after the month, or never")

    def _add_end(self, parts: list[PartEnd], row: _Row) -> None:
        try:
            parts.append(PartEnd.of(row))
        except (ValueError, KeyError, TypeError):
            what = f"event {row.seq} ({row.kind}) does not tell which files it is about"
            self._report.blame(row.stream, row.seq, what)

    def _begin(self, row: _Row) -> Chain:
        first = genesis(row.stream) if row.seq == 1 else row.prev
        return Chain(self._report, row.stream, first, row.seq - 1, self._signed)

    def _events(self) -> Iterator[_Row]:
        for row in self._stored("events"):
            salt, content = (None if row[n] is None else bytes.fromhex(row[n]) for n in ("salt", "content"))
            credential = UUID(row["credential_id"]) if row["credential_id"] is not None else None
            yield _Row(
                row["id"],
                UUID(row["stream"]),
                row["seq"],
                row["at"],
                row["kind"],
                row["actor"],
                credential,
                row["data"],
                bytes.fromhex(row["prev"]),
                bytes.fromhex(row["hash"]),
                salt,
                content,
            )

    def _compare(self, row: _Row) -> None:
        """It is of the month, and a leaf that was sealed."""
        if not self._since <= row.at < self._until:
            self._report.blame(row.stream, row.seq, f"event {row.seq} ({row.kind}) is of another month")
        sealed, low, high = self._leaves, 0, len(self._leaves) // LEAF_BYTES
        wanted = leaf(row.id, row.stream.bytes, row.seq, row.hash)
        while low < high:
            middle = (low + high) // 2
            if sealed[middle * LEAF_BYTES : middle * LEAF_BYTES + 8] < wanted[:8]:
                low = middle + 1
            else:
                high = middle
        if sealed[low * LEAF_BYTES : (low + 1) * LEAF_BYTES] != wanted:
            self._report.blame(row.stream, row.seq, f"event {row.seq} ({row.kind}) is not one that was sealed")
        else:
            self._report.sealed += 1

    def _stored(self, table: str) -> Iterator[dict[str, Any]]:
        for batch in stored(self._place, table):
            yield from batch.to_pylist()


def stored(place: Path, table: str) -> Iterator[Any]:
    """The record batches of one of an archive's tables."""
    import pyarrow.parquet as pq  # noqa: PLC0415 -- slow to import, and few commands need it

    with pq.ParquetFile(place / f"{table}.parquet") as opened:
        yield from opened.iter_batches(batch_size=10_000, use_threads=False)


class _Files:
    """File rows, push by push, against the digests that the ends of parts recorded."""

    def __init__(self, rows: Iterator[dict[str, Any]], report: Report) -> None:
        self._source, self._report = rows, report
        self._next = next(rows, None)
        self.rows = self.untold = 0

    def check(self, stream: UUID, ends: list[PartEnd]) -> None:
        """The files of the push ``stream``; those of pushes before it are told of by no event here."""
        name = str(stream)
        while self._next is not None and self._next["push_id"] < name:
            self._take()
            self.untold += 1
        digests = {end.part: (end, hashlib.sha256(), [0]) for end in sorted(ends, key=lambda end: end.first)}
        if ends and (self._next is None or self._next["push_id"] != name):
            return  # of a push of another month
        while self._next is not None and self._next["push_id"] == name:
            row = self._take()
            covering = [d for d in digests.values() if d[0].first <= row["seq"] <= d[0].last]
            for _, found, count in covering:
                found.update((b"\n" if count[0] else b"") + _line(row).encode())
                count[0] += 1
            self.untold += not covering
        for end, found, count in digests.values():
            self._report.parts += 1
            self._report.files += count[0]
            if found.hexdigest() != end.digest:
                what = f"file rows of part {end.part} are not those that its end recorded"
                self._report.blame(end.stream, end.seq, what)

    def finish(self) -> None:
        """Count what is left."""
        while self._next is not None:
            self._take()
            self.untold += 1

    def _take(self) -> dict[str, Any]:
        row, self._next = self._next, next(self._source, None)
        assert row is not None  # noqa: S101 -- its callers looked
        self.rows += 1
        return row


def _line(row: dict[str, Any]) -> str:
    """A file row as the database's cloudpush_files_digest has it."""
    at = row["uploaded_at"]
    fields: list[Any] = [row["seq"]]
    for name in ("path", "key"):
        fields += [len(row[name].encode()), row[name]]
    fields += [row["size"], row["mtime_ns"], row["state"]]
    fields += [row[name] if row[name] is not None else "-" for name in ("strength", "sha256", "expected")]
    for name in ("etag", "version_id"):
        fields += ["-"] if row[name] is None else [len(row[name].encode()), row[name]]
    fields += [
        "-" if at is None else (at - EPOCH) // _MICROSECOND,
        "-" if row["error_code"] is None else row["error_code"],
    ]
    return "\x1f".join(map(str, fields))


STATEMENTS = sa.text("SELECT number, statement FROM checkpoint WHERE number BETWEEN :first AND :last")

LATER_DROPPED = sa.text("SELECT EXISTS (SELECT FROM retired WHERE month > :month)")

ERASURES = sa.text("""
    SELECT stream, seq, kind, data::text AS data FROM event
    WHERE stream = :stream AND seq > :after AND kind = 'audit.pseudonymised' ORDER BY seq
""")

DROPPED = sa.text("SELECT archive_sha256 FROM retired WHERE month = :month")

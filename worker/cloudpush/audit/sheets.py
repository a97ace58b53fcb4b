"""Sets of signed URLs as a worker sees them in Postgres: where sheets lie, and what arrived so far."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID, uuid4

import sqlalchemy as sa

from cloudpush.audit.database import append_events, storable, transaction
from cloudpush.audit.endings import hold_part
from cloudpush.audit.renewals import add_renewal
from cloudpush.audit.rows import EventRow, part_span
from cloudpush.audit.statements import CARDS, LOCK_PUSH, USABLE
from cloudpush.push.job import Lease, Part, Push
from cloudpush.push.signed.model import SIGNED_URLS, Piece, SheetCard
from cloudpush.push.states import Event, Strength


class Sheets:
    """``push.signed.ports.SheetStore`` on Postgres."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def sheets(self, push: Push, first: int, last: int | None) -> tuple[UUID, Sequence[SheetCard]]:
        """A set that is being destroyed, or was, has no blocks any more."""
        with transaction(self._engine) as c:
            rows = c.execute(CARDS, {"id": push.id, "first": first, "last": last}).all()
        return rows[0].credential_id, [_card(row) for row in rows if row.number is not None]

    def sessions(self, part: Part) -> Sequence[tuple[UUID, SheetCard]]:
        """In whatever set of the push they lie, as long as it is not being destroyed."""
        with transaction(self._engine) as c:
            rows = c.execute(SESSIONS, part_span(part)).all()
        return [(row.credential_id, _card(row)) for row in rows]

    def pieces(self, part: Part) -> Sequence[Piece]:
        """Those of files that have no verdict yet."""
        with transaction(self._engine) as c:
            return [_piece(row) for row in c.execute(PIECES, part_span(part))]

    def record_pieces(self, part: Part, lease: Lease, pieces: Sequence[Piece]) -> None:
        """Of a piece that is named twice the later counts: one statement replaces no row twice."""
        newest = {(p.seq, p.number): p for p in pieces}.values()
        with transaction(self._engine) as c:
            hold_part(c, part, lease)
            if newest:
                c.execute(RECORD_PIECES, {"id": part.push_id, **_columns(list(newest))})

    def forget_pieces(self, part: Part, lease: Lease, seq: int) -> None:
        """A session that the file has is gone as well."""
        with transaction(self._engine) as c:
            hold_part(c, part, lease)
            c.execute(FORGET_PIECES, {"id": part.push_id, "seq": seq})
            c.execute(FORGET_SESSIONS, {"id": part.push_id, "seq": seq})

    def add_session(self, push: Push, part: Part, lease: Lease, seq: int, seconds: float) -> tuple[UUID, int]:
        """Where the set is destroyed already, an empty one is made to hold the session."""
        with transaction(self._engine) as c:
            hold_part(c, part, lease)
            c.execute(LOCK_PUSH, {"id": push.id})
            current = c.execute(USABLE, {"id": push.id}).one().credential_id
            if c.execute(KEEP_SET, {"set": current, "seconds": seconds}).rowcount != 1:
                current = _make_set(c, push, lease.worker, seconds)
            return current, c.execute(ADD_SESSION, {"set": current, "seq": seq}).scalar_one()

    def note_resign(self, push: Push, part: Part, lease: Lease, asked: int, got: int, host: str, error: str) -> None:
        """By the name of the host alone: a callback's path may be a secret."""
        data = {"part": part.number, "asked": asked, "got": got, "host": host, **({"error": error} if error else {})}
        with transaction(self._engine) as c:
            hold_part(c, part, lease)
            append_events(c, push.id, lease.worker, [(Event.PUSH_RESIGN_ASKED, push.hook_id, data)])


def _make_set(c: sa.Connection, push: Push, worker: str, seconds: float) -> UUID:
    """A set without tickets: its URLs are a callback's, which nobody seals."""
    made = uuid4()
    name = f"signed-urls-{made.hex}"
    c.execute(
        ADD_SET,
        {"set": made, "owner": push.owner, "name": name, "origin": push.endpoint, "by": worker, "seconds": seconds},
    )
    data = {"owner": push.owner, "kind": SIGNED_URLS, "name": name, "profile": "", "endpoint": push.endpoint}
    told: list[EventRow] = [(Event.CREDENTIAL_SEALING, made, data), (Event.CREDENTIAL_CREATED, made, {"push": push.id})]
    append_events(c, made, worker, told)
    add_renewal(c, push.id, made, worker, 0)
    return made


def _card(row: sa.Row[tuple[object, ...]]) -> SheetCard:
    return SheetCard(row.number, row.first_seq, row.last_seq, row.block, row.blocks, row.session)


def _piece(row: sa.Row[tuple[object, ...]]) -> Piece:
    return Piece(
        row.seq,
        row.number,
        row.offset,
        row.size,
        row.etag,
        bytes(row.md5),
        int(row.crc64),
        row.upload,
        Strength.of(row.proof),
    )


def _columns(pieces: Sequence[Piece]) -> dict[str, list[object]]:
    """Pieces as one array a column."""
    return {
        "seq": [p.seq for p in pieces],
        "number": [p.number for p in pieces],
        "offset": [p.offset for p in pieces],
        "size": [p.size for p in pieces],
        "etag": [storable(p.etag) for p in pieces],
        "md5": [p.md5 for p in pieces],
        "crc64": [str(p.crc64) for p in pieces],
        "upload": [p.upload for p in pieces],
        "proof": [p.proof.word for p in pieces],
    }


SESSIONS = sa.text("""
    SELECT DISTINCT ON (s.first_seq)
        s.credential_id, s.number, s.first_seq, s.last_seq, s.block, s.blocks, s.session
    FROM push p
        JOIN credential c ON c.state = 'active' AND (c.id = p.credential_id
            OR c.id IN (SELECT r.credential_id FROM renewal r WHERE r.push_id = p.id))
        JOIN sheet s ON s.credential_id = c.id AND s.session AND s.gone_at IS NULL
            AND s.first_seq BETWEEN :first AND :last
        JOIN file f ON f.push_id = p.id AND f.seq = s.first_seq AND f.state = 'planned'
    WHERE p.id = :id
    ORDER BY s.first_seq, s.sealed_at DESC, s.number DESC
""")

PIECES = sa.text("""
    SELECT q.seq, q.number, q."offset", q.size, q.etag, q.md5, q.crc64, q.upload, q.proof
    FROM piece q JOIN file f ON f.push_id = q.push_id AND f.seq = q.seq AND f.state = 'planned'
    WHERE q.push_id = :id AND q.seq BETWEEN :first AND :last
    ORDER BY q.seq, q.number
""")

RECORD_PIECES = sa.text("""
    INSERT INTO piece (push_id, seq, number, "offset", size, etag, md5, crc64, upload, proof)
    SELECT :id, r.* FROM unnest(CAST(:seq AS int8[]), CAST(:number AS int4[]), CAST(:offset AS int8[]),
        CAST(:size AS int8[]), CAST(:etag AS text[]), CAST(:md5 AS bytea[]), CAST(:crc64 AS numeric[]),
        CAST(:upload AS text[]), CAST(:proof AS text[])) AS r
    ON CONFLICT (push_id, seq, number) DO UPDATE SET "offset" = excluded."offset", size = excluded.size,
        etag = excluded.etag, md5 = excluded.md5, crc64 = excluded.crc64, upload = excluded.upload,
        proof = excluded.proof
""")

FORGET_PIECES = sa.text("DELETE FROM piece WHERE push_id = :id AND seq = :seq")

FORGET_SESSIONS = sa.text("""
    UPDATE sheet s SET gone_at = clock_timestamp() FROM push p
    WHERE p.id = :id AND s.session AND s.gone_at IS NULL AND s.first_seq = :seq AND (s.credential_id = p.credential_id
        OR s.credential_id IN (SELECT r.credential_id FROM renewal r WHERE r.push_id = p.id))
""")

# A set that is kept until it is purged by hand has no time to move.
KEEP_SET = sa.text("""
    UPDATE credential SET purge_after = CASE WHEN purge_after IS NOT NULL
        THEN greatest(purge_after, clock_timestamp() + make_interval(secs => :seconds)) END
    WHERE id = :set AND state = 'active'
""")

ADD_SESSION = sa.text("""
    INSERT INTO sheet (credential_id, number, first_seq, last_seq, block, blocks, session, sealed_at)
    SELECT :set, coalesce(max(s.number), 0) + 1, :seq, :seq, 1, 1, true, clock_timestamp()
    FROM sheet s WHERE s.credential_id = :set
    RETURNING number
""")

ADD_SET = sa.text("""
    INSERT INTO credential (id, owner, kind, name, endpoint, state, created_by, purge_after)
    VALUES (:set, :owner, 'signed_urls', :name, :origin, 'active', :by,
            clock_timestamp() + make_interval(secs => :seconds))
""")

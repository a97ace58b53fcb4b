"""Checkpoints in Postgres: written leaf by leaf, read by whoever verifies or shows them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from cloudpush.audit.database import statement, transaction
from cloudpush.push.trust.checkpoints import CHUNK, LEAF_BYTES, MOST, Anchored, Seal, digest, leaves
from cloudpush.push.trust.sealing import Checkpoint, Frontier, Leaves

#: The advisory lock of whoever writes a checkpoint.
SEAL_LOCK = 0x636C6F757365616C  # "clouseal"


class CheckpointBook:
    """``push.trust.sealing.Checkpoints`` on Postgres, and what pages and commands show of them."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def newest(self) -> Anchored | None:
        """See the port."""
        with statement(self._engine) as c:
            row = c.execute(NEWEST).one_or_none()
        return Anchored(row.number, digest(row.statement.encode()), row.last_id, int(row.events)) if row else None

    def digest_of(self, number: int) -> str | None:
        """See the port."""
        with statement(self._engine) as c:
            text = c.execute(STATEMENT, {"number": number}).scalar_one_or_none()
        return digest(text.encode()) if text is not None else None

    def frontier(self) -> Frontier | None:
        """See the port."""
        with statement(self._engine) as c:
            row = c.execute(FRONTIER).one()
        return Frontier(row.last_id, row.transaction) if row.last_id is not None else None

    def settled(self, frontier: Frontier) -> bool:
        """See the port."""
        with statement(self._engine) as c:
            return bool(c.execute(SETTLED, {"transaction": frontier.transaction}).scalar_one())

    def seal(self, number: int, first_id: int, upto: int, finish: Callable[[Leaves], Checkpoint]) -> Checkpoint | None:
        """See the port. Memory is that of one chunk."""
        with transaction(self._engine) as c:
            if not c.execute(LOCK, {"key": SEAL_LOCK}).scalar_one() or not c.execute(FREE, {"n": number}).scalar_one():
                return None
            seal, last_id = self._store_leaves(c, number, first_id, upto)
            if not seal.events:
                return None
            made = finish(Leaves(last_id, seal.events, seal.root()))
            c.execute(
                INSERT,
                {
                    "number": number,
                    "first_id": first_id,
                    "last_id": last_id,
                    "events": seal.events,
                    "root": made.statement.root,
                    "made_at": made.statement.made_at,
                    "statement": made.text.decode(),
                    "signature": made.signature,
                    "key_version": made.version,
                },
            )
        return made

    def _store_leaves(self, c: sa.Connection, number: int, first_id: int, upto: int) -> tuple[Seal, int]:
        seal, after, n = Seal(), first_id - 1, 0
        while seal.events < MOST:
            limit = min(CHUNK, MOST - seal.events)
            entries = c.execute(ENTRIES, {"after": after, "upto": upto, "limit": limit}).scalar_one()
            if entries is None:
                return seal, upto
            entries, n = bytes(entries), n + 1
            first, after = (next(leaves(part))[0] for part in (entries[:LEAF_BYTES], entries[-LEAF_BYTES:]))
            c.execute(
                INSERT_CHUNK,
                {
                    "checkpoint": number,
                    "number": n,
                    "first_id": first,
                    "last_id": after,
                    "leaves": len(entries) // LEAF_BYTES,
                    "entries": entries,
                    "root": seal.add(entries),
                },
            )
            if len(entries) < limit * LEAF_BYTES:
                return seal, upto
        return seal, after

    def status(self) -> dict[str, Any]:
        """``newest``: the newest checkpoint's columns without its leaves, or None; ``unsealed``: events that none covers."""
        with statement(self._engine) as c:
            newest = c.execute(LIST, {"before": 2**31 - 1, "limit": 1}).mappings().one_or_none()
            unsealed = c.execute(UNSEALED, {"after": newest["last_id"] if newest else 0}).scalar_one()
        return {"newest": dict(newest) if newest else None, "unsealed": unsealed}

    def list(self, *, before: int | None = None, limit: int = 50) -> list[dict[str, Any]]:
        """Checkpoints, newest first, those with smaller numbers than ``before``; columns without their leaves."""
        with statement(self._engine) as c:
            rows = c.execute(LIST, {"before": before or 2**31 - 1, "limit": limit}).mappings().all()
        return [dict(row) for row in rows]

    def one(self, number: int | None = None) -> dict[str, Any] | None:
        """One checkpoint's columns, the newest by default; None where there is none."""
        found = self.list(before=number + 1 if number is not None else None, limit=1)
        return found[0] if found and number in (None, found[0]["number"]) else None


LOCK = sa.text("SELECT pg_try_advisory_xact_lock(:key)")

FREE = sa.text("SELECT NOT EXISTS (SELECT FROM checkpoint WHERE number >= :n)")

NEWEST = sa.text("""
    SELECT number, statement, last_id, (SELECT sum(events) FROM checkpoint) AS events
    FROM checkpoint ORDER BY number DESC LIMIT 1
""")

STATEMENT = sa.text("SELECT statement FROM checkpoint WHERE number = :number")

# A transaction id of our own, given when the event had been seen: whoever writes one with a smaller id has an older one. A
# snapshot's xmax will not do: that follows the newest transaction that is over, and younger ones may have begun before it.
FRONTIER = sa.text("""
    SELECT (SELECT max(id) FROM event) AS last_id, pg_current_xact_id()::text AS transaction
""")

SETTLED = sa.text("SELECT pg_snapshot_xmin(pg_current_snapshot()) >= CAST(:transaction AS xid8)")

# Eight bytes of id, sixteen of stream, four of number, thirty-two of hash.
ENTRIES = sa.text("""
    SELECT string_agg(int8send(id) || uuid_send(stream) || int4send(seq) || hash, ''::bytea ORDER BY id) FROM (
        SELECT id, stream, seq, hash FROM event WHERE id > :after AND id <= :upto ORDER BY id LIMIT :limit
    ) AS e
""")

INSERT_CHUNK = sa.text("""
    INSERT INTO checkpoint_chunk (checkpoint, number, first_id, last_id, leaves, entries, root)
    VALUES (:checkpoint, :number, :first_id, :last_id, :leaves, :entries, :root)
""")

INSERT = sa.text("""
    INSERT INTO checkpoint (number, first_id, last_id, events, root, made_at, statement, signature, key_version)
    VALUES (:number, :first_id, :last_id, :events, :root, :made_at, :statement, :signature, :key_version)
""")

LIST = sa.text("""
    SELECT number, first_id, last_id, events, root, made_at, statement, signature, key_version
    FROM checkpoint WHERE number < :before ORDER BY number DESC LIMIT :limit
""")

UNSEALED = sa.text("SELECT count(*) FROM event WHERE id > :after")

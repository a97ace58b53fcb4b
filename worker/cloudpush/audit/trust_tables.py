"""What is sealed and signed: receipts of pushes, checkpoints over all events, and how inspections went."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from cloudpush.audit.tables import Instant, metadata

# A row without a statement is owed: a trigger writes it in the verdict's own transaction, the notary fills it.
receipt = sa.Table(
    "receipt",
    metadata,
    sa.Column("push_id", sa.Uuid, sa.ForeignKey("push.id"), primary_key=True),
    sa.Column("since", Instant, nullable=False, server_default=sa.func.now()),
    sa.Column("issued_at", Instant),
    sa.Column("statement", sa.Text),  # canonical JSON: what is signed; the files follow from its Merkle root
    sa.Column("signature", sa.LargeBinary),  # Ed25519, 64 bytes
    sa.Column("key_version", sa.Integer),
    sa.CheckConstraint(
        "(statement IS NULL) = (signature IS NULL) AND (statement IS NULL) = (issued_at IS NULL)", name="issued"
    ),
    sa.Index("ix_receipt_due", "since", postgresql_where=sa.text("statement IS NULL")),
)

# Append-only. `statement` is canonical JSON and what is signed; the other columns repeat it for queries.
checkpoint = sa.Table(
    "checkpoint",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("first_id", sa.BigInteger, nullable=False),  # events with first_id <= id <= last_id
    sa.Column("last_id", sa.BigInteger, nullable=False),
    sa.Column("events", sa.BigInteger, nullable=False),
    sa.Column("root", sa.LargeBinary, nullable=False),  # RFC 9162, SHA-256
    sa.Column("made_at", Instant, nullable=False),
    sa.Column("statement", sa.Text, nullable=False),
    sa.Column("signature", sa.LargeBinary, nullable=False),
    sa.Column("key_version", sa.Integer, nullable=False),
    sa.CheckConstraint("number > 0 AND first_id <= last_id AND events > 0", name="span"),
)

# Append-only: a checkpoint's leaves, so that a wrong root is traced to the event. Each chunk but the last of a checkpoint
# has the same power of two of leaves, so that its root is a node of the tree.
checkpoint_chunk = sa.Table(
    "checkpoint_chunk",
    metadata,
    # Deferred: chunks are written as they are read, and their checkpoint is signed and written after them.
    sa.Column(
        "checkpoint",
        sa.Integer,
        sa.ForeignKey("checkpoint.number", deferrable=True, initially="DEFERRED"),
        primary_key=True,
    ),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("first_id", sa.BigInteger, nullable=False),
    sa.Column("last_id", sa.BigInteger, nullable=False),
    sa.Column("leaves", sa.Integer, nullable=False),
    sa.Column("entries", sa.LargeBinary, nullable=False),  # 60 bytes a leaf: event id, stream, number in it, hash
    sa.Column("root", sa.LargeBinary, nullable=False),
)

# How a look at the whole record went; what the pages show.
inspection = sa.Table(
    "inspection",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("started_at", Instant, nullable=False),
    sa.Column("finished_at", Instant, nullable=False, server_default=sa.func.now()),
    sa.Column("by", sa.Text, nullable=False),
    sa.Column("sound", sa.Boolean, nullable=False),
    sa.Column("report", pg.JSONB, nullable=False),  # counts, and the first faults
)

"""Which months were dropped from the database, and where the chains begin that went on after them."""

from __future__ import annotations

import sqlalchemy as sa

from cloudpush.audit.tables import Instant, metadata

# Append-only, written by the owner of the tables alone. The newest event audit.dropped repeats every row.
retired = sa.Table(
    "retired",
    metadata,
    sa.Column("month", sa.Date, primary_key=True),  # its first day
    sa.Column("dropped_at", Instant, nullable=False, server_default=sa.func.now()),
    sa.Column("events", sa.BigInteger, nullable=False),
    sa.Column("files", sa.BigInteger, nullable=False),
    sa.Column("archive_sha256", sa.LargeBinary, nullable=False),  # of the archive's manifest.json
    sa.Column("cuts_sha256", sa.LargeBinary, nullable=False),  # of the month's rows in `cut`
    sa.CheckConstraint("month = date_trunc('month', month::timestamp)::date", name="month"),
)

# Append-only, likewise: of each stream that had events in a dropped month, the last of them.
cut = sa.Table(
    "cut",
    metadata,
    sa.Column("stream", sa.Uuid, primary_key=True),
    sa.Column(
        "month", sa.Date, sa.ForeignKey("retired.month", deferrable=True, initially="DEFERRED"), primary_key=True
    ),
    sa.Column("seq", sa.Integer, nullable=False),
    sa.Column("hash", sa.LargeBinary, nullable=False),
    sa.Index("ix_cut_month_stream", "month", "stream"),
)

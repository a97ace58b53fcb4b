"""What auditors search by: rows for each push that is over, written once, in the verdict's own transaction, by a trigger."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from cloudpush.audit.tables import Instant, metadata

# `terms` has a term for each thing that one may filter by, and one for each word of the source, the destination and the
# paths of the files. The other columns repeat the push's for counts and charts, which read the second index only, and for
# pages of two equalities that are often asked for together.
push_search = sa.Table(
    "push_search",
    metadata,
    sa.Column("push_id", sa.Uuid, sa.ForeignKey("push.id"), primary_key=True),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("bucket", sa.Text, nullable=False),
    sa.Column("credential_kind", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("strength", sa.Text),
    sa.Column("error_code", sa.Text),
    sa.Column("files", sa.BigInteger, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("terms", pg.TSVECTOR, nullable=False),
    sa.Index(
        "ix_push_search_terms",
        sa.text("cloudpush_begun(terms)"),  # also how words and prefixes begin
        postgresql_using="gin",
        postgresql_with={"gin_pending_list_limit": "512"},
    ),
    sa.Index(
        "ix_push_search_tally",
        "created_at",
        postgresql_include=[
            *("owner", "bucket", "credential_kind", "state", "strength", "error_code", "files", "bytes"),
        ],
    ),
    sa.Index("ix_push_search_owner_state", "owner", "state", "created_at", "push_id"),
    sa.Index("ix_push_search_owner_bucket", "owner", "bucket", "created_at", "push_id"),
)

# ``key=value``, in order of time: a label may be one of all pushes, or only of those of long ago.
push_label = sa.Table(
    "push_label",
    metadata,
    sa.Column("push_id", sa.Uuid, sa.ForeignKey("push.id"), primary_key=True),
    sa.Column("label", sa.Text, primary_key=True),
    sa.Column("created_at", Instant, nullable=False),
    sa.Index("ix_push_label_newest", "label", "created_at", "push_id"),
)

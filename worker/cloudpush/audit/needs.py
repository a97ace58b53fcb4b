"""What a push with signed URLs still needs them for: its files that are not there yet, and what arrived of each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from cloudpush.audit.database import transaction
from cloudpush.audit.tables import file, piece
from cloudpush.push.states import FileState

Row = dict[str, Any]

#: Rows fetched at once.
PAGE = 2_000


def needs_of(engine: sa.Engine, push_id: UUID, after: int = 0) -> Iterator[Row]:
    """``seq``, ``path``, ``key``, ``size``, ``error_code`` of each file without a verdict, in order, in constant memory.

    ``arrived``: numbers of its parts that need not be sent again; nobody but the provider knows what has arrived of a
    resumable upload. ``after``: a sequence number, for the next page.
    """
    while rows := _page(engine, push_id, after):
        yield from rows
        after = rows[-1]["seq"]


def _page(engine: sa.Engine, push_id: UUID, after: int) -> list[Row]:
    of_file = (piece.c.push_id == file.c.push_id, piece.c.seq == file.c.seq)
    arrived = sa.select(piece.c.number).where(*of_file).order_by(piece.c.number).scalar_subquery()
    query = (
        sa.select(
            file.c.seq, file.c.path, file.c.key, file.c.size, file.c.error_code, sa.func.array(arrived).label("arrived")
        )
        .where(file.c.push_id == push_id, file.c.state == FileState.PLANNED, file.c.seq > after)
        .order_by(file.c.seq)
        .limit(PAGE)
    )
    with transaction(engine) as c:
        return [dict(row) for row in c.execute(query).mappings()]

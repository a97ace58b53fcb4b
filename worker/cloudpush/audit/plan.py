"""A plan on its way into Postgres: pages of files, parts, and that it is complete."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from cloudpush.audit.database import storable
from cloudpush.audit.rows import EventRow, lease_params, part_params
from cloudpush.audit.statements import ADD_FILES, COPY_FILES, FINISH_PLAN, HOLD_PUSH, INSERT_PAGE, INSERT_PART
from cloudpush.errors import LeaseLost
from cloudpush.push.job import Lease, Page, Part, PlannedFile, Push, Refusal
from cloudpush.push.states import Event, State

#: Failed files that get an event of their own, with the provider's words, per transaction; all have their row.
TOLD_FAILURES = 20

#: Up to so many rows go by one INSERT; beyond, COPY is quicker.
FEW_ROWS = 50


def hold_push(c: sa.Connection, push: Push, lease: Lease) -> None:
    """Lock the push's row. Raises LeaseLost."""
    if c.execute(HOLD_PUSH, {"id": push.id, "token": lease.token}).one_or_none() is None:
        raise LeaseLost(f"push {push.id}")


def add_page(c: sa.Connection, page: Page) -> list[EventRow]:
    """Store a part that waits for its turn, and its files; returns what is to be told."""
    if page.rows:
        _copy_files(c, page)
    nobody = {"token": None, "seconds": None, "worker": None}
    first = {"state": State.QUEUED, "attempt": 0, "closing": page.part.closing}
    c.execute(INSERT_PART, {**part_params(page.part), **first, **nobody})
    return _refusals(page)


def add_only_page(c: sa.Connection, page: Page, lease: Lease) -> list[EventRow]:
    """Store the push's only part, which ``lease`` has already, and its files; returns what is to be told."""
    mine = {**part_params(page.part), "state": State.RUNNING, "attempt": 1, "closing": False, **lease_params(lease)}
    if len(page.rows) <= FEW_ROWS:
        c.execute(INSERT_PAGE, {**mine, **_rows(page)})
    else:
        _copy_files(c, page)
        c.execute(INSERT_PART, mine)
    return _refusals(page)


def add_files(c: sa.Connection, part: Part, files: Sequence[PlannedFile]) -> None:
    """Rows of a closing part; what is there stays."""
    columns = zip(*((f.seq, f.path, f.key, f.size, f.mtime_ns) for f in files), strict=True)
    names = ("seqs", "paths", "keys", "sizes", "mtimes")
    rows = {name: list(column) for name, column in zip(names, columns, strict=True)}
    c.execute(ADD_FILES, {"id": part.push_id, **rows})


def finish(
    c: sa.Connection, push: Push, lease: Lease, *, parts: int, files: int, bytes_: int
) -> tuple[sa.Row[Any], EventRow]:
    """The plan is complete: what ``check_usable`` looks at, and what is to be told. Raises LeaseLost."""
    row = c.execute(
        FINISH_PLAN, {"id": push.id, "token": lease.token, "parts": parts, "files": files, "bytes": bytes_}
    ).one_or_none()
    if row is None:
        raise LeaseLost(f"push {push.id}")
    return row, (Event.PUSH_PLANNED, None, {"parts": parts, "files": files, "bytes": bytes_})


def _rows(page: Page) -> dict[str, list[Any]]:
    """A page as one array a column."""
    columns = zip(*(_file_row(r) for r in page.rows), strict=True)
    names = ("seqs", "paths", "keys", "sizes", "mtimes", "states", "codes", "messages")
    return {name: list(column) for name, column in zip(names, columns, strict=True)}


def _file_row(r: PlannedFile | Refusal) -> tuple[Any, ...]:
    if isinstance(r, Refusal):
        return (r.seq, r.path, "", 0, 0, "failed", r.error.code.value, storable(r.error.message))
    return (r.seq, r.path, r.key, r.size, r.mtime_ns, "planned", None, None)


def _copy_files(c: sa.Connection, page: Page) -> None:
    """COPY: thousands of rows in tens of milliseconds."""
    driver = c.connection.driver_connection
    assert driver is not None  # noqa: S101 -- a checked-out connection has one
    with driver.cursor().copy(COPY_FILES) as copy:
        copy.set_types(["uuid", "int8", "text", "text", "int8", "int8", "text", "text", "text"])
        for r in page.rows:
            copy.write_row((page.part.push_id, *_file_row(r)))


def _refusals(page: Page) -> list[EventRow]:
    refused = [r for r in page.rows if isinstance(r, Refusal)]
    return [
        (Event.FILE_FAILED, None, {"seq": r.seq, "path": r.path, "code": r.error.code, "message": r.error.message})
        for r in refused[:TOLD_FAILURES]
    ]

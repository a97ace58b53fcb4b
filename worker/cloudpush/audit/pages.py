"""Pages of pushes, newest first: quick for any filter, at any depth, over millions of rows.

A filter that is one equality, such as an owner or a label, or an owner with a state or a bucket, is one range of an index that
is in order of time. Any other is looked up by its terms: at once where Postgres expects few pushes to have them, else in one
span of time after the other, from the newest push on that each of its equalities has alone. A span begins with as many pushes
as fill a few pages. It grows while little is found, and shrinks where too much is: so what is read for a page depends neither
on how much there is nor on how long ago it was.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from math import inf
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from cloudpush.audit.filters import Filter, any_of, conditions, matches, query_text, term, terms
from cloudpush.audit.search_tables import push_label, push_search
from cloudpush.audit.tables import push
from cloudpush.errors import Code, InputError
from cloudpush.push.trust.base64url import from_base64url, to_base64url

Row = dict[str, Any]

#: What is looked up at once: no more than so many.
CANDIDATES = 1_000
#: Looked up without regard to time, where no more than so many are expected.
FEW = 5_000
#: The first span has so many times what is wanted, of whatever pushes.
AHEAD = 4
#: A span grows by so much; once it is so many times as long as the first, it doubles: too much is then never far too much.
GROWS, QUICKLY = 8, 64
#: And shrinks by so much.
SHRINKS = 4
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
SECOND = timedelta(seconds=1)
#: Columns of ``push_search`` that have an index together, in the order that ``_equalities`` names them.
PAIRS = frozenset({("owner", "state"), ("owner", "bucket")})
#: Before every id: a cursor with it is the beginning of its moment.
FIRST = UUID(int=0)
#: Days, months or years that one lookup names, before the next coarser unit takes over.
UNITS = 40


@dataclass(frozen=True, slots=True)
class Page:
    """Rows, and the cursor of the page after them; None: there is none."""

    rows: list[Row]
    next: str | None


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a page begins: after this push. Encoded it is opaque, and belongs to one question."""

    at: datetime
    id: UUID

    def encode(self, question: bytes) -> str:
        """As text for a URL."""
        micros = (self.at - EPOCH) // timedelta(microseconds=1)
        return seal(struct.pack(">q", micros) + self.id.bytes, question)

    @classmethod
    def decode(cls, text: str, question: bytes) -> Cursor:
        """Raises InputError for what was never ours, or belongs to another question."""
        inner = unseal(text, question)
        if len(inner) != 24:
            raise foreign()
        try:
            return cls(EPOCH + timedelta(microseconds=struct.unpack(">q", inner[:8])[0]), UUID(bytes=inner[8:]))
        except OverflowError:
            raise foreign() from None


def seal(position: bytes, question: bytes) -> str:
    """A position as opaque text. No secret: it gives nobody a right, and a check tells a typing error."""
    check = hashlib.sha256(question + position).digest()[:6]
    return to_base64url(position + check)


def unseal(text: str, question: bytes) -> bytes:
    """The position. Raises InputError."""
    try:
        raw = from_base64url(text)
    except ValueError:
        raise foreign() from None
    if seal(raw[:-6], question) != text:
        raise foreign()
    return raw[:-6]


def foreign() -> InputError:
    """What a cursor is refused with."""
    return InputError(
        Code.BAD_INPUT,
        "cursor does not belong to this question: ask for the first page, without a cursor, and go on from there.",
        field="cursor",
    )


def newest(c: sa.Connection, which: Filter, limit: int, after: Cursor | None) -> list[sa.RowMapping]:
    """The ``limit`` newest pushes that the filter lets through and that are older than ``after``.

    For lookups it sets the planner up until the transaction's end.
    """
    if which.nothing:
        return []
    if which.text or which.prefix or which.strengths or len(which.any_state) > 1:
        return _look_up(c, which, limit, after)
    equal, labels = _equalities(which), _labels(which)
    if not labels and len(equal) <= 1:
        return _newest_of(c, [*conditions(which), *_times(which, after)], limit)
    if not labels and tuple(equal) in PAIRS:
        these = [push_search.c[name] == value for name, value in equal.items()]
        return _newest_over(c, push_search, these, which, limit, after)
    if not equal and len(labels) == 1:
        return _newest_over(c, push_label, [push_label.c.label == labels[0]], which, limit, after)
    return _look_up(c, which, limit, after)


def _equalities(which: Filter) -> dict[str, Any]:
    """The columns of a push that a filter wants to be equal to something: each has an index in order of time."""
    states = which.any_state
    wanted = {
        "credential_id": which.credential_id,
        "error_code": which.error_code,
        "owner": which.owner,
        "bucket": which.bucket,
        "state": next(iter(states)) if len(states) == 1 else None,
        "credential_kind": which.credential_kind,
    }
    return {name: value for name, value in wanted.items() if value is not None}


def _labels(which: Filter) -> list[str]:
    """As ``push_label`` has them."""
    return [f"{key}={value}" for key, value in which.all_labels.items()]


def _times(
    which: Filter,
    after: Cursor | None,
    at: sa.ColumnElement[datetime] = push.c.created_at,
    push_id: sa.ColumnElement[UUID] = push.c.id,
) -> Iterator[sa.ColumnElement[bool]]:
    if which.since is not None:
        yield at >= which.since
    if which.until is not None:
        yield at < which.until
    if after is not None:
        yield sa.tuple_(at, push_id) < sa.tuple_(sa.literal(after.at), sa.literal(after.id))


def _newest_over(
    c: sa.Connection,
    index: sa.Table,
    these: Sequence[sa.ColumnElement[bool]],
    which: Filter,
    limit: int,
    after: Cursor | None,
) -> list[sa.RowMapping]:
    """By an index of the table ``index``, which has what is over. What is not over first, as for lookups."""
    p, i = push.c, index.c
    live: list[sa.RowMapping] = []
    if not any(state.final for state in which.any_state):
        live = _newest_of(c, [p.finished_at.is_(None), *_times(which, after), *conditions(which)], limit)
    query = (
        sa.select(push)
        .join(index, i.push_id == p.id)
        .where(*these, *_times(which, after, i.created_at, i.push_id))
        .order_by(i.created_at.desc(), i.push_id.desc())
        .limit(limit)
    )
    found = {row["id"]: row for row in [*live, *c.execute(query).mappings()]}
    return sorted(found.values(), key=_key, reverse=True)[:limit]


def _newest_of(c: sa.Connection, these: Sequence[sa.ColumnElement[bool]], limit: int) -> list[sa.RowMapping]:
    query = sa.select(push).where(*these).order_by(push.c.created_at.desc(), push.c.id.desc())
    return list(c.execute(query.limit(limit)).mappings())


# -- looking up --------------------------------------------------------------------------------------------


def _look_up(c: sa.Connection, which: Filter, wanted: int, after: Cursor | None) -> list[sa.RowMapping]:
    """What is not over first: whatever ends meanwhile is then seen twice and not never."""
    begun, newest_one = c.execute(sa.select(sa.func.min(push.c.created_at), sa.func.max(push.c.created_at))).one()
    if begun is None:
        return []
    floor = max(begun, which.since or begun)
    end = Cursor(min(newest_one + timedelta(microseconds=1), which.until or newest_one + DAY), FIRST)
    end = end if after is None else min(end, after, key=_key)
    live = _newest_of(c, [push.c.finished_at.is_(None), *_times(which, after), *conditions(which)], wanted)
    end = _newest_possible(c, which, end)
    found = {row["id"]: row for row in live}
    span = max(SECOND, end.at - _some_before(c, end, wanted * AHEAD, floor))
    quickly = QUICKLY * span
    at_once = _expected(c, which) <= FEW
    c.execute(BY_TERMS)
    too_much: datetime | None = None  # somewhere after this moment there is more than can be looked up at once
    while _key(end) > (floor, FIRST) and sum(_key(row) >= _key(end) for row in found.values()) < wanted:
        since = floor if at_once else max(floor, _begun(end.at, span))
        named = "" if at_once else _when(since, _last(end))
        rows = _span(c, which, wanted, since, end, named, None if span < SECOND else CANDIDATES)
        if rows is None and at_once:  # Postgres was wrong
            at_once = False
            continue
        if rows is None:
            too_much = since if too_much is None else max(since, too_much)
            span /= SHRINKS
            continue
        hits, end = rows
        found |= {row["id"]: row for row in hits}
        if too_much is None or end.at <= too_much:
            too_much = None
            grows = GROWS if span < quickly else 2
            span *= min(grows, max(1.0, 1.5 * wanted / len(hits))) if hits else grows
    return sorted(found.values(), key=_key, reverse=True)[:wanted]


def _newest_possible(c: sa.Connection, which: Filter, end: Cursor) -> Cursor:
    """``end``, or the moment before which whatever is let through began: each of the filter's equalities has a newest push.

    Without it, what is common but only long ago would be looked for in vain for long.
    """
    p, n = push.c, push_label.c
    newest_each = [
        *((p.created_at, p.id, p[name] == value) for name, value in _equalities(which).items()),
        *((n.created_at, n.push_id, n.label == label) for label in _labels(which)),
    ]
    if not newest_each:
        return end
    before = sa.tuple_(sa.literal(end.at), sa.literal(end.id))
    found = c.execute(
        sa.select(
            *(
                sa.select(at)
                .where(equal, sa.tuple_(at, push_id) < before)
                .order_by(at.desc(), push_id.desc())
                .limit(1)
                .scalar_subquery()
                for at, push_id, equal in newest_each
            )
        )
    ).one()
    moments = [EPOCH if at is None else at + timedelta(microseconds=1) for at in found]
    return min(end, *(Cursor(at, FIRST) for at in moments), key=_key)


#: A page's limit makes Postgres hope to find it at once by reading the whole table.
BY_TERMS = sa.text(
    "SELECT set_config('enable_seqscan', 'off', true), set_config('enable_indexscan', 'off', true), "
    "set_config('enable_indexonlyscan', 'off', true)"
)


def _some_before(c: sa.Connection, end: Cursor, many: int, floor: datetime) -> datetime:
    """When the push began that is so many before ``end``."""
    query = sa.select(push.c.created_at).where(push.c.created_at < end.at).order_by(push.c.created_at.desc())
    found: datetime | None = c.execute(query.offset(many).limit(1)).scalar_one_or_none()
    return max(floor, found or floor)


def _expected(c: sa.Connection, which: Filter) -> float:
    """How many pushes Postgres expects to have the filter's terms: by its statistics, whose surprises cost time only."""
    wanted = terms(which)
    if not wanted:
        return inf
    plan = c.execute(EXPECTED, {"terms": query_text(wanted)}).scalar_one()
    return float(plan[0]["Plan"]["Plan Rows"])


EXPECTED = sa.text(
    "EXPLAIN (FORMAT JSON) SELECT FROM push_search WHERE cloudpush_begun(terms) @@ CAST(:terms AS tsquery)"
)


def _span(
    c: sa.Connection, which: Filter, wanted: int, since: datetime, end: Cursor, named: str, most: int | None
) -> tuple[list[sa.RowMapping], Cursor] | None:
    """The newest of [``since``, ``end``), and down to where was looked for them; None: there are more than ``most``.

    ``named``: terms that let the span's pushes through, and maybe others.
    """
    s, p = push_search.c, push.c
    before = sa.tuple_(sa.literal(end.at), sa.literal(end.id))
    # Days and longer are terms already: another index would only cost. (A sum is none.)
    at = s.created_at if end.at - since < DAY else s.created_at + sa.literal(timedelta(0))
    over = sa.select(s.push_id.label("id"), s.created_at).where(
        matches(query_text([*terms(which), *([named] if named else [])])),
        at >= since,
        sa.tuple_(at, s.push_id) < before,
    )
    few = over.limit(None if most is None else most + 1).cte("few").prefix_with("MATERIALIZED")
    many = sa.select(sa.func.count()).select_from(few).scalar_subquery()
    query = sa.select(few, many.label("many")).order_by(few.c.created_at.desc(), few.c.id.desc()).limit(wanted)
    ids = c.execute(query).all()
    if not ids:
        return [], Cursor(since, FIRST)
    if most is not None and ids[0].many > most:
        return None
    # Words were looked up as they are; other terms are cut short where they are very long.
    rest = replace(which, text=None)
    query = sa.select(push).where(p.id == sa.func.any(sa.literal([row.id for row in ids], pg.ARRAY(sa.Uuid))))
    hits = list(c.execute(query.where(*conditions(rest))).mappings())
    return hits, Cursor(since, FIRST) if ids[0].many == len(ids) else Cursor(ids[-1].created_at, ids[-1].id)


def _key(row: Any) -> tuple[datetime, UUID]:
    return (row.at, row.id) if isinstance(row, Cursor) else (row["created_at"], row["id"])


def _begun(end: datetime, span: timedelta) -> datetime:
    """So much before ``end``, or a bit more: where the day, month or year begins that a span of that length is named by."""
    since = (end - span).astimezone(UTC)
    if span < DAY:
        return since
    start = since.replace(hour=0, minute=0, second=0, microsecond=0)
    if span > UNITS * DAY:
        start = start.replace(day=1)
    return start.replace(month=1) if span > UNITS * 31 * DAY else start


def _last(end: Cursor) -> datetime:
    """The last moment before a cursor, UTC."""
    return (end.at - timedelta(microseconds=1) if end.id == FIRST else end.at).astimezone(UTC)


def _when(since: datetime, until: datetime) -> str:
    """The days, months or years that a span touches, as terms."""
    since, until = since.astimezone(UTC), until.astimezone(UTC)
    days = (until.date() - since.date()).days
    if days < UNITS:
        return any_of([term("d", f"{since.date() + timedelta(days=n):%Y-%m-%d}") for n in range(days + 1)])
    months = (until.year - since.year) * 12 + until.month - since.month
    if months < UNITS:
        starts = (divmod(since.year * 12 + since.month - 1 + n, 12) for n in range(months + 1))
        return any_of([term("m", f"{year:04}-{month + 1:02}") for year, month in starts])
    return any_of([term("y", f"{year:04}") for year in range(since.year, until.year + 1)])

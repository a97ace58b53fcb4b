"""Counts and sums over many pushes: exact where that is quick, and a lower bound that says so where it is not.

Pushes that are over are counted in ``push_search``'s index alone; the others by their rows. What that index does not have
(prefix, labels, words, a credential) is looked up by terms, and counted up to ``MOST``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from cloudpush.audit.filters import Filter, conditions, matches, query_text, terms
from cloudpush.audit.search_tables import push_search
from cloudpush.audit.tables import push
from cloudpush.push.states import State

#: Pushes that are counted one by one where the index does not have what is asked for.
MOST = 20_000


class Step(StrEnum):
    """What one bar of a chart stands for; days, weeks (from Monday) and months of UTC."""

    DAY = "day"
    WEEK = "week"
    MONTH = "month"

    @classmethod
    def of(cls, since: datetime, until: datetime) -> Step:
        """The one that makes some dozens of bars of a span."""
        days = (until - since) / timedelta(days=1)
        return cls.DAY if days <= 62 else cls.WEEK if days <= 400 else cls.MONTH

    def floor(self, moment: datetime) -> datetime:
        """The beginning of the step that a moment is in."""
        day = moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        if self is Step.WEEK:
            return day - timedelta(days=day.weekday())
        return day.replace(day=1) if self is Step.MONTH else day

    def next(self, moment: datetime) -> datetime:
        """The beginning of the step after."""
        if self is Step.MONTH:
            return (moment.replace(day=1) + timedelta(days=32)).replace(day=1)
        return moment + timedelta(days=7 if self is Step.WEEK else 1)


@dataclass(frozen=True, slots=True)
class Totals:
    """How much there is; where not ``exact``, at least so much: only ``MOST`` of those that are over were counted."""

    pushes: int
    files: int
    bytes: int
    by_state: Mapping[State, int] = field(default_factory=dict)
    first: datetime | None = None  # when the first and the last of them began
    last: datetime | None = None
    exact: bool = True


@dataclass(frozen=True, slots=True)
class Bucket:
    """What began in one step."""

    start: datetime
    pushes: int = 0
    files: int = 0
    bytes: int = 0
    succeeded: int = 0
    failed: int = 0
    unverified: int = 0
    cancelled: int = 0
    live: int = 0  # not over yet


def totals(c: sa.Connection, which: Filter) -> Totals:
    """Sums over what the filter lets through."""
    pushes = files = bytes_ = 0
    by_state: dict[State, int] = {}
    moments: list[datetime] = []
    exact = True
    for rows, limit in _sources(which):
        sums = (sa.func.count(), sa.func.sum(rows.c.files), sa.func.sum(rows.c.bytes))
        spans = (sa.func.min(rows.c.created_at), sa.func.max(rows.c.created_at))
        here = 0
        for state, n, f, b, first, last in c.execute(sa.select(rows.c.state, *sums, *spans).group_by(rows.c.state)):
            by_state[State(state)] = by_state.get(State(state), 0) + n
            here, files, bytes_ = here + n, files + int(f), bytes_ + int(b)
            moments += (first, last)
        pushes += here
        exact = exact and (limit is None or here < limit)
    return Totals(pushes, files, bytes_, by_state, min(moments, default=None), max(moments, default=None), exact)


def series(c: sa.Connection, which: Filter, step: Step) -> list[Bucket]:
    """A bucket for each step from the first to the last that has something, those with nothing included."""
    found: dict[datetime, dict[str, int]] = {}
    for rows, _ in _sources(which):
        day = sa.cast(sa.func.timezone("UTC", rows.c.created_at), sa.Date)
        sums = (sa.func.count(), sa.func.sum(rows.c.files), sa.func.sum(rows.c.bytes))
        for date, state, n, files, bytes_ in c.execute(sa.select(day, rows.c.state, *sums).group_by(day, rows.c.state)):
            start = step.floor(datetime(date.year, date.month, date.day, tzinfo=UTC))
            bucket = found.setdefault(start, {})
            word = state if State(state).final else "live"
            for name, value in (("pushes", n), ("files", int(files)), ("bytes", int(bytes_)), (word, n)):
                bucket[name] = bucket.get(name, 0) + value
    if not found:
        return []
    at, last, filled = min(found), max(found), []
    while at <= last:
        filled.append(Bucket(at, **found.get(at, {})))
        at = step.next(at)
    return filled


def _sources(which: Filter) -> Iterator[tuple[sa.Subquery, int | None]]:
    """What is over and what is not, as rows of created_at, state, files and bytes; and how many are counted at most."""
    p, s = push.c, push_search.c
    columns: tuple[Any, ...] = (s.created_at, s.state, s.files, s.bytes)
    if not (which.prefix or which.all_labels or which.text or which.credential_id):
        yield sa.select(*columns).where(*_plain(which)).subquery("over"), None
    elif not which.nothing:
        # Words were looked up as they are; other terms are cut short where they are very long.
        rest = replace(which, text=None)
        query = sa.select(*columns).where(matches(query_text(terms(which))), *_plain(which))
        query = query.where(sa.select(p.id).where(p.id == s.push_id, *conditions(rest)).offset(0).exists())
        yield query.limit(MOST).subquery("over"), MOST
    live = sa.select(p.created_at, p.state, p.files_total.label("files"), p.bytes_total.label("bytes"))
    yield live.where(p.finished_at.is_(None), *conditions(which)).subquery("live"), None


def _plain(which: Filter) -> Iterator[sa.ColumnElement[bool]]:
    """The filter as conditions on the columns that the index has."""
    columns = push_search.c
    for column, value in (
        (columns.owner, which.owner),
        (columns.bucket, which.bucket),
        (columns.credential_kind, which.credential_kind),
        (columns.error_code, which.error_code),
    ):
        if value is not None:
            yield column == value
    if which.since is not None:
        yield columns.created_at >= which.since
    if which.until is not None:
        yield columns.created_at < which.until
    if states := which.any_state:
        yield columns.state.in_(sorted(states))
    if which.strengths or which.strength is not None:
        yield columns.strength.in_([s.word for s in which.strengths])

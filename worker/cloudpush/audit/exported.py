"""What can be exported: the tables, their columns, and which of their rows are wanted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from cloudpush.audit.charts import Bucket, Step
from cloudpush.audit.filters import Filter, conditions
from cloudpush.audit.listings import LEDGER, contains
from cloudpush.audit.tables import credential, event, file, part, push
from cloudpush.audit.trust_tables import checkpoint
from cloudpush.errors import Code, InputError
from cloudpush.push.states import FileState


class Format(StrEnum):
    """What a table is written as."""

    CSV = "csv"
    JSONL = "jsonl"
    PARQUET = "parquet"

    @property
    def media_type(self) -> str:
        """For Content-Type."""
        return {
            Format.CSV: "text/csv; charset=utf-8; header=present",
            Format.JSONL: "application/jsonl",
            Format.PARQUET: "application/vnd.apache.parquet",
        }[self]


class Sort(StrEnum):
    """What a column's values are."""

    TEXT = "text"
    INTEGER = "integer"
    TIME = "time"
    HEX = "hex"
    JSON = "json"
    PLAIN = "plain"  # ids, states: text that no user writes


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a file."""

    name: str
    of: sa.ColumnElement[Any]
    sort: Sort


#: What a spreadsheet takes for a formula's beginning, as Postgres' E'' writes it. Those of full width are folded to the others.
FORMULAS = ("=", "+", "-", "@", r"\t", r"\r", r"\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
#: A function of Postgres' takes at most so many.
ARGUMENTS = 100
INTERNAL = frozenset(
    {"lease_token", "lease_until", "request_sha256", "idempotency_key", "announced_at", "strikes", "worker", "salt"}
)
_PLAIN = frozenset(
    {"state", "strength", "min_strength", "overwrite", "kind", "credential_kind", "package", "error_code"}
)


def _columns(table: sa.Table, *names: str) -> tuple[Column, ...]:
    chosen = [table.c[n] for n in names] if names else [c for c in table.c if c.name not in INTERNAL]
    return tuple(Column(c.name, c, _sort(c)) for c in chosen)


def _sort(column: sa.Column[Any]) -> Sort:
    match column.type:
        case sa.DateTime():
            return Sort.TIME
        case sa.LargeBinary():
            return Sort.HEX
        case sa.Integer():
            return Sort.INTEGER
        case sa.Uuid():
            return Sort.PLAIN
        case sa.JSON() | sa.ARRAY():
            return Sort.JSON
        case _:
            return Sort.PLAIN if column.name in _PLAIN else Sort.TEXT


_TOLD = ("id", "stream", "seq", "at", "kind", "actor", "credential_id", "data")
_PART = (
    *("push_id", "number", "first_seq", "last_seq", "files", "bytes", "state", "attempt", "worker"),
    *("started_at", "finished_at", "error_code", "error_message"),
)


def _number(name: str) -> Column:
    return Column(name, sa.column(name), Sort.TIME if name == "start" else Sort.INTEGER)


TABLES: Mapping[str, tuple[Column, ...]] = {
    "pushes": _columns(push),
    "files": _columns(file),
    "events": _columns(event, *_TOLD, "prev", "hash"),
    "credentials": _columns(credential),
    "ledger": _columns(event, *_TOLD, "hash"),
    "life": _columns(event, *_TOLD, "hash"),
    "parts": _columns(part, *_PART),
    "checkpoints": _columns(checkpoint),
    "series": tuple(_number(f.name) for f in fields(Bucket)),
}


EVERYTHING = Filter()


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be exported. ``which`` chooses pushes, and with them their files, parts and events; ``push_id`` one of them.

    Events, credentials, the ledger and checkpoints are chosen by their own time, not by that of a push. ``life`` is
    everything that happened to the credential of ``which``, or that pushes did with it; ``series`` counts and bytes by
    ``step``.
    """

    table: str
    format: Format
    which: Filter = EVERYTHING
    push_id: UUID | None = None
    states: tuple[FileState, ...] = ()  # of files
    path: str = ""  # of files: what their path contains, in whatever letters
    kinds: tuple[str, ...] = ()  # of the ledger's events: how their kind begins
    actor: str = ""  # of the ledger's events
    step: Step = Step.DAY

    def __post_init__(self) -> None:
        """Raises InputError for a table that there is not."""
        if self.table not in TABLES:
            raise InputError(
                Code.BAD_INPUT, f"table {self.table!r} cannot be exported: {', '.join(TABLES)} can.", field="table"
            )
        if self.table == "life" and self.which.credential_id is None:
            raise InputError(Code.BAD_INPUT, "Whose life is to be exported? Name a credential.", field="credential")

    def told(self) -> dict[str, Any]:
        """What was asked, for an event: whatever is not empty, in plain types."""
        own = {
            "push": self.push_id and str(self.push_id),
            "file_states": [s.value for s in self.states],
            "path": self.path,
            "kinds": list(self.kinds),
            "by": self.actor,
            "step": self.step.value if self.table == "series" else "",
        }
        return self.which.told() | {name: value for name, value in own.items() if value}


def query_of(wanted: Wanted, columns: list[sa.ColumnElement[Any]]) -> sa.Select[Any]:
    """Its rows, with these columns."""
    which, one = wanted.which, wanted.push_id
    query = sa.select(*columns)
    match wanted.table:
        case "pushes":
            query = query.where(*conditions(which)).order_by(push.c.created_at, push.c.id)
            return query if one is None else query.where(push.c.id == one)
        case "files":
            return _of_pushes(_files(query, wanted), wanted, file.c.push_id, file.c.seq)
        case "parts":
            return _of_pushes(query, wanted, part.c.push_id, part.c.number)
        case "credentials":
            query = _between(query, credential.c.created_at, which).order_by(credential.c.created_at, credential.c.id)
            if which.credential_id is not None:
                query = query.where(credential.c.id == which.credential_id)
            if which.credential_kind is not None:
                query = query.where(credential.c.kind == which.credential_kind)
            return query if which.owner is None else query.where(credential.c.owner == which.owner)
        case "checkpoints":
            return _between(query, checkpoint.c.made_at, which).order_by(checkpoint.c.number)
        case "ledger":
            return _ledger(_between(query, event.c.at, which), wanted)
        case "life":
            of_it = sa.or_(event.c.stream == which.credential_id, event.c.credential_id == which.credential_id)
            return query.where(of_it).order_by(event.c.id)
    query = _between(query, event.c.at, which)
    if one is not None:
        return query.where(event.c.stream == one).order_by(event.c.seq)
    timeless = replace(which, since=None, until=None)
    return query if timeless == EVERYTHING else query.where(event.c.stream.in_(_chosen(timeless)))


def _files(query: sa.Select[Any], wanted: Wanted) -> sa.Select[Any]:
    if wanted.states:
        query = query.where(file.c.state.in_([s.value for s in wanted.states]))
    return query.where(contains(file.c.path, wanted.path)) if wanted.path else query


def _of_pushes(
    query: sa.Select[Any], wanted: Wanted, push_id: sa.ColumnElement[Any], number: sa.ColumnElement[Any]
) -> sa.Select[Any]:
    if wanted.push_id is not None:
        query = query.where(push_id == wanted.push_id).order_by(number)
    # Without a filter nobody need look at the pushes.
    return query if wanted.which == EVERYTHING else query.where(push_id.in_(_chosen(wanted.which)))


def _ledger(query: sa.Select[Any], wanted: Wanted) -> sa.Select[Any]:
    which, kind = wanted.which, event.c.kind
    query = query.where(sa.or_(*(kind.startswith(word, autoescape=True) for word in LEDGER)))
    if wanted.kinds:
        query = query.where(sa.or_(*(kind.startswith(word, autoescape=True) for word in wanted.kinds)))
    if wanted.actor:
        query = query.where(event.c.actor == wanted.actor)
    about = sa.func.coalesce(event.c.credential_id, event.c.stream)
    if which.credential_id is not None:
        query = query.where(about == which.credential_id)
    if which.owner is not None:
        query = query.where(about.in_(sa.select(credential.c.id).where(credential.c.owner == which.owner)))
    return query


def _chosen(which: Filter) -> sa.Select[Any]:
    return sa.select(push.c.id).where(*conditions(which))


def _between(query: sa.Select[Any], at: sa.ColumnElement[Any], which: Filter) -> sa.Select[Any]:
    if which.since is not None:
        query = query.where(at >= which.since)
    return query if which.until is None else query.where(at < which.until)


def written(column: Column, form: Format) -> sa.ColumnElement[Any]:
    """A column as CSV has it; for Parquet, as what is turned into it."""
    of = column.of
    match column.sort:
        case Sort.TIME if form is Format.PARQUET:
            shown: sa.ColumnElement[Any] = of  # read as it is, and twice as quickly
        case Sort.TIME:
            shown = _time(of)
        case Sort.HEX:
            shown = _hex(of)
        case Sort.JSON:
            shown = sa.cast(sa.func.to_json(of), sa.Text)
        case Sort.TEXT if form is Format.CSV:  # against spreadsheets
            dangerous = sa.func.left(of, 1).in_([sa.literal_column(f"E'{c}'") for c in FORMULAS])
            shown = sa.case((dangerous, _constant("'") + of), else_=of)
        case _:
            shown = of
    return shown.label(column.name)


def line(columns: Sequence[Column]) -> sa.ColumnElement[str]:
    """A row as one JSON object. ``row_to_json`` says the same, and takes twice as long where there are many columns."""
    pieces: list[sa.ColumnElement[str]] = []
    before = "{"
    for column in columns:
        pieces += [_constant(f'{before}"{column.name}":'), _json(column)]
        before = ","
    pieces.append(_constant("}"))
    some = (pieces[n : n + ARGUMENTS] for n in range(0, len(pieces), ARGUMENTS))
    return sa.func.concat(*(sa.func.concat(*those) for those in some), type_=sa.Text)


def _json(column: Column) -> sa.ColumnElement[str]:
    """A value as JSON text."""
    of = column.of
    match column.sort:
        case Sort.INTEGER:
            text: sa.ColumnElement[str] = sa.cast(of, sa.Text)
        case Sort.TIME:
            text = _quoted(_time(of))
        case Sort.HEX:
            text = _quoted(_hex(of))
        case Sort.PLAIN if isinstance(of.type, sa.Uuid):
            text = _quoted(sa.cast(of, sa.Text))
        case _:
            text = sa.cast(sa.func.to_json(of), sa.Text)
    return sa.func.coalesce(text, _constant("null"))


def _quoted(text: sa.ColumnElement[str]) -> sa.ColumnElement[str]:
    return _constant('"') + text + _constant('"')


def _time(of: sa.ColumnElement[Any]) -> sa.ColumnElement[str]:
    return sa.func.to_char(of, _constant('YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), type_=sa.Text)


def _hex(of: sa.ColumnElement[Any]) -> sa.ColumnElement[str]:
    return sa.func.encode(of, _constant("hex"), type_=sa.Text)


def _constant(text: str) -> sa.ColumnElement[str]:
    """Ours, and in the statement itself: Postgres knows its type."""
    doubled = text.replace("'", "''")
    return sa.literal_column(f"'{doubled}'", sa.Text)

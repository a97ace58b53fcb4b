"""Which pushes: what a filter means, as conditions on a push's row and as words of the search table."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from cloudpush.audit.search_tables import push_search
from cloudpush.audit.tables import push
from cloudpush.errors import Code, InputError
from cloudpush.push.states import State, Strength

#: Characters of a term, and of a word, that count; levels of a prefix; letters whose beginnings are terms: as the migration's
#: functions have them.
TERM, WORD, LEVELS, BEGUN = 400, 30, 30, 8


@dataclass(frozen=True, slots=True)
class Filter:
    """Which pushes. Empty means all; several fields mean all of them at once, several ``states`` any of these.

    ``text``: words, all of which the source, the destination or the paths of the push's files have. A word that ends in
    ``*`` stands for all that begin so. ``prefix``: how the prefix within the bucket begins. ``strength``: proved exactly
    so; ``at_most``: so or more weakly.
    """

    owner: str | None = None
    bucket: str | None = None
    prefix: str | None = None
    state: State | None = None
    states: tuple[State, ...] = ()
    strength: Strength | None = None
    at_most: Strength | None = None
    credential_kind: str | None = None
    credential_id: UUID | None = None
    error_code: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    label: tuple[str, str] | None = None
    labels: tuple[tuple[str, str], ...] = ()
    text: str | None = None

    @property
    def any_state(self) -> frozenset[State]:
        """The states that are let through; empty: all of them."""
        return frozenset(self.states) | ({self.state} if self.state else frozenset())

    @property
    def all_labels(self) -> dict[str, str]:
        """The labels that a push must have. One key with two values lets nothing through, see ``conditions``."""
        return dict([*self.labels, *([self.label] if self.label else [])])

    @property
    def strengths(self) -> tuple[Strength, ...]:
        """The strengths that are let through; empty: all, also that of a push of which nothing is proved yet."""
        if self.strength is None and self.at_most is None:
            return ()
        most = Strength.REREAD if self.at_most is None else self.at_most
        return tuple(s for s in Strength if s <= most and self.strength in (None, s))

    @property
    def words(self) -> tuple[list[str], list[str]]:
        """The whole words, and the beginnings of words, of ``text``."""
        whole: list[str] = []
        begun: list[str] = []
        for piece in (self.text or "").split():
            *inner, last = piece.rstrip("*").translate(_APART).split() or [""]
            whole += [w.lower() for w in inner]
            if last:
                (begun if piece.endswith("*") else whole).append(last.lower())
        return whole, begun

    @property
    def nothing(self) -> bool:
        """Whether it contradicts itself, asks for words and names none, or for a label that there cannot be."""
        return (
            bool(self.text and self.text.strip() and not any(self.words))
            or any(self.all_labels.get(k) != v for k, v in self.labels)
            or any("=" in key for key in self.all_labels)
            or ((self.strength is not None or self.at_most is not None) and not self.strengths)
        )

    def __post_init__(self) -> None:
        """Raises InputError for what no row can hold."""
        texts = (self.owner, self.bucket, self.prefix, self.credential_kind, self.error_code, self.text)
        for text in (*texts, *(word for label in [*self.labels, self.label or ()] for word in label)):
            if text and ("\0" in text or any("\ud800" <= c <= "\udfff" for c in text)):
                raise InputError(
                    Code.BAD_INPUT,
                    "A filter holds a NUL character or bytes that are not UTF-8: no push does.",
                    field="filter",
                )
        for moment in (self.since, self.until):
            if moment is not None and moment.tzinfo is None:
                raise InputError(Code.BAD_INPUT, "since and until need a time zone, such as Z.", field="since")

    def told(self) -> dict[str, Any]:
        """What is asked, for an event and as the name of a question: the fields that are not empty, in plain types."""
        found: dict[str, Any] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if value is None or value == ():
                continue
            match value:
                case Strength():
                    found[f.name] = value.word
                case datetime():
                    found[f.name] = value.isoformat()
                case tuple():
                    found[f.name] = [str(v) if isinstance(v, str) else list(v) for v in value]
                case _:
                    found[f.name] = str(value)
        return found

    def fingerprint(self) -> bytes:
        """Tells this question from others."""
        return hashlib.sha256(json.dumps(self.told(), sort_keys=True).encode("utf-8", "surrogatepass")).digest()[:8]


#: What separates words: every ASCII character that is neither letter nor digit. Postgres does the same: cloudpush_words.
_APART = {i: " " for i in range(1, 128) if not chr(i).isalnum()}


def conditions(which: Filter, rows: sa.FromClause = push) -> Iterator[sa.ColumnElement[bool]]:
    """The filter as conditions on ``rows`` of pushes."""
    columns = rows.c
    for column, value in (
        (columns.owner, which.owner),
        (columns.bucket, which.bucket),
        (columns.credential_kind, which.credential_kind),
        (columns.credential_id, which.credential_id),
        (columns.error_code, which.error_code),
    ):
        if value is not None:
            yield column == value
    if which.since is not None:
        yield columns.created_at >= which.since
    if which.until is not None:
        yield columns.created_at < which.until
    if which.prefix:
        yield sa.func.starts_with(columns.prefix + "/", which.prefix)
    if states := which.any_state:
        yield columns.state == next(iter(states)) if len(states) == 1 else columns.state.in_(sorted(states))
    if which.strength is not None or which.at_most is not None:
        yield columns.strength.in_([s.word for s in which.strengths])
    if labels := which.all_labels:
        yield columns.labels.op("@>")(sa.cast(sa.literal(json.dumps(labels), sa.Text), pg.JSONB))
    if which.nothing:
        yield sa.false()
    elif which.text and which.text.strip():
        yield has_words(which, rows)


def has_words(which: Filter, rows: sa.FromClause = push) -> sa.ColumnElement[bool]:
    """Whether a push has the words that are looked for: one that is over in its row of ``push_search``; others in what was asked."""
    wanted = query_text(word_terms(which))
    stored = (
        sa.select(push_search.c.terms.op("@@")(ts(wanted)))
        .where(push_search.c.push_id == rows.c.id)
        .correlate(rows)
        .scalar_subquery()
    )
    now = sa.func.array_to_tsvector(sa.func.cloudpush_words(rows.c.source + " " + rows.c.uri)).op("@@")(ts(wanted))
    return sa.case((rows.c.finished_at.is_(None), now), else_=sa.func.coalesce(stored, now))


def ts(text: str) -> sa.ColumnElement[Any]:
    """A text as a tsquery."""
    return sa.cast(sa.literal(text, sa.Text), pg.TSQUERY)


def matches(text: str) -> sa.ColumnElement[bool]:
    """Whether a row of ``push_search`` has the terms of a tsquery: what its index has."""
    found: sa.ColumnElement[bool] = sa.func.cloudpush_begun(push_search.c.terms, type_=pg.TSVECTOR).op("@@")(ts(text))
    return found


def word_terms(which: Filter) -> list[str]:
    """The words of ``text`` as search terms."""
    whole, begun = which.words
    return [*(term("w", w[:WORD]) for w in whole), *(term("w", w[:WORD]) + ":*" for w in begun)]


def terms(which: Filter) -> list[str]:
    """The filter as search terms, all of which a push that is over has.

    They let through what the filter lets through; and maybe more where a text is longer than a term: ``conditions`` have the
    last word.
    """
    found = [
        term(letter, str(value))
        for letter, value in (
            ("o", which.owner),
            ("b", which.bucket),
            ("k", which.credential_kind),
            ("c", which.credential_id),
            ("e", which.error_code),
        )
        if value is not None
    ]
    if states := which.any_state:
        found.append(any_of([term("s", s) for s in sorted(states)]))
    if which.strengths:
        found.append(any_of([term("x", s.word) for s in which.strengths]))
    found += [term("l", f"{k}={v}") for k, v in which.all_labels.items()]
    if which.prefix:
        whole, slash, rest = which.prefix.rpartition("/")
        levels = whole.split("/")
        if slash:
            found.append(term("p", "/".join(levels[:LEVELS]) + "/"))
        if rest and len(levels) < LEVELS and len(which.prefix) < TERM - 1:
            found += _beginning("q", whole + slash, rest, "p")
    whole_words, begun = which.words
    found += [term("w", w[:WORD]) for w in whole_words]
    for word in begun:
        found += _beginning("v", "", word[:WORD], "w")
    return found


def _beginning(letter: str, parent: str, name: str, whole: str) -> list[str]:
    """Whatever begins so. As many letters as ``BEGUN`` are a term of their own; all that begin with more are looked up."""
    found = [term(letter, parent + name[:BEGUN])]
    return found if len(name) <= BEGUN else [*found, term(whole, parent + name) + ":*"]


def term(letter: str, value: str) -> str:
    """One term, quoted as a tsquery wants it."""
    inner = f"{letter}={value[:TERM]}".replace("\\", "\\\\").replace("'", "''")
    return f"'{inner}'"


def any_of(found: list[str]) -> str:
    """At least one of these."""
    return f"({' | '.join(found)})"


def query_text(found: list[str]) -> str:
    """All of these."""
    return " & ".join(found)

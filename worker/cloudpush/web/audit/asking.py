"""What an auditor asks for: the filter's fields as they stand in an address, each read, or told what is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from cloudpush.audit.history import Filter
from cloudpush.errors import Code
from cloudpush.push.states import State, Strength
from cloudpush.web import words

#: A name, a path or a label is no longer than this.
LONGEST = 1_000
#: Parts of a path that are looked for have so many letters at the least: shorter ones are in every path.
SHORTEST_TEXT = 3
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")

Params = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Field:
    """One field of the form. ``read`` raises ValueError that says what is wrong and what helps."""

    name: str
    title: str
    read: Callable[[str], Any]
    hint: str = ""
    type: str = "text"
    choices: Sequence[tuple[str, str]] = ()
    suggestions: Sequence[str] = ()
    aside: bool = True  # whether it stands among the further filters
    hidden: bool = False  # comes from a link only
    says: Callable[[str], str] = str  # its value, as the chip says it


@dataclass(frozen=True, slots=True)
class Chip:
    """A filter that is on, and the address without it."""

    title: str
    words: str
    without: str


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked: as typed, as read, and what is wrong with it."""

    path: str  # of the page that asks
    fields: Sequence[Field]
    typed: Mapping[str, str]  # what is not empty
    read: Mapping[str, Any]
    wrong: Mapping[str, str] = field(default_factory=dict)

    def address(self, path: str = "", **changes: str) -> str:
        """This page, or ``path``, with the same filter; ``changes``: parameters that are set, or taken out where empty."""
        values = {k: v for k, v in {**self.typed, **changes}.items() if v}
        return f"{path or self.path}?{urlencode(values)}" if values else path or self.path

    def bare(self, **only: object) -> Asked:
        """Nothing but these parameters."""
        return replace(self, typed={k: str(v) for k, v in only.items()})

    @property
    def chips(self) -> Iterator[Chip]:
        """One for each filter that is on."""
        for f in self.fields:
            if f.name in self.typed:
                yield Chip(f.title, f.says(self.typed[f.name]), self.address(**{f.name: ""}))

    @property
    def further(self) -> bool:
        """Whether one of the filters that are folded away is on."""
        return any(f.aside and f.name in self.typed for f in self.fields)


def ask(path: str, fields: Sequence[Field], params: Params) -> Asked:
    """Every field of ``params`` read; those that cannot be are told in ``wrong``, and nothing that was typed is lost."""
    typed = {f.name: params[f.name].strip()[:LONGEST] for f in fields if params.get(f.name, "").strip()}
    read: dict[str, Any] = {}
    wrong: dict[str, str] = {}
    for f in fields:
        if f.name not in typed:
            continue
        try:
            read[f.name] = f.read(typed[f.name])
        except ValueError as e:
            wrong[f.name] = str(e)
    if "since" in read and "until" in read and read["since"] >= read["until"]:
        wrong["until"] = "This is before the first day: choose a later one, or leave it empty."
    return Asked(path, fields, typed, read, wrong)


# -- how each is read ------------------------------------------------------------------------------------


def plain(text: str) -> str:
    """Text as it is. Raises ValueError for what no row can hold."""
    if "\0" in text:
        raise ValueError("There is a NUL character in it, which no name can have: type it anew.")
    return text


def part_of_path(text: str) -> str:
    """What a path is to contain. Raises ValueError."""
    if len(text) < SHORTEST_TEXT:
        raise ValueError(f"Type at least {SHORTEST_TEXT} letters of the path.")
    return plain(text)


def some_words(text: str) -> str:
    """Words of paths. Raises ValueError."""
    if not any(c.isalnum() for c in text):
        raise ValueError("There is no letter or digit in it: type a word of the path, such as sample or run7*.")
    return plain(text)


def one_of(choices: Sequence[tuple[str, str]]) -> Callable[[str], str]:
    """A reader of one of several words."""

    def read(text: str) -> str:
        if text not in {value for value, _ in choices}:
            raise ValueError(f"There is no {text[:40]!r}: choose one of the list.")
        return text

    return read


def error_code(text: str) -> str:
    """A stable code, in whatever letters. Raises ValueError."""
    code = text.upper().replace(" ", "_").replace("-", "_")
    if code not in set(Code):
        raise ValueError(f"There is no code {text[:40]!r}: choose one of the list, such as ACCESS_DENIED.")
    return code


def label(text: str) -> tuple[str, str]:
    """``KEY=VALUE``. Raises ValueError."""
    key, equals, value = plain(text).partition("=")
    if not equals or not key.strip():
        raise ValueError("Write it as KEY=VALUE, such as project=genomes.")
    return key.strip(), value.strip()


def first_moment(text: str) -> datetime:
    """The beginning of a day, UTC, or a moment. Raises ValueError."""
    return _moment(text, timedelta(0))


def last_moment(text: str) -> datetime:
    """The moment after a day, or a moment. Raises ValueError."""
    return _moment(text, timedelta(days=1))


def _moment(text: str, whole_day: timedelta) -> datetime:
    try:
        if re.fullmatch(r"\d{4}-\d\d-\d\d", text):
            day = date.fromisoformat(text)
            return datetime(day.year, day.month, day.day, tzinfo=UTC) + whole_day
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError(f"{text[:40]!r} is no day: write it as 2027-01-31.") from None


def an_id(text: str) -> UUID:
    """An id in its canonical form. Raises ValueError."""
    if not _UUID.fullmatch(text.lower()):
        raise ValueError("This is no id: take the filter away, and come again by a link.")
    return UUID(text)


# -- which fields there are ------------------------------------------------------------------------------

STATES = tuple((name, said[1]) for name, said in words.PUSH_STATES.items())
STRENGTHS = tuple((s.word, words.STRENGTHS[s.word]) for s in reversed(Strength))
KINDS = tuple((kind, title) for kind, title in words.CREDENTIAL_KINDS.items() if kind not in words.HOOKS)
ALL_KINDS = tuple(words.CREDENTIAL_KINDS.items())

_WHEN = (
    Field("since", "From", first_moment, "The first day, UTC.", type="date", aside=False),
    Field("until", "To", last_moment, "The last day, UTC; it counts.", type="date", aside=False),
)

PUSHES: tuple[Field, ...] = (
    Field("q", "In a path", some_words, "Words of a path; sample* for all that begin so.", type="search", aside=False),
    Field("state", "State", one_of(STATES), choices=STATES, aside=False, says=dict(STATES).get),  # type: ignore[arg-type]
    *_WHEN,
    Field("owner", "Owner", plain, "Whose push it is, exactly."),
    Field("bucket", "Bucket", plain, "Its name, exactly."),
    Field("prefix", "Prefix", plain, "How the keys begin."),
    Field("strength", "Proof", one_of(STRENGTHS), choices=STRENGTHS, says=dict(STRENGTHS).get),  # type: ignore[arg-type]
    Field("kind", "Credential", one_of(KINDS), choices=KINDS, says=dict(KINDS).get),  # type: ignore[arg-type]
    Field("code", "Error code", error_code, "Such as ACCESS_DENIED.", suggestions=tuple(sorted(Code))),
    Field("label", "Label", label, "KEY=VALUE"),
    Field("credential", "Credential with the id", an_id, hidden=True),
)


def pushes(path: str, params: Params) -> tuple[Asked, Filter]:
    """The filter of the history."""
    asked = ask(path, PUSHES, params)
    return asked, to_filter(asked.read)


def to_filter(read: Mapping[str, Any]) -> Filter:
    """The same, as the record is asked."""
    return Filter(
        owner=read.get("owner"),
        bucket=read.get("bucket"),
        prefix=read.get("prefix"),
        state=State(read["state"]) if "state" in read else None,
        strength=Strength.of(read["strength"]) if "strength" in read else None,
        credential_kind=read.get("kind"),
        credential_id=read.get("credential"),
        error_code=read.get("code"),
        since=read.get("since"),
        until=read.get("until"),
        label=read.get("label"),
        text=read.get("q"),
    )

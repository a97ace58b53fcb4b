"""Pages of files and of the ledger: what is read for one page is bounded, also where little is found.

A page may therefore have fewer rows than were asked for, or none, and still have one after it: ``next`` alone says whether
there is more to look at.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from cloudpush.audit.pages import foreign, seal, unseal
from cloudpush.audit.tables import credential, event, file
from cloudpush.push.states import FileState

#: Rows that are looked at for one page.
LOOKED_AT = 20_000
#: What is in the ledger: all that happened to credentials and consents.
LEDGER = ("credential.", "grant.")
#: States of files that have an index of their own.
TROUBLE = frozenset({FileState.FAILED, FileState.UNVERIFIED})


@dataclass(frozen=True, slots=True)
class FilePage:
    """Files in their order, and after which number the next page begins; None: there is none."""

    rows: list[sa.RowMapping]
    after: int | None


def files(c: sa.Connection, push_id: UUID, states: Sequence[FileState], text: str, after: int, limit: int) -> FilePage:
    """Files of one push. ``text``: what their path contains, in whatever letters."""
    rows = sa.select(file).where(file.c.push_id == push_id, file.c.seq > after).order_by(file.c.seq)
    if states and set(states) <= TROUBLE:
        # Literally, so that the index of these is known to have them.
        rows = rows.where(sa.text("file.state IN ('failed', 'unverified')"))
    seen = rows.limit(LOOKED_AT).subquery("seen")
    query = sa.select(seen).order_by(seen.c.seq).limit(limit + 1)
    if states:
        query = query.where(seen.c.state.in_([s.value for s in states]))
    if text:
        query = query.where(contains(seen.c.path, text))
    found = list(c.execute(query).mappings())
    if len(found) > limit:
        return FilePage(found[:limit], found[limit - 1]["seq"])
    keys = rows.with_only_columns(file.c.seq).offset(LOOKED_AT - 1).limit(1)
    return FilePage(found, c.execute(keys).scalar_one_or_none())


def contains(path: sa.ColumnElement[str], text: str) -> sa.ColumnElement[bool]:
    """Whether a path contains ``text``, in whatever letters."""
    return sa.func.strpos(sa.func.lower(path), text.lower()) > 0


@dataclass(frozen=True, slots=True)
class LedgerFilter:
    """Which events of credentials and consents. Empty means all. ``kinds``: such as grant.revoked, or grant. for all of them."""

    owner: str | None = None  # whose credential it is
    credential_id: UUID | None = None
    push_id: UUID | None = None
    actor: str | None = None
    kinds: tuple[str, ...] = ()
    since: datetime | None = None
    until: datetime | None = None

    def fingerprint(self) -> bytes:
        """Tells this question from others."""
        values = (self.owner, self.credential_id, self.push_id, self.actor, self.kinds, self.since, self.until)
        return sha256(repr([None if v is None else str(v) for v in values]).encode("utf-8", "surrogatepass")).digest()[
            :8
        ]


def ledger(
    c: sa.Connection, which: LedgerFilter, limit: int, cursor: str | None
) -> tuple[list[sa.RowMapping], str | None]:
    """Events of credentials and consents, newest first, with the credential's owner, kind and name."""
    question = which.fingerprint()
    query = _events(which)
    if cursor:
        query = query.where(event.c.id < _position(cursor, question))
    seen = query.order_by(event.c.id.desc()).limit(LOOKED_AT).subquery("seen")
    about = sa.func.coalesce(seen.c.credential_id, seen.c.stream)
    named = sa.select(
        seen,
        credential.c.owner,
        credential.c.kind.label("credential_kind"),
        credential.c.name,
    ).select_from(seen.outerjoin(credential, credential.c.id == about))
    named = named.where(sa.or_(*(seen.c.kind.startswith(word, autoescape=True) for word in which.kinds or LEDGER)))
    named = named.where(sa.or_(*(seen.c.kind.startswith(word, autoescape=True) for word in LEDGER)))
    if which.owner is not None:
        named = named.where(credential.c.owner == which.owner)
    if which.actor is not None:
        named = named.where(seen.c.actor == which.actor)
    rows = list(c.execute(named.order_by(seen.c.id.desc()).limit(limit + 1)).mappings())
    if len(rows) > limit:
        return rows[:limit], seal(struct.pack(">q", rows[limit - 1]["id"]), question)
    keys = query.with_only_columns(event.c.id).order_by(event.c.id.desc()).offset(LOOKED_AT - 1).limit(1)
    last = c.execute(keys).scalar_one_or_none()
    return rows, None if last is None else seal(struct.pack(">q", last), question)


def _events(which: LedgerFilter) -> sa.Select[Any]:
    columns = (event.c.id, event.c.stream, event.c.seq, event.c.at, event.c.kind, event.c.actor, event.c.credential_id)
    query = sa.select(*columns, event.c.data, event.c.hash)
    if which.credential_id is not None:
        query = query.where(sa.or_(event.c.credential_id == which.credential_id, event.c.stream == which.credential_id))
    if which.push_id is not None:
        query = query.where(event.c.stream == which.push_id)
    if which.since is not None:
        query = query.where(event.c.at >= which.since)
    if which.until is not None:
        query = query.where(event.c.at < which.until)
    return query


def _position(cursor: str, question: bytes) -> int:
    inner = unseal(cursor, question)
    if len(inner) != 8:
        raise foreign()
    position: int = struct.unpack(">q", inner)[0]
    return position

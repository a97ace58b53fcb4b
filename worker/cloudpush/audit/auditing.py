"""Everybody's credentials and consents, as auditors list them. Changes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from cloudpush.audit.database import statement, transaction
from cloudpush.audit.pages import Cursor, Page
from cloudpush.audit.rows import shown
from cloudpush.audit.tables import credential, oauth_grant, push
from cloudpush.errors import Code, InputError

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class CredentialFilter:
    """Which credentials. Empty means all."""

    owner: str | None = None
    kind: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def fingerprint(self) -> bytes:
        """Tells this question from others."""
        values = [None if v is None else str(v) for v in astuple(self)]
        return sha256(repr(values).encode("utf-8", "surrogatepass")).digest()[:8]

    def conditions(self) -> list[sa.ColumnElement[bool]]:
        """The same in SQL."""
        columns = credential.c
        told = (
            (self.owner, columns.owner.__eq__),
            (self.kind, columns.kind.__eq__),
            (self.since, columns.created_at.__ge__),
            (self.until, columns.created_at.__lt__),
        )
        return [compare(value) for value, compare in told if value is not None]


class Auditing:
    """Questions about everybody's credentials."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def credentials(self, which: CredentialFilter, *, limit: int, cursor: str = "") -> Page:
        """The newest first, with what a consent is beside. Raises InputError for a cursor of another question."""
        question, key = which.fingerprint(), (credential.c.created_at, credential.c.id)
        query = CREDENTIALS.where(*which.conditions()).order_by(*(column.desc() for column in key))
        if cursor:
            after = Cursor.decode(cursor, question)
            query = query.where(sa.tuple_(*key) < sa.tuple_(after.at, after.id))
        with transaction(self._engine) as c:
            rows = [shown(row) for row in c.execute(query.limit(limit + 1)).mappings()]
        last = rows[limit - 1] if len(rows) > limit else None
        return Page(rows[:limit], Cursor(last["created_at"], last["id"]).encode(question) if last else None)

    def credential(self, credential_id: UUID) -> Row:
        """One of them. Raises InputError UNKNOWN_CREDENTIAL."""
        with statement(self._engine) as c:
            row = c.execute(CREDENTIALS.where(credential.c.id == credential_id)).mappings().one_or_none()
        if row is None:
            raise InputError(Code.UNKNOWN_CREDENTIAL, f"credential {credential_id} is not known.", field="credential")
        return shown(row)

    def kinds(self, streams: Sequence[UUID]) -> Mapping[UUID, str]:
        """Of those ids that are known: ``push`` or ``credential``."""
        with transaction(self._engine) as c:
            found = dict.fromkeys(c.execute(sa.select(push.c.id).where(push.c.id.in_(streams))).scalars(), "push")
            rows = c.execute(sa.select(credential.c.id).where(credential.c.id.in_(streams))).scalars()
            return found | dict.fromkeys(rows, "credential")


CREDENTIALS = sa.select(
    credential,
    oauth_grant.c.provider,
    oauth_grant.c.subject,
    oauth_grant.c.granted,
    oauth_grant.c.granted_at,
    oauth_grant.c.revoked_at,
    oauth_grant.c.provider_told,
    oauth_grant.c.state.label("grant_state"),
).outerjoin(oauth_grant, oauth_grant.c.credential_id == credential.c.id)

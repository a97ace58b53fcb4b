"""The web application's side of grants: ways to a provider and back, and what they bring."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from cloudpush.audit.credentials import NAME_TAKEN, credential_row, name_taken, sealing_told
from cloudpush.audit.database import append_events, storable, transaction
from cloudpush.audit.grant_rows import add_block, hold, iso, live, next_block, resume_waiting, seal_block, untroubled
from cloudpush.audit.rows import EventRow
from cloudpush.audit.tables import chore, credential, oauth_grant
from cloudpush.audit.tables import consent_attempt as t
from cloudpush.errors import Code, CredentialError
from cloudpush.push.credential import Credential
from cloudpush.push.grants.model import Attempt, AttemptEnd, Chore, Grant, GrantState, Tokens
from cloudpush.push.states import Event

GRANTED = "granted"


class Consents:
    """See ``push.grants.ports.GrantStore``."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def begin(self, attempt: Attempt, actor: str) -> None:
        row = {
            "id": attempt.id,
            "session_sha256": attempt.session,
            "owner": attempt.owner,
            "provider": attempt.provider,
            "name": attempt.name,
            "settings": dict(attempt.settings),
            "asked": list(attempt.asked),
            "credential_id": attempt.grant_id,
            "created_at": attempt.created_at,
            "expires_at": attempt.expires_at,
        }
        with transaction(self._engine) as c:
            if attempt.grant_id is not None:
                hold(c, attempt.grant_id, read=True)
            c.execute(t.insert(), row)
            if attempt.grant_id is not None:
                append_events(c, attempt.grant_id, actor, [_asked(attempt.grant_id, attempt.provider, attempt.asked)])

    def take(self, attempt_id: UUID, session: bytes) -> Attempt | None:
        used = (
            t.update()
            .where(t.c.id == attempt_id, t.c.session_sha256 == session, t.c.used_at.is_(None))
            .where(t.c.expires_at > sa.func.clock_timestamp())
            .values(used_at=sa.func.clock_timestamp())
            .returning(t)
        )
        with transaction(self._engine) as c:
            row = c.execute(used).one_or_none()
        return _attempt(row) if row else None

    def end_attempt(self, attempt: Attempt, outcome: str, message: str) -> None:
        words = storable(message)
        with transaction(self._engine) as c:
            c.execute(t.update().where(t.c.id == attempt.id).values(outcome=outcome, message=words))
            if outcome != GRANTED:
                data = {"owner": attempt.owner, "provider": attempt.provider, "name": attempt.name}
                told = {"code": outcome, "message": words, **({} if attempt.grant_id else data)}
                refused: EventRow = (Event.GRANT_REFUSED, attempt.grant_id, told)
                append_events(c, attempt.grant_id or attempt.id, attempt.owner, [refused])

    def attempt(self, attempt_id: UUID, session: bytes) -> AttemptEnd | None:
        with transaction(self._engine) as c:
            row = c.execute(sa.select(t).where(t.c.id == attempt_id, t.c.session_sha256 == session)).one_or_none()
        return AttemptEnd(_attempt(row), row.used_at, row.outcome or "", row.message or "") if row else None

    def add(self, credential_: Credential, grant: Grant, attempt: Attempt | None, actor: str) -> None:
        row = {
            "credential_id": credential_.id,
            "provider": grant.provider,
            "state": grant.state.value,
            "subject": storable(grant.subject),
            "asked": list(grant.asked),
            "granted": list(grant.granted),
            "settings": dict(grant.settings),
            "generation": grant.generation,
            "access_expires_at": grant.access_expires_at,
        }
        asked = _asked(credential_.id, grant.provider, grant.asked)
        if attempt is not None:
            asked[2].update({"attempt": attempt.id, "asked_at": iso(attempt.created_at)})
        events = [asked, (Event.CREDENTIAL_SEALING, credential_.id, sealing_told(credential_))]
        try:
            with transaction(self._engine) as c:
                c.execute(credential.insert(), credential_row(credential_))
                c.execute(oauth_grant.insert(), row)
                if grant.generation:
                    add_block(c, credential_.id, grant.generation)
                append_events(c, credential_.id, actor, events)
        except IntegrityError as e:
            if NAME_TAKEN not in str(e.orig):
                raise
            raise name_taken(credential_) from e

    def activate(self, grant_id: UUID, version: int | None, actor: str) -> None:
        with transaction(self._engine) as c:
            held = hold(c, grant_id)
            done = c.execute(
                credential.update()
                .where(credential.c.id == grant_id, credential.c.state == "sealing")
                .values(state="active")
            )
            if not done.rowcount:
                raise _over(grant_id)
            granted = (
                oauth_grant.update()
                .where(oauth_grant.c.credential_id == grant_id)
                .values(granted_at=sa.func.clock_timestamp())
                .returning(oauth_grant.c.granted, oauth_grant.c.subject)
            )
            row = c.execute(granted).one()
            if held.generation:
                seal_block(c, grant_id, [held.generation], version)
            created = {"blocks": 1 if held.generation else 0, "transit_key_version": version}
            told = {"scopes": row.granted, "subject": row.subject}
            events = [(Event.CREDENTIAL_CREATED, grant_id, created), (Event.GRANT_GRANTED, grant_id, told)]
            append_events(c, grant_id, actor, events)

    def reserve(self, grant_id: UUID) -> int:
        with transaction(self._engine) as c:
            held = hold(c, grant_id)
            if held.credential_state != "active" or not live(held.state):
                raise _over(grant_id)
            return next_block(c, grant_id)

    def reconnect(
        self, grant_id: UUID, number: int, version: int, tokens: Tokens, granted: Sequence[str], actor: str
    ) -> int:
        with transaction(self._engine) as c:
            held = hold(c, grant_id)
            if held.credential_state != "active" or not live(held.state) or number <= held.generation:
                raise _over(grant_id)
            seal_block(c, grant_id, [number], version)
            c.execute(
                oauth_grant.update()
                .where(oauth_grant.c.credential_id == grant_id)
                .values(
                    **untroubled(),
                    state=GrantState.ACTIVE.value,
                    generation=number,
                    granted=list(granted),
                    granted_at=sa.func.clock_timestamp(),
                    access_expires_at=tokens.expires_at,
                )
            )
            c.execute(chore.delete().where(chore.c.credential_id == grant_id, chore.c.kind == Chore.NOTIFY.value))
            resumed = resume_waiting(c, grant_id, actor, "reconnected", afresh=True)
            data = {"generation": number, "scopes": list(granted), "pushes": resumed}
            append_events(c, grant_id, actor, [(Event.GRANT_RECONNECTED, grant_id, data)])
        return resumed


def _asked(grant_id: UUID, provider: str, scopes: Sequence[str]) -> tuple[str, UUID, dict[str, object]]:
    return Event.GRANT_ASKED, grant_id, {"provider": provider, "scopes": list(scopes)}


def _attempt(row: sa.Row[tuple[object, ...]]) -> Attempt:
    return Attempt(
        id=row.id,
        session=bytes(row.session_sha256),
        owner=row.owner,
        provider=row.provider,
        name=row.name,
        settings=row.settings,
        asked=tuple(row.asked),
        grant_id=row.credential_id,
        created_at=row.created_at,
        expires_at=row.expires_at,
    )


def _over(grant_id: UUID) -> CredentialError:
    return CredentialError(Code.CONSENT_REVOKED, f"Connection {grant_id} was revoked, or given up, meanwhile.")

"""Roles, API tokens and logins on their way, in Postgres: each change one transaction with its event.

Only digests of what opens something are here. Whether something has expired, the database's own clock says.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from cloudpush.audit.access_tables import api_token as t
from cloudpush.audit.access_tables import device_login as d
from cloudpush.audit.access_tables import principal_role as r
from cloudpush.audit.database import append_event, statement, transaction
from cloudpush.audit.tables import event
from cloudpush.errors import Code, InputError
from cloudpush.push.access.model import Role, Scope
from cloudpush.push.access.ports import ApiToken, DeviceLogin, RoleGrant, stream_of
from cloudpush.push.states import Event

#: That a token is used is written at most this often.
TOUCH = timedelta(minutes=1)
#: Expired logins that a new one sweeps away.
SWEEP_LIMIT = 100


class AccessBook:
    """``push.access.ports``' ``TokenBook`` and ``LoginBook``. Thread-safe, as its engine is. Raises StoreError."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    # -- roles ---------------------------------------------------------------------------------

    def roles_of(self, principal: str) -> frozenset[Role]:
        with statement(self._engine) as c:
            return frozenset(Role(row.role) for row in c.execute(sa.select(r.c.role).where(r.c.principal == principal)))

    def roles(self, principal: str | None = None) -> Sequence[RoleGrant]:
        query = sa.select(*ROLE).order_by(r.c.principal, r.c.role)
        if principal is not None:
            query = query.where(r.c.principal == principal)
        with statement(self._engine) as c:
            return [
                RoleGrant(row.principal, Role(row.role), row.granted_at, row.granted_by) for row in c.execute(query)
            ]

    def grant_role(self, principal: str, role: Role, actor: str) -> bool:
        row = {"principal": principal, "role": role.value, "granted_by": actor}
        with transaction(self._engine) as c:
            given = pg.insert(r).values(row).on_conflict_do_nothing().returning(r.c.principal)
            made = c.execute(given).one_or_none() is not None
            if made:
                append_event(c, stream_of(principal), Event.ROLE_GRANTED, actor, {"principal": principal, "role": role})
        return made

    def revoke_role(self, principal: str, role: Role, actor: str) -> bool:
        with transaction(self._engine) as c:
            gone = c.execute(r.delete().where(r.c.principal == principal, r.c.role == role.value)).rowcount
            if gone:
                append_event(c, stream_of(principal), Event.ROLE_REVOKED, actor, {"principal": principal, "role": role})
        return bool(gone)

    def found(self, principal: str, roles: Sequence[Role], actor: str) -> bool:
        """Give them these roles unless any role of theirs was ever granted or taken; whether that was so. Repeatable."""
        ever = sa.select(sa.exists().where(event.c.stream == stream_of(principal)))
        with statement(self._engine) as c:
            if c.execute(ever).scalar_one():
                return False
        for role in roles:
            self.grant_role(principal, role, actor)
        return True

    # -- tokens --------------------------------------------------------------------------------

    def add_token(
        self,
        token_sha256: bytes,
        *,
        owner: str,
        name: str,
        role: Role | None,
        scopes: frozenset[Scope],
        seconds: float,
        actor: str,
    ) -> ApiToken:
        with transaction(self._engine) as c:
            return _add_token(c, token_sha256, owner, name, role, scopes, seconds, actor)

    def find_token(self, token_sha256: bytes) -> tuple[ApiToken, frozenset[Role]] | None:
        granted = sa.select(sa.func.array_agg(r.c.role)).where(r.c.principal == t.c.owner).scalar_subquery()
        stale = sa.or_(t.c.used_at.is_(None), t.c.used_at < NOW - TOUCH)
        query = sa.select(*TOKEN, granted.label("granted"), stale.label("stale")).where(
            t.c.token_sha256 == token_sha256, *LIVING
        )
        with statement(self._engine) as c:
            row = c.execute(query).one_or_none()
            if row is None:
                return None
            if row.stale:
                c.execute(t.update().where(t.c.id == row.id, stale).values(used_at=NOW))
        return _token(row), frozenset(Role(role) for role in row.granted or ())

    def token(self, token_id: UUID) -> ApiToken | None:
        with statement(self._engine) as c:
            row = c.execute(sa.select(*TOKEN).where(t.c.id == token_id)).one_or_none()
        return _token(row) if row else None

    def tokens(self, owner: str | None, *, ended: bool = False) -> Sequence[ApiToken]:
        query = sa.select(*TOKEN).order_by(t.c.created_at.desc(), t.c.id)
        if owner is not None:
            query = query.where(t.c.owner == owner)
        if not ended:
            query = query.where(*LIVING)
        with statement(self._engine) as c:
            return [_token(row) for row in c.execute(query)]

    def revoke_token(self, token_id: UUID, owner: str | None, actor: str) -> ApiToken:
        whose = [] if owner is None else [t.c.owner == owner]
        ended = t.update().where(t.c.id == token_id, t.c.revoked_at.is_(None), *whose).values(revoked_at=NOW)
        with transaction(self._engine) as c:
            row = c.execute(ended.returning(*TOKEN)).one_or_none()
            if row is not None:
                append_event(c, token_id, Event.TOKEN_REVOKED, actor, {"owner": row.owner, "name": row.name})
            else:
                row = c.execute(sa.select(*TOKEN).where(t.c.id == token_id, *whose)).one_or_none()
        if row is None:
            raise InputError(Code.UNKNOWN_TOKEN, f"token {str(token_id)!r} is not known.", field="token")
        return _token(row)

    # -- logins on their way -------------------------------------------------------------------

    def add_device(
        self, device_sha256: bytes, user_code: str, *, asked_from: str, scopes: frozenset[Scope], seconds: float
    ) -> DeviceLogin | None:
        row = {
            "device_sha256": device_sha256,
            "user_code": user_code,
            "asked_from": asked_from,
            "scopes": _words(scopes),
            "created_at": NOW,
            "expires_at": NOW + timedelta(seconds=seconds),
        }
        old = sa.select(d.c.device_sha256).where(d.c.expires_at <= NOW).order_by(d.c.expires_at).limit(SWEEP_LIMIT)
        with transaction(self._engine) as c:
            c.execute(d.delete().where(d.c.device_sha256.in_(old.with_for_update(skip_locked=True))))
            made = pg.insert(d).values(row).on_conflict_do_nothing().returning(*DEVICE)
            found = c.execute(made).one_or_none()
        return _device(found) if found else None

    def find_by_user_code(self, user_code: str) -> DeviceLogin | None:
        with statement(self._engine) as c:
            found = c.execute(sa.select(*DEVICE).where(d.c.user_code == user_code, *OPEN)).one_or_none()
        return _device(found) if found else None

    def decide(self, user_code: str, owner: str, *, approve: bool) -> bool:
        decided = d.update().where(d.c.user_code == user_code, *OPEN)
        with statement(self._engine) as c:
            return bool(c.execute(decided.values(owner=owner, decided_at=NOW, denied=not approve)).rowcount)

    def poll(self, device_sha256: bytes, interval: float) -> tuple[DeviceLogin, bool] | None:
        which = (d.c.device_sha256 == device_sha256, d.c.expires_at > NOW)
        early = (d.c.polled_at > NOW - timedelta(seconds=interval)).label("early")
        with transaction(self._engine) as c:
            found = c.execute(sa.select(*DEVICE, early).where(*which).with_for_update()).one_or_none()
            if found is not None:
                c.execute(d.update().where(*which).values(polled_at=NOW))
        return (_device(found), bool(found.early)) if found else None

    def take(self, device_sha256: bytes, token_sha256: bytes, *, seconds: float) -> ApiToken | None:
        taken = (
            d.update()
            .where(d.c.device_sha256 == device_sha256, d.c.expires_at > NOW)
            .where(d.c.decided_at.is_not(None), sa.not_(d.c.denied), d.c.taken_at.is_(None))
            .values(taken_at=NOW)
            .returning(*DEVICE)
        )
        with transaction(self._engine) as c:
            row = c.execute(taken).one_or_none()
            if row is None:
                return None
            device, name = _device(row), f"login from {row.asked_from}"
            return _add_token(c, token_sha256, row.owner, name, None, device.scopes, seconds, row.owner)


def _add_token(
    c: sa.Connection,
    token_sha256: bytes,
    owner: str,
    name: str,
    role: Role | None,
    scopes: frozenset[Scope],
    seconds: float,
    actor: str,
) -> ApiToken:
    row = {
        "id": uuid4(),
        "token_sha256": token_sha256,
        "owner": owner,
        "name": name,
        "role": role.value if role else None,
        "scopes": _words(scopes),
        "created_at": NOW,
        "created_by": actor,
        "expires_at": NOW + timedelta(seconds=seconds),
    }
    made = _token(c.execute(t.insert().values(row).returning(*TOKEN)).one())
    told = {"owner": owner, "name": name, "role": row["role"], "scopes": row["scopes"]}
    append_event(c, made.id, Event.TOKEN_CREATED, actor, told | {"expires_at": made.expires_at.isoformat()})
    return made


def _token(row: Any) -> ApiToken:
    return ApiToken(
        id=row.id,
        owner=row.owner,
        name=row.name,
        role=Role(row.role) if row.role else None,
        scopes=frozenset(map(Scope, row.scopes)),
        created_at=row.created_at,
        created_by=row.created_by,
        expires_at=row.expires_at,
        used_at=row.used_at,
        revoked_at=row.revoked_at,
    )


def _device(row: Any) -> DeviceLogin:
    return DeviceLogin(
        user_code=row.user_code,
        asked_from=row.asked_from,
        scopes=frozenset(map(Scope, row.scopes)),
        created_at=row.created_at,
        expires_at=row.expires_at,
        owner=row.owner,
        denied=row.denied,
        taken=row.taken_at is not None,
    )


def _words(scopes: frozenset[Scope]) -> list[str]:
    return [scope.value for scope in Scope if scope in scopes]


NOW = sa.func.clock_timestamp()
ROLE = (r.c.principal, r.c.role, r.c.granted_at, r.c.granted_by)
TOKEN = (
    t.c.id,
    t.c.owner,
    t.c.name,
    t.c.role,
    t.c.scopes,
    t.c.created_at,
    t.c.created_by,
    t.c.expires_at,
    t.c.used_at,
    t.c.revoked_at,
)
LIVING = (t.c.revoked_at.is_(None), t.c.expires_at > NOW)
DEVICE = (
    d.c.user_code,
    d.c.asked_from,
    d.c.scopes,
    d.c.created_at,
    d.c.expires_at,
    d.c.owner,
    d.c.denied,
    d.c.taken_at,
)
OPEN = (d.c.decided_at.is_(None), d.c.expires_at > NOW)

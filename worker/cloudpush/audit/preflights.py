"""Preflights in Postgres: what a push found out before it moved anything, and what somebody asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import sqlalchemy as sa

from cloudpush.audit.access_tables import preflight
from cloudpush.audit.database import append_events, statement, storable, transaction
from cloudpush.audit.rows import error_params
from cloudpush.audit.usable import check_grant
from cloudpush.errors import AccessError, CloudPushError, Code, ConsentRevoked, CredentialError, InputError
from cloudpush.push.admission import CredentialCard
from cloudpush.push.grants.model import GRANT_KINDS
from cloudpush.push.job import Destination, Push
from cloudpush.push.preflight import Report
from cloudpush.push.preflights import Asked, Trial
from cloudpush.push.states import Event

PASSED, FAILED = "passed", "failed"
#: Preflights of one owner that are not over, and how many of them workers try at a time: a destination that never answers
#: takes a minute, and others wait for the same hands.
MOST_OPEN, MOST_TRIED = 50, 2


class Preflights:
    """``push.preflights.PreflightStore`` on Postgres, and the hands' chores."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    # -- asking (the doors) --------------------------------------------------------------------

    def add(self, owner: str, actor: str, card: CredentialCard, destination: Destination, wants: Sequence[str]) -> UUID:
        """See ``push.preflights.PreflightStore``."""
        made = uuid4()
        row = _row(owner, actor, card.id, card.kind, destination) | {"id": made, "wants": list(wants)}
        told = {
            "owner": owner,
            "destination": destination.uri,
            "profile": destination.profile.name,
            "credential": card.id,
            "credential_kind": card.kind,
            "wants": list(wants),
        }
        with transaction(self._engine) as c:
            if c.execute(OPEN, {"owner": owner}).scalar_one() >= MOST_OPEN:
                raise AccessError(
                    Code.RATE_LIMITED, f"{MOST_OPEN} preflights of {owner!r} are not over yet: wait for them."
                )
            c.execute(sa.insert(preflight).values(**row, state="queued"))
            append_events(c, made, actor, [(Event.PREFLIGHT_ASKED, card.id, told)])
        return made

    def get(self, preflight_id: UUID) -> Asked | None:
        """See ``push.preflights.PreflightStore``."""
        with statement(self._engine) as c:
            row = c.execute(sa.select(preflight).where(preflight.c.id == preflight_id)).mappings().one_or_none()
        return _asked(row) if row is not None else None

    def find(self, owner: str | None, limit: int, before: UUID | None) -> Sequence[Asked]:
        """See ``push.preflights.PreflightStore``."""
        columns = preflight.c
        query = sa.select(preflight).order_by(columns.created_at.desc(), columns.id.desc()).limit(limit)
        if owner is not None:
            query = query.where(columns.owner == owner)
        if before is not None:
            place = sa.select(columns.created_at, columns.id).where(columns.id == before).subquery()
            earlier = sa.tuple_(columns.created_at, columns.id) < sa.select(place).scalar_subquery()
            query = query.where(earlier)
        with statement(self._engine) as c:
            return [_asked(row) for row in c.execute(query).mappings()]

    # -- doing (workers) -----------------------------------------------------------------------

    def chores(self, limit: int, taken_before: float) -> Sequence[UUID]:
        """See ``push.grants.hands.ChoreStore``."""
        with statement(self._engine) as c:
            return [row.id for row in c.execute(TAKE, {"limit": limit, "seconds": taken_before, "each": MOST_TRIED})]

    def begin(self, preflight_id: UUID, worker: str) -> Trial | None:
        """See ``push.preflights.PreflightStore``."""
        with transaction(self._engine) as c:
            row = c.execute(TRIAL, {"id": preflight_id}).mappings().one_or_none()
            if row is None:
                return None
            trial = Trial(
                row["id"],
                row["owner"],
                row["uri"],
                row["profile"],
                row["credential_id"],
                row["credential_kind"],
                tuple(row["wants"]),
                row["created_at"],
                row["credential_owner"],
                lost=row["lost"],
            )
            why = _unusable(row)
            if why is not None:
                return replace(trial, refused=why)
            used = {"preflight": preflight_id, "worker": worker}
            append_events(c, preflight_id, worker, [(Event.CREDENTIAL_USED, trial.credential_id, used)])
        return trial

    def end(self, preflight_id: UUID, report: Report, error: CloudPushError | None, worker: str) -> bool:
        """See ``push.preflights.PreflightStore``."""
        params = {"id": preflight_id, **_result(report, error)}
        with transaction(self._engine) as c:
            if c.execute(END, params).rowcount != 1:
                return False
            append_events(c, preflight_id, worker, [(Event.PREFLIGHT_ENDED, None, told_of(report, error))])
        return True


def record(c: sa.Connection, push: Push, report: Report) -> tuple[Event, UUID, Mapping[str, Any]]:
    """Store what a push's own preflight found; returns what is to be told."""
    made, error = uuid4(), report.error
    row = _row(push.owner, push.owner, push.credential_id, push.credential_kind, push.destination)
    c.execute(INSERT_ENDED, {**row, **_result(report, error), "id": made, "push": push.id})
    return Event.PUSH_PREFLIGHT, push.credential_id, {"preflight": made, **told_of(report, error)}


def told_of(report: Report, error: CloudPushError | None) -> dict[str, Any]:
    """What an event says of a preflight's end."""
    words = {"code": error.code, "message": error.message} if error is not None else {}
    return {"checks": [check.told() for check in report.checks], **words}


def _row(owner: str, actor: str, credential_id: UUID, kind: str, destination: Destination) -> dict[str, Any]:
    return {
        "owner": owner,
        "actor": actor,
        "credential_id": credential_id,
        "credential_kind": kind,
        "uri": destination.uri,
        "bucket": destination.bucket,
        "prefix": destination.prefix,
        "profile": destination.profile.name,
    }


def _result(report: Report, error: CloudPushError | None) -> dict[str, Any]:
    checks = storable(json.dumps([check.told() for check in report.checks]))
    return {"state": FAILED if error is not None else PASSED, "checks": checks, **error_params(error)}


def _asked(row: sa.RowMapping) -> Asked:
    return Asked(**{name: row[name] for name in Asked.__dataclass_fields__})


def _unusable(row: sa.RowMapping) -> CloudPushError | None:
    """Why the credential may not be unsealed for it now; None where it may."""
    named = f"Credential {row['credential_id']}"
    if row["credential_kind"] in GRANT_KINDS:
        if not row["shared"]:
            return ConsentRevoked(f"{named} is not, or not any more, shared with {row['owner']!r} for {row['uri']}.")
        try:
            check_grant(row["credential_id"], row["grant_state"] or "", row["credential_state"])
        except (ConsentRevoked, CredentialError) as e:
            return e
        return None
    if row["credential_state"] != "active":
        return CredentialError(Code.CREDENTIAL_PURGED, f"{named} is {row['credential_state']}: its secret is gone.")
    if row["expired"]:
        return CredentialError(Code.CREDENTIAL_EXPIRED, f"{named} has expired.")
    if row["credential_owner"]:
        return InputError(Code.NOT_OWNER, f"{named} belongs to another owner.", field="credential")
    return None


OPEN = sa.text("SELECT count(*) FROM preflight WHERE owner = :owner AND state IN ('queued', 'running')")

# What a worker took up so long ago and that is still running was left by one that is gone.
TAKE = sa.text("""
    UPDATE preflight SET state = 'running', taken_at = clock_timestamp()
    WHERE id IN (
        SELECT f.id FROM preflight f JOIN (
            SELECT id, owner, row_number() OVER (PARTITION BY owner ORDER BY created_at) AS place FROM preflight
            WHERE state IN ('queued', 'running') AND (state = 'queued'
                OR taken_at < clock_timestamp() - make_interval(secs => :seconds))
        ) AS due USING (id)
        WHERE f.state IN ('queued', 'running') AND due.place + (
            SELECT count(*) FROM preflight r WHERE r.owner = due.owner AND r.state = 'running'
                AND r.taken_at >= clock_timestamp() - make_interval(secs => :seconds)) <= :each
        ORDER BY f.created_at LIMIT :limit FOR UPDATE OF f SKIP LOCKED)
    RETURNING id
""")

TRIAL = sa.text("""
    SELECT f.id, f.owner, f.uri, f.profile, f.credential_id, f.credential_kind, f.wants, f.created_at,
        CASE WHEN k.owner <> f.owner THEN k.owner ELSE '' END AS credential_owner, k.state AS credential_state,
        coalesce(k.expires_at <= clock_timestamp(), false) AS expired, g.state AS grant_state,
        f.created_at < clock_timestamp() - interval '1 hour' AS lost,
        k.owner = f.owner OR EXISTS (SELECT FROM share s WHERE s.credential_id = k.id AND s.principal = f.owner
            AND s.ended_at IS NULL AND s.until > clock_timestamp()
            AND (f.uri = s.uri OR starts_with(f.uri, s.uri || '/'))) AS shared
    FROM preflight f JOIN credential k ON k.id = f.credential_id
        LEFT JOIN oauth_grant g ON g.credential_id = k.id
    WHERE f.id = :id AND f.state = 'running'
""")

END = sa.text("""
    UPDATE preflight SET state = :state, checks = CAST(:checks AS jsonb), finished_at = clock_timestamp(),
        error_code = :code, error_message = :message
    WHERE id = :id AND state = 'running'
""")

INSERT_ENDED = sa.text("""
    INSERT INTO preflight (id, owner, actor, push_id, credential_id, credential_kind, uri, bucket, prefix, profile, state,
        checks, taken_at, finished_at, error_code, error_message)
    VALUES (:id, :owner, :actor, :push, :credential_id, :credential_kind, :uri, :bucket, :prefix, :profile, :state,
        CAST(:checks AS jsonb), clock_timestamp(), clock_timestamp(), :code, :message)
""")

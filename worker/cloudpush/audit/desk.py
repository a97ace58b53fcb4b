"""Intake's side of the store: new requests and requests to stop."""

from __future__ import annotations

import json
from uuid import UUID

import sqlalchemy as sa
from uuid6 import uuid7

from cloudpush.audit.database import append_events, event_text, statement, transaction
from cloudpush.audit.tables import credential, push
from cloudpush.errors import Code, InputError
from cloudpush.push.intake import CredentialCard
from cloudpush.push.job import Destination, Request
from cloudpush.push.states import Event, State

CANCELLED = "The push was cancelled before it began."


class Desk:
    """``push.intake.Desk`` on Postgres."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def credential(self, reference: str, owner: str) -> CredentialCard | None:
        by_id = _as_uuid(reference)
        columns = credential.c
        which = (
            columns.id == by_id
            if by_id is not None
            else sa.and_(columns.owner == owner, columns.name == reference, columns.state.in_(("sealing", "active")))
        )
        query = sa.select(
            columns.id,
            columns.owner,
            columns.kind,
            columns.state,
            columns.expires_at,
            columns.profile,
            columns.endpoint,
        ).where(which)
        with statement(self._engine) as c:
            row = c.execute(query).one_or_none()
        return CredentialCard(*row) if row else None

    def store(
        self, request: Request, card: CredentialCard, destination: Destination, digest: bytes
    ) -> tuple[UUID, bool]:
        # Time-ordered ids keep the newest pushes together on disk. They are no secret.
        push_id = UUID(int=uuid7().int)
        data = {
            "owner": request.owner,
            "source": request.source,
            "destination": destination.uri,
            "profile": destination.profile.name,
            "endpoint": destination.profile.endpoint or card.endpoint,
            "credential": card.id,
            "credential_kind": card.kind,
            "min_strength": request.min_strength.word,
            "overwrite": request.overwrite,
            "include": request.include,
            "exclude": request.exclude,
            "labels": request.labels,
        }
        row = {**_row(push_id, request, card, destination, digest), "told": event_text(data)}
        with statement(self._engine) as c:
            if c.execute(INSERT, row).one_or_none() is not None:
                return push_id, True
            return _known(c, request, digest), False

    def cancel(self, push_id: UUID, owner: str | None, actor: str) -> State:
        with transaction(self._engine) as c:
            row = c.execute(
                sa.select(push.c.owner, push.c.state, push.c.cancel_requested_at, push.c.planned_at)
                .where(push.c.id == push_id)
                .with_for_update()
            ).one_or_none()
            if row is None:
                raise InputError(Code.UNKNOWN_PUSH, f"push {push_id} is not known.", field="push")
            if owner is not None and row.owner != owner:
                raise InputError(Code.NOT_OWNER, f"push {push_id} belongs to another owner.", field="push")
            state = State(row.state)
            if state.final or row.cancel_requested_at is not None:
                return state
            c.execute(REQUEST_CANCEL, {"id": push_id})
            events: list[tuple[str, UUID | None, dict[str, object]]] = [(Event.PUSH_CANCEL_REQUESTED, None, {})]
            if row.planned_at is None and state is not State.RUNNING:
                # Nobody executes it and nothing was planned: it is over now.
                c.execute(CANCEL_QUEUED, {"id": push_id, "message": CANCELLED})
                events.append((Event.PUSH_CANCELLED, None, {"code": Code.CANCELLED, "message": CANCELLED}))
                state = State.CANCELLED
            else:
                # Parts that wait are due at once, so that a worker ends them; running ones hear it by heartbeat.
                c.execute(DUE_NOW, {"id": push_id})
            append_events(c, push_id, actor, events)
        return state


def _row(
    push_id: UUID, request: Request, card: CredentialCard, destination: Destination, digest: bytes
) -> dict[str, object]:
    return {
        "id": push_id,
        "owner": request.owner,
        "actor": request.actor,
        "idempotency_key": request.idempotency_key or None,
        "request_sha256": digest,
        "source": request.source,
        "uri": destination.uri,
        "bucket": destination.bucket,
        "prefix": destination.prefix,
        "profile": destination.profile.name,
        "credential_id": card.id,
        "credential_kind": card.kind,
        "min_strength": request.min_strength.word,
        "overwrite": request.overwrite.value,
        "include": list(request.include),
        "exclude": list(request.exclude),
        "labels": json.dumps(dict(request.labels)),
    }


def _known(c: sa.Connection, request: Request, digest: bytes) -> UUID:
    """The push that holds this idempotency key. Raises InputError where it was another request."""
    row = c.execute(
        sa.select(push.c.id, push.c.request_sha256).where(
            push.c.owner == request.owner, push.c.idempotency_key == request.idempotency_key
        )
    ).one()
    if bytes(row.request_sha256) != digest:
        raise InputError(
            Code.IDEMPOTENCY_CONFLICT,
            f"idempotency key {request.idempotency_key!r} already stands for another request, push {row.id}.",
            field="idempotency_key",
        )
    push_id: UUID = row.id
    return push_id


def _as_uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


# The row and its first event in one statement, which is its own transaction.
INSERT = sa.text("""
    WITH stored AS (
    INSERT INTO push (id, owner, actor, idempotency_key, request_sha256, source, uri, bucket, prefix, profile,
        credential_id, credential_kind, min_strength, overwrite, include, exclude, labels, state, announced_at)
    VALUES (:id, :owner, :actor, :idempotency_key, :request_sha256, :source, :uri, :bucket, :prefix, :profile,
        :credential_id, :credential_kind, :min_strength, :overwrite, :include, :exclude, CAST(:labels AS jsonb),
        'queued', clock_timestamp())
    ON CONFLICT (owner, idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING
    RETURNING id, actor)
    SELECT cloudpush_append(id, actor, ARRAY['push.queued'], ARRAY[NULL::uuid], ARRAY[CAST(:told AS text)]) FROM stored
""")

REQUEST_CANCEL = sa.text("UPDATE push SET cancel_requested_at = clock_timestamp() WHERE id = :id")

CANCEL_QUEUED = sa.text("""
    UPDATE push SET state = 'cancelled', finished_at = clock_timestamp(), error_code = 'CANCELLED',
        error_message = :message
    WHERE id = :id AND planned_at IS NULL AND state IN ('queued', 'awaiting_consent')
""")

DUE_NOW = sa.text("""
    UPDATE part SET next_attempt_at = NULL, announced_at = NULL WHERE push_id = :id AND state = 'queued'
""")

"""Intake's side of the store: new requests and requests to stop."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from uuid6 import uuid7

from cloudpush.audit.database import append_events, event_text, statement, transaction
from cloudpush.audit.renewals import add_renewal, resume
from cloudpush.audit.rows import EventRow
from cloudpush.audit.shares import SHARE
from cloudpush.audit.tables import credential, file, oauth_grant, push, renewal, share
from cloudpush.errors import Code, InputError
from cloudpush.push.admission import CredentialCard, demanded
from cloudpush.push.grants.model import GRANT_KINDS, Share
from cloudpush.push.intake import Known, ToStore
from cloudpush.push.job import Destination, Request
from cloudpush.push.signed.desk import SignedCard
from cloudpush.push.signed.model import SIGNED_URLS
from cloudpush.push.states import Event, FileState, Overwrite, Package, State, Strength

CANCELLED = "The push was cancelled before it began."

#: Files that are read at once when all of a push are streamed.
STREAM_ROWS = 5_000


class Desk:
    """``push.intake.Desk`` and ``push.signed.desk.SignedDesk`` on Postgres."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def credential(self, reference: str, owner: str) -> CredentialCard | None:
        by_id = _as_uuid(reference)
        with statement(self._engine) as c:
            if by_id is not None:
                row = c.execute(CARD_BY_ID, {"id": by_id}).one_or_none()
            else:
                row = c.execute(CARD_BY_NAME, {"owner": owner, "name": reference}).one_or_none()
            if row is None and by_id is None and "/" in reference:
                row = _only(reference, c.execute(CARDS_SHARED, {"principal": owner, "name": reference}).all())
            if row is None:
                return None
            shares = _shares(c, row.id, owner) if row.kind in GRANT_KINDS and row.owner != owner else ()
        return CredentialCard(*row, shares)

    def store(
        self, request: Request, card: CredentialCard, destination: Destination, digest: bytes
    ) -> tuple[UUID, bool]:
        return self._store(request, _row(request, card, destination, digest), _told(request, card, destination))

    def store_signed(
        self,
        request: Request,
        card: CredentialCard,
        destination: Destination,
        digest: bytes,
        *,
        hook_id: UUID | None = None,
        manifest_sha256: bytes | None = None,
    ) -> tuple[UUID, bool]:
        row = _row(request, card, destination, digest) | {"hook_id": hook_id, "manifest_sha256": manifest_sha256}
        told = _told(request, card, destination) | {
            "hook": hook_id,
            "manifest_sha256": manifest_sha256.hex() if manifest_sha256 else None,
        }
        return self._store(request, row, told)

    def _store(self, request: Request, row: dict[str, object], told: dict[str, object]) -> tuple[UUID, bool]:
        # Time-ordered ids keep the newest pushes together on disk. They are no secret.
        push_id = UUID(int=uuid7().int)
        with statement(self._engine) as c:
            if c.execute(INSERT, {**row, "id": push_id, "told": event_text(told)}).one_or_none() is not None:
                return push_id, True
            return _known(c, request, row["request_sha256"]), False

    def store_many(self, wanted: Sequence[ToStore]) -> Sequence[tuple[UUID, bool] | InputError]:
        if not wanted:
            return []
        rows: list[dict[str, Any]] = [
            {
                **_row(w.request, w.card, w.destination, w.digest),
                "id": str(UUID(int=uuid7().int)),
                "credential_id": str(w.card.id),
                "retry_of": None,
                "request_sha256": w.digest.hex(),
                "labels": dict(w.request.labels),
                "told": event_text(_told(w.request, w.card, w.destination)),
            }
            for w in wanted
        ]
        text = json.dumps(rows, ensure_ascii=False)
        with statement(self._engine) as c:
            created = {row[0] for row in c.execute(INSERT_MANY, {"rows": text})}
        others = {
            (w.request.owner, w.request.idempotency_key)
            for w, row in zip(wanted, rows, strict=True)
            if UUID(row["id"]) not in created
        }
        known = self.known_many(others)
        return [self._stored(w, UUID(row["id"]), created, known) for w, row in zip(wanted, rows, strict=True)]

    def _stored(
        self, w: ToStore, push_id: UUID, created: Collection[UUID], known: Mapping[tuple[str, str], Known]
    ) -> tuple[UUID, bool] | InputError:
        if push_id in created:
            return push_id, True
        found = known[w.request.owner, w.request.idempotency_key]
        return (found.push_id, False) if found.digest == w.digest else _conflict(w.request, found.push_id)

    def known_many(self, keys: Collection[tuple[str, str]]) -> Mapping[tuple[str, str], Known]:
        if not keys:
            return {}
        owners, names = zip(*keys, strict=True)
        with statement(self._engine) as c:
            rows = c.execute(KNOWN_MANY, {"owners": list(owners), "keys": list(names)}).all()
        return {(row[0], row[1]): Known(row[2], bytes(row[3]), *row[4:]) for row in rows}

    def known(self, owner: str, idempotency_key: str) -> Known | None:
        named = (credential.c.id, credential.c.name, credential.c.owner)
        query = (
            sa.select(push.c.id, push.c.request_sha256, *named, push.c.profile)
            .join(credential, credential.c.id == push.c.credential_id)
            .where(push.c.owner == owner, push.c.idempotency_key == idempotency_key)
        )
        with statement(self._engine) as c:
            row = c.execute(query).one_or_none()
        return Known(row[0], bytes(row[1]), *row[2:]) if row else None

    def signed_push(self, push_id: UUID, owner: str | None) -> SignedCard:
        query = sa.select(push, credential.c.endpoint).join(credential, credential.c.id == push.c.credential_id)
        with statement(self._engine) as c:
            row = c.execute(query.where(push.c.id == push_id)).one_or_none()
        if row is None:
            raise _unknown(push_id)
        _permit(push_id, row.owner, owner)
        _check_kind(push_id, row.credential_kind)
        return SignedCard(
            owner=row.owner,
            state=State(row.state),
            planned=row.planned_at is not None,
            source=row.source,
            uri=row.uri,
            endpoint=row.endpoint,
            bucket=row.bucket,
            prefix=row.prefix,
            manifest_sha256=row.manifest_sha256 and bytes(row.manifest_sha256),
        )

    def open_files_of(self, push_id: UUID) -> Iterator[tuple[int, str, str]]:
        query = sa.select(file.c.seq, file.c.path, file.c.key).where(
            file.c.push_id == push_id, file.c.state == FileState.PLANNED.value
        )
        after = 0
        while True:
            page = query.where(file.c.seq > after).order_by(file.c.seq).limit(STREAM_ROWS)
            with statement(self._engine) as c:
                rows = c.execute(page).all()
            for row in rows:
                yield row.seq, row.path, row.key
            if len(rows) < STREAM_ROWS:
                return
            after = rows[-1].seq

    def resign(
        self, push_id: UUID, credential_id: UUID, actor: str, files: int, *, planned: bool | None = None
    ) -> State:
        with transaction(self._engine) as c:
            row = c.execute(sa.select(push).where(push.c.id == push_id).with_for_update()).one_or_none()
            if row is None:
                raise _unknown(push_id)
            state = State(row.state)
            _check_kind(push_id, row.credential_kind)
            if state.final or row.cancel_requested_at is not None:
                word = state if state.final else "being cancelled"
                raise InputError(Code.BAD_INPUT, f"push {push_id} is {word}: it needs no fresh URLs.", field="push")
            if planned is not None and planned is not (row.planned_at is not None):
                # Its files have their numbers now; those of the set are the manifest's own.
                raise InputError(
                    Code.BAD_INPUT, f"push {push_id} was planned meanwhile; hand over the URLs once more.", field="push"
                )
            _check_set(c, row, credential_id)
            add_renewal(c, push_id, credential_id, actor, files)
            resumed, events = resume(c, push_id, "resigned", afresh=True)
            if events:
                append_events(c, push_id, actor, events)
        return resumed or state

    def retry(self, push_id: UUID, owner: str | None, actor: str) -> Request | State:
        with transaction(self._engine) as c:
            row = c.execute(sa.select(push).where(push.c.id == push_id).with_for_update()).one_or_none()
            if row is None:
                raise _unknown(push_id)
            _permit(push_id, row.owner, owner)
            state = State(row.state)
            if state.final and state is not State.SUCCEEDED and row.credential_kind != SIGNED_URLS:
                return _again(row, actor)
            # Parts are held by whoever executes them before the push is: without a wait, or a retry and an end could meet.
            waiting = (
                not state.final and row.cancel_requested_at is None and c.execute(HASTEN, {"id": push_id}).scalar_one()
            )
            if not waiting:
                _refuse_retry(push_id, state, row)
            append_events(c, push_id, actor, [(Event.PUSH_RESUMED, None, {"why": "retried"})])
        return state

    def cancel(self, push_id: UUID, owner: str | None, actor: str) -> State:
        with transaction(self._engine) as c:
            row = c.execute(
                sa.select(push.c.owner, push.c.state, push.c.cancel_requested_at, push.c.planned_at)
                .where(push.c.id == push_id)
                .with_for_update()
            ).one_or_none()
            if row is None:
                raise _unknown(push_id)
            _permit(push_id, row.owner, owner)
            state = State(row.state)
            if state.final or row.cancel_requested_at is not None:
                return state
            c.execute(REQUEST_CANCEL, {"id": push_id})
            events: list[EventRow] = [(Event.PUSH_CANCEL_REQUESTED, None, {})]
            if row.planned_at is None and state is not State.RUNNING:
                # Nobody executes it and nothing was planned: it is over now.
                c.execute(CANCEL_QUEUED, {"id": push_id, "message": CANCELLED})
                events.append((Event.PUSH_CANCELLED, None, {"code": Code.CANCELLED, "message": CANCELLED}))
                state = State.CANCELLED
            else:
                # Parts that wait are due at once, so that a worker ends them; running ones hear it by heartbeat.
                c.execute(DUE_NOW, {"id": push_id})
                resumed, told = resume(c, push_id, "cancelled")
                state, events = resumed or state, [*events, *told]
            append_events(c, push_id, actor, events)
        return state


def _again(row: sa.Row[Any], actor: str) -> Request:
    """The request of the push ``row`` anew."""
    return Request(
        owner=row.owner,
        actor=actor,
        source=row.source,
        destination=row.uri,
        credential=str(row.credential_id),
        profile=row.profile,
        min_strength=Strength.of(row.min_strength),
        overwrite=Overwrite(row.overwrite),
        include=tuple(row.include),
        exclude=tuple(row.exclude),
        labels=dict(row.labels),
        idempotency_key=f"retry:{row.id}",
        package=Package(row.package) if row.package else None,
        retry_of=row.id,
    )


def _refuse_retry(push_id: UUID, state: State, row: sa.Row[Any]) -> None:
    """Raise InputError where a push in this state cannot be tried again."""
    if row.credential_kind == SIGNED_URLS and state.final:
        raise InputError(
            Code.BAD_INPUT,
            f"push {push_id} had signed URLs, which are destroyed: submit it with fresh ones.",
            field="push",
        )
    words = {
        State.SUCCEEDED: "has succeeded: there is nothing to try again",
        State.AWAITING_CONSENT: "waits for somebody, see `cloudpush needs`: it goes on by itself then",
    }
    why = words.get(state, "is under way: it needs no retry")
    raise InputError(Code.BAD_INPUT, f"push {push_id} {why}.", field="push")


def _row(request: Request, card: CredentialCard, destination: Destination, digest: bytes) -> dict[str, object]:
    return {
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
        "min_strength": demanded(request, destination).word,
        "overwrite": request.overwrite.value,
        "include": list(request.include),
        "exclude": list(request.exclude),
        "labels": json.dumps(dict(request.labels)),
        "hook_id": None,
        "manifest_sha256": None,
        "package": request.package.value if request.package is not None else "",
        "retry_of": request.retry_of,
    }


def _told(request: Request, card: CredentialCard, destination: Destination) -> dict[str, object]:
    return {
        "owner": request.owner,
        "source": request.source,
        "destination": destination.uri,
        "profile": destination.profile.name,
        "endpoint": destination.profile.endpoint or card.endpoint,
        "credential": card.id,
        "credential_kind": card.kind,
        **({"credential_owner": card.owner} if card.owner != request.owner else {}),
        "min_strength": demanded(request, destination).word,
        "overwrite": request.overwrite,
        "include": request.include,
        "exclude": request.exclude,
        "labels": request.labels,
        **({"package": request.package} if request.package is not None else {}),
        **({"retry_of": request.retry_of} if request.retry_of is not None else {}),
    }


def _only(reference: str, found: Sequence[Any]) -> Any:
    """What OWNER/NAME names. Raises InputError where that is two: either of OWNER and NAME may have a slash in it.

    Who has part of another's connection's name in their own could else have a pipeline push to *their* account.
    """
    if len(found) > 1:
        raise InputError(
            Code.BAD_INPUT,
            f"credential {reference!r} is the name of two connections, of {found[0].owner!r} and of {found[1].owner!r}: name it by its id.",
            field="credential",
        )
    return found[0] if found else None


def _shares(c: sa.Connection, credential_id: UUID, principal: str) -> tuple[Share, ...]:
    """Everything that a grant ever was shared with ``principal`` for, newest first."""
    query = sa.select(*SHARE).where(share.c.credential_id == credential_id, share.c.principal == principal)
    return tuple(Share(*row) for row in c.execute(query.order_by(share.c.created_at.desc(), share.c.id)))


def _unknown(push_id: UUID) -> InputError:
    return InputError(Code.UNKNOWN_PUSH, f"push {push_id} is not known.", field="push")


def _permit(push_id: UUID, owner: str, asks: str | None) -> None:
    if asks is not None and asks != owner:
        raise InputError(Code.NOT_OWNER, f"push {push_id} belongs to another owner.", field="push")


def _check_kind(push_id: UUID, kind: str) -> None:
    if kind != SIGNED_URLS:
        raise InputError(
            Code.BAD_INPUT, f"push {push_id} has a credential of kind {kind}: it uses no signed URLs.", field="push"
        )


def _check_set(c: sa.Connection, row: sa.Row[tuple[object, ...]], credential_id: UUID) -> None:
    """Raise InputError unless ``credential_id`` may be the next set of the push ``row``."""
    columns = credential.c
    found = c.execute(
        sa.select(columns.owner, columns.kind, columns.state, columns.endpoint).where(columns.id == credential_id)
    ).one_or_none()
    origin = c.execute(sa.select(columns.endpoint).where(columns.id == row.credential_id)).scalar_one()
    used = sa.exists().where(push.c.credential_id == credential_id)
    taken = c.execute(sa.select(used | sa.exists().where(renewal.c.credential_id == credential_id))).scalar_one()
    if found is None or found != (row.owner, SIGNED_URLS, "active", origin) or taken:
        raise InputError(
            Code.BAD_INPUT,
            f"set {credential_id} is not an active, unused set of {row.owner!r} with URLs that lead to {origin}.",
            field="credential",
        )


def _known(c: sa.Connection, request: Request, digest: object) -> UUID:
    """The push that holds this idempotency key. Raises InputError where it was another request."""
    row = c.execute(
        sa.select(push.c.id, push.c.request_sha256).where(
            push.c.owner == request.owner, push.c.idempotency_key == request.idempotency_key
        )
    ).one()
    if bytes(row.request_sha256) != digest:
        raise _conflict(request, row.id)
    push_id: UUID = row.id
    return push_id


def _conflict(request: Request, push_id: UUID) -> InputError:
    return InputError(
        Code.IDEMPOTENCY_CONFLICT,
        f"idempotency key {request.idempotency_key!r} already stands for another request, push {push_id}.",
        field="idempotency_key",
    )


def _as_uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


A_CARD = sa.select(
    *(credential.c.id, credential.c.owner, credential.c.kind, credential.c.state, credential.c.expires_at),
    *(credential.c.profile, credential.c.endpoint, credential.c.name, sa.func.coalesce(oauth_grant.c.state, "")),
).join_from(credential, oauth_grant, oauth_grant.c.credential_id == credential.c.id, isouter=True)

# Each written out once: making a statement anew takes as long as executing it.
LIVE = sa.literal_column("credential.state").in_((sa.literal_column("'sealing'"), sa.literal_column("'active'")))
CARD_BY_ID = A_CARD.where(credential.c.id == sa.bindparam("id"))
CARD_BY_NAME = A_CARD.where(
    credential.c.owner == sa.bindparam("owner"), credential.c.name == sa.bindparam("name"), LIVE
)
# Found by what is shared with them, which is little: names of others have no index.
CARDS_SHARED = A_CARD.where(
    credential.c.id.in_(sa.select(share.c.credential_id).where(share.c.principal == sa.bindparam("principal"))),
    credential.c.owner + "/" + credential.c.name == sa.bindparam("name"),
    LIVE,
).limit(2)

# The row and its first event in one statement, which is its own transaction.
INSERT = sa.text("""
    WITH stored AS (
    INSERT INTO push (id, owner, actor, idempotency_key, request_sha256, source, uri, bucket, prefix, profile,
        credential_id, credential_kind, min_strength, overwrite, include, exclude, labels, hook_id, manifest_sha256,
        package, retry_of, state, announced_at)
    VALUES (:id, :owner, :actor, :idempotency_key, :request_sha256, :source, :uri, :bucket, :prefix, :profile,
        :credential_id, :credential_kind, :min_strength, :overwrite, :include, :exclude, CAST(:labels AS jsonb),
        :hook_id, :manifest_sha256, :package, :retry_of, 'queued', clock_timestamp())
    ON CONFLICT (owner, idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING
    RETURNING id, actor)
    SELECT cloudpush_append(id, actor, ARRAY['push.queued'], ARRAY[NULL::uuid], ARRAY[CAST(:told AS text)]) FROM stored
""")

# What waits for its next attempt is due now; how much that is. A closing part (attempt 0) waits for the others.
HASTEN = sa.text("""
    WITH hastened AS (
        UPDATE push SET next_attempt_at = clock_timestamp(), announced_at = NULL
        WHERE id = :id AND state = 'queued' AND next_attempt_at > clock_timestamp() RETURNING id
    ), waiting AS (
        SELECT number FROM part
        WHERE push_id = :id AND state = 'queued' AND attempt > 0 AND next_attempt_at > clock_timestamp()
        FOR UPDATE SKIP LOCKED
    ), parts AS (
        UPDATE part SET next_attempt_at = clock_timestamp(), announced_at = NULL
        FROM waiting WHERE part.push_id = :id AND part.number = waiting.number RETURNING part.number
    )
    SELECT (SELECT count(*) FROM hastened) + (SELECT count(*) FROM parts)
""")

# Many at once, from one JSON text. In the order of their keys, so that two batches with the same keys wait and do not lock up.
INSERT_MANY = sa.text("""
    WITH given AS MATERIALIZED (
        SELECT * FROM json_to_recordset(CAST(:rows AS json)) AS r(id uuid, owner text, actor text, idempotency_key text,
            request_sha256 text, source text, uri text, bucket text, prefix text, profile text, credential_id uuid,
            credential_kind text, min_strength text, overwrite text, include text[], exclude text[], labels jsonb,
            package text, told text)
    ), stored AS (
    INSERT INTO push (id, owner, actor, idempotency_key, request_sha256, source, uri, bucket, prefix, profile,
        credential_id, credential_kind, min_strength, overwrite, include, exclude, labels, package, state, announced_at)
    SELECT id, owner, actor, idempotency_key, decode(request_sha256, 'hex'), source, uri, bucket, prefix, profile,
        credential_id, credential_kind, min_strength, overwrite, include, exclude, labels, package, 'queued',
        clock_timestamp()
    FROM given ORDER BY owner, idempotency_key, id
    ON CONFLICT (owner, idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING
    RETURNING id)
    SELECT g.id, cloudpush_append(g.id, g.actor, ARRAY['push.queued'], ARRAY[NULL::uuid], ARRAY[g.told])
    FROM stored s JOIN given g ON g.id = s.id
""")

KNOWN_MANY = sa.text("""
    SELECT p.owner, p.idempotency_key, p.id, p.request_sha256, c.id, c.name, c.owner, p.profile
    FROM unnest(CAST(:owners AS text[]), CAST(:keys AS text[])) AS k(owner, key)
        JOIN push p ON p.owner = k.owner AND p.idempotency_key = k.key
        JOIN credential c ON c.id = p.credential_id
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

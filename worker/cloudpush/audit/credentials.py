"""Credentials in Postgres: metadata and its events, never a secret.

Implements :class:`cloudpush.push.credential.CredentialStore` and :class:`cloudpush.push.signed.sets.SetStore`. Guards
stand in the UPDATE: a state changes only from a state that it may leave, and its event is appended in the same
transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.exc import IntegrityError

from cloudpush.audit.database import append_event, transaction
from cloudpush.audit.tables import credential as t
from cloudpush.audit.tables import event, oauth_grant, push, renewal, sheet
from cloudpush.errors import Code, CredentialError, InputError
from cloudpush.push.credential import CREDENTIAL_TRANSITIONS, Block, Credential, CredentialState, Due, Reason, Use
from cloudpush.push.custody import REFRESH_PATIENCE, SEALING_PATIENCE
from cloudpush.push.grants.model import GRANT_KINDS, NOTIFY_HOOK
from cloudpush.push.signed.model import SIGNED_URLS, SheetCard
from cloudpush.push.states import Event

#: The hash chain of what concerns the Transit key as a whole.
VAULT_STREAM = UUID("6b1c7a52-3f0e-5d5c-9a43-0c7c2f0e7a11")
#: The index that a second live credential of a name offends.
NAME_TAKEN = "uq_credential_owner_name_live"
#: Live webhooks of one owner: more would make many requests to somebody of each push.
MOST_HOOKS = 20


class Credentials:
    """The rows of table ``credential``. Thread-safe, as its engine is."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def add(self, credential: Credential, actor: str) -> None:
        """Insert a row that is ``sealing``. Raises InputError where the owner has a live one of that name."""
        data = sealing_told(credential)
        try:
            with transaction(self._engine) as c:
                if credential.kind == NOTIFY_HOOK:
                    _check_hooks(c, credential.owner)
                c.execute(t.insert(), credential_row(credential))
                append_event(c, credential.id, Event.CREDENTIAL_SEALING, actor, data, credential_id=credential.id)
        except IntegrityError as e:
            if NAME_TAKEN not in str(e.orig):
                raise
            raise name_taken(credential) from e

    def activate(self, credential_id: UUID, key_version: int, actor: str) -> None:
        """``sealing`` → ``active``. Raises CredentialError where the row is not ``sealing`` any more."""
        with transaction(self._engine) as c:
            done = c.execute(
                _from(credential_id, CredentialState.ACTIVE).values(
                    state=str(CredentialState.ACTIVE), transit_key_version=key_version
                )
            )
            if not done.rowcount:
                raise _purged_meanwhile(credential_id)
            data = {"transit_key_version": key_version}
            append_event(c, credential_id, Event.CREDENTIAL_CREATED, actor, data, credential_id=credential_id)

    def get(self, credential_id: UUID) -> Credential | None:
        """One credential with its use, counted; None where there is no such row."""
        with transaction(self._engine) as c:
            row = c.execute(_WITH_USE.where(t.c.id == credential_id)).mappings().one_or_none()
            uses = c.execute(
                sa.select(sa.func.count()).where(_USED, event.c.credential_id == credential_id)
            ).scalar_one()
        return _credential(row, uses) if row else None

    def find(self, owner: str | None, *, purged: bool, limit: int) -> Sequence[Credential]:
        """Credentials of ``owner`` (None: of all), newest first, with their last use; ``purged`` ones on demand."""
        query = _WITH_USE.order_by(t.c.created_at.desc(), t.c.id).limit(limit)
        if owner is not None:
            query = query.where(t.c.owner == owner)
        if not purged:
            query = query.where(t.c.state != CredentialState.PURGED)
        with transaction(self._engine) as c:
            return [_credential(row) for row in c.execute(query).mappings()]

    def page(
        self, owner: str | None, *, purged: bool, limit: int, before: tuple[datetime, UUID] | None = None
    ) -> Sequence[Credential]:
        """As ``find``; ``before``: when the last one of the page before was made, and its id."""
        query = _WITH_USE.order_by(t.c.created_at.desc(), t.c.id.desc()).limit(limit)
        if owner is not None:
            query = query.where(t.c.owner == owner)
        if not purged:
            query = query.where(t.c.state != CredentialState.PURGED)
        if before is not None:
            query = query.where(sa.tuple_(t.c.created_at, t.c.id) < sa.tuple_(*map(sa.literal, before)))
        with transaction(self._engine) as c:
            return [_credential(row) for row in c.execute(query).mappings()]

    def start_purge(self, credential_id: UUID, reason: Reason, actor: str) -> None:
        """Any live state → ``purging``; nothing where it is ``purging`` or ``purged`` already."""
        with transaction(self._engine) as c:
            done = c.execute(_from(credential_id, CredentialState.PURGING).values(state=str(CredentialState.PURGING)))
            if done.rowcount:
                data = {"reason": str(reason)}
                append_event(c, credential_id, Event.CREDENTIAL_PURGING, actor, data, credential_id=credential_id)

    def end_purge(self, credential_id: UUID, actor: str, unsettled_since: datetime | None) -> bool:
        """``purging`` → ``purged``; nothing where it is ``purged`` already.

        False, and ``purging`` still, where a block of it was begun after ``unsettled_since`` and nobody told that it was
        sealed: it may come yet. So it may where a refresh is under way that began less than REFRESH_PATIENCE before.
        """
        purge = _from(credential_id, CredentialState.PURGED).values(
            state=str(CredentialState.PURGED), purged_at=sa.func.clock_timestamp()
        )
        if unsettled_since is not None:
            purge = purge.where(~_unsettled(unsettled_since))
        with transaction(self._engine) as c:
            if c.execute(purge).rowcount:
                append_event(c, credential_id, Event.CREDENTIAL_PURGED, actor, credential_id=credential_id)
                return True
            state = c.execute(sa.select(t.c.state).where(t.c.id == credential_id)).scalar_one()
        return bool(state == CredentialState.PURGED)

    def due(self, now: datetime, sealing_before: datetime, sets_before: datetime, limit: int) -> Sequence[Due]:
        """What is to be destroyed: due, half destroyed, or ``sealing`` since before ``sealing_before``.

        A set is given up when nothing was added to it since ``sets_before`` and no push has it. What ``end_purge``
        would refuse for the sake of a block begun since ``sealing_before`` is left out.
        """
        a_set = t.c.kind == SIGNED_URLS
        idle = (t.c.created_at < sets_before) & ~_begun(sets_before)
        sealing = t.c.state == CredentialState.SEALING
        abandoned = sealing & ~a_set & (t.c.created_at < sealing_before) | sealing & a_set & idle
        half_done = (t.c.state == CredentialState.PURGING) & ~_unsettled(sealing_before)
        active = t.c.state == CredentialState.ACTIVE
        its_time = active & (t.c.purge_after <= now)
        orphaned = active & a_set & idle & ~_has_push
        query = (
            sa.select(t.c.id, t.c.kind, t.c.state, t.c.expires_at, t.c.purge_after)
            .where(t.c.state != CredentialState.PURGED, abandoned | half_done | its_time | orphaned)
            .order_by(t.c.created_at, t.c.id)
            .limit(limit)
        )
        with transaction(self._engine) as c:
            return [(row.id, _reason(row, now)) for row in c.execute(query)]

    def blocks(self, credential_id: UUID, after: int, limit: int) -> Sequence[int]:
        """Numbers of a set's or a grant's blocks, in order, from after ``after``; none for any other credential.

        Those of a grant that are destroyed already are left out.
        """
        query = (
            sa.select(sheet.c.number)
            .join_from(sheet, t, t.c.id == sheet.c.credential_id)
            .where(sheet.c.credential_id == credential_id, sheet.c.number > after, ~(_IS_GRANT & _GONE))
            .order_by(sheet.c.number)
            .limit(limit)
        )
        with transaction(self._engine) as c:
            return list(c.execute(query).scalars())

    def add_sheet(self, credential_id: UUID, cards: Sequence[SheetCard]) -> None:
        """Insert the blocks of one sheet, before they are sealed.

        Raises CredentialError where the set is not ``sealing`` any more.
        """
        rows = [
            {
                "credential_id": credential_id,
                "number": card.number,
                "first_seq": card.first,
                "last_seq": card.last,
                "block": card.block,
                "blocks": card.blocks,
            }
            for card in cards
        ]
        with transaction(self._engine) as c:
            # Held to the commit: a purge that begins meanwhile sees these rows.
            held = sa.select(t.c.state).where(t.c.id == credential_id).with_for_update(read=True)
            if c.execute(held).scalar_one_or_none() != CredentialState.SEALING:
                raise _purged_meanwhile(credential_id)
            c.execute(sheet.insert(), rows)

    def activate_set(
        self, credential_id: UUID, versions: Mapping[int, Sequence[int]], expires_at: datetime | None, actor: str
    ) -> None:
        """``sealing`` → ``active``: everything is in Vault. ``versions``: of the key → the blocks that it wraps.

        It expires, and is destroyed, at ``expires_at``. Raises CredentialError where it is not ``sealing`` any more.
        """
        with transaction(self._engine) as c:
            done = c.execute(
                _from(credential_id, CredentialState.ACTIVE).values(
                    state=str(CredentialState.ACTIVE), expires_at=expires_at, purge_after=expires_at
                )
            )
            if not done.rowcount:
                raise _purged_meanwhile(credential_id)
            for version, numbers in versions.items():
                c.execute(_sheets(credential_id, numbers).values(transit_key_version=version))
            blocks = sum(len(numbers) for numbers in versions.values())
            data = {"blocks": blocks, "expires_at": _iso(expires_at), "purge_after": _iso(expires_at)}
            append_event(c, credential_id, Event.CREDENTIAL_CREATED, actor, data, credential_id=credential_id)

    def expire(self, now: datetime, limit: int, actor: str) -> Sequence[UUID]:
        """Append ``credential.expired``, once each, for what has expired; return whose."""
        noted = sa.exists().where(event.c.stream == t.c.id, event.c.kind == Event.CREDENTIAL_EXPIRED)
        expired = sa.select(t.c.id, t.c.expires_at).where(
            t.c.state == CredentialState.ACTIVE, t.c.expires_at <= now, ~noted
        )
        with transaction(self._engine) as c:
            held = c.execute(expired.order_by(t.c.expires_at).limit(limit).with_for_update(skip_locked=True)).all()
            # Asked again with the rows in our hands: another sweep may have committed just before we got them.
            rows = c.execute(expired.where(t.c.id.in_([row.id for row in held]))).all() if held else []
            for row in rows:
                data = {"expires_at": _iso(row.expires_at)}
                append_event(c, row.id, Event.CREDENTIAL_EXPIRED, actor, data, credential_id=row.id)
        return [row.id for row in rows]

    def wrapped_before(self, version: int, after: UUID | None, limit: int) -> Sequence[Credential]:
        """``active`` credentials whose data key an older key version wraps, by id, from after ``after``."""
        query = (
            sa.select(t)
            .where(t.c.state == CredentialState.ACTIVE, t.c.transit_key_version < version)
            .order_by(t.c.id)
            .limit(limit)
        )
        if after is not None:
            query = query.where(t.c.id > after)
        with transaction(self._engine) as c:
            return [_credential(row) for row in c.execute(query).mappings()]

    def rewrapped(self, credential_id: UUID, version: int, actor: str) -> None:
        """Note that key ``version`` wraps the data key now."""
        with transaction(self._engine) as c:
            done = c.execute(
                t.update()
                .where(t.c.id == credential_id, t.c.transit_key_version < version)
                .values(transit_key_version=version)
            )
            if done.rowcount:
                data = {"transit_key_version": version}
                append_event(c, credential_id, Event.CREDENTIAL_REWRAPPED, actor, data, credential_id=credential_id)

    def blocks_wrapped_before(self, version: int, after: tuple[UUID, int] | None, limit: int) -> Sequence[Block]:
        """Blocks of ``active`` sets whose data key an older key version wraps, or nobody knows which; in order.

        Of an ``active`` grant only the block of its current generation: the others are on their way out, or in.
        """
        columns = (sheet.c.number, sheet.c.transit_key_version, sheet.c.sealed_at, t.c.kind)
        query = (
            sa.select(sheet.c.credential_id, t.c.owner, *columns)
            .join_from(sheet, t, t.c.id == sheet.c.credential_id)
            .where(t.c.state == CredentialState.ACTIVE, _older(sheet.c.transit_key_version, version))
            .where(~_IS_GRANT | _current)
            .order_by(sheet.c.credential_id, sheet.c.number)
            .limit(limit)
        )
        if after is not None:
            query = query.where(sa.tuple_(sheet.c.credential_id, sheet.c.number) > sa.tuple_(*after))
        with transaction(self._engine) as c:
            return [Block(*row) for row in c.execute(query)]

    def blocks_rewrapped(self, credential_id: UUID, numbers: Sequence[int], version: int, actor: str) -> None:
        """Note that key ``version`` wraps the data keys of these blocks now."""
        with transaction(self._engine) as c:
            done = c.execute(
                _sheets(credential_id, numbers)
                .where(_older(sheet.c.transit_key_version, version))
                .values(transit_key_version=version)
            )
            if done.rowcount:
                data = {"transit_key_version": version, "blocks": done.rowcount}
                append_event(c, credential_id, Event.CREDENTIAL_REWRAPPED, actor, data, credential_id=credential_id)

    def wraps_only(self, version: int) -> bool:
        """Whether nothing is ``sealing``, and nothing ``active`` is wrapped by a key before ``version``: in one look.

        A block whose version nobody knows counts as wrapped by an older one. Of a grant's blocks its current
        generation counts, and what was begun less than REFRESH_PATIENCE ago and may come yet.
        """
        active = t.c.state == CredentialState.ACTIVE
        may_come = (
            sheet.c.transit_key_version.is_(None) & ~_GONE & (sheet.c.sealed_at >= sa.func.now() - REFRESH_PATIENCE)
        )
        older_block = sa.exists().where(
            sheet.c.credential_id == t.c.id,
            _older(sheet.c.transit_key_version, version),
            ~_IS_GRANT | _current | _later & may_come,
        )
        older = active & ((t.c.transit_key_version < version) | older_block)
        left = sa.select(sa.exists().where(older | (t.c.state == CredentialState.SEALING)))
        with transaction(self._engine) as c:
            return not c.execute(left).scalar_one()

    def note_rotation(self, version: int, actor: str) -> None:
        """Append that the Transit key has a new version."""
        with transaction(self._engine) as c:
            append_event(c, VAULT_STREAM, Event.VAULT_KEY_ROTATED, actor, {"version": version})

    def note_retirement(self, version: int, actor: str) -> None:
        """Append that key versions before ``version`` are retired."""
        with transaction(self._engine) as c:
            append_event(c, VAULT_STREAM, Event.VAULT_KEY_RETIRED, actor, {"oldest_version": version})


def credential_row(credential: Credential) -> dict[str, Any]:
    """A credential as it is stored."""
    return {c.name: getattr(credential, c.name) for c in t.columns} | {"state": str(credential.state)}


def sealing_told(credential: Credential) -> dict[str, Any]:
    """A credential as its first event tells it."""
    return {
        "owner": credential.owner,
        "kind": credential.kind,
        "name": credential.name,
        "profile": credential.profile,
        "endpoint": credential.endpoint,
        "expires_at": _iso(credential.expires_at),
        "purge_after": _iso(credential.purge_after),
    }


def _check_hooks(c: sa.Connection, owner: str) -> None:
    """Raises InputError where ``owner`` has as many webhooks as one may: each verdict is told to each of them."""
    live = sa.select(sa.func.count()).where(
        t.c.owner == owner, t.c.kind == NOTIFY_HOOK, t.c.state.in_([CredentialState.SEALING, CredentialState.ACTIVE])
    )
    if c.execute(live).scalar_one() >= MOST_HOOKS:
        raise InputError(Code.BAD_INPUT, f"{owner!r} has {MOST_HOOKS} webhooks: purge one of them first.", field="kind")


def name_taken(credential: Credential) -> InputError:
    """Its owner has a live one of that name."""
    return InputError(
        Code.BAD_INPUT,
        f"name={credential.name!r} is the name of another credential of {credential.owner!r}; "
        "choose another, or purge that one first.",
        field="name",
    )


def _from(credential_id: UUID, to: CredentialState) -> sa.Update:
    """An UPDATE of this row, if it is in a state from which ``to`` may follow."""
    allowed = [str(state) for state, following in CREDENTIAL_TRANSITIONS.items() if to in following]
    return t.update().where(t.c.id == credential_id, t.c.state.in_(allowed))


def _sheets(credential_id: UUID, numbers: Sequence[int]) -> sa.Update:
    return sheet.update().where(
        sheet.c.credential_id == credential_id,
        sheet.c.number == sa.any_(sa.literal(list(numbers), pg.ARRAY(sa.Integer))),
    )


def _older(column: sa.ColumnElement[int | None], version: int) -> sa.ColumnElement[bool]:
    return sa.or_(column.is_(None), column < version)


def _begun(since: datetime) -> sa.ColumnElement[bool]:
    """Whether a block of the credential was begun since then."""
    return sa.exists().where(sheet.c.credential_id == t.c.id, sheet.c.sealed_at >= since)


def _unsettled(since: datetime) -> sa.ColumnElement[bool]:
    """Whether a block that was begun since then may still be on its way to Vault: a refresh may take its time."""
    begun = sa.exists().where(
        sheet.c.credential_id == t.c.id,
        sheet.c.transit_key_version.is_(None),
        sheet.c.sealed_at >= since,
        ~(_IS_GRANT & _GONE),
    )
    refreshing = sa.exists().where(
        oauth_grant.c.credential_id == t.c.id,
        oauth_grant.c.pending_at >= since - (REFRESH_PATIENCE - SEALING_PATIENCE),
    )
    return begun | refreshing


def _purged_meanwhile(credential_id: UUID) -> CredentialError:
    return CredentialError(Code.CREDENTIAL_PURGED, f"Credential {credential_id} was purged while it was being sealed.")


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None


def _credential(row: sa.RowMapping, uses: int | None = None) -> Credential:
    use = Use(uses, row.get("used_at"), row.get("used_by_push"), row.get("used_by") or "")
    fields: dict[str, Any] = {c.name: row[c.name] for c in t.columns}
    return Credential(**(fields | {"state": CredentialState(row["state"])}), use=use)


def _reason(row: sa.Row[*tuple[Any, ...]], now: datetime) -> Reason:
    """Why this row is found to be due."""
    match CredentialState(row.state):
        case CredentialState.SEALING:
            return Reason.ABANDONED
        case CredentialState.PURGING:
            return Reason.UNFINISHED
    if row.kind in GRANT_KINDS:
        return Reason.REVOKED
    if row.kind != SIGNED_URLS:
        return Reason.DUE
    if row.purge_after is None or row.purge_after > now:
        return Reason.UNUSED
    # The end of its push moves the time of a set forward, before that of its last URL.
    return (
        Reason.URLS_EXPIRED if row.expires_at is not None and row.expires_at <= row.purge_after else Reason.PUSH_ENDED
    )


_IS_GRANT = t.c.kind.in_(sorted(GRANT_KINDS))
#: Of a grant's block: it is destroyed. (Of a set's session: its upload is gone, the block is there.)
_GONE = sheet.c.gone_at.is_not(None)
#: Whether a grant's block is its current generation, and whether it comes after it.
_current = sa.exists().where(
    oauth_grant.c.credential_id == sheet.c.credential_id, oauth_grant.c.generation == sheet.c.number
)
_later = sa.exists().where(
    oauth_grant.c.credential_id == sheet.c.credential_id, oauth_grant.c.generation < sheet.c.number
)

#: Whether a push was stored with this set, or goes on with it.
_has_push = sa.exists().where(push.c.credential_id == t.c.id) | sa.exists().where(renewal.c.credential_id == t.c.id)

#: A use is an event of the push that used it, appended by the worker.
_USED = event.c.kind == Event.CREDENTIAL_USED
_last = (
    sa.select(event.c.at.label("used_at"), event.c.stream.label("used_by_push"), event.c.actor.label("used_by"))
    .where(_USED, event.c.credential_id == t.c.id)
    .order_by(event.c.id.desc())
    .limit(1)
    .lateral()
)
_WITH_USE = (
    sa.select(t, _last.c.used_at, _last.c.used_by_push, _last.c.used_by).select_from(t).outerjoin(_last, sa.true())
)

"""Whether a push may use its credential now."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from cloudpush.audit.rows import EventRow
from cloudpush.audit.statements import CONSENT, LOCK_CONSENT, SESSIONS_LEFT
from cloudpush.errors import Cancelled, Code, ConsentRevoked, CredentialError
from cloudpush.push.grants.model import GRANT_KINDS, GrantState
from cloudpush.push.job import Lease, Part, Push
from cloudpush.push.signed.model import SIGNED_URLS
from cloudpush.push.states import Event


def check_usable(c: sa.Connection, row: sa.Row[Any], push: Push) -> None:
    """Raise unless the push goes on and its credential may be unsealed now. ``row``: as USABLE gives it."""
    if row.cancelled:
        raise Cancelled
    if push.credential_kind == SIGNED_URLS:
        _check_set(c, row, push)
    elif push.credential_kind in GRANT_KINDS:
        _check_grant(c, push)
    elif row.credential_state != "active":
        raise CredentialError(
            Code.CREDENTIAL_PURGED, f"Credential {row.credential_id} is {row.credential_state}: its secret is gone."
        )
    elif row.expired:
        raise CredentialError(
            Code.CREDENTIAL_EXPIRED, f"Credential {row.credential_id} expired at {_moment(row.expires_at)}."
        )


def use(row: sa.Row[Any], push: Push, part: Part, lease: Lease) -> EventRow:
    """The event that a worker unseals the push's credential."""
    return Event.CREDENTIAL_USED, row.credential_id, {"push": push.id, "part": part.number, "worker": lease.worker}


def needs_consent(c: sa.Connection, push: Push) -> bool:
    """Whether a push that was told to wait for its grant's user is to wait still.

    Otherwise its grant is active again, or over for good, and another attempt will tell. The grant's row is held to the
    end of the transaction, so that whoever reconnects it meanwhile finds the push waiting.
    """
    c.execute(LOCK_CONSENT, {"id": push.credential_id})
    found = c.execute(CONSENT, {"id": push.id}).one_or_none()
    return (
        found is not None
        and found.shared
        and (found.credential_state, found.state) == ("active", GrantState.RECONNECT.value)
    )


def check_grant(grant_id: Any, state: str, credential_state: str) -> None:
    """Raise ConsentRevoked, or CredentialError CONSENT_NEEDED, unless a grant in these states may be used."""
    if credential_state != "active" or state not in (GrantState.ACTIVE, GrantState.RECONNECT):
        raise ConsentRevoked(f"Connection {grant_id} was revoked: its tokens may not be used any more.")
    if state == GrantState.RECONNECT:
        raise CredentialError(
            Code.CONSENT_NEEDED, f"Connection {grant_id} needs its user's consent anew: its refresh token is dead."
        )


def _check_grant(c: sa.Connection, push: Push) -> None:
    found = c.execute(CONSENT, {"id": push.id}).one_or_none()
    if found is None:
        raise ConsentRevoked(f"Credential {push.credential_id} is no connection.")
    if not found.shared:
        raise ConsentRevoked(
            f"Connection {push.credential_id} is not, or not any more, shared with {push.owner!r} for {push.destination.uri}."
        )
    check_grant(push.credential_id, found.state, found.credential_state)


def _check_set(c: sa.Connection, row: sa.Row[Any], push: Push) -> None:
    """URLs that are gone end an attempt only where no callback gives fresh ones and no upload under way needs none."""
    gone = row.credential_state != "active"
    if not (gone or row.expired) or push.hook_id is not None:
        return
    if c.execute(SESSIONS_LEFT, {"id": push.id}).scalar_one():
        return
    if row.expired:
        what = f"expired at {_moment(row.expires_at)}"
    else:
        what = f"were destroyed: the set {row.credential_id} is {row.credential_state}"
    raise CredentialError(Code.URL_EXPIRED, f"The push's signed URLs {what}.")


def _moment(at: Any) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"

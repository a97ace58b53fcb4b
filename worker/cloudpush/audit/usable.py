"""Whether a push may use its credential now."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from cloudpush.audit.rows import EventRow
from cloudpush.audit.statements import SESSIONS_LEFT
from cloudpush.errors import Cancelled, Code, CredentialError
from cloudpush.push.job import Lease, Part, Push
from cloudpush.push.signed.model import SIGNED_URLS
from cloudpush.push.states import Event


def check_usable(c: sa.Connection, row: sa.Row[Any], push: Push) -> None:
    """Raise unless the push goes on and its credential may be unsealed now. ``row``: as USABLE gives it."""
    if row.cancelled:
        raise Cancelled
    if push.credential_kind == SIGNED_URLS:
        _check_set(c, row, push)
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

"""Whether a push may use the credential that it names: whose it is, what state it is in, where it may push to."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from cloudpush.errors import Code, CredentialError, InputError
from cloudpush.push.grants.model import GRANT_KINDS, NOTIFY_HOOK, GrantState, Share
from cloudpush.push.job import Destination, Request
from cloudpush.push.signed.model import PROFILE, RESIGN_HOOK, SIGNED_URLS
from cloudpush.push.states import Strength

#: Kinds of credentials that open no bucket by themselves: a set of signed URLs is its own push's alone.
_NO_KEYS = frozenset({SIGNED_URLS, RESIGN_HOOK, NOTIFY_HOOK})


@dataclass(frozen=True, slots=True)
class CredentialCard:
    """What intake may know of a credential: metadata, never the secret.

    Of a grant also ``grant_state``, and, where it is not the asker's own, ``shares``: all that it ever was shared with
    the asker for.
    """

    id: UUID
    owner: str
    kind: str
    state: str
    expires_at: datetime | None
    profile: str
    endpoint: str
    name: str = ""
    grant_state: str = ""
    shares: tuple[Share, ...] = ()

    @property
    def is_grant(self) -> bool:
        """Whether a consent gave it."""
        return self.kind in GRANT_KINDS


def check_card(card: CredentialCard, request: Request, now: datetime) -> None:
    """Raise InputError or CredentialError unless ``request`` may use the credential, wherever it goes."""
    named = f"credential {request.credential!r}"
    if card.owner != request.owner and not card.shares:
        raise InputError(Code.NOT_OWNER, f"{named} belongs to another owner.", field="credential")
    if card.kind in _NO_KEYS:
        raise InputError(
            Code.BAD_INPUT,
            f"{named} is of kind {card.kind}: it is no key to a bucket. "
            "Signed URLs are handed over with --signed-url or --manifest.",
            field="credential",
        )
    if card.is_grant:
        _check_grant(card, named)
    elif card.state != "active":
        raise CredentialError(Code.CREDENTIAL_PURGED, f"{named} is {card.state}.", field="credential")
    if card.expires_at is not None and card.expires_at <= now:
        raise CredentialError(
            Code.CREDENTIAL_EXPIRED, f"{named} expired at {card.expires_at:%Y-%m-%d %H:%M:%S} UTC.", field="credential"
        )


def profile_of(card: CredentialCard, request: Request) -> str:
    """The profile that leads to the destination. Raises InputError where the request may not name it."""
    profile = request.profile or card.profile
    if profile == PROFILE:
        # What it stands for is read from signed URLs; a user's own words must not pass for that.
        raise InputError(Code.BAD_INPUT, f"profile {profile!r} is that of signed URLs; name another.", field="profile")
    if card.is_grant and profile != card.profile:
        # Its tokens, and what is made of them, go to where its provider's table says and nowhere else.
        raise InputError(
            Code.BAD_INPUT,
            f"profile {profile!r} is not that of connection {card.name or card.id!r}, which leads to "
            f"{card.profile!r}; leave the profile out.",
            field="profile",
        )
    return profile


def check_share(card: CredentialCard, request: Request, destination: Destination, now: datetime) -> None:
    """Raise unless the credential is the owner's own, or shared with them for this destination just now."""
    if card.owner == request.owner or any(share.covers(destination.uri, now) for share in card.shares):
        return
    live = [share for share in card.shares if share.ended_at is None and now < share.until]
    if not live:
        last = max(card.shares, key=lambda share: share.ended_at or share.until)
        raise CredentialError(
            Code.CONSENT_REVOKED,
            f"connection {request.credential!r} was shared with {request.owner!r} for {last.uri} "
            f"until {_moment(last.ended_at or last.until)}; ask {card.owner!r} to share it again.",
            field="credential",
        )
    where = "; ".join(f"{share.uri} until {_moment(share.until)}" for share in live)
    raise InputError(
        Code.NOT_OWNER,
        f"connection {request.credential!r} is shared with {request.owner!r} for {where}, which does not cover "
        f"{destination.uri}; push there, or ask {card.owner!r} to share it for that, too.",
        field="destination",
    )


def warnings_of(card: CredentialCard) -> tuple[str, ...]:
    """What may hold a push with this credential up, in sentences."""
    if card.grant_state != GrantState.RECONNECT:
        return ()
    who = repr(card.name or str(card.id))
    return (f"Connection {who} needs its user's consent anew: the push will wait until somebody presses Reconnect.",)


def demanded(request: Request, destination: Destination) -> Strength:
    """The strength that ``request`` demands, or its destination's default: the most that can be had of every file."""
    if request.min_strength is not None:
        return request.min_strength
    signed, azure = destination.profile.name == PROFILE, destination.profile.dialect == "azure"
    return Strength.INGEST if signed or azure else Strength.CHECKSUM


def _check_grant(card: CredentialCard, named: str) -> None:
    if card.state == "sealing":
        raise CredentialError(Code.CREDENTIAL_PURGED, f"{named} is just being connected.", field="credential")
    if card.state != "active" or card.grant_state not in (GrantState.ACTIVE, GrantState.RECONNECT):
        raise CredentialError(Code.CONSENT_REVOKED, f"{named} is a connection that was revoked.", field="credential")


def _moment(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"

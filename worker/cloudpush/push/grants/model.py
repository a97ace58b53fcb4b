"""The nouns of consent.

::

    provider    where users consent, as the operator described it: data (config/providers.toml)
    attempt     one way to a provider and back: bound to a browser's session, used once, ten minutes
    grant       what a consent gave: a credential of kind ``oauth_grant`` (tokens, sealed) or ``web_identity`` (no secret)
    generation  one set of tokens: a sealed block of the grant; each refresh makes a further one, none is overwritten
    pass        what a push is opened with just now, made from a grant: short-lived, for one bucket or prefix
    share       somebody else may push with a grant: for a destination prefix, until a date

Tokens are secrets. None of these shows one in ``repr``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from cloudpush.errors import Code, CredentialError
from cloudpush.push.job import Secret

#: Kinds of credentials: tokens that a consent gave; a role that trusts us as its identity provider.
OAUTH_GRANT = "oauth_grant"
WEB_IDENTITY = "web_identity"
GRANT_KINDS = frozenset({OAUTH_GRANT, WEB_IDENTITY})
#: Whom to tell that a grant must be reconnected: a webhook.
NOTIFY_HOOK = "notify_hook"


class GrantState(StrEnum):
    """Where a grant stands."""

    ACTIVE = "active"  # may be used
    RECONNECT = "reconnect"  # its refresh token is dead; pushes wait until its user consents anew
    REVOKING = "revoking"  # may not be used any more; the provider is to be told, Vault to be purged
    REVOKED = "revoked"  # the provider was told, or could not be; its credential is purged


GRANT_TRANSITIONS: dict[GrantState, frozenset[GrantState]] = {
    GrantState.ACTIVE: frozenset({GrantState.RECONNECT, GrantState.REVOKING}),
    GrantState.RECONNECT: frozenset({GrantState.ACTIVE, GrantState.REVOKING}),
    GrantState.REVOKING: frozenset({GrantState.REVOKED}),
    GrantState.REVOKED: frozenset(),
}


class Flow(StrEnum):
    """How a connection is made."""

    CODE = "code"  # OAuth 2 authorization code with PKCE: tokens
    WEB_IDENTITY = "web_identity"  # we are the identity provider: the user's account trusts us, nothing is stored


class Use(StrEnum):
    """What a push uses of a grant."""

    BEARER = "bearer"  # the access token itself (Google)
    USER_DELEGATION_SAS = "user_delegation_sas"  # a SAS signed with a key that the token fetched (Azure)
    WEB_IDENTITY = "web_identity"  # keys of a role, for an identity token (AWS STS)


class Rotation(StrEnum):
    """What a provider does to a refresh token that was used."""

    NEVER = "never"  # it stays the same (Google)
    KEEPS_OLD = "keeps_old"  # a new one comes, the old one works on (Entra ID)
    SINGLE_USE = "single_use"  # a new one comes; using the old one again revokes the whole family


class Chore(StrEnum):
    """What a worker is to do about a grant, because only workers may unseal or sign."""

    CHECK = "check"  # try it out and say what came of it
    REVOKE = "revoke"  # tell the provider
    NOTIFY = "notify"  # tell the owner's webhook that a reconnect is needed


@dataclass(frozen=True, slots=True)
class Question:
    """Something that a provider's users must tell when they connect, such as the storage account's name."""

    name: str
    title: str
    pattern: str  # regular expression that the whole answer must match
    hint: str = ""
    example: str = ""
    required: bool = True


@dataclass(frozen=True, slots=True)
class Provider:
    """Where users consent. See ``config/providers.toml`` for each field; URLs were checked when it was read."""

    name: str
    title: str
    flow: Flow
    use: Use
    profile: str  # the destination profile that its pushes go to
    client_id: str = ""
    issuer: str = ""  # what `iss` must be; empty where the provider names none
    sends_issuer: bool = False  # its answers carry `iss` (RFC 9207), as its metadata says: one without it is refused
    discovery: str = ""  # URL of its metadata; what is set here comes before what is found there
    authorization_endpoint: str = ""
    token_endpoint: str = ""
    revocation_endpoint: str = ""
    jwks_uri: str = ""
    scopes: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()  # scopes without which a push cannot succeed
    explains: Mapping[str, str] = field(default_factory=dict)  # scope → what it allows, in plain words
    parameters: Mapping[str, str] = field(default_factory=dict)  # added to the authorization request
    token_auth: str = "none"  # none | client_secret_post | client_secret_basic
    rotation: Rotation = Rotation.NEVER
    manage_url: str = ""  # the provider's own page where a user sees and removes grants
    questions: tuple[Question, ...] = ()
    endpoint: str = ""  # of the storage; {account} and other answers are filled in. Empty: the profile's
    sts_endpoint: str = ""  # {region} is filled in
    audience: str = ""  # of the identity tokens that we issue
    identity_token: str = "ours"  # web identity: `ours` (we issue it) | `theirs` (the consent's id_token)
    ca_file: str = ""  # CAs that alone vouch for its endpoints and its storage; empty: the machine's own
    session_seconds: int = 3600  # life of what is made from it for a push: SAS, STS session

    @property
    def offered(self) -> bool:
        """Whether users may connect to it: the operator has registered CloudPush there."""
        return self.flow is Flow.WEB_IDENTITY or bool(self.client_id)


@dataclass(frozen=True, slots=True)
class Tokens:
    """One generation. ``expires_at`` is the access token's; None where the provider does not say."""

    access_token: str = field(repr=False)
    refresh_token: str = field(default="", repr=False)
    expires_at: datetime | None = None
    issued_at: datetime | None = None
    scope: str = ""
    id_token: str = field(default="", repr=False)

    def dump(self) -> bytes:
        """What is sealed."""
        return json.dumps(
            {
                "access_token": self.access_token,
                "refresh_token": self.refresh_token,
                "expires_at": self.expires_at.isoformat() if self.expires_at else "",
                "issued_at": self.issued_at.isoformat() if self.issued_at else "",
                "scope": self.scope,
                "id_token": self.id_token,
            },
            separators=(",", ":"),
        ).encode()

    @classmethod
    def load(cls, plaintext: bytes) -> Tokens:
        """The inverse of :meth:`dump`. Raises CredentialError (corrupt), without the text."""
        try:
            found = json.loads(plaintext)
            return cls(
                access_token=str(found["access_token"]),
                refresh_token=str(found["refresh_token"]),
                expires_at=_moment(found["expires_at"]),
                issued_at=_moment(found["issued_at"]),
                scope=str(found["scope"]),
                id_token=str(found["id_token"]),
            )
        except (ValueError, TypeError, KeyError):
            pass  # what these errors quote is the plaintext
        raise CredentialError(Code.CREDENTIAL_CORRUPT, "The unsealed grant holds no tokens.")


def _moment(text: object) -> datetime | None:
    return datetime.fromisoformat(str(text)) if text else None


#: An access token is renewed when a fifth of its life is left, and never later than two seconds before its end.
AHEAD = 0.2
AHEAD_LEAST = timedelta(seconds=2)
AHEAD_MOST = timedelta(minutes=10)


def renew_at(issued_at: datetime, expires_at: datetime) -> datetime:
    """When what lives from ``issued_at`` to ``expires_at`` is to be renewed."""
    ahead = min(max((expires_at - issued_at) * AHEAD, AHEAD_LEAST), AHEAD_MOST)
    return max(expires_at - ahead, issued_at + (expires_at - issued_at) / 2)


@dataclass(frozen=True, slots=True)
class Grant:
    """A grant's metadata: everything but its tokens. ``settings``: the answers to the provider's questions."""

    id: UUID  # the credential's
    owner: str
    name: str
    kind: str
    provider: str
    state: GrantState
    credential_state: str
    subject: str = ""  # the account that consented, as the provider names it
    asked: tuple[str, ...] = ()
    granted: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    generation: int = 0  # the block that holds its tokens; 0: none
    access_expires_at: datetime | None = None
    created_at: datetime | None = None
    granted_at: datetime | None = None
    refreshed_at: datetime | None = None
    pending_at: datetime | None = None  # a refresh was begun then and nobody said how it ended
    pending: int = 0  # the block that it was to fill; 0: none is under way
    trouble_code: str = ""
    trouble_message: str = ""
    checked_at: datetime | None = None
    check_code: str = ""  # empty with checked_at: it works
    check_message: str = ""
    revoked_at: datetime | None = None
    provider_told: bool | None = None


@dataclass(frozen=True, slots=True)
class Pass:
    """What a push is opened with just now. ``expires_at`` None: it does not end by itself."""

    secret: Secret
    expires_at: datetime | None
    renew_at: datetime | None


@dataclass(frozen=True, slots=True)
class Bearer:
    """An access token as a Secret.

    ``endpoint``: the operator's own for this provider, trusted; empty for the default. ``ca_file``: path of the CAs that
    alone vouch for it; empty: the machine's own.
    """

    access_token: str = field(repr=False)
    expires_at: datetime | None
    renew_at: datetime | None
    endpoint: str = ""
    kind: str = "bearer"
    ca_file: str = ""

    def reveal(self) -> Mapping[str, str]:
        """``access_token``."""
        return {"access_token": self.access_token}


@dataclass(frozen=True, slots=True)
class Sas:
    """A shared access signature of a container as a Secret.

    ``container_url``: https://HOST[/ACCOUNT]/CONTAINER, told by the operator's provider and the grant, trusted;
    ``query`` without ``?``; ``ca_file`` as :class:`Bearer` has it.
    """

    container_url: str
    query: str = field(repr=False)
    expires_at: datetime
    kind: str = "sas"
    ca_file: str = ""

    @property
    def endpoint(self) -> str:
        """Where the container lies: all but its own name."""
        return self.container_url.rpartition("/")[0]

    def reveal(self) -> Mapping[str, str]:
        """``sas_url`` and ``query``."""
        return {"sas_url": f"{self.container_url}?{self.query}", "query": self.query}


@dataclass(frozen=True, slots=True)
class Share:
    """``principal`` may push with the grant below ``uri`` (SCHEME://BUCKET[/PREFIX], no trailing slash) until then."""

    id: UUID
    grant_id: UUID
    principal: str
    uri: str
    until: datetime
    created_at: datetime
    created_by: str
    ended_at: datetime | None = None

    def covers(self, uri: str, now: datetime) -> bool:
        """Whether a push to ``uri`` may be made by it now: at or below its prefix, segment by segment."""
        return self.ended_at is None and now < self.until and (uri == self.uri or uri.startswith(f"{self.uri}/"))


@dataclass(frozen=True, slots=True)
class Attempt:
    """One way to a provider and back. ``grant_id``: of the grant that is to be reconnected; None for a new one.

    Neither state, nonce nor PKCE verifier is stored: they follow from the browser's session and ``id``, see
    ``push.grants.consenting``.
    """

    id: UUID
    session: bytes  # SHA-256 of the browser's session token
    owner: str
    provider: str
    name: str
    settings: Mapping[str, str]
    asked: tuple[str, ...]
    grant_id: UUID | None
    created_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class AttemptEnd:
    """An attempt and how it ended. ``outcome``: ``granted`` or the code of an error; empty: nobody has said yet."""

    attempt: Attempt
    used_at: datetime | None
    outcome: str
    message: str

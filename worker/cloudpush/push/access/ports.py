"""What is kept about who may what, and who keeps it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID, uuid5

from cloudpush.push.access.model import Role, Scope

_ROLES = UUID("5d0f3a52-4f0e-5c1b-9d3f-1a6f0b7f2c11")


def stream_of(principal: str) -> UUID:
    """The stream of events about a principal's roles."""
    return uuid5(_ROLES, principal)


@dataclass(frozen=True, slots=True)
class RoleGrant:
    """A role that somebody has beside ``user``."""

    principal: str
    role: Role
    granted_at: datetime
    granted_by: str

    def row(self) -> Mapping[str, Any]:
        """As it is shown."""
        return {name: getattr(self, name) for name in ("principal", "role", "granted_at", "granted_by")}


@dataclass(frozen=True, slots=True)
class ApiToken:
    """A token's metadata. ``role`` None: all that its owner has when it is used."""

    id: UUID
    owner: str
    name: str
    role: Role | None
    scopes: frozenset[Scope]
    created_at: datetime
    created_by: str
    expires_at: datetime
    used_at: datetime | None = None
    revoked_at: datetime | None = None

    def row(self) -> Mapping[str, Any]:
        """As it is shown: there is no secret in it."""
        names = ("id", "owner", "name", "role", "created_at", "created_by", "expires_at", "used_at", "revoked_at")
        scopes = [scope for scope in Scope if scope in self.scopes]
        return {name: getattr(self, name) for name in names} | {"scopes": scopes}


@dataclass(frozen=True, slots=True)
class DeviceLogin:
    """A command line that waits for somebody to confirm it in a browser."""

    user_code: str
    asked_from: str
    scopes: frozenset[Scope]
    created_at: datetime
    expires_at: datetime
    owner: str | None = None  # who decided
    denied: bool = False
    taken: bool = False


@dataclass(frozen=True, slots=True)
class Submitter:
    """For whom a token was signed. ``token_id``: the API token that it was asked for with."""

    name: str
    actor: str
    roles: frozenset[Role]
    scopes: frozenset[Scope]
    token_id: UUID | None


class RoleBook(Protocol):
    """Who has which role beside ``user``. Raises StoreError."""

    def roles_of(self, principal: str) -> frozenset[Role]:
        """What was granted to them."""

    def roles(self, principal: str | None = None) -> Sequence[RoleGrant]:
        """Everybody's grants, or one's, in the order of their names."""

    def grant_role(self, principal: str, role: Role, actor: str) -> bool:
        """Give them a role; False where they had it. Repeatable."""

    def revoke_role(self, principal: str, role: Role, actor: str) -> bool:
        """Take it away; False where they did not have it. Repeatable."""


class TokenBook(RoleBook, Protocol):
    """Tokens, of which only digests are kept. Raises StoreError."""

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
        """A token that lives for ``seconds``."""

    def find_token(self, token_sha256: bytes) -> tuple[ApiToken, frozenset[Role]] | None:
        """The living token of this digest, and what was granted to its owner; that it is used is noted once a minute."""

    def token(self, token_id: UUID) -> ApiToken | None:
        """The token of this id, living or not."""

    def tokens(self, owner: str | None, *, ended: bool = False) -> Sequence[ApiToken]:
        """The owner's, or everybody's (None), newest first; expired and revoked ones only where ``ended``."""

    def revoke_token(self, token_id: UUID, owner: str | None, actor: str) -> ApiToken:
        """End it now. Repeatable. Raises InputError UNKNOWN_TOKEN, also where it is not ``owner``'s (None: anybody's)."""


class LoginBook(Protocol):
    """Logins on their way (RFC 8628). Raises StoreError."""

    def add_device(
        self, device_sha256: bytes, user_code: str, *, asked_from: str, scopes: frozenset[Scope], seconds: float
    ) -> DeviceLogin | None:
        """A login that waits for ``seconds``; None where the user code is taken."""

    def find_by_user_code(self, user_code: str) -> DeviceLogin | None:
        """The login of this code that nobody has decided and that has not expired."""

    def decide(self, user_code: str, owner: str, *, approve: bool) -> bool:
        """Confirm or deny it, once; False where it was decided, has expired or never was."""

    def poll(self, device_sha256: bytes, interval: float) -> tuple[DeviceLogin, bool] | None:
        """The login of this device that has not expired, and whether it was asked for sooner than ``interval`` seconds ago."""

    def take(self, device_sha256: bytes, token_sha256: bytes, *, seconds: float) -> ApiToken | None:
        """Once it is confirmed, and once only: store the token that it brings. None where it brings none."""


class BearerJwts(Protocol):
    """Tokens that another issuer made."""

    def identify(self, token: str) -> Identified:
        """Whom it names. Raises AccessError UNAUTHENTICATED; CloudPushError where the issuer's keys are not to be had."""


@dataclass(frozen=True, slots=True)
class Identified:
    """What a checked JWT says. ``roles`` None: it says nothing about roles, so that what was granted here counts."""

    owner: str
    roles: frozenset[Role] | None
    scopes: frozenset[Scope]
    expires_at: datetime

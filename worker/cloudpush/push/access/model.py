"""Principals, their roles, the scopes of what they carry, and the rights that follow.

A *role* says what somebody is to this installation; a *scope* what the token in hand may be used for. Both must allow it::

    right         pipeline  user  auditor  admin    scope of a token
    SUBMIT           ✓       ✓               ✓      submit    push, cancel, retry, hand over fresh URLs, preflight: own
    READ             ✓       ✓       ✓       ✓      read      own pushes, credentials, receipts
    CREDENTIALS              ✓               ✓      submit    add and purge own credentials
    TOKENS                   ✓               ✓      admin     make and revoke own tokens
    READ_ALL                         ✓       ✓      audit     everybody's rows, the record's integrity
    EXPORT                           ✓       ✓      audit     whole tables
    ACT_ALL                                  ✓      admin     the above of others; submit on their behalf
    ADMIN                                    ✓      admin     grant roles; tokens of others

Whoever was granted no role is a ``user``; so an auditor who is to push as well is granted both. Somebody with several roles
has the rights of each. A browser's
session has every scope, a token the ones it was made with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from uuid import UUID

from cloudpush.errors import AccessError, Code
from cloudpush.push.access.names import checked


class Role(StrEnum):
    """What somebody is to this installation."""

    PIPELINE = "pipeline"  # a program that pushes on its owner's behalf, and manages nothing
    USER = "user"  # a person with clouds of their own
    AUDITOR = "auditor"  # sees everything, changes nothing
    ADMIN = "admin"  # an operator


class Scope(StrEnum):
    """What a token may be used for."""

    SUBMIT = "submit"
    READ = "read"
    AUDIT = "audit"
    ADMIN = "admin"


class Right(StrEnum):
    """What somebody may do; see the module's table."""

    SUBMIT = "submit"
    READ = "read"
    CREDENTIALS = "credentials"
    TOKENS = "tokens"
    READ_ALL = "read_all"
    EXPORT = "export"
    ACT_ALL = "act_all"
    ADMIN = "admin"


RIGHTS: Mapping[Role, frozenset[Right]] = MappingProxyType(
    {
        Role.PIPELINE: frozenset({Right.SUBMIT, Right.READ}),
        Role.USER: frozenset({Right.SUBMIT, Right.READ, Right.CREDENTIALS, Right.TOKENS}),
        Role.AUDITOR: frozenset({Right.READ, Right.READ_ALL, Right.EXPORT}),
        Role.ADMIN: frozenset(Right),
    }
)

NEEDS: Mapping[Right, Scope] = MappingProxyType(
    {
        Right.SUBMIT: Scope.SUBMIT,
        Right.READ: Scope.READ,
        Right.CREDENTIALS: Scope.SUBMIT,
        Right.TOKENS: Scope.ADMIN,
        Right.READ_ALL: Scope.AUDIT,
        Right.EXPORT: Scope.AUDIT,
        Right.ACT_ALL: Scope.ADMIN,
        Right.ADMIN: Scope.ADMIN,
    }
)

ALL_SCOPES = frozenset(Scope)


class Via(StrEnum):
    """How somebody showed who they are."""

    TOKEN = "token"  # noqa: S105 -- a word, not a secret
    JWT = "jwt"
    SESSION = "session"
    BROKER = "broker"  # a signed submission token in a message


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks. ``name`` owns what they make; ``actor`` is who the record says did it."""

    name: str
    roles: frozenset[Role]
    scopes: frozenset[Scope]
    actor: str
    via: Via
    token_id: UUID | None = None  # with Via.TOKEN

    def may(self, right: Right) -> bool:
        """Whether some role of theirs gives this right and what they carry may be used for it."""
        return NEEDS[right] in self.scopes and any(right in RIGHTS[role] for role in self.roles)

    def need(self, right: Right) -> None:
        """Raise AccessError FORBIDDEN unless they may; it says whether the role or the scope is lacking."""
        if self.may(right):
            return
        if not any(right in RIGHTS[role] for role in self.roles):
            roles = " or ".join(role for role in Role if right in RIGHTS[role])
            raise AccessError(Code.FORBIDDEN, f"{self.name!r} needs the role {roles} for this.", field="authorization")
        raise AccessError(
            Code.FORBIDDEN,
            f"The token of {self.name!r} needs the scope {NEEDS[right]} for this.",
            field="authorization",
        )

    @property
    def sees(self) -> str | None:
        """Whose rows they see: their own, or None for everybody's. Raises AccessError where they may read nothing."""
        if self.may(Right.READ_ALL):
            return None
        self.need(Right.READ)
        return self.name

    def owner_to_act_for(self, asked: str = "") -> str:
        """On whose behalf they act: their own unless they asked for another's, which takes ACT_ALL.

        Raises AccessError; InputError for what can be nobody's name.
        """
        if asked and asked != self.name:
            self.need(Right.ACT_ALL)
            return checked(asked, "owner")
        return self.name

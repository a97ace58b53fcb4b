"""What a mint asks, without a store, a vault or a provider: grants, tokens and identity tokens that the test owns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

from builders import CREDENTIAL, NOON, OWNER
from cloudpush.credentials.minting import AccessTokens
from cloudpush.errors import Code, InputError
from cloudpush.push.credential import CredentialState
from cloudpush.push.grants.model import OAUTH_GRANT, Flow, Grant, GrantState, Provider, Tokens, Use
from cloudpush.push.grants.ports import IdentityTokens, Providers

ROLE = "arn:aws:iam::123456789012:role/cloudpush"


def a_provider(use: Use, **changes: Any) -> Provider:
    """A provider whose grants are used like that."""
    given: dict[str, Any] = {
        "name": "lab",
        "title": "The lab's cloud",
        "flow": Flow.WEB_IDENTITY if use is Use.WEB_IDENTITY else Flow.CODE,
        "use": use,
        "profile": "seaweedfs",
        "client_id": "cloudpush-client",
        "audience": "cloudpush",
    }
    if use is Use.USER_DELEGATION_SAS:
        given["endpoint"] = "https://{account}.blob.core.windows.net"
    if use is Use.WEB_IDENTITY:
        given["sts_endpoint"] = "https://sts.{region}.amazonaws.com"
    return Provider(**(given | changes))


def an_active_grant(**changes: Any) -> Grant:
    """A grant that may be used."""
    given: dict[str, Any] = {
        "id": CREDENTIAL,
        "owner": OWNER,
        "name": "lab",
        "kind": OAUTH_GRANT,
        "provider": "lab",
        "state": GrantState.ACTIVE,
        "credential_state": CredentialState.ACTIVE,
        "generation": 1,
        "granted_at": NOON,
        "settings": {"account": "labresults", "role_arn": ROLE, "region": "eu-central-1"},
    }
    return Grant(**(given | changes))


class OneProvider(Providers):
    """A list of one."""

    def __init__(self, provider: Provider) -> None:
        self.provider = provider

    def get(self, name: str) -> Provider:
        if name != self.provider.name:
            raise InputError(Code.UNKNOWN_PROVIDER, f"There is no provider {name!r}.")
        return self.provider

    def all(self) -> Sequence[Provider]:
        return [self.provider]

    def resolve(self, provider: Provider) -> Provider:
        return provider


class Grants:
    """What a mint asks of the store."""

    def __init__(self, *grants: Grant) -> None:
        self.known = {grant.id: grant for grant in grants}

    def get(self, grant_id: UUID) -> Grant | None:
        return self.known.get(grant_id)

    def change(self, **changes: Any) -> None:
        """Of all of them."""
        self.known = {key: replace(grant, **changes) for key, grant in self.known.items()}


class FakeAccess(AccessTokens):
    """Hands out ``tokens`` as the current generation; asked for a later one, it puts the next of ``following`` in their place."""

    def __init__(self, grants: Grants, tokens: Tokens, *following: Tokens) -> None:
        self.grants = grants
        self.current = tokens
        self.following = list(following)
        self.generation = 1
        self.asked: list[int] = []

    def tokens(self, grant_id: UUID, *, beyond: int = 0) -> tuple[Grant, Tokens]:
        self.asked.append(beyond)
        if beyond >= self.generation and self.following:
            self.current = self.following.pop(0)
            self.generation += 1
        grant = self.grants.get(grant_id)
        assert grant is not None
        return replace(grant, generation=self.generation), self.current


class FakeIdentity(IdentityTokens):
    """Identity tokens that say in plain text what they are about."""

    def __init__(self) -> None:
        self.issued: list[tuple[UUID, str, int]] = []

    def issue(self, grant: Grant, audience: str, seconds: int) -> str:
        self.issued.append((grant.id, audience, seconds))
        return f"identity of {grant.id} for {audience}, number {len(self.issued)}"


def some_tokens(
    name: str = "one", *, issued_at: datetime = NOON, expires_at: datetime | None = None, **more: Any
) -> Tokens:
    """Tokens that are named."""
    return Tokens(f"access-{name}", f"refresh-{name}", expires_at, issued_at, **more)

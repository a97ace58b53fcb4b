"""Givens about consents: values that a test needs but does not care about."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from builders import NOON, OWNER
from cloudpush.push.credential import Credential, CredentialState
from cloudpush.push.grants.model import OAUTH_GRANT, Attempt, Grant, GrantState, Share, Tokens

SCOPE = "storage.write"
SESSION = bytes(32)


def a_grant(**changes: Any) -> Grant:
    """What a consent gave: tokens in its first block, not sealed yet."""
    values: dict[str, Any] = {
        "id": uuid4(),
        "owner": OWNER,
        "name": f"lab-{uuid4()}",
        "kind": OAUTH_GRANT,
        "provider": "mock",
        "state": GrantState.ACTIVE,
        "credential_state": "sealing",
        "subject": "ada@example.org",
        "asked": (SCOPE, "openid"),
        "granted": (SCOPE,),
        "generation": 1,
    }
    return Grant(**(values | changes))


def its_credential(grant: Grant, now: datetime = NOON) -> Credential:
    """The row beside a grant's."""
    return Credential(
        id=grant.id,
        owner=grant.owner,
        kind=grant.kind,
        name=grant.name,
        profile="seaweedfs",
        endpoint="",
        state=CredentialState.SEALING,
        created_at=now,
        created_by=grant.owner,
    )


def an_attempt(now: datetime = NOON, **changes: Any) -> Attempt:
    """A browser that was sent to the provider just now."""
    values: dict[str, Any] = {
        "id": uuid4(),
        "session": SESSION,
        "owner": OWNER,
        "provider": "mock",
        "name": "lab",
        "settings": {"account": "labresults"},
        "asked": (SCOPE,),
        "grant_id": None,
        "created_at": now,
        "expires_at": now + timedelta(minutes=10),
    }
    return Attempt(**(values | changes))


def a_share(grant_id: UUID, now: datetime = NOON, **changes: Any) -> Share:
    """A pipeline may push below one prefix for a day."""
    values: dict[str, Any] = {
        "id": uuid4(),
        "grant_id": grant_id,
        "principal": "pipeline",
        "uri": "s3://results/runs",
        "until": now + timedelta(days=1),
        "created_at": now,
        "created_by": OWNER,
    }
    return Share(**(values | changes))


def some_tokens(now: datetime = NOON, **changes: Any) -> Tokens:
    """A generation that lives an hour."""
    values: dict[str, Any] = {
        "access_token": "at",
        "refresh_token": "rt",
        "expires_at": now + timedelta(hours=1),
        "issued_at": now,
        "scope": SCOPE,
    }
    return Tokens(**(values | changes))

"""What a token endpoint answers, and who we say we are there: for refresh and consent alike.

Whatever comes back is judged here and reduced to what we know before a library sees it: they quote answers in their errors, and
write tokens to their log.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Protocol, cast
from urllib.parse import quote

import requests
from requests.auth import AuthBase, HTTPBasicAuth

from cloudpush.credentials.wire import origin_of
from cloudpush.errors import CloudPushError, Code, CredentialError
from cloudpush.logs import MASK, redact
from cloudpush.push.grants.model import Provider, Tokens

#: The provider's ``error`` → our code, and words with {title} in them. ``""``: for an error that has no entry.
Errors = Mapping[str, tuple[Code, str]]

#: `token_auth` of a client without a secret, and of one that shows it in a header.
PUBLIC, BASIC = "none", "client_secret_basic"
#: A life beyond this is a mistake of the provider's.
_LONGEST = timedelta(days=3650)
_WORD = re.compile(r"[A-Za-z0-9._~+/=%-]{6,}")
_PIECE = 6


class ClientSecrets(Protocol):
    """Where client secrets are: :class:`cloudpush.credentials.clients.Clients`."""

    def secret(self, name: str) -> str:
        """Empty where there is none. Raises VaultError."""


def client_auth(provider: Provider, clients: ClientSecrets) -> tuple[str, dict[str, str], AuthBase | None]:
    """The client secret, the fields of the body and the authentication that say who we are.

    Raises VaultError, CloudPushError CLIENT_REJECTED: there is no secret.
    """
    if provider.token_auth == PUBLIC:
        return "", {"client_id": provider.client_id}, None
    secret = clients.secret(provider.name)
    if not secret:
        raise CloudPushError(
            Code.CLIENT_REJECTED,
            f"{provider.title} is not set up to its end: the operator has to `cloudpush provider set-secret {provider.name}`.",
        )
    if provider.token_auth == BASIC:
        # RFC 6749 §2.3.1: each is encoded as in a form before they are joined
        return secret, {}, HTTPBasicAuth(quote(provider.client_id, safe=""), quote(secret, safe=""))
    return secret, {"client_id": provider.client_id, "client_secret": secret}, None


def reduced(
    answer: requests.Response, provider: Provider, secrets: tuple[str, ...], errors: Errors
) -> requests.Response:
    """``answer`` with nothing in it but what the library and we need. Raises CloudPushError for everything but tokens."""
    said = read_object(answer.content)
    token = said.get("access_token")
    if answer.status_code != 200 or "error" in said:
        raise refusal(provider, answer.url, answer.status_code, said, secrets, errors)
    if not isinstance(token, str) or not token or str(said.get("token_type", "bearer")).lower() != "bearer":
        raise CloudPushError(
            Code.PROVIDER_UNAVAILABLE, f"{provider.title} ({origin_of(answer.url)}) answers without a bearer token."
        )
    kept: dict[str, Any] = {"access_token": token, "token_type": "Bearer"}
    for name in ("refresh_token", "scope", "id_token"):
        if isinstance(said.get(name), str) and said[name]:
            kept[name] = said[name]
    seconds = _seconds(said.get("expires_in"))
    if seconds is not None:
        kept["expires_in"] = seconds
    answer._content = json.dumps(kept).encode()  # noqa: SLF001 -- what `text` gives
    return answer


def tokens_of(found: Mapping[str, Any], issued_at: datetime) -> Tokens:
    """A reduced answer, as a library has read it, as ours."""
    scope, seconds = found.get("scope") or "", found.get("expires_in")
    return Tokens(
        access_token=found["access_token"],
        refresh_token=found.get("refresh_token", ""),
        expires_at=None if seconds is None else issued_at + timedelta(seconds=int(seconds)),
        issued_at=issued_at,
        scope=" ".join(scope) if isinstance(scope, list) else str(scope),
        id_token=found.get("id_token", ""),
    )


def _seconds(value: object) -> int | None:
    """``expires_in`` as providers write it: a number or its text. None where there is no sense in it."""
    try:
        seconds = int(float(cast("str", value)))
    except (TypeError, ValueError, OverflowError):
        return None
    return max(1, min(seconds, int(_LONGEST.total_seconds())))  # 0 is "unknown" to the library


def read_object(body: bytes) -> dict[str, Any]:
    """A JSON object; empty where it is none."""
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def refusal(
    provider: Provider, url: str, status: int, said: Mapping[str, Any], secrets: tuple[str, ...], errors: Errors
) -> CloudPushError:
    """What an answer that is no success means. ``secrets``: what was sent, for providers that quote it."""
    where, title = origin_of(url), provider.title
    words = [
        str(said[name])[:500] for name in ("error", "error_subtype", "suberror", "error_description") if name in said
    ]
    detail = quoteless(f"{status} {': '.join(words)}".strip(), *secrets)
    for name in (said.get("error_subtype"), said.get("suberror"), said.get("error")):
        if isinstance(name, str) and name in errors:
            code, text = errors[name]
            kind = CredentialError if code is Code.CONSENT_NEEDED else CloudPushError
            return kind(code, text.format(title=title), detail=detail)
    if status == 429:
        return CloudPushError(Code.THROTTLED, f"{title} asks us to slow down.", detail=detail)
    if status == 401:
        return CloudPushError(Code.CLIENT_REJECTED, errors["invalid_client"][1].format(title=title), detail=detail)
    if "error" in said and "" in errors and status < 500:
        code, text = errors[""]
        return CloudPushError(code, text.format(title=title), detail=detail)
    if 300 <= status < 400:
        why = "redirects, which is not followed: the operator's provider table must name the endpoint itself"
    elif status >= 500:
        why = f"cannot answer just now ({status})"
    else:
        why = f"answers {status} to what should be a token endpoint's request"
    return CloudPushError(Code.PROVIDER_UNAVAILABLE, f"{title} ({where}) {why}.", detail=detail)


def quoteless(text: str, *secrets: str) -> str:
    """``text`` on one line, without what looks like a secret and without any piece of ``secrets``, however it was cut."""
    pieces = {s[i : i + _PIECE] for s in secrets for i in range(len(s) - _PIECE + 1)}

    def masked(match: re.Match[str]) -> str:
        word = match[0]
        known = any(word[i : i + _PIECE] in pieces for i in range(len(word) - _PIECE + 1))
        return MASK if known else word

    return redact(_WORD.sub(masked, " ".join(text.split())), *secrets, limit=500)

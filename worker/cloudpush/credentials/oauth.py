"""A provider's token and revocation endpoints, by requests-oauthlib's ``OAuth2Session``.

::

    refresh   POST token_endpoint       grant_type=refresh_token&refresh_token=…          RFC 6749 §6
    revoke    POST revocation_endpoint  token=…&token_type_hint=refresh_token              RFC 7009

Whatever comes back is judged by :data:`_ERRORS` before the library sees it (``credentials.answers``). A refresh token that was sent may have been spent, whatever the error says, unless
the error says that nothing was sent (``ENDPOINT_*``, ``TLS_FAILED``).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from requests_oauthlib import OAuth2Session

from cloudpush.credentials import urls
from cloudpush.credentials.answers import ClientSecrets, Errors, client_auth, read_object, reduced, refusal, tokens_of
from cloudpush.credentials.wire import CONNECT_SECONDS, READ_SECONDS, Careful, asked
from cloudpush.errors import CloudPushError, Code
from cloudpush.logs import get_logger
from cloudpush.push.grants.model import Provider, Tokens

log = get_logger(__name__)

#: `error` (or its finer `error_subtype`) of RFC 6749 §5.2, RFC 7009 §2.2.1 and of providers' own → our code and words.
_DEAD = "{title} no longer accepts this connection: it was revoked, it expired, or it was replaced by a later one."
_ERRORS: Errors = {
    "invalid_rapt": (
        Code.CONSENT_NEEDED,
        "Your organisation wants you to sign in at {title} again from time to time, and that time has come.",
    ),
    "interaction_required": (Code.CONSENT_NEEDED, "{title} wants you to sign in again before it goes on."),
    "login_required": (Code.CONSENT_NEEDED, "{title} wants you to sign in again before it goes on."),
    "consent_required": (Code.CONSENT_NEEDED, "{title} wants you to consent again before it goes on."),
    "invalid_scope": (Code.CONSENT_NEEDED, "{title} no longer grants what was once granted: consent again."),
    "invalid_grant": (Code.CONSENT_NEEDED, _DEAD),
    "invalid_client": (Code.CLIENT_REJECTED, "{title} does not accept CloudPush's client id and secret."),
    "unauthorized_client": (Code.CLIENT_REJECTED, "{title} does not allow CloudPush's client id to refresh tokens."),
    "unsupported_grant_type": (Code.CLIENT_REJECTED, "{title} does not allow CloudPush's client id to refresh tokens."),
    "invalid_request": (Code.CLIENT_REJECTED, "{title} does not understand CloudPush's request: check its table."),
    "slow_down": (Code.THROTTLED, "{title} asks us to slow down."),
    "temporarily_unavailable": (Code.PROVIDER_UNAVAILABLE, "{title} cannot answer just now."),
    "server_error": (Code.PROVIDER_UNAVAILABLE, "{title} cannot answer just now."),
}
#: What a revocation endpoint says of a token that is dead already.
_GONE = frozenset({"invalid_token", "invalid_grant"})


class _Session(Careful, OAuth2Session):  # type: ignore[misc]
    """The library's session, told everything by us."""


def _now() -> datetime:
    return datetime.now(UTC)


class HttpTokenEndpoint:
    """Implements ``push.grants.ports.TokenEndpoint``. Thread-safe: each call has a session of its own."""

    def __init__(self, clients: ClientSecrets, *, now: Callable[[], datetime] = _now) -> None:
        self._clients = clients
        self._now = now
        for name in ("oauthlib", "requests_oauthlib"):  # at level debug they write tokens
            logging.getLogger(name).setLevel(logging.WARNING)

    def refresh(self, provider: Provider, refresh_token: str) -> Tokens:
        """Spend ``refresh_token``. Raises as ``push.grants.ports.TokenEndpoint`` says; VaultError: nothing was sent."""
        url = _trusted(provider, "token_endpoint")
        secret, body, auth = client_auth(provider, self._clients)
        issued_at = self._now()
        with _session(provider) as session:
            session.register_compliance_hook(
                "refresh_token_response", lambda answer: reduced(answer, provider, (refresh_token, secret), _ERRORS)
            )
            found = asked(
                url,
                lambda: session.refresh_token(
                    url, refresh_token=refresh_token, auth=auth, timeout=(CONNECT_SECONDS, READ_SECONDS), **body
                ),
            )
        return tokens_of(found, issued_at)

    def revoke(self, provider: Provider, tokens: Tokens) -> bool:
        """End the grant at the provider; False where it offers no way. Raises as ``push.grants.ports`` says."""
        if not provider.revocation_endpoint:
            return False
        url = _trusted(provider, "revocation_endpoint")
        secret, body, auth = client_auth(provider, self._clients)
        # The refresh token where there is one: with it the whole grant ends, access tokens included (RFC 7009 §2.1).
        token, hint = (
            (tokens.refresh_token, "refresh_token") if tokens.refresh_token else (tokens.access_token, "access_token")
        )
        with _session(provider) as session:

            def ask() -> tuple[int, bytes]:
                answer = session.post(
                    url,
                    data={"token": token, "token_type_hint": hint, **body},
                    auth=auth,
                    timeout=(CONNECT_SECONDS, READ_SECONDS),
                    headers={"Accept": "application/json"},
                    withhold_token=True,
                )
                return answer.status_code, answer.content

            status, text = asked(url, ask)
        said = read_object(text)
        if status < 300 or said.get("error") in _GONE:
            return True
        raise refusal(provider, url, status, said, (token, secret), _ERRORS)


def _trusted(provider: Provider, field: str) -> str:
    """The endpoint, if tokens may go there. Raises CloudPushError CLIENT_REJECTED."""
    url = str(getattr(provider, field))
    try:
        urls.check(url)
    except ValueError as e:
        raise CloudPushError(
            Code.CLIENT_REJECTED, f"The {field} of {provider.name} {e}: correct the operator's provider table."
        ) from None
    if urlsplit(url).scheme == "http":
        # oauthlib refuses plain HTTP wherever it goes, even on loopback, and knows no other way to be told. The variable
        # holds for the whole process; that nothing but loopback is asked in plain HTTP is what `urls.check` sees to.
        os.environ["OAUTHLIB_INSECURE_TRANSPORT"] = "1"
    return url


def _session(provider: Provider) -> Any:  # the library has no types
    make: Any = _Session
    session = make(client_id=provider.client_id)
    session.arm(provider)
    return session

"""What makes CloudPush an OpenID Connect issuer to the outside: its metadata and its public keys.

Clouds fetch both by themselves, without a session: nothing here is secret, nothing depends on who asks.
"""

from __future__ import annotations

from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cloudpush.errors import VaultError

DISCOVERY = "/.well-known/openid-configuration"
JWKS = "/.well-known/jwks.json"
#: Seconds that a copy may be kept. Of the keys less than ``credentials.issuer.SETTLED``, so that nobody meets a new one unknown.
DISCOVERY_AGE = 3_600
JWKS_AGE = 300
RETRY_SECONDS = 5


class Keys(Protocol):
    """Where the public keys come from: ``credentials.issuer.PublicKeys``."""

    def jwks(self) -> dict[str, Any]:
        """A JSON Web Key Set. Raises VaultError."""


def metadata(url: str) -> dict[str, Any]:
    """The issuer's metadata (OpenID Connect Discovery 1.0). It issues tokens to its own workers only: no endpoint asks for one."""
    return {
        "issuer": url,
        "jwks_uri": f"{url}{JWKS}",
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "claims_supported": ["iss", "sub", "aud", "iat", "nbf", "exp", "jti"],
        "scopes_supported": ["openid"],
    }


def issuer_routes(url: str, keys: Keys) -> list[Route]:
    """Routes for GET and HEAD. ``url``: CLOUDPUSH_WEB_URL, whatever address the request came in by."""
    about = metadata(url.rstrip("/"))

    def discovery(_request: Request) -> Response:
        return _kept(about, DISCOVERY_AGE)

    def jwks(_request: Request) -> Response:
        try:
            return _kept(keys.jwks(), JWKS_AGE)
        except VaultError:
            # Vault's words are for the log of whoever asked it; strangers learn that it passes.
            return Response(status_code=503, headers={"Retry-After": str(RETRY_SECONDS), "Cache-Control": "no-store"})

    return [Route(DISCOVERY, discovery), Route(JWKS, jwks)]


def _kept(value: dict[str, Any], seconds: int) -> Response:
    headers = {"Cache-Control": f"public, max-age={seconds}", "X-Content-Type-Options": "nosniff"}
    return JSONResponse(value, headers=headers)

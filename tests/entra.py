"""Access tokens as Entra ID makes them, but for the signature, which Azurite does not check."""

from __future__ import annotations

import base64
import json
import secrets
import time
from typing import Any

from cloudpush.push.grants.model import Rotation
from doubles.oauth_server import OAuthServer, _Family

TENANT = "ab1f708d-50f6-404c-a006-d71b2ac7a606"
#: What a token for something else is for.
GRAPH = "https://graph.microsoft.com"


def a_token(**claims: Any) -> str:
    """One for Azure Storage that lives for an hour, unless ``claims`` say otherwise."""
    now = int(time.time())
    given = {
        "aud": "https://storage.azure.com",
        "iss": f"https://sts.windows.net/{TENANT}/",
        "iat": now,
        "nbf": now - 60,
        "exp": now + 3600,
        "oid": "11059fcc-5514-4800-b5f8-49808b9cfab6",
        "tid": TENANT,
        "scp": "user_impersonation",
        "ver": "1.0",
    }
    parts = [{"alg": "RS256", "typ": "JWT"}, given | claims]
    said = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts]
    return ".".join([*said, "c2ln"])


class EntraServer(OAuthServer):
    """Issues tokens of this shape. ``claims``: of those that are issued from now on."""

    def __init__(self, **options: Any) -> None:
        super().__init__(Rotation.KEEPS_OLD, **options)
        self.claims: dict[str, Any] = {}

    def _issue(self, family: _Family) -> str:
        ends = int(time.time() + self.life)
        token = a_token(**({"exp": ends, "uti": secrets.token_hex(8)} | self.claims))
        self._access[token] = family, time.monotonic() + self.life
        return token

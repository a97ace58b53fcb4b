"""oidc-provider-mock: a small OpenID provider that stands for the place where a user consents, in the demo and in tests."""

from __future__ import annotations

import http.client
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from cloudpush.errors import Code, StackError
from cloudpush.stack.ports import HOST, free_ports
from cloudpush.stack.private import private_dir
from cloudpush.stack.process import Child
from cloudpush.stack.service import Service

SERVER = Path(__file__).with_name("oauth_mock_server.py")


@dataclass(frozen=True, slots=True)
class OAuthClient:
    """What a provider gives to an application that was registered with it."""

    id: str
    secret: str = field(repr=False)


class OAuthMock(Service):
    """One issuer on loopback: login and consent are one page with buttons, tokens are real and signed (RS256).

    It keeps everything in memory. Clients must be registered, so a redirect URI is checked as a real provider checks it.
    """

    name = "oidc-provider-mock"

    def __init__(
        self, directory: Path, *, users: Sequence[str] = (), token_seconds: int = 3600, log: Path | None = None
    ) -> None:
        """``users`` get a button each (the name is their e-mail address, too); tokens live ``token_seconds``."""
        super().__init__()
        self.directory = directory
        self._users = tuple(users)
        self._token_seconds = token_seconds
        self._log = log or directory / "oidc-provider-mock.log"
        self._port = 0

    @property
    def address(self) -> str:
        """``127.0.0.1:PORT``; known once it was started."""
        return f"{HOST}:{self._port}"

    @property
    def issuer(self) -> str:
        """``iss`` of its tokens; its metadata lie below it."""
        return f"http://{self.address}"

    @property
    def where(self) -> str:
        """The issuer."""
        return self.issuer if self._port else ""

    def launch(self) -> Child:
        """Start it on a port that is free."""
        if find_spec("oidc_provider_mock") is None:
            raise StackError(Code.STACK, "oidc-provider-mock is not installed: pip install 'cloudpush[demo]'")
        private_dir(self.directory)
        self._port = self._port or free_ports(1)[0]
        command: list[str | Path] = [
            *(sys.executable, SERVER),
            *("--host", HOST, "--port", str(self._port)),
            *("--require-registration", "true"),
            *("--token-max-age", str(self._token_seconds)),
            *(word for user in self._users for word in ("--user", user)),
        ]
        return Child(command, self._log, directory=self.directory)

    def probe(self) -> bool:
        """Whether it answers with its metadata."""
        try:
            return self._request("GET", "/.well-known/openid-configuration")[0] == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False

    def register(self, redirect_uri: str) -> OAuthClient:
        """A client of its own for one application, as an operator makes one at a provider. Raises StackError."""
        body = json.dumps({"redirect_uris": [redirect_uri], "token_endpoint_auth_method": "client_secret_basic"})
        status, answer = self._request("POST", "/oauth2/clients", body)
        if status != http.HTTPStatus.CREATED:
            raise StackError(Code.STACK, f"{self.name} answers {status} when a client is registered.")
        made = json.loads(answer)
        return OAuthClient(made["client_id"], made["client_secret"])

    def revoke_tokens(self, user: str) -> None:
        """What a user does on the provider's own page: all tokens of ``user`` are dead from now on. Raises StackError."""
        status, _ = self._request("POST", f"/users/{user}/revoke-tokens")
        if status != http.HTTPStatus.NO_CONTENT:
            raise StackError(Code.STACK, f"{self.name} answers {status} when tokens of {user!r} are revoked.")

    def _request(self, method: str, path: str, body: str | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(HOST, self._port, timeout=2)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

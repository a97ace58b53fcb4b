"""An OAuth provider in memory, for the story of consent: it keeps to the rules that make an attack fail or succeed."""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit
from uuid import UUID

from cloudpush.errors import CloudPushError, Code, InputError, VaultError
from cloudpush.push.grants.consenting import Asking, ConsentClient, Consenting, Identity, Outcome
from cloudpush.push.grants.model import Flow, Provider, Tokens, Use
from cloudpush.push.grants.ports import Providers, TokenSealer
from fakes import FakeClock
from fakes_grants import FakeGrantStore

CALLBACK = "https://push.example.org/consent/callback"
REDIRECT = f"{CALLBACK}/lab"
SESSION, OTHER_SESSION = "s" * 43, "o" * 43
WRITE = "storage.write"


def a_provider(name: str = "lab", **overrides: Any) -> Provider:
    """A provider that says who it is in its answers, with one needed scope."""
    fields: dict[str, Any] = {
        "title": name.capitalize(),
        "flow": Flow.CODE,
        "use": Use.BEARER,
        "profile": "gcs",
        "client_id": f"{name}-client",
        "issuer": f"https://{name}.example.org",
        "sends_issuer": True,
        "authorization_endpoint": f"https://{name}.example.org/authorize",
        "token_endpoint": f"https://{name}.example.org/token",
        "scopes": ("openid", "email", "offline_access", WRITE),
        "needs": (WRITE,),
        "explains": {WRITE: "Write objects", "storage.admin": "Delete buckets"},
        "manage_url": f"https://{name}.example.org/account",
    }
    return Provider(name=name, **(fields | overrides))


class FakeProviders(Providers):
    """These, and no metadata."""

    def __init__(self, *providers: Provider) -> None:
        self._by_name = {p.name: p for p in providers}

    def get(self, name: str) -> Provider:
        if name not in self._by_name:
            raise InputError(Code.UNKNOWN_PROVIDER, f"provider={name!r} is not known.", field="provider")
        return self._by_name[name]

    def all(self) -> Sequence[Provider]:
        return tuple(self._by_name.values())

    def resolve(self, provider: Provider) -> Provider:
        return provider


@dataclass
class _Code:
    client_id: str
    redirect_uri: str
    challenge: str
    nonce: str
    account: str
    scopes: str


class FakeConsentClient(ConsentClient):
    """Every provider at once: users consent by :meth:`consents`, codes are bound and used once as RFC 6749 and 7636 say.

    ``checks_pkce``, ``checks_nonce``: what a test takes away to see an attack succeed. ``seen``: (provider, code) of each
    exchange that was tried, also in vain.
    """

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.checks_pkce = self.checks_nonce = True
        self.gives_no_refresh_token = False
        self.seen: list[tuple[str, str]] = []
        self.revoked: list[str] = []
        self.revoking_fails: CloudPushError | None = None
        self._codes: dict[str, _Code] = {}
        self._nonces: dict[str, tuple[str, str]] = {}

    # -- at the provider ---------------------------------------------------------------------

    def consents(self, url: str, account: str = "ada", scopes: str | None = None) -> dict[str, str]:
        """The user signs in as ``account`` and says yes, to ``scopes`` only; the query that comes back."""
        asked = dict(parse_qsl(urlsplit(url).query))
        code = secrets.token_urlsafe(16)
        self._codes[code] = _Code(
            asked["client_id"],
            asked["redirect_uri"],
            asked["code_challenge"],
            asked.get("nonce", ""),
            account,
            asked["scope"] if scopes is None else scopes,
        )
        return {"code": code, "state": asked["state"], "iss": f"https://{urlsplit(url).netloc}"}

    # -- the port ----------------------------------------------------------------------------

    def authorization_url(self, asking: Asking) -> str:
        digest = hashlib.sha256(asking.verifier.encode()).digest()
        query = {
            "client_id": asking.provider.client_id,
            "redirect_uri": asking.redirect_uri,
            "scope": " ".join(asking.scopes),
            "state": asking.state,
            "nonce": asking.nonce,
            "code_challenge": base64.urlsafe_b64encode(digest).rstrip(b"=").decode(),
        }
        return f"{asking.provider.authorization_endpoint}?{urlencode(query)}"

    def exchange(self, provider: Provider, code: str, verifier: str, redirect_uri: str) -> Tokens:
        self.seen.append((provider.name, code))
        known = self._codes.pop(code, None)
        digest = hashlib.sha256(verifier.encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        if (
            known is None
            or known.client_id != provider.client_id
            or known.redirect_uri != redirect_uri
            or (self.checks_pkce and known.challenge != challenge)
        ):
            raise CloudPushError(Code.CONSENT_FAILED, f"{provider.title} does not take the code.")
        token = f"access-{secrets.token_urlsafe(8)}"
        self._nonces[token] = known.nonce, known.account
        now = self.clock.now()
        refresh = "" if self.gives_no_refresh_token else f"refresh-{token}"
        return Tokens(token, refresh, now + timedelta(hours=1), now, known.scopes, "id-token")

    def identify(self, provider: Provider, tokens: Tokens, nonce: str) -> Identity:
        expected, account = self._nonces[tokens.access_token]
        if self.checks_nonce and expected != nonce:
            raise CloudPushError(Code.CONSENT_FAILED, f"{provider.title}'s identity token is not the one asked for.")
        return Identity(subject=f"sub-{account}", account=f"{account}@example.org")

    def revoke(self, provider: Provider, tokens: Tokens) -> bool:
        if self.revoking_fails:
            raise self.revoking_fails
        self.revoked.append(tokens.access_token)
        return True


class FakeSealer(TokenSealer):
    """Keeps what was sealed, by grant and number. ``sealed_shut``: Vault takes nothing."""

    def __init__(self) -> None:
        self.blocks: dict[tuple[UUID, int], bytes] = {}
        self.sealed_shut = False

    def seal_tokens(self, grant_id: UUID, owner: str, number: int, plaintext: bytes) -> int:
        if self.sealed_shut:
            raise VaultError(Code.VAULT_SEALED, "Vault at http://127.0.0.1:8200 is sealed.")
        if (grant_id, number) in self.blocks:
            raise VaultError(Code.VAULT_DENIED, "It is there already.")
        self.blocks[grant_id, number] = plaintext
        return 1


@dataclass
class ConsentHouse:
    """The story of consent with everything in the test's hands."""

    providers: FakeProviders = field(default_factory=lambda: FakeProviders(a_provider()))
    clock: FakeClock = field(default_factory=FakeClock)
    story: type[Consenting] = Consenting
    store: FakeGrantStore = field(init=False)
    client: FakeConsentClient = field(init=False)
    sealer: FakeSealer = field(default_factory=FakeSealer)

    def __post_init__(self) -> None:
        self.store = FakeGrantStore(self.clock)
        self.client = FakeConsentClient(self.clock)

    @property
    def consenting(self) -> Consenting:
        """Stateless: made anew from what the test put in."""
        return self.story(self.store, self.providers, self.client, self.sealer, self.clock, CALLBACK)

    def complete(self, session: str, params: Mapping[str, str], came_to: str = "lab") -> Outcome:
        """An answer that comes to the redirect URI of ``came_to``."""
        return self.consenting.complete(session, came_to, params)

    def tokens(self, grant_id: UUID, number: int = 1) -> Tokens:
        """What was sealed."""
        return Tokens.load(self.sealer.blocks[grant_id, number])

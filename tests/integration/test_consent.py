"""Consent against real authorization servers, Postgres and OpenBao: the certified `oidc-provider`, and the demo's mock.

The browser is played by `oidc_provider.running.Visitor`, which fills in the provider's own pages; nothing of CloudPush is
replaced. What the pages look like in a browser is for tests/browser.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from uuid import UUID, uuid4

import pytest
import requests
import sqlalchemy as sa
from oidc_provider_mock import run_server_in_thread

import servers
from cloudpush.audit.credentials import Credentials
from cloudpush.audit.database import make_engine, transaction
from cloudpush.audit.grants import GrantBook
from cloudpush.audit.tables import consent_attempt, event
from cloudpush.credentials.clients import Clients
from cloudpush.credentials.connection import VaultConnection
from cloudpush.credentials.consent import AuthlibConsent
from cloudpush.credentials.oauth import HttpTokenEndpoint
from cloudpush.credentials.providers import ProviderBook
from cloudpush.credentials.vault import TokenSafe, TokenSealer
from cloudpush.errors import CloudPushError, Code, CredentialError
from cloudpush.push.custody import SEALING_PATIENCE
from cloudpush.push.grants.consenting import Consenting, Identity, Outcome
from cloudpush.push.grants.model import GrantState, Provider, Tokens
from cloudpush.push.grants.proofs import attempt_of
from cloudpush.settings import Settings
from cloudpush.stack.services import OpenBao
from oidc_provider import running as certified

pytestmark = pytest.mark.stack

REDIRECT = "http://127.0.0.1:8765/consent/callback"


class Present:
    """The clock on the wall."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def jitter(self) -> float:
        return 0.5


class Watched(AuthlibConsent):
    """Keeps what came for each code, and the nonces that were asked for."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.exchanges = 0
        self.exchanged: list[Tokens] = []
        self.nonces: list[str] = []

    def exchange(self, provider: Provider, code: str, verifier: str, redirect_uri: str) -> Tokens:
        self.exchanges += 1
        self.exchanged.append(super().exchange(provider, code, verifier, redirect_uri))
        return self.exchanged[-1]

    def identify(self, provider: Provider, tokens: Tokens, nonce: str) -> Identity:
        self.nonces.append(nonce)
        return super().identify(provider, tokens, nonce)


@dataclass
class House:
    """Everything real, for one provider and one owner who has connected nothing yet."""

    engine: sa.Engine
    vault: Settings
    provider: Provider
    owner: str = field(default_factory=lambda: f"ada-{uuid4().hex[:8]}")
    session: str = field(default_factory=lambda: uuid4().hex + "s" * 11)
    redirect_uri: str = REDIRECT

    def __post_init__(self) -> None:
        self.store = GrantBook(self.engine)
        self.book = ProviderBook([self.provider])
        web = VaultConnection(self.vault, "web")
        self.client = Watched(Clients(web))
        self.endpoint = HttpTokenEndpoint(Clients(VaultConnection(self.vault, "worker")))
        self.safe = TokenSafe(VaultConnection(self.vault, "worker"))
        self.consenting = Consenting(self.store, self.book, self.client, TokenSealer(web), Present(), self.redirect_uri)
        self.resolved = self.book.resolve(self.provider)

    def begin(self, **options: Any) -> str:
        return self.consenting.begin(self.session, self.owner, self.provider.name, **options).url

    def complete(self, answer: Mapping[str, str]) -> Outcome:
        return self.consenting.complete(self.session, self.provider.name, answer)

    def connect(self, login: str = "ada", **options: Any) -> Outcome:
        answer = certified.Visitor(REDIRECT).consent(self.begin(**options), login)
        return self.complete(answer)

    def tokens(self, grant_id: UUID | None, number: int = 1) -> Tokens:
        assert grant_id
        return Tokens.load(self.safe.open_tokens(grant_id, self.owner, number))

    def events(self, stream: UUID) -> list[str]:
        with transaction(self.engine) as c:
            found = c.execute(sa.select(event.c.kind).where(event.c.stream == stream).order_by(event.c.seq))
            return list(found.scalars())

    def alive(self, tokens: Tokens) -> bool:
        """Whether the provider still knows the access token."""
        answer = requests.get(
            f"{self.provider.issuer}/me", headers={"authorization": f"Bearer {tokens.access_token}"}, timeout=30
        )
        return answer.status_code == 200


@pytest.fixture(scope="module")
def engine(database: servers.Database) -> Iterator[sa.Engine]:
    made = make_engine(database.url)
    yield made
    made.dispose()


@pytest.fixture(scope="module")
def owner(database: servers.Database) -> Iterator[sa.Engine]:
    """May do what no role of CloudPush may: move an attempt into the past."""
    made = make_engine(database.admin_url)
    yield made
    made.dispose()


@pytest.fixture(scope="module")
def vault(openbao: OpenBao) -> Settings:
    settings = Settings(vault_url=openbao.url, vault_auth_dir=openbao.auth_dir)
    for name in ("certified", "mock"):
        Clients(VaultConnection(settings, "keeper")).put(name, certified.CLIENT_SECRET)
    return settings


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[certified.OidcProvider]:
    addresses = [f"{REDIRECT}/{name}" for name in ("certified", "wrong")]
    with certified.running(addresses, tmp_path_factory.mktemp("oidc") / "log") as running:
        yield running


@pytest.fixture
def house(engine: sa.Engine, vault: Settings, server: certified.OidcProvider) -> House:
    return House(engine, vault, server.provider())


# -- the way there and back -----------------------------------------------------------------------


def test_a_user_connects_and_the_tokens_are_sealed_where_only_workers_read_them(house: House) -> None:
    outcome = house.connect()
    assert outcome.granted
    assert outcome.message == "Pipelines push with it as 'Certified Storage (ada@example.org)'."
    assert outcome.grant_id
    grant = house.store.get(outcome.grant_id)
    assert grant
    assert (grant.state, grant.credential_state, grant.subject) == (GrantState.ACTIVE, "active", "ada")
    assert grant.granted == ("openid", "email", "offline_access", "storage.write")
    tokens = house.tokens(outcome.grant_id)
    assert tokens.refresh_token
    assert not tokens.id_token
    assert house.alive(tokens)
    assert house.events(grant.id) == ["grant.asked", "credential.sealing", "credential.created", "grant.granted"]
    with pytest.raises(CloudPushError):
        TokenSafe(VaultConnection(house.vault, "web")).open_tokens(grant.id, house.owner, 1)


def test_a_user_says_no(house: House) -> None:
    outcome = house.complete(certified.Visitor(REDIRECT).deny(house.begin()))
    assert outcome.code == Code.CONSENT_FAILED
    assert outcome.message == (
        "You said no at Certified Storage, or it said no for you. Its own words: “End-User aborted interaction”"
    )
    assert not house.store.find(house.owner)


def test_who_grants_less_than_is_needed_is_refused_and_the_token_is_dead_at_once(house: House) -> None:
    outcome = house.connect("narrow")
    assert outcome.code == Code.SCOPE_TOO_NARROW
    assert "Write objects into your buckets" in outcome.message
    assert outcome.message.endswith("What was granted was taken back at once.")
    assert not house.alive(house.client.exchanged[0])
    assert not house.store.find(house.owner)


def test_a_permission_that_our_client_may_not_ask_for_is_the_operators_to_mend(
    engine: sa.Engine, vault: Settings, tmp_path: Path
) -> None:
    with certified.running(
        [f"{REDIRECT}/certified"], tmp_path / "log", client_scope="openid email offline_access"
    ) as server:
        house = House(engine, vault, server.provider())
        answer = certified.Visitor(REDIRECT).consent(house.begin())
        assert answer["error"] == "invalid_scope"
        assert house.complete(answer).code == Code.CLIENT_REJECTED


def test_a_client_secret_that_the_provider_does_not_know_is_told_without_showing_it(
    engine: sa.Engine, vault: Settings, server: certified.OidcProvider
) -> None:
    wrong = "canary-wrong-secret-0000000000000000000000"
    Clients(VaultConnection(vault, "keeper")).put("wrong", wrong)
    house = House(engine, vault, server.provider("wrong"))
    outcome = house.connect()
    assert outcome.code == Code.CLIENT_REJECTED
    assert "canary" not in repr(outcome)


def test_the_provider_itself_refuses_any_other_redirect_uri(
    engine: sa.Engine, vault: Settings, server: certified.OidcProvider
) -> None:
    house = House(engine, vault, server.provider(), redirect_uri=f"{REDIRECT}/../evil")
    answer = certified.Visitor(REDIRECT).open(house.begin())
    assert answer.status_code == 400
    assert "redirect_uri" in answer.text


# -- again -----------------------------------------------------------------------------------------


def test_the_same_answer_twice_is_one_connection_and_the_provider_sees_the_code_once(house: House) -> None:
    answer = certified.Visitor(REDIRECT).consent(house.begin())
    first, second = (house.complete(answer) for _ in range(2))
    assert first.granted
    assert (second.grant_id, second.message) == (first.grant_id, first.message)
    assert house.client.exchanges == len(house.store.find(house.owner)) == 1
    assert house.alive(house.tokens(first.grant_id))  # a code seen twice would have ended its tokens


class Forgetful(GrantBook):
    """Broken: looks whether an attempt is unused, and notes its use in another transaction."""

    def take(self, attempt_id: UUID, session: bytes) -> Any:
        found = self.attempt(attempt_id, session)
        if found is None or found.used_at:
            return None
        with transaction(self._engine) as c:
            c.execute(sa.select(sa.func.pg_sleep(0.2)))
        super().take(attempt_id, session)
        return found.attempt


@pytest.mark.parametrize("store", [GrantBook, Forgetful])
def test_eight_threads_with_one_answer_make_one_connection(
    house: House, store: Callable[[sa.Engine], GrantBook]
) -> None:
    answer = certified.Visitor(REDIRECT).consent(house.begin())
    sealer = TokenSealer(VaultConnection(house.vault, "web"))
    story = Consenting(store(house.engine), house.book, house.client, sealer, Present(), REDIRECT)
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(lambda _: story.complete(house.session, house.provider.name, answer), range(8)))
    if store is Forgetful:
        assert house.client.exchanges > 1
        return
    assert house.client.exchanges == 1
    assert sum(outcome.granted for outcome in outcomes) >= 1
    assert len(house.store.find(house.owner)) == 1


def test_an_attempt_of_eleven_minutes_ago_is_not_accepted(house: House, owner: sa.Engine) -> None:
    begun = house.consenting.begin(house.session, house.owner, "certified")
    answer = certified.Visitor(REDIRECT).consent(begun.url)
    with transaction(owner) as c:
        c.execute(
            consent_attempt.update()
            .where(consent_attempt.c.id == begun.attempt_id)
            .values(expires_at=sa.func.now() - sa.text("interval '1 minute'"))
        )
    outcome = house.complete(answer)
    assert "longer than 10 minutes" in outcome.message
    assert not house.client.exchanges


# -- stolen and swapped codes, at a provider that checks --------------------------------------------


def test_a_stolen_code_is_refused_by_the_provider_since_the_verifier_is_another_sessions(house: House) -> None:
    stolen = certified.Visitor(REDIRECT).consent(house.begin())
    eve = House(house.engine, house.vault, house.provider)
    eves_state = dict(parse_qsl(urlsplit(eve.begin()).query))["state"]
    outcome = eve.complete(stolen | {"state": eves_state})
    assert outcome.code == Code.CONSENT_FAILED
    assert "does not take the code" in outcome.message
    assert eve.client.exchanges == 1
    assert not eve.store.find(eve.owner)


def test_an_answer_opened_in_another_session_is_not_even_tried(house: House) -> None:
    eve = House(house.engine, house.vault, house.provider)
    outcome = house.complete(certified.Visitor(REDIRECT).consent(eve.begin(), "eve"))
    assert outcome.attempt is None
    assert not house.client.exchanges


def test_an_identity_token_of_another_nonce_audience_issuer_time_or_signature_is_not_believed(house: House) -> None:
    house.connect()
    identify, tokens, nonce = house.client.identify, house.client.exchanged[0], house.client.nonces[0]
    assert identify(house.resolved, tokens, nonce).subject == "ada"
    head, body, signature = tokens.id_token.split(".")
    other_body = body[:-2] + ("AA" if body[-2:] != "AA" else "BB")
    cases: dict[str, tuple[Provider, Tokens, str]] = {
        "nonce": (house.resolved, tokens, "x" * 43),
        "aud": (replace(house.resolved, client_id="somebody-else"), tokens, nonce),
        "iss": (replace(house.resolved, issuer="https://other.example.org"), tokens, nonce),
        "signature": (house.resolved, replace(tokens, id_token=f"{head}.{other_body}.{signature}"), nonce),
        "no signature": (house.resolved, replace(tokens, id_token=f"eyJhbGciOiJub25lIn0.{body}."), nonce),
        "missing": (house.resolved, replace(tokens, id_token=""), nonce),
    }
    for case, given in cases.items():
        with pytest.raises(CloudPushError) as caught:
            identify(*given)
        assert caught.value.code is Code.CONSENT_FAILED, case
        assert body not in f"{caught.value} {caught.value.detail} {caught.value.__cause__} {caught.value.__context__}"
    later = Watched(Clients(VaultConnection(house.vault, "web")), now=lambda: datetime(2099, 1, 1, tzinfo=UTC))
    with pytest.raises(CloudPushError, match="exp"):
        later.identify(house.resolved, tokens, nonce)


# -- what lives on -----------------------------------------------------------------------------------


def test_a_refresh_token_is_good_once_and_its_second_use_ends_the_whole_family(house: House) -> None:
    first = house.tokens(house.connect().grant_id)
    second = house.endpoint.refresh(house.resolved, first.refresh_token)
    assert second.refresh_token != first.refresh_token
    with pytest.raises(CredentialError) as caught:
        house.endpoint.refresh(house.resolved, first.refresh_token)
    assert caught.value.code is Code.CONSENT_NEEDED
    with pytest.raises(CredentialError):
        house.endpoint.refresh(house.resolved, second.refresh_token)
    assert not house.alive(second)


def test_a_revoked_grant_is_over_at_the_provider_too(house: House) -> None:
    tokens = house.tokens(house.connect().grant_id)
    assert house.endpoint.revoke(house.resolved, tokens)
    assert house.endpoint.revoke(house.resolved, tokens)  # repeatable
    with pytest.raises(CredentialError) as caught:
        house.endpoint.refresh(house.resolved, tokens.refresh_token)
    assert caught.value.code is Code.CONSENT_NEEDED


def test_a_dead_grant_is_reconnected_by_its_own_account_only(house: House) -> None:
    old = house.connect()
    assert old.grant_id
    grant = house.store.get(old.grant_id)
    assert grant
    house.endpoint.revoke(house.resolved, house.tokens(old.grant_id))
    house.store.fail_refresh(grant, CredentialError(Code.CONSENT_NEEDED, "dead"), "worker")
    refused = house.connect("eve", reconnect=old.grant_id)
    assert "as eve@example.org, which is not the account" in refused.message
    again = house.connect("ada", reconnect=old.grant_id)
    assert (again.granted, again.grant_id) == (True, old.grant_id)
    grant = house.store.get(old.grant_id)
    assert grant
    assert grant.state is GrantState.ACTIVE
    assert house.alive(house.tokens(old.grant_id, grant.generation))
    assert house.events(grant.id)[-1] == "grant.reconnected"


def test_a_crash_between_sealing_and_the_last_commit_leaves_what_the_sweep_finds(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt  # not an Exception: nothing of the story runs after it, as after a SIGKILL

    monkeypatch.setattr(house.store, "activate", killed)
    answer = certified.Visitor(REDIRECT).consent(house.begin())
    with pytest.raises(KeyboardInterrupt):
        house.complete(answer)
    later = datetime.now(UTC) + 2 * SEALING_PATIENCE
    left = Credentials(house.engine).due(later, later, later, 1000)
    attempt_id = attempt_of(house.session, answer["state"])
    assert attempt_id in [credential_id for credential_id, _ in left]
    assert not [g for g in house.store.find(house.owner) if g.credential_state == "active"]


# -- the demo's mock -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mock() -> Iterator[str]:
    with run_server_in_thread() as running:
        yield f"http://localhost:{running.server_port}"


def mocked(issuer: str) -> Provider:
    return certified.OidcProvider(issuer).provider(
        "mock", title="Mock", scopes=("openid", "email"), needs=("openid",), parameters={}, client_id=str(uuid4())
    )


def at_mock(url: str, form: dict[str, str]) -> dict[str, str]:
    answer = requests.post(url, data=form, allow_redirects=False, timeout=30)
    assert answer.is_redirect, answer.text[:500]
    return dict(parse_qsl(urlsplit(answer.headers["location"]).query))


def test_the_mock_connects_denies_and_renews(engine: sa.Engine, vault: Settings, mock: str) -> None:
    house = House(engine, vault, mocked(mock))
    outcome = house.complete(at_mock(house.begin(), {"sub": "ada@lab.example"}))
    assert outcome.granted, outcome.message
    assert outcome.message == "Pipelines push with it as 'Mock (ada@lab.example)'."
    tokens = house.tokens(outcome.grant_id)
    assert house.endpoint.refresh(house.resolved, tokens.refresh_token).access_token != tokens.access_token
    denied = at_mock(house.begin(), {"action": "deny"})
    assert "state" not in denied  # the mock leaves it out, as some providers do
    outcome = house.complete(denied)
    assert (outcome.code, outcome.attempt) == (Code.CONSENT_FAILED, None)
    assert "you said no there" in outcome.message

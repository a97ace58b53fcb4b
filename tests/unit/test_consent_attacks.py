"""Attacks on consent, each of which succeeds against a copy that lacks the check which stops it.

The broken copies are made here: a story, a store or a provider with one check taken away. An attack that would fail
against them, too, would prove nothing about the check. What only a browser or a page can show is in
``test_web_consent.py`` and in the browser tests.
"""

from __future__ import annotations

import base64
import threading
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import parse_qsl, urlencode, urlsplit
from uuid import UUID

import pytest

from cloudpush.errors import CloudPushError, Code
from cloudpush.push.grants import consenting, proofs
from cloudpush.push.grants.consenting import STRANGER, Consenting, Outcome
from cloudpush.push.grants.model import Attempt, AttemptEnd, Provider, Tokens
from fakes_consent import (
    CALLBACK,
    OTHER_SESSION,
    REDIRECT,
    SESSION,
    ConsentHouse,
    FakeConsentClient,
    FakeProviders,
    a_provider,
)
from fakes_grants import FakeGrantStore

# -- broken copies -------------------------------------------------------------------------------


class TakesAgain(FakeGrantStore):
    """Broken: an attempt may be used as often as one likes."""

    def take(self, attempt_id: UUID, session: bytes) -> Attempt | None:
        found = self.attempt(attempt_id, session)
        return found.attempt if found and self.clock.now() < found.attempt.expires_at else None


class NeverExpires(FakeGrantStore):
    """Broken: an attempt may be used for ever."""

    def take(self, attempt_id: UUID, session: bytes) -> Attempt | None:
        found = self.attempt(attempt_id, session)
        return found.attempt if found and found.used_at is None else None


class LooksThenWrites(FakeGrantStore):
    """Broken: whether an attempt is unused is looked at in one step and noted in another."""

    def __init__(self, parties: int) -> None:
        super().__init__()
        self._both_looked = threading.Barrier(parties)

    def take(self, attempt_id: UUID, session: bytes) -> Attempt | None:
        found = self.attempt(attempt_id, session)
        unused = found is not None and found.used_at is None
        self._both_looked.wait(30)
        super().take(attempt_id, session)
        return found.attempt if found and unused else None


class AnySession(FakeGrantStore):
    """Broken: an attempt is not bound to the session that began it."""

    def take(self, attempt_id: UUID, session: bytes) -> Attempt | None:
        return super().take(attempt_id, self._of(attempt_id))

    def attempt(self, attempt_id: UUID, session: bytes) -> AttemptEnd | None:
        return super().attempt(attempt_id, self._of(attempt_id))

    def _of(self, attempt_id: UUID) -> bytes:
        return self._attempts[attempt_id].attempt.session


def unsigned_state(_token: str, state: str) -> UUID:
    """Broken: the id in a state is believed, whoever made it."""
    return UUID(bytes=base64.urlsafe_b64decode(state)[:16])


def code_of_anybody(_provider: Provider, params: dict[str, str]) -> str:
    """Broken: the answer is not asked whose it is."""
    return params["code"]


def granted(house: ConsentHouse, outcome: Outcome) -> bool:
    """Whether the attack got what it wanted: a connection."""
    return outcome.granted and bool(house.store.find("ada") or house.store.find("eve"))


# -- replay and time -------------------------------------------------------------------------------


@pytest.mark.parametrize("store", [FakeGrantStore, TakesAgain])
def test_a_replayed_state_does_not_get_a_second_code_accepted(store: type[FakeGrantStore]) -> None:
    """Who has seen an answer's URL sends its state again with a code of his own, in the same browser."""
    house = ConsentHouse()
    house.store = store(house.clock)
    house.client.checks_pkce = house.client.checks_nonce = False  # the provider and the token do not help here
    url = house.consenting.begin(SESSION, "ada", "lab").url
    seen = house.client.consents(url)
    assert house.complete(SESSION, seen).granted
    house.complete(SESSION, house.client.consents(url, "eve") | {"state": seen["state"]})
    broken = store is TakesAgain
    assert len(house.client.seen) == (2 if broken else 1)


@pytest.mark.parametrize("store", [FakeGrantStore, NeverExpires])
def test_an_answer_that_comes_after_ten_minutes_is_not_accepted(store: type[FakeGrantStore]) -> None:
    """A page left open at the provider is finished hours later by whoever sits down at the machine."""
    house = ConsentHouse()
    house.store = store(house.clock)
    params = house.client.consents(house.consenting.begin(SESSION, "ada", "lab").url)
    house.clock.advance(601)
    assert granted(house, house.complete(SESSION, params)) is (store is NeverExpires)


@pytest.mark.parametrize("broken", [False, True])
def test_an_attempt_that_is_used_by_two_threads_at_once_is_used_once(broken: bool) -> None:
    """Two requests with the same answer arrive together. (On Postgres: tests/integration/test_consent.py)"""
    house = ConsentHouse()
    house.store = LooksThenWrites(2) if broken else FakeGrantStore()
    house.store.clock = house.clock
    params = house.client.consents(house.consenting.begin(SESSION, "ada", "lab").url)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: house.complete(SESSION, params), range(2)))
    assert len(house.client.seen) == (2 if broken else 1)


# -- another session -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "standing", ["state", "binding", "pkce", "nonce", "all", "none"], ids=lambda s: f"only {s} stands"
)
def test_an_answer_made_in_another_session_connects_nothing(standing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eve consents with her own account and has Ada's browser open the answer: Ada's data would go to Eve's storage.

    Four checks stop it, each by itself: the state's tag, the attempt's session, PKCE and the nonce.
    """
    house = ConsentHouse()
    if standing not in ("state", "all"):
        monkeypatch.setattr(proofs, "attempt_of", unsigned_state)
    if standing not in ("binding", "all"):
        house.store = AnySession(house.clock)
    house.client.checks_pkce = standing in ("pkce", "all")
    house.client.checks_nonce = standing in ("nonce", "all")
    eves = house.client.consents(house.consenting.begin(OTHER_SESSION, "eve", "lab").url, "eve")
    outcome = house.complete(SESSION, eves)
    assert granted(house, outcome) is (standing == "none")


@pytest.mark.parametrize("standing", ["pkce", "nonce", "all", "none"], ids=lambda s: f"only {s} stands")
def test_a_stolen_code_is_worth_nothing_in_another_session(standing: str) -> None:
    """Eve got at the code of Ada's answer before Ada's browser came back, and puts it under a state of her own: she would
    have a connection to Ada's storage. Her state is good; the code's challenge and the token's nonce are Ada's.
    """
    house = ConsentHouse()
    house.client.checks_pkce = standing in ("pkce", "all")
    house.client.checks_nonce = standing in ("nonce", "all")
    stolen = house.client.consents(house.consenting.begin(SESSION, "ada", "lab").url, "ada")
    eves_state = query(house.consenting.begin(OTHER_SESSION, "eve", "lab").url)["state"]
    outcome = house.complete(OTHER_SESSION, stolen | {"state": eves_state})
    assert granted(house, outcome) is (standing == "none")
    if standing == "nonce":
        assert len(house.client.revoked) == 1  # what came for her is given back


@pytest.mark.parametrize("broken", [False, True])
def test_a_code_injected_into_a_consent_under_way_is_not_accepted(broken: bool) -> None:
    """Eve, on the path, swaps the code in Ada's own answer for one of hers: the state is Ada's, the browser, too."""
    house = ConsentHouse()
    house.client.checks_pkce = house.client.checks_nonce = not broken
    eves = house.client.consents(house.consenting.begin(OTHER_SESSION, "eve", "lab").url, "eve")
    adas = query(house.consenting.begin(SESSION, "ada", "lab").url)
    outcome = house.complete(SESSION, eves | {"state": adas["state"]})
    assert granted(house, outcome) is broken


def test_a_state_that_was_touched_anywhere_is_no_state() -> None:
    """Every bit counts: of the id, and of the tag."""
    state = proofs.state_of(SESSION, UUID(int=7))
    assert proofs.attempt_of(SESSION, state) == UUID(int=7)
    raw = base64.urlsafe_b64decode(state)
    for position in range(len(raw)):
        touched = bytearray(raw)
        touched[position] ^= 1
        assert proofs.attempt_of(SESSION, base64.urlsafe_b64encode(touched).decode()) is None
    for other in ("", state[:-1], f"{state}A", state.replace(state[5], "="), "ü" * 64, "A" * 64):
        assert proofs.attempt_of(SESSION, other) is None


def test_what_ties_an_attempt_differs_by_session_by_attempt_and_by_purpose() -> None:
    """So that a nonce, which the provider sees, is no verifier, which it must not see before the code."""
    made = [
        make(token, UUID(int=n))
        for make in (proofs.verifier_of, proofs.nonce_of, proofs.state_of)
        for token in (SESSION, OTHER_SESSION)
        for n in (1, 2)
    ]
    assert len({text[-40:] for text in made}) == len(made)
    with pytest.raises(ValueError):
        proofs.state_of("", UUID(int=1))


# -- mix-up ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("broken", [False, True])
def test_a_mixed_up_answer_never_carries_its_code_to_the_other_provider(
    broken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ada wants to connect Mallory's cloud; Mallory sends her on to the lab's with our client id there, and our state.

    The lab's code comes back for an attempt at Mallory's: sent there, Mallory has it, and the verifier that goes with it.
    """
    house = ConsentHouse(providers=FakeProviders(a_provider("lab"), a_provider("mallory", sends_issuer=False)))
    if broken:
        monkeypatch.setattr(consenting, "code_of", code_of_anybody)
    at_mallory = house.consenting.begin(SESSION, "ada", "mallory").url
    at_lab = at_mallory.replace("https://mallory.", "https://lab.").replace("mallory-client", "lab-client")
    answer = house.client.consents(at_lab)
    outcome = house.complete(SESSION, answer, "mallory")
    assert not outcome.granted
    assert house.client.seen == ([("mallory", answer["code"])] if broken else [])


def any_way(_attempt: Attempt, _provider: Provider, _came_to: str) -> None:
    """Broken: an answer counts at whatever redirect URI it comes to."""


class MallorysOwn(FakeConsentClient):
    """Of the providers one is Mallory's: what is sent there he keeps, and gives nothing for it."""

    def exchange(self, provider: Provider, code: str, verifier: str, redirect_uri: str) -> Tokens:
        if provider.name != "mallory":
            return super().exchange(provider, code, verifier, redirect_uri)
        self.seen.append((provider.name, code))
        raise CloudPushError(Code.CONSENT_FAILED, "No.")


@pytest.mark.parametrize("broken", [False, True])
def test_a_mixed_up_answer_without_an_issuer_gives_nobody_anothers_storage(
    broken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Google, the lab sends no ``iss``. Mallory runs another provider of the list, and has a session of his own here.

    Ada connects Mallory's; he sends her on to the lab with her state, but with challenge and nonce of an attempt that he
    began himself. PKCE and nonce fit *his* session then: all he needs is that the lab's code is sent to him. But the lab
    answers at its own redirect URI, the only one that is registered there.
    """
    lab = a_provider("lab", sends_issuer=False)
    house = ConsentHouse(providers=FakeProviders(lab, a_provider("mallory", sends_issuer=False)))
    house.client = MallorysOwn(house.clock)
    if broken:
        monkeypatch.setattr(consenting, "check_way", any_way)
    adas = query(house.consenting.begin(SESSION, "ada", "mallory").url)
    mallorys = query(house.consenting.begin(OTHER_SESSION, "mallory", "lab").url)
    assert (mallorys["redirect_uri"], adas["redirect_uri"]) == (f"{CALLBACK}/lab", f"{CALLBACK}/mallory")
    answer = house.client.consents(f"{lab.authorization_endpoint}?{urlencode(mallorys | {'state': adas['state']})}")
    del answer["iss"]
    assert not house.complete(SESSION, answer, "lab").granted
    leaked = [code for provider, code in house.client.seen if provider == "mallory"]
    assert leaked == ([answer["code"]] if broken else [])
    for code in leaked:
        assert house.complete(OTHER_SESSION, {"code": code, "state": mallorys["state"]}).granted
    assert [g.subject for g in house.store.find("mallory")] == (["sub-ada"] if broken else [])


@pytest.mark.parametrize(
    "issuer", ["", "https://mallory.example.org", "https://lab.example.org/", "https://lab.example.org.evil.org"]
)
@pytest.mark.parametrize("broken", [False, True])
def test_an_answer_without_the_issuer_or_with_another_is_not_looked_at_further(
    issuer: str, broken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The provider's metadata says that its answers name it (RFC 9207), or an answer names somebody."""
    house = ConsentHouse()
    if broken:
        monkeypatch.setattr(consenting, "code_of", code_of_anybody)
    answer = house.client.consents(house.consenting.begin(SESSION, "ada", "lab").url)
    outcome = house.complete(SESSION, answer | {"iss": issuer})
    assert outcome.granted is broken
    assert bool(house.client.seen) is broken


def test_an_error_of_somebody_elses_is_not_repeated() -> None:
    """The issuer is looked at before the error: what a mixed-up provider says is not shown as the chosen one's words."""
    house = ConsentHouse()
    state = query(house.consenting.begin(SESSION, "ada", "lab").url)["state"]
    told = {"error": "access_denied", "error_description": "call +1 555", "iss": "https://mallory.example.org"}
    outcome = house.complete(SESSION, told | {"state": state})
    assert outcome.code == Code.CONSENT_FAILED
    assert "555" not in outcome.message


# -- where the browser is sent ---------------------------------------------------------------------


class BelievesTheBrowser(Consenting):
    """Broken: where the provider is to send the code is what the browser says."""

    wanted = ""

    def _redirect_uri(self, provider: Provider) -> str:
        return self.wanted or super()._redirect_uri(provider)


@pytest.mark.parametrize("broken", [False, True])
def test_no_input_changes_where_the_code_is_sent(broken: bool) -> None:
    """The redirect URI is the operator's, in the request and at the exchange; names and answers cannot reach it."""
    house = ConsentHouse()
    evil = "https://evil.example.org/consent/callback"
    if broken:
        story = BelievesTheBrowser(house.store, house.providers, house.client, house.sealer, house.clock, CALLBACK)
        story.wanted = evil
        url = story.begin(SESSION, "ada", "lab").url
    else:
        url = house.consenting.begin(SESSION, "ada", "lab", f"x&redirect_uri={evil}").url
    asked = parse_qsl(urlsplit(url).query)
    assert [value for name, value in asked if name == "redirect_uri"] == [evil if broken else REDIRECT]
    assert urlsplit(url).netloc == "lab.example.org"


def test_what_comes_back_beside_the_answer_is_not_followed() -> None:
    """`next`, `redirect_uri` and their like in an answer change nothing about how it ends."""
    house = ConsentHouse()
    answer = house.client.consents(house.consenting.begin(SESSION, "ada", "lab").url)
    more = {"next": "https://evil.example.org", "redirect_uri": "https://evil.example.org", "return_to": "//evil"}
    outcome = house.complete(SESSION, answer | more)
    assert outcome.granted
    assert "evil" not in repr(outcome)


def test_an_answer_to_nobody_tells_nothing() -> None:
    """A callback that somebody made up, before anything was begun."""
    assert ConsentHouse().complete(SESSION, {"code": "x", "state": "y" * 64}) is STRANGER
    assert ConsentHouse().complete(SESSION, {}) is STRANGER


def query(url: str) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(url).query))

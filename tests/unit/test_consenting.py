"""From *Connect* to a grant: what is kept, what is told, and what is given back where it comes to nothing."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import parse_qsl, urlsplit
from uuid import uuid4

import pytest

from cloudpush.errors import CloudPushError, Code, InputError, StoreError
from cloudpush.push.grants.consenting import STRANGER, UNNAMED, Outcome
from cloudpush.push.grants.judging import is_issuer
from cloudpush.push.grants.model import WEB_IDENTITY, Flow, GrantState, Question, Tokens, Use
from cloudpush.push.grants.refusals import shown
from fakes_consent import OTHER_SESSION, REDIRECT, SESSION, WRITE, ConsentHouse, FakeProviders, a_provider

ACCOUNT = Question("account", "Storage account", "[a-z0-9]{3,24}", example="labresults")


@pytest.fixture
def house() -> ConsentHouse:
    return ConsentHouse()


def connect(house: ConsentHouse, name: str = "", account: str = "ada", scopes: str | None = None) -> Outcome:
    url = house.consenting.begin(SESSION, "ada", "lab", name).url
    return house.complete(SESSION, house.client.consents(url, account, scopes))


def granted_id(outcome: Outcome) -> str:
    return str(outcome.grant_id)


# -- connecting ----------------------------------------------------------------------------------


def test_a_consent_becomes_an_active_grant_whose_tokens_are_sealed_and_nowhere_else(house: ConsentHouse) -> None:
    outcome = connect(house)
    assert outcome.granted
    assert outcome.grant_id
    grant = house.store.get(outcome.grant_id)
    assert grant
    assert (grant.state, grant.credential_state, grant.generation) == (GrantState.ACTIVE, "active", 1)
    assert (grant.owner, grant.subject, grant.name) == ("ada", "sub-ada", "Lab (ada@example.org)")
    assert (grant.asked, grant.granted) == (a_provider().scopes, a_provider().scopes)
    sealed = house.tokens(outcome.grant_id)
    assert sealed.refresh_token == f"refresh-{sealed.access_token}"
    assert sealed.access_token not in repr(vars(house.store)) + repr(outcome)
    assert house.store.events(grant.id) == ["grant.asked", "credential.sealing", "credential.created", "grant.granted"]


def test_the_browser_is_sent_to_the_provider_with_everything_that_ties_the_answer_to_it(house: ConsentHouse) -> None:
    first, second = (house.consenting.begin(SESSION, "ada", "lab") for _ in range(2))
    asked = dict(parse_qsl(urlsplit(first.url).query))
    assert asked["redirect_uri"] == REDIRECT
    assert asked["scope"] == "openid email offline_access storage.write"
    again = dict(parse_qsl(urlsplit(second.url).query))
    assert all(asked[name] != again[name] for name in ("state", "nonce", "code_challenge"))
    assert first.url not in repr(first)
    stored = repr(vars(house.store))
    assert all(asked[name] not in stored for name in ("state", "nonce", "code_challenge"))


def test_an_identity_token_is_kept_only_where_it_opens_the_storage(house: ConsentHouse) -> None:
    first = connect(house)
    house.providers = FakeProviders(a_provider(identity_token="theirs"))
    second = connect(house)
    assert first.grant_id
    assert second.grant_id
    assert [house.tokens(first.grant_id).id_token, house.tokens(second.grant_id).id_token] == ["", "id-token"]


def test_connections_of_one_account_are_told_apart_by_number(house: ConsentHouse) -> None:
    for _ in range(3):
        assert connect(house).granted
    names = [g.name for g in house.store.find("ada")]
    assert sorted(names) == ["Lab (ada@example.org)", "Lab (ada@example.org) (2)", "Lab (ada@example.org) (3)"]


def test_a_name_that_was_taken_on_the_way_is_numbered_and_one_taken_before_is_told_before_the_trip(
    house: ConsentHouse,
) -> None:
    first, second = (house.consenting.begin(SESSION, "ada", "lab", "lab data").url for _ in range(2))
    for url in (first, second):
        assert house.complete(SESSION, house.client.consents(url)).granted
    assert [g.name for g in house.store.find("ada")] == ["lab data (2)", "lab data"]
    with pytest.raises(InputError) as caught:
        house.consenting.begin(SESSION, "ada", "lab", "lab data")
    assert caught.value.field == "name"


@pytest.mark.parametrize(
    ("answers", "field"),
    [({}, "account"), ({"account": "UPPER"}, "account"), ({"account": "labresults", "evil": "x"}, "evil")],
)
def test_an_answer_that_does_not_fit_is_told_before_the_trip(
    house: ConsentHouse, answers: dict[str, str], field: str
) -> None:
    house.providers = FakeProviders(a_provider(questions=(ACCOUNT,)))
    with pytest.raises(InputError) as caught:
        house.consenting.begin(SESSION, "ada", "lab", "", answers)
    assert caught.value.field == field
    assert not house.store.calls["begin"]


def test_answers_become_the_grants_settings(house: ConsentHouse) -> None:
    house.providers = FakeProviders(a_provider(questions=(ACCOUNT,)))
    url = house.consenting.begin(SESSION, "ada", "lab", "", {"account": " labresults "}).url
    outcome = house.complete(SESSION, house.client.consents(url))
    assert outcome.grant_id
    grant = house.store.get(outcome.grant_id)
    assert grant
    assert grant.settings == {"account": "labresults"}


def test_a_provider_that_the_operator_has_not_set_up_is_not_offered(house: ConsentHouse) -> None:
    house.providers = FakeProviders(a_provider(client_id=""))
    with pytest.raises(InputError, match="not set up"):
        house.consenting.begin(SESSION, "ada", "lab")


# -- what the provider says ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        ("access_denied", Code.CONSENT_FAILED, "You said no at Lab"),
        ("login_required", Code.CONSENT_FAILED, "not signed in"),
        ("consent_required", Code.CONSENT_FAILED, "administrator"),
        ("server_error", Code.PROVIDER_UNAVAILABLE, "error of its own"),
        ("temporarily_unavailable", Code.PROVIDER_UNAVAILABLE, "not available just now"),
        ("invalid_scope", Code.CLIENT_REJECTED, "permission"),
        ("teapot", Code.CONSENT_FAILED, "does not know (teapot)"),
        ("<script>alert(1)</script>", Code.CONSENT_FAILED, "an error that CloudPush does not know."),
    ],
)
def test_errors_of_the_provider_are_told_in_human_words(
    house: ConsentHouse, error: str, code: Code, words: str
) -> None:
    state = dict(parse_qsl(urlsplit(house.consenting.begin(SESSION, "ada", "lab").url).query))["state"]
    outcome = house.complete(
        SESSION,
        {"error": error, "state": state, "iss": "https://lab.example.org", "error_description": "no\x00\u202e way"},
    )
    assert outcome.code == code
    assert words in outcome.message
    assert outcome.message.endswith("Its own words: “no way”")
    assert outcome.fix
    assert "<script>" not in outcome.message
    assert not house.store.find("ada")


def test_a_providers_words_are_cut_short_and_hold_no_secret() -> None:
    told = shown("a " * 5000 + "x")
    assert len(told) <= 201
    assert "hvs." not in shown("token hvs.AAAAAAAAAAAAAAAAAAAAAAAAAAAA")


def test_an_error_without_state_is_a_refusal_in_words_and_uses_nothing_up(house: ConsentHouse) -> None:
    url = house.consenting.begin(SESSION, "ada", "lab").url
    assert house.complete(SESSION, {"error": "access_denied", "error_description": "forged"}) is UNNAMED
    assert house.complete(SESSION, house.client.consents(url)).granted


@pytest.mark.parametrize("code", ["", "x" * 5000, "ü", "a\nb"])
def test_an_answer_without_a_code_comes_to_nothing(house: ConsentHouse, code: str) -> None:
    params = house.client.consents(house.consenting.begin(SESSION, "ada", "lab").url)
    outcome = house.complete(SESSION, params | {"code": code})
    assert (outcome.code, house.client.seen) == (Code.CONSENT_FAILED, [])


# -- enough? -------------------------------------------------------------------------------------


def test_less_than_needed_is_refused_with_the_reason_and_given_back_at_once(house: ConsentHouse) -> None:
    outcome = connect(house, scopes="openid email")
    assert outcome.code == Code.SCOPE_TOO_NARROW
    assert outcome.message == (
        "Lab did not give a permission that a push cannot do without: Write objects. What was granted was taken back at once."
    )
    assert len(house.client.revoked) == 1
    assert not house.store.find("ada")
    assert not house.sealer.blocks


@pytest.mark.parametrize(
    ("scopes", "words"),
    [
        (f"openid {WRITE}", "Not granted: email."),
        (f"openid email {WRITE} storage.admin", "Granted beyond what was asked: Delete buckets."),
        (f"openid https://www.googleapis.com/auth/userinfo.email {WRITE}", "as 'Lab (ada@example.org)'."),
        ("", "as 'Lab (ada@example.org)'."),
    ],
)
def test_more_or_less_than_asked_is_shown_where_it_is_enough(house: ConsentHouse, scopes: str, words: str) -> None:
    outcome = connect(house, scopes=scopes)
    assert outcome.granted
    assert outcome.message.endswith(words)


def test_no_lasting_permission_although_one_was_asked_for_is_refused(house: ConsentHouse) -> None:
    house.client.gives_no_refresh_token = True
    outcome = connect(house)
    assert outcome.code == Code.CONSENT_FAILED
    assert "gave no lasting permission" in outcome.message
    assert len(house.client.revoked) == 1


def test_where_no_lasting_permission_was_asked_for_access_tokens_do(house: ConsentHouse) -> None:
    house.client.gives_no_refresh_token = True
    house.providers = FakeProviders(a_provider(scopes=("openid", WRITE)))
    assert connect(house).granted
    house.providers = FakeProviders(a_provider(scopes=("openid", WRITE), parameters={"access_type": "offline"}))
    assert not connect(house).granted


def test_nothing_is_revoked_that_another_connection_of_the_same_account_lives_by(house: ConsentHouse) -> None:
    assert connect(house).granted
    refused = connect(house, scopes="openid")
    assert (refused.code, house.client.revoked) == (Code.SCOPE_TOO_NARROW, [])
    assert "your other connection of this account works on" in refused.message
    other = connect(house, account="eve", scopes="openid")
    assert (other.code, len(house.client.revoked)) == (Code.SCOPE_TOO_NARROW, 1)


# -- nothing half done -----------------------------------------------------------------------------


def test_tokens_that_cannot_be_sealed_are_given_back_and_their_row_is_left_to_the_sweep(house: ConsentHouse) -> None:
    house.sealer.sealed_shut = True
    outcome = connect(house)
    assert outcome.code == Code.VAULT_SEALED
    assert (
        outcome.message
        == "What was granted could not be stored safely just now. What was granted was taken back at once."
    )
    assert len(house.client.revoked) == 1
    assert outcome.attempt
    left = house.store.get(outcome.attempt.id)
    assert left
    assert left.credential_state == "sealing"


def test_the_reason_is_told_also_where_the_provider_takes_nothing_back(house: ConsentHouse) -> None:
    house.client.revoking_fails = CloudPushError(Code.NETWORK, "no way there")
    outcome = connect(house, scopes="openid")
    assert outcome.code == Code.SCOPE_TOO_NARROW
    assert "https://lab.example.org/account" in outcome.message


def test_a_defect_after_the_tokens_came_gives_them_back_and_is_not_hidden(
    house: ConsentHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> int:
        raise RuntimeError("a defect")

    monkeypatch.setattr(house.sealer, "seal_tokens", broken)
    with pytest.raises(RuntimeError):
        connect(house)
    assert len(house.client.revoked) == 1


def test_what_a_database_that_is_away_cannot_note_is_given_back(
    house: ConsentHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise StoreError(Code.DATABASE_UNREACHABLE, "Postgres at 10.0.0.7 is away.")

    monkeypatch.setattr(house.store, "add", away)
    monkeypatch.setattr(house.store, "end_attempt", away)
    outcome = connect(house)
    assert outcome.code == Code.DATABASE_UNREACHABLE
    assert "10.0.0.7" not in outcome.message
    assert len(house.client.revoked) == 1


# -- coming back once more -------------------------------------------------------------------------


def test_the_same_answer_again_is_told_how_it_ended_and_changes_nothing(house: ConsentHouse) -> None:
    url = house.consenting.begin(SESSION, "ada", "lab").url
    params = house.client.consents(url)
    first, second = (house.complete(SESSION, params) for _ in range(2))
    assert (first.granted, second.granted) == (True, True)
    assert (first.grant_id, first.message) == (second.grant_id, second.message)
    assert len(house.client.seen) == len(house.store.find("ada")) == 1


def test_a_refusal_stays_a_refusal_when_the_page_is_loaded_again(house: ConsentHouse) -> None:
    outcome = connect(house, scopes="openid")
    assert outcome.attempt
    assert house.consenting.outcome(SESSION, outcome.attempt.id) == outcome


def test_after_ten_minutes_the_answer_is_not_accepted_and_says_why(house: ConsentHouse) -> None:
    params = house.client.consents(house.consenting.begin(SESSION, "ada", "lab").url)
    house.clock.advance(600)
    outcome = house.complete(SESSION, params)
    assert outcome.code == Code.CONSENT_FAILED
    assert "longer than 10 minutes" in outcome.message
    assert not house.client.seen


def test_an_attempt_that_is_under_way_or_was_interrupted_is_told_as_such(house: ConsentHouse) -> None:
    begun = house.consenting.begin(SESSION, "ada", "lab")
    assert house.consenting.outcome(SESSION, begun.attempt_id).message.startswith("This consent is under way")
    taken = house.store.attempt(begun.attempt_id, house_session())
    assert taken
    house.store.take(begun.attempt_id, taken.attempt.session)
    assert "being worked on" in house.consenting.outcome(SESSION, begun.attempt_id).message
    house.clock.advance(121)
    assert "interrupted" in house.consenting.outcome(SESSION, begun.attempt_id).message


def house_session() -> bytes:
    from cloudpush.push.grants.proofs import session_hash

    return session_hash(SESSION)


def test_a_second_tab_makes_an_attempt_of_its_own_and_both_may_end(house: ConsentHouse) -> None:
    one, two = (house.consenting.begin(SESSION, "ada", "lab").url for _ in range(2))
    for url in (two, one):
        assert house.complete(SESSION, house.client.consents(url)).granted


# -- reconnecting ----------------------------------------------------------------------------------


def needing_reconnect(house: ConsentHouse) -> Outcome:
    outcome = connect(house)
    assert outcome.grant_id
    grant = house.store.get(outcome.grant_id)
    assert grant
    house.store.fail_refresh(grant, CloudPushError(Code.CONSENT_NEEDED, "dead"), "worker")
    return outcome


def test_a_reconnect_makes_a_further_generation_and_the_grant_is_active_again(house: ConsentHouse) -> None:
    old = needing_reconnect(house)
    url = house.consenting.begin(SESSION, "ada", "lab", reconnect=old.grant_id).url
    outcome = house.complete(SESSION, house.client.consents(url))
    assert (outcome.granted, outcome.grant_id) == (True, old.grant_id)
    assert "No push was waiting" in outcome.message
    assert old.grant_id
    grant = house.store.get(old.grant_id)
    assert grant
    assert (grant.state, grant.generation) == (GrantState.ACTIVE, 2)
    assert house.tokens(grant.id, 2).access_token != house.tokens(grant.id, 1).access_token
    assert house.consenting.outcome(SESSION, outcome.attempt.id if outcome.attempt else uuid4()).grant_id == grant.id


def test_a_reconnect_with_another_account_is_refused_and_told_plainly(house: ConsentHouse) -> None:
    old = needing_reconnect(house)
    url = house.consenting.begin(SESSION, "ada", "lab", reconnect=old.grant_id).url
    outcome = house.complete(SESSION, house.client.consents(url, "eve"))
    assert outcome.code == Code.CONSENT_FAILED
    assert "as eve@example.org, which is not the account" in outcome.message
    assert len(house.client.revoked) == 1
    assert old.grant_id
    grant = house.store.get(old.grant_id)
    assert grant
    assert (grant.state, grant.generation) == (GrantState.RECONNECT, 1)


def test_a_grant_revoked_while_its_user_was_away_stays_revoked(house: ConsentHouse) -> None:
    old = needing_reconnect(house)
    assert old.grant_id
    params = house.client.consents(house.consenting.begin(SESSION, "ada", "lab", reconnect=old.grant_id).url)
    house.store.revoke(old.grant_id, "ada")
    outcome = house.complete(SESSION, params)
    assert outcome.code == Code.CONSENT_REVOKED
    assert outcome.message.startswith("The connection 'Lab (ada@example.org)' was revoked meanwhile.")
    assert len(house.client.revoked) == 1


@pytest.mark.parametrize("owner", ["eve", ""])
def test_nobody_reconnects_what_is_not_theirs(house: ConsentHouse, owner: str) -> None:
    old = needing_reconnect(house)
    with pytest.raises(InputError) as caught:
        house.consenting.begin(OTHER_SESSION, owner, "lab", reconnect=old.grant_id)
    assert caught.value.code is Code.UNKNOWN_GRANT


# -- a role that trusts us ---------------------------------------------------------------------------


def test_a_role_that_trusts_us_is_registered_without_a_trip_or_a_secret_and_tried_out(house: ConsentHouse) -> None:
    role = Question("role_arn", "Role ARN", "arn:aws:iam::[0-9]{12}:role/[a-z]+")
    house.providers = FakeProviders(
        a_provider(
            "aws", flow=Flow.WEB_IDENTITY, use=Use.WEB_IDENTITY, client_id="", scopes=(), needs=(), questions=(role,)
        )
    )
    grant = house.consenting.register("ada", "aws", "", {"role_arn": "arn:aws:iam::123456789012:role/push"})
    assert (grant.kind, grant.name, grant.generation, grant.credential_state) == (WEB_IDENTITY, "Aws", 0, "active")
    stored = house.store.get(grant.id)
    assert stored
    assert stored.settings == {"role_arn": "arn:aws:iam::123456789012:role/push"}
    assert [str(c) for c in house.store.due_chores(grant.id)] == ["check"]
    assert not house.sealer.blocks
    with pytest.raises(InputError):
        house.consenting.begin(SESSION, "ada", "aws")


# -- small things ------------------------------------------------------------------------------------


def test_an_issuer_of_many_tenants_is_matched_by_the_tenant_that_the_token_names() -> None:
    template = "https://login.example.org/{tenantid}/v2.0"
    tenant, other = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
    assert is_issuer(template, f"https://login.example.org/{tenant}/v2.0", tenant)
    assert is_issuer(template, f"https://login.example.org/{tenant}/v2.0")
    assert not is_issuer(template, f"https://login.example.org/{tenant}/v2.0", other)
    assert not is_issuer(template, "https://login.example.org/evil/../x/v2.0")
    assert not is_issuer("", "")


def test_a_stranger_is_told_nothing_of_anybody(house: ConsentHouse) -> None:
    begun = house.consenting.begin(SESSION, "ada", "lab")
    assert house.consenting.outcome(OTHER_SESSION, begun.attempt_id) is STRANGER
    assert house.consenting.outcome(SESSION, uuid4()) is STRANGER
    assert replace(STRANGER, message="").message == ""


def test_tokens_are_not_in_the_repr_of_anything_on_the_way(house: ConsentHouse) -> None:
    tokens = Tokens("canary-access", "canary-refresh", id_token="canary-id")
    assert "canary" not in repr(tokens)

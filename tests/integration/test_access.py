"""Roles, tokens and logins over the real database and broker: through the API, the pages and the command line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from starlette.testclient import TestClient

from cloudpush.audit.access import AccessBook
from cloudpush.broker import Buckets
from cloudpush.errors import BrokerError, Code, InputError
from cloudpush.push.access.login import ALPHABET
from cloudpush.push.access.model import Role, Scope
from cloudpush.push.access.ports import stream_of
from cloudpush.push.access.tokens import digest, new_token
from cloudpush.stack.services import Valkey
from servers import Database
from web_site import Site, site, text_of

ALL = frozenset(Scope)


@pytest.fixture(scope="module")
def here(database: Database, valkey: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site(database, valkey.url(), tmp_path_factory.mktemp("site")) as made:
        yield made


@pytest.fixture(scope="module")
def book(here: Site) -> AccessBook:
    return AccessBook(here.record.app)


def an_owner() -> str:
    return f"owner-{uuid4()}"


def a_token(book: AccessBook, owner: str, *, scopes: frozenset[Scope] = ALL, role: Role | None = None) -> str:
    text = new_token()
    book.add_token(digest(text), owner=owner, name="test", role=role, scopes=scopes, seconds=3600, actor=owner)
    return text


def api(here: Site, token: str = "") -> TestClient:
    client = TestClient(here.app, base_url=here.services.settings.web_url)
    if token:
        client.headers["authorization"] = f"Bearer {token}"
    return client


def events_of(here: Site, stream: UUID) -> list[tuple[str, str, Any]]:
    query = sa.text("SELECT kind, actor, data FROM event WHERE stream = :stream ORDER BY seq")
    with here.record.app.connect() as c:
        return [tuple(row) for row in c.execute(query, {"stream": stream})]


def code_of(answer: Any, status: int) -> str:
    assert answer.status_code == status, answer.text
    return str(answer.json()["code"])


# -- the book ----------------------------------------------------------------------------------


def test_a_role_is_granted_and_taken_once_and_both_are_recorded(here: Site, book: AccessBook) -> None:
    ada = an_owner()
    assert [book.grant_role(ada, Role.AUDITOR, "root") for _ in range(2)] == [True, False]
    assert book.roles_of(ada) == {Role.AUDITOR}
    assert [(r.role, r.granted_by) for r in book.roles(ada)] == [(Role.AUDITOR, "root")]
    assert [book.revoke_role(ada, Role.AUDITOR, "root") for _ in range(2)] == [True, False]
    assert book.roles_of(ada) == frozenset()
    data = {"principal": ada, "role": "auditor"}
    assert events_of(here, stream_of(ada)) == [("role.granted", "root", data), ("role.revoked", "root", data)]


def test_a_stacks_own_user_is_its_operator_once(book: AccessBook) -> None:
    ada = an_owner()
    assert [book.found(ada, (Role.ADMIN, Role.AUDITOR), "up") for _ in range(2)] == [True, False]
    book.revoke_role(ada, Role.ADMIN, ada)
    assert not book.found(ada, (Role.ADMIN, Role.AUDITOR), "up")
    assert book.roles_of(ada) == {Role.AUDITOR}


def test_of_a_token_its_digest_is_stored_and_nothing_else(here: Site, book: AccessBook) -> None:
    text = a_token(book, an_owner())
    with here.record.app.connect() as c:
        rows = (
            c.execute(sa.text("SELECT t::text FROM api_token t UNION ALL SELECT data::text FROM event")).scalars().all()
        )
    assert digest(text).hex() in str(rows)
    assert text[4:30] not in str(rows)


def test_an_expired_token_is_not_found_and_a_found_one_is_touched(here: Site, book: AccessBook) -> None:
    text = a_token(book, an_owner())
    found = book.find_token(digest(text))
    assert found is not None
    touched = book.token(found[0].id)
    assert touched is not None
    assert touched.used_at is not None
    book.find_token(digest(text))
    again = book.token(found[0].id)
    assert again is not None
    assert again.used_at == touched.used_at  # once a minute
    here.record.tamper("UPDATE api_token SET expires_at = now() WHERE id = :id", id=found[0].id)
    assert book.find_token(digest(text)) is None


def test_a_login_that_two_commands_fetch_at_once_brings_one_token(book: AccessBook) -> None:
    ada, device, code = an_owner(), digest(new_token()), "BCDFGHJK"
    book.add_device(device, code, asked_from="hpc7", scopes=ALL, seconds=600)
    assert book.decide(code, ada, approve=True)
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: book.take(device, digest(new_token()), seconds=60), range(8)))
    assert len([token for token in made if token]) == 1
    assert len(book.tokens(ada)) == 1


def test_two_processes_share_one_bucket(valkey: Valkey) -> None:
    one, other, key = Buckets(valkey.url()), Buckets(valkey.url()), str(uuid4())
    with ThreadPoolExecutor(8) as pool:
        waits = list(pool.map(lambda n: (one, other)[n % 2].take(key, 0.001, 20, 1), range(30)))
    assert len([wait for wait in waits if wait == 0]) == 20
    assert all(wait == 0 or 0 < wait <= 11_000 for wait in waits)


def test_a_broker_that_is_away_is_said_to_be_away() -> None:
    with pytest.raises(BrokerError):
        Buckets("redis://127.0.0.1:9/0").take("x", 1.0, 1, 1)


# -- the API -----------------------------------------------------------------------------------


def test_nobody_is_let_in_by_anything_but_one_bearer_token(here: Site, book: AccessBook) -> None:
    ada = an_owner()
    token = a_token(book, ada)
    browser = here.browser(ada)
    assert code_of(browser.get("/v1/me"), 401) == "UNAUTHENTICATED"  # a session's cookie is nothing here
    client = api(here)
    for headers in (
        {"authorization": token},
        {"authorization": f"Basic {token}"},
        {"authorization": "Bearer "},
        {"authorization": f"Bearer {token} {token}"},
        {"x-api-key": token},
    ):
        answer = client.get("/v1/me", headers=headers)
        assert answer.status_code == 401, headers
        assert answer.headers["www-authenticate"] == "Bearer"
    assert client.get("/v1/me", params={"access_token": token}).status_code == 422  # no such parameter
    two = client.get("/v1/me", headers=[("authorization", f"Bearer {token}")] * 2)
    assert two.status_code == 401
    assert client.get("/v1/me", headers={"authorization": f"bearer {token}"}).json()["name"] == ada


def test_one_sees_who_one_is_and_ends_the_token_in_use(here: Site, book: AccessBook) -> None:
    ada = an_owner()
    token = a_token(book, ada, scopes=frozenset({Scope.READ}), role=Role.PIPELINE)
    me = api(here, token).get("/v1/me").json()
    assert (me["name"], me["roles"], me["scopes"], me["rights"]) == (ada, ["pipeline"], ["read"], ["read"])
    assert api(here, token).delete(f"/v1/tokens/{me['token_id']}").status_code == 204
    assert book.find_token(digest(token)) is None


def test_a_token_is_made_shown_once_listed_and_ended(here: Site, book: AccessBook) -> None:
    ada = an_owner()
    client = api(here, a_token(book, ada))
    made = client.post("/v1/tokens", json={"name": "nightly", "scopes": ["submit"], "role": "pipeline", "days": 3})
    assert made.status_code == 201, made.text
    text = made.json()["token"]
    assert api(here, text).get("/v1/me").json()["rights"] == ["submit"]
    listed = client.get("/v1/tokens")
    assert [token["name"] for token in listed.json()["items"]] == ["nightly", "test"]
    assert text not in listed.text
    assert client.delete(f"/v1/tokens/{made.json()['id']}").status_code == 204
    kinds = [(kind, actor) for kind, actor, _ in events_of(here, UUID(made.json()["id"]))]
    assert [kind for kind, _ in kinds] == ["token.created", "token.revoked"]
    assert all(actor.startswith(f"{ada} (token ") for _, actor in kinds)


def test_anothers_token_looks_like_none(here: Site, book: AccessBook) -> None:
    ada, bob = an_owner(), an_owner()
    a_token(book, ada)
    theirs = book.tokens(ada)[0].id
    client = api(here, a_token(book, bob))
    assert code_of(client.delete(f"/v1/tokens/{theirs}"), 404) == code_of(client.delete(f"/v1/tokens/{uuid4()}"), 404)
    assert code_of(client.get("/v1/tokens", params={"owner": ada}), 403) == "FORBIDDEN"
    assert code_of(client.post("/v1/roles", json={"principal": bob, "role": "admin"}), 403) == "FORBIDDEN"
    assert len(book.tokens(ada)) == 1


def test_an_administrator_grants_roles_and_an_auditor_reads_them(here: Site, book: AccessBook) -> None:
    root, ada = an_owner(), an_owner()
    book.grant_role(root, Role.ADMIN, "test")
    client = api(here, a_token(book, root))
    assert client.post("/v1/roles", json={"principal": ada, "role": "auditor"}).status_code == 204
    found = api(here, a_token(book, ada)).get("/v1/roles", params={"principal": ada}).json()["items"]
    assert [(grant["principal"], grant["role"]) for grant in found] == [(ada, "auditor")]
    assert client.post("/v1/roles/revoke", json={"principal": ada, "role": "auditor"}).status_code == 204
    assert book.roles_of(ada) == frozenset()


def test_who_asks_too_often_is_told_when_to_ask_again(database: Database, valkey: Valkey, tmp_path: Path) -> None:
    with site(database, valkey.url(), tmp_path, api_rate=0.01, api_burst=3) as made:
        client = api(made, a_token(AccessBook(made.record.app), an_owner()))
        for _ in range(3):
            assert client.get("/v1/me").status_code == 200
        refused = client.get("/v1/me")
        assert code_of(refused, 429) == "RATE_LIMITED"
        assert 1 <= int(refused.headers["retry-after"]) <= 100


# -- logins ------------------------------------------------------------------------------------


def begin(here: Site, **asked: Any) -> Any:
    answer = api(here).post("/v1/login/device", json=asked)
    assert answer.status_code == 200, answer.text
    return answer.json()


def fetch(here: Site, begun: Any) -> Any:
    here.record.tamper("UPDATE device_login SET polled_at = NULL")  # its interval has passed
    return api(here).post("/v1/login/token", json={"device_code": begun["device_code"]})


def test_a_login_waits_until_its_code_is_approved_in_a_browser(here: Site, book: AccessBook) -> None:
    ada = an_owner()
    begun = begin(here, host="hpc7", scopes=["submit", "read"])
    assert set(begun["user_code"]) <= set(ALPHABET + "-")
    assert code_of(fetch(here, begun), 400) == "LOGIN_PENDING"
    soon = api(here).post("/v1/login/token", json={"device_code": begun["device_code"]})
    assert (code_of(soon, 429), soon.headers["retry-after"]) == ("RATE_LIMITED", "10")
    browser = here.browser(ada)
    page = browser.get("/device", params={"code": begun["user_code"].lower()})
    said = text_of(page.text)
    assert begun["user_code"] in said
    assert "hpc7" in said
    assert "testclient" in said
    assert "export everybody" not in said
    assert code_of(fetch(here, begun), 400) == "LOGIN_PENDING"  # looking at it is not approving it
    assert browser.send_form("/device", code=begun["user_code"], decision="approve").status_code == 200
    found = fetch(here, begun).json()
    assert (found["name"], found["scopes"]) == (ada, ["submit", "read"])
    assert api(here, found["token"]).get("/v1/me").json()["name"] == ada
    assert code_of(fetch(here, begun), 400) == "LOGIN_EXPIRED"  # once
    assert "hpc7" in book.tokens(ada)[0].name


def test_a_login_that_is_denied_brings_nothing(here: Site, book: AccessBook) -> None:
    ada, begun = an_owner(), begin(here)
    assert here.browser(ada).send_form("/device", code=begun["user_code"], decision="deny").status_code == 200
    assert code_of(fetch(here, begun), 403) == "FORBIDDEN"
    assert book.tokens(ada) == []


def test_a_login_is_decided_once_within_its_minutes_by_somebody(here: Site, book: AccessBook) -> None:
    begun = begin(here)
    assert here.browser().post("/device", data={"code": begun["user_code"], "decision": "approve"}).status_code == 303
    ada = here.browser(an_owner())
    assert (
        ada.post("/device", data={"code": begun["user_code"], "decision": "approve"}).status_code == 403
    )  # no CSRF token
    here.record.tamper("UPDATE device_login SET expires_at = now()")
    assert ada.send_form("/device", code=begun["user_code"], decision="approve").status_code == 404
    assert code_of(fetch(here, begun), 400) == "LOGIN_EXPIRED"
    again = begin(here)  # which sweeps the old one away
    assert here.count("device_login", "user_code = :code", code=begun["user_code"].replace("-", "")) == 0
    assert ada.send_form("/device", code=again["user_code"], decision="deny").status_code == 200
    assert ada.send_form("/device", code=again["user_code"], decision="approve").status_code == 404


def test_who_is_not_signed_in_comes_back_to_the_code(here: Site) -> None:
    answer = here.browser().get("/device", params={"code": "BCDF-GHJK"})
    assert answer.headers["location"] == "/sign-in?next=/device?code=BCDF-GHJK"


def test_codes_cannot_be_tried_out(here: Site) -> None:
    browser = here.browser(an_owner())
    found = [browser.get("/device", params={"code": "BBBB-BBBB"}).status_code for _ in range(25)]
    assert found[0] == 404
    assert found[-1] == 429


def test_a_machines_name_says_nothing_to_a_browser(here: Site) -> None:
    begun = begin(here, host="<script>x</script>\x1b[2J")
    page = here.browser(an_owner()).get("/device", params={"code": begun["user_code"]})
    assert "<script>x" not in page.text
    assert "\x1b" not in page.text


# -- the pages ---------------------------------------------------------------------------------


def test_the_page_of_tokens_makes_shows_once_and_ends(here: Site, book: AccessBook) -> None:
    ada = an_owner()
    browser = here.browser(ada)
    fields = {"name": "nightly", "scope-submit": "1", "scope-read": "1", "role": "pipeline", "days": "30"}
    made = browser.send_form("/tokens", **fields)
    text = re.search(r"cpt_[A-Za-z0-9_-]{49}", made.text)
    assert text is not None
    assert api(here, text[0]).get("/v1/me").json()["rights"] == ["submit", "read"]
    again = browser.get("/tokens")
    assert "nightly" in again.text
    assert text[0] not in again.text
    token = book.tokens(ada)[0]
    assert here.browser(an_owner()).send_form(f"/tokens/{token.id}/revoke").status_code == 404
    assert browser.send_form(f"/tokens/{token.id}/revoke").status_code == 303
    assert book.tokens(ada) == []
    assert browser.send_form("/tokens", name="no scopes").status_code == 400


def test_an_unknown_token_cannot_be_ended(book: AccessBook) -> None:
    with pytest.raises(InputError) as caught:
        book.revoke_token(uuid4(), None, "test")
    assert caught.value.code is Code.UNKNOWN_TOKEN


def test_a_role_is_taken_from_whatever_name_has_it_and_no_name_is_a_defect(here: Site, book: AccessBook) -> None:
    """Names of before there were rules for them, too."""
    root = an_owner()
    book.grant_role(root, Role.ADMIN, "test")
    book.grant_role("notary", Role.AUDITOR, "test")
    client = api(here, a_token(book, root))

    answers = [
        client.post(f"/v1/roles{what}", json={"principal": name, "role": "auditor"}).status_code
        for what, name in (("", "notary"), ("/revoke", "notary"), ("/revoke", "a\0b"), ("", "a\0b"))
    ]

    assert (answers, book.roles_of("notary")) == ([422, 204, 422, 422], frozenset())

"""Texts of tokens, who they stand for, and what may be made of what is in hand."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from cloudpush.errors import AccessError, Code, InputError
from cloudpush.push.access.desk import TokenDesk
from cloudpush.push.access.identity import KEPT_SECONDS, Access
from cloudpush.push.access.login import ALPHABET, plain, shown
from cloudpush.push.access.model import ALL_SCOPES, Principal, Right, Role, Scope, Via
from cloudpush.push.access.ports import ApiToken, Submitter
from cloudpush.push.access.tokens import digest, is_token, new_token

NOW = datetime.now(UTC)


class Book:
    """Tokens and roles in memory."""

    def __init__(self) -> None:
        self.granted: dict[str, set[Role]] = {}
        self.made: dict[bytes, ApiToken] = {}
        self.asked = 0

    def roles_of(self, principal: str) -> frozenset[Role]:
        return frozenset(self.granted.get(principal, ()))

    def add_token(self, token_sha256: bytes, *, seconds: float, actor: str, **values: Any) -> ApiToken:
        times: dict[str, Any] = {"created_at": NOW, "expires_at": NOW + timedelta(seconds=seconds)}
        token = ApiToken(id=uuid4(), created_by=actor, **values, **times)
        self.made[token_sha256] = token
        return token

    def find_token(self, token_sha256: bytes) -> tuple[ApiToken, frozenset[Role]] | None:
        self.asked += 1
        token = self.made.get(token_sha256)
        return None if token is None or token.revoked_at else (token, self.roles_of(token.owner))

    def token(self, token_id: UUID) -> ApiToken | None:
        return next((token for token in self.made.values() if token.id == token_id), None)

    def revoke(self, text: str) -> None:
        self.made[digest(text)] = replace(self.made[digest(text)], revoked_at=NOW)


class Time:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def book() -> Book:
    return Book()


@pytest.fixture
def desk(book: Book) -> TokenDesk:
    return TokenDesk(book, 365)  # type: ignore[arg-type]


def somebody(name: str = "ada", *roles: Role, scopes: frozenset[Scope] = ALL_SCOPES) -> Principal:
    return Principal(name, frozenset({Role.USER, *roles}), scopes, name, Via.SESSION)


def access(book: Book, time: Time | None = None) -> Access:
    return Access(book, clock=time or Time())  # type: ignore[arg-type]


def test_a_token_that_was_mistyped_anywhere_is_none() -> None:
    token = new_token()
    assert is_token(token)
    assert len(token) == 53
    for place in range(len(token)):
        other = "A" if token[place] != "A" else "B"
        assert not is_token(token[:place] + other + token[place + 1 :])
    assert not is_token(token[:-1])
    assert not is_token(token + "a")


def test_a_mistyped_token_is_refused_without_asking_the_database(book: Book) -> None:
    with pytest.raises(AccessError, match="copy it again") as caught:
        access(book).identify(new_token()[:-1] + "-")
    assert (caught.value.code, book.asked) == (Code.UNAUTHENTICATED, 0)


def test_what_is_wrong_with_a_token_is_told_to_nobody(book: Book, desk: TokenDesk) -> None:
    made = desk.create(somebody(), "one", frozenset({Scope.READ}))
    book.revoke(made.text)
    said = set()
    for text in (made.text, new_token(), "something else", "a.b.c", "", "x" * 20_000):
        with pytest.raises(AccessError) as caught:
            access(book).identify(text)
        said.add(str(caught.value))
    assert len(said) == 1


def test_a_tokens_roles_are_its_owners_of_now(book: Book, desk: TokenDesk) -> None:
    text = desk.create(somebody(), "one", frozenset({Scope.READ, Scope.AUDIT})).text
    time = Time()
    by = access(book, time)
    assert not by.identify(text).may(Right.READ_ALL)
    book.granted["ada"] = {Role.AUDITOR}
    time.now += KEPT_SECONDS
    assert by.identify(text).may(Right.READ_ALL)
    book.granted.clear()
    time.now += KEPT_SECONDS
    assert not by.identify(text).may(Right.READ_ALL)


def test_a_revoked_token_opens_nothing_after_two_seconds(book: Book, desk: TokenDesk) -> None:
    text, time = desk.create(somebody(), "one", frozenset({Scope.READ})).text, Time()
    by = access(book, time)
    found = [by.identify(text) for _ in range(5)]
    assert (len(set(map(id, found))), book.asked, KEPT_SECONDS) == (1, 1, 2.0)
    book.revoke(text)
    time.now += KEPT_SECONDS
    with pytest.raises(AccessError):
        by.identify(text)


def test_a_token_is_narrowed_to_its_role_and_to_its_scopes(book: Book, desk: TokenDesk) -> None:
    book.granted["ada"] = {Role.ADMIN}
    text = desk.create(somebody("ada", Role.ADMIN), "one", frozenset({Scope.SUBMIT}), role=Role.PIPELINE).text
    found = access(book).identify(text)
    assert found.roles == {Role.PIPELINE}
    assert [right for right in Right if found.may(right)] == [Right.SUBMIT]
    assert str(found.token_id)[:8] in found.actor


@pytest.mark.parametrize(("scopes", "role"), [(frozenset({Scope.AUDIT}), None), (frozenset({Scope.READ}), Role.ADMIN)])
def test_a_token_gives_away_no_more_than_it_has(
    book: Book, desk: TokenDesk, scopes: frozenset[Scope], role: Role | None
) -> None:
    book.granted["ada"] = {Role.ADMIN}
    made = desk.create(somebody("ada", Role.ADMIN), "one", frozenset({Scope.ADMIN, Scope.READ}), role=Role.USER)
    with pytest.raises(AccessError) as caught:
        desk.create(access(book).identify(made.text), "two", scopes, role=role)
    assert caught.value.code is Code.FORBIDDEN


def test_a_narrowed_tokens_children_are_narrowed_as_well(book: Book, desk: TokenDesk) -> None:
    made = desk.create(somebody(), "one", frozenset({Scope.ADMIN}), role=Role.USER)
    child = desk.create(access(book).identify(made.text), "two", frozenset({Scope.ADMIN}))
    book.granted["ada"] = {Role.ADMIN}
    assert access(book).identify(child.text).roles == {Role.USER}


def test_who_has_fewer_roles_by_their_provider_makes_no_token_with_all(book: Book, desk: TokenDesk) -> None:
    book.granted["ada"] = {Role.ADMIN}
    with pytest.raises(AccessError, match="name one of those"):
        desk.create(replace(somebody(), via=Via.JWT), "one", frozenset({Scope.ADMIN}))


def test_nobody_but_an_administrator_makes_tokens_of_others(book: Book, desk: TokenDesk) -> None:
    with pytest.raises(AccessError):
        desk.create(somebody(), "one", frozenset({Scope.READ}), owner="bob")
    made = desk.create(somebody("ada", Role.ADMIN), "one", frozenset({Scope.READ}), owner="bob")
    assert (made.token.owner, made.token.created_by) == ("bob", "ada")
    assert access(book).identify(made.text).name == "bob"


@pytest.mark.parametrize(
    "wrong", [{"days": 366}, {"days": 0}, {"name": ""}, {"name": " x"}, {"name": "a\nb"}, {"scopes": frozenset()}]
)
def test_a_token_that_is_not_to_be_is_refused_by_its_field(desk: TokenDesk, wrong: dict[str, object]) -> None:
    asked: dict[str, object] = {"name": "one", "scopes": frozenset({Scope.READ})} | wrong
    with pytest.raises(InputError) as caught:
        desk.create(somebody(), asked.pop("name"), asked.pop("scopes"), **asked)  # type: ignore[arg-type]
    assert caught.value.field == next(iter(wrong))


def test_no_secret_of_a_token_is_in_what_is_printed(desk: TokenDesk) -> None:
    made = desk.create(somebody(), "one", frozenset({Scope.READ}))
    assert made.text not in repr(made)
    assert made.text not in repr(made.token)


def test_a_message_of_a_revoked_token_counts_for_nothing(book: Book, desk: TokenDesk) -> None:
    made = desk.create(somebody(), "one", frozenset({Scope.SUBMIT}), role=Role.PIPELINE)
    by = Submitter("ada", "ada", frozenset({Role.PIPELINE}), frozenset({Scope.SUBMIT}), made.token.id)
    assert access(book).principal_of_message(by).may(Right.SUBMIT)
    book.revoke(made.text)
    with pytest.raises(AccessError) as caught:
        access(book).principal_of_message(by)
    assert caught.value.code is Code.SUBMISSION_REFUSED


def test_a_message_has_no_role_that_its_principal_has_lost(book: Book) -> None:
    by = Submitter("ada", "ada", frozenset({Role.ADMIN}), ALL_SCOPES, None)
    with pytest.raises(AccessError):
        access(book).principal_of_message(by).need(Right.SUBMIT)


def test_codes_are_read_however_they_are_typed() -> None:
    code = ALPHABET[:8]
    for text in (shown(code), code.lower(), f" {code[:4]} {code[4:]} "):
        assert plain(text) == code
    for text in ("", code[:7], code + "B", code[:7] + "A", "ÄÖÜß" * 2):
        assert plain(text) == ""

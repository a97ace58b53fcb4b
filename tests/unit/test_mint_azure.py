"""What is signed for a container or a directory, and what an account's refusals mean."""

from __future__ import annotations

import base64
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, parse_qsl

import pytest
from azure.storage.blob import UserDelegationKey, generate_blob_sas, generate_container_sas

from builders import NOON
from cloudpush.credentials import mint_azure
from cloudpush.credentials.calls import Reply
from cloudpush.credentials.mint_azure import Account, DelegationKey, fetch_key, sign, string_to_sign
from cloudpush.errors import CloudPushError, Code
from cloudpush.push.grants.model import Use
from fakes_mint import a_provider, an_active_grant

ACCOUNT = Account("labresults", "https://labresults.blob.core.windows.net", hierarchical=False)
LAKE = replace(ACCOUNT, hierarchical=True)
KEY = DelegationKey(
    oid="11059fcc-5514-4800-b5f8-49808b9cfab6",
    tid="ab1f708d-50f6-404c-a006-d71b2ac7a606",
    start="2026-03-01T11:45:00Z",
    expiry="2026-03-01T14:00:00Z",
    service="b",
    version="2022-11-02",
    value=b"the key that Azure gave",
    made_at=NOON,
    expires_at=datetime(2026, 3, 1, 14, 0, tzinfo=UTC),
)
ENDS = NOON + timedelta(hours=1)
TOKEN = "of-no-shape-that-a-pattern-knows"
PROVIDER = a_provider(Use.USER_DELEGATION_SAS)


def the_witness(container: str, directory: str = "") -> tuple[list[str], dict[str, str]]:
    """What Microsoft's own library signs: the lines, and the query without version and signature.

    It signs for a newer version of the service, which has four more lines, all of them empty here: the tenant and id of
    a delegated user before the addresses, signed headers and parameters before the headers of answers.
    """
    key = UserDelegationKey()  # type: ignore[no-untyped-call]
    key.signed_oid, key.signed_tid, key.signed_start, key.signed_expiry = KEY.oid, KEY.tid, KEY.start, KEY.expiry
    key.signed_service, key.signed_version = KEY.service, KEY.version
    key.value = base64.b64encode(KEY.value).decode()
    said: list[str] = []
    given: dict[str, Any] = {
        "account_name": ACCOUNT.name,
        "container_name": container,
        "user_delegation_key": key,
        "permission": "rcw",
        "expiry": ENDS,
        "protocol": "https",
        "sts_hook": said.append,
    }
    made = (
        generate_blob_sas(blob_name=directory, is_directory=True, **given)
        if directory
        else generate_container_sas(**given)
    )
    lines = said[0].split("\n")
    assert [lines.pop(21), lines.pop(20), lines.pop(14), lines.pop(13)] == [""] * 4
    query = {name: value for name, value in parse_qsl(made) if name not in {"sv", "sig"}}
    return lines, query


@pytest.mark.parametrize(
    ("container", "prefix", "account"),
    [
        ("results", "", ACCOUNT),
        ("results", "runs/7", ACCOUNT),  # without directories the container is the least
        ("results", "", LAKE),
        ("results", "runs", LAKE),
        ("results", "runs/7/a b/ü+%&=?", LAKE),
    ],
)
def test_what_is_signed_is_what_microsofts_library_signs(container: str, prefix: str, account: Account) -> None:
    """Line by line, and the query; but for the version, which we pin."""
    sas = sign(account, KEY, container, prefix, ENDS)
    query = dict(parse_qsl(sas.query))
    directory = prefix if account.hierarchical else ""
    lines, named = the_witness(container, directory)
    assert {name: value for name, value in query.items() if name not in {"sv", "sig"}} == named
    mine = string_to_sign(account.name, f"{container}/{directory}" if directory else container, query).split("\n")
    # Only the version differs, and stands at the same place.
    assert [(a, b) for a, b in zip(mine, lines, strict=True) if a != b] == [
        ("2022-11-02", lines[mine.index("2022-11-02", 10)])
    ]


def test_a_signature_that_was_recorded() -> None:
    """Nothing changes what is signed unnoticed. The string itself was taken by Azurite 3.35 and by the test above."""
    assert sign(ACCOUNT, KEY, "results", "", ENDS).query == (
        "sv=2022-11-02&sp=rcw&se=2026-03-01T13%3A00%3A00Z&sr=c&spr=https"
        "&skoid=11059fcc-5514-4800-b5f8-49808b9cfab6&sktid=ab1f708d-50f6-404c-a006-d71b2ac7a606"
        "&skt=2026-03-01T11%3A45%3A00Z&ske=2026-03-01T14%3A00%3A00Z&sks=b&skv=2022-11-02"
        "&sig=%2BatsL4UvyCLENeR%2BcqpQOWgNM92LZGXiJO0VU5YGt8U%3D"
    )
    assert parse_qs(sign(LAKE, KEY, "results", "runs/7", ENDS).query)["sdd"] == ["2"]


def test_it_never_outlives_its_key() -> None:
    sas = sign(ACCOUNT, KEY, "results", "", ENDS + timedelta(days=1))
    assert sas.expires_at == KEY.expires_at
    assert parse_qs(sas.query)["se"] == [KEY.expiry]


def test_no_name_adds_a_line_to_what_is_signed() -> None:
    """A line break in a prefix would end the resource's line and begin one of the attacker's choice."""
    for container, prefix in (("results", "runs\n\n\nx"), ("results\nx", ""), ("results", "a\rb")):
        with pytest.raises(CloudPushError) as caught:
            sign(LAKE, KEY, container, prefix, ENDS)
        assert caught.value.code is Code.BAD_INPUT


def test_neither_key_nor_signature_is_shown() -> None:
    sas = sign(ACCOUNT, KEY, "results", "", ENDS)
    shown = f"{KEY!r} {sas!r} {sas}"
    assert KEY.value.decode() not in shown
    assert "sig=" not in shown


# -- whose account ---------------------------------------------------------------------------------


def test_an_account_is_the_operators_address_with_the_users_name() -> None:
    grant = an_active_grant(settings={"account": "labresults", "namespace": "hierarchical"})
    assert Account.of(PROVIDER, grant) == LAKE
    local = replace(PROVIDER, endpoint="https://127.0.0.1:10000/{account}")
    assert Account.of(local, grant).url == "https://127.0.0.1:10000/labresults"
    fixed = replace(PROVIDER, endpoint="https://labresults.blob.core.windows.net/")
    assert Account.of(fixed, an_active_grant(settings={})) == ACCOUNT


@pytest.mark.parametrize("name", ["", "evil.example/", "a.b", "a@b", "a/../b", "a?b", "a#b", "A", "a" * 64, "a\n"])
def test_an_account_is_nothing_but_a_name(name: str) -> None:
    with pytest.raises(CloudPushError) as caught:
        Account.of(PROVIDER, an_active_grant(settings={"account": name}))
    assert (caught.value.code, caught.value.field) == (Code.BAD_INPUT, "account")


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "http://{account}.blob.core.windows.net",
        "https://x/?{account}",
        "ftp://{account}",
        "https://u:p@h/{account}",
    ],
)
def test_an_endpoint_that_no_token_may_go_to_is_the_operators_to_mend(endpoint: str) -> None:
    with pytest.raises(CloudPushError) as caught:
        Account.of(replace(PROVIDER, endpoint=endpoint), an_active_grant())
    assert (caught.value.code, caught.value.field) == (Code.SETTINGS_INVALID, "lab.endpoint")


# -- asking for a key ------------------------------------------------------------------------------

ANSWER = (
    "<?xml version='1.0' encoding='utf-8'?><UserDelegationKey><SignedOid>{oid}</SignedOid><SignedTid>{tid}</SignedTid>"
    "<SignedStart>{start}</SignedStart><SignedExpiry>{expiry}</SignedExpiry><SignedService>{service}</SignedService>"
    "<SignedVersion>{version}</SignedVersion><Value>{value}</Value></UserDelegationKey>"
)


def answering(monkeypatch: pytest.MonkeyPatch, status: int, body: str, **headers: str) -> list[dict[str, Any]]:
    """The account answers like this; what it is asked."""
    asked: list[dict[str, Any]] = []

    def post(_provider: object, url: str, **more: Any) -> Reply:
        asked.append({"url": url, **more})
        return Reply(status, {name.replace("_", "-"): value for name, value in headers.items()}, body.encode())

    monkeypatch.setattr(mint_azure, "post", post)
    return asked


def an_answer(**changes: str) -> str:
    """A key as Azure gives it."""
    given = {name: getattr(KEY, name) for name in ("oid", "tid", "start", "expiry", "service", "version")}
    return ANSWER.format(**(given | {"value": base64.b64encode(KEY.value).decode()} | changes))


def test_a_key_is_asked_for_with_the_token_and_lives_twice_as_long_as_a_session(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = answering(monkeypatch, 200, an_answer())
    assert fetch_key(PROVIDER, ACCOUNT, TOKEN, NOON) == KEY
    assert asked == [
        {
            "url": "https://labresults.blob.core.windows.net/?restype=service&comp=userdelegationkey",
            "data": b'<?xml version="1.0" encoding="utf-8"?><KeyInfo><Start>2026-03-01T11:45:00Z</Start>'
            b"<Expiry>2026-03-01T14:00:00Z</Expiry></KeyInfo>",
            "headers": {"Content-Type": "application/xml", "x-ms-version": "2022-11-02"},
            "access_token": TOKEN,
        }
    ]
    assert KEY.fresh_until == NOON + timedelta(hours=1)


def test_no_key_is_asked_for_that_lives_longer_than_azure_gives_one(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answering(monkeypatch, 200, an_answer())
    fetch_key(replace(PROVIDER, session_seconds=30 * 24 * 3600), ACCOUNT, TOKEN, NOON)
    assert b"<Expiry>2026-03-08T12:00:00Z</Expiry>" in asked[0]["data"]


@pytest.mark.parametrize(
    "body",
    [
        "",
        "not xml",
        "<UserDelegationKey/>",
        an_answer(value="not base64 !"),
        an_answer(value=""),
        an_answer(oid=""),
        an_answer(expiry="soon"),
        an_answer(expiry="2026-03-01T14:00:00"),
        f"<!DOCTYPE x [<!ENTITY e 'x'>]>{an_answer()}",
    ],
)
def test_what_is_no_key_is_refused_and_not_repeated(monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    answering(monkeypatch, 200, body)
    with pytest.raises(CloudPushError) as caught:
        fetch_key(PROVIDER, ACCOUNT, TOKEN, NOON)
    error = caught.value
    assert error.code is Code.PROVIDER_REFUSED
    assert base64.b64encode(KEY.value).decode() not in f"{error}{error.detail}{error.__cause__}{error.__context__}"


def refusal(code: str, message: str = "", detail: str = "") -> str:
    """An error as Azure says it, with the byte order mark that it sends."""
    more = f"<AuthenticationErrorDetail>{detail}</AuthenticationErrorDetail>" if detail else ""
    return f"\ufeff<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message>{more}</Error>"


@pytest.mark.parametrize(
    ("status", "body", "code", "words"),
    [
        (
            403,
            refusal("AuthorizationPermissionMismatch", "not authorized"),
            Code.ACCESS_DENIED,
            "have its owner assign you the role Storage Blob Delegator on the account",
        ),
        (403, refusal("AuthorizationFailure", "not authorized"), Code.ACCESS_DENIED, "network rules"),
        (403, refusal("AccountIsDisabled"), Code.ACCESS_DENIED, "that it is enabled"),
        (401, refusal("InvalidAuthenticationInfo", "x", "Issuer validation failed."), Code.CONSENT_NEEDED, "reconnect"),
        (
            401,
            refusal("InvalidAuthenticationInfo", "x", "Audience validation failed."),
            Code.CONSENT_NEEDED,
            "reconnect",
        ),
        (401, "", Code.CONSENT_NEEDED, "reconnect"),
        (403, refusal("AuthenticationFailed", "Server failed to authenticate"), Code.CONSENT_NEEDED, "tenant"),
        (
            401,
            refusal("InvalidAuthenticationInfo", "x", "Lifetime validation failed. The token is expired."),
            Code.CLOCK_SKEW,
            "expired",
        ),
        (429, "", Code.THROTTLED, "slow down"),
        (503, refusal("ServerBusy"), Code.PROVIDER_UNAVAILABLE, "just now"),
        (500, "<html>", Code.PROVIDER_UNAVAILABLE, "just now"),
        (302, "", Code.PROVIDER_REFUSED, "302"),
        (400, refusal("InvalidXmlDocument"), Code.PROVIDER_REFUSED, "InvalidXmlDocument"),
        (404, refusal("ResourceNotFound"), Code.PROVIDER_REFUSED, "ResourceNotFound"),
    ],
)
def test_a_refusal_says_who_must_do_what(
    monkeypatch: pytest.MonkeyPatch, status: int, body: str, code: Code, words: str
) -> None:
    answering(monkeypatch, status, body)
    with pytest.raises(CloudPushError, match=words) as caught:
        fetch_key(PROVIDER, ACCOUNT, TOKEN, NOON)
    assert caught.value.code is code
    assert "'labresults'" in caught.value.message


def test_the_code_in_the_header_counts_and_a_token_that_is_quoted_back_is_masked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answering(
        monkeypatch, 403, refusal("Other", f"what is {TOKEN} here"), x_ms_error_code="AuthorizationPermissionMismatch"
    )
    with pytest.raises(CloudPushError, match="Delegator") as caught:
        fetch_key(PROVIDER, ACCOUNT, TOKEN, NOON)
    assert TOKEN not in caught.value.detail


def test_preflight_may_delete_and_a_push_may_not() -> None:
    """Its probe; all else is the same."""
    push, probe = (parse_qs(sign(ACCOUNT, KEY, "results", "", ENDS, probe=probe).query) for probe in (False, True))

    assert (push["sp"], probe["sp"], {**push, "sp": 0, "sig": 0} == {**probe, "sp": 0, "sig": 0}) == (
        ["rcw"],
        ["rcwd"],
        True,
    )

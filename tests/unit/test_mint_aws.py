"""What STS is asked for a role's keys, and what its refusals mean."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from builders import NOON
from cloudpush.credentials import mint_aws
from cloudpush.credentials.calls import Reply
from cloudpush.credentials.mint_aws import IdentityOverError, Role, assume, session_policy
from cloudpush.errors import CloudPushError, Code
from cloudpush.push.grants.model import Use
from cloudpush.push.job import Destination, Profile
from fakes_mint import ROLE, a_provider, an_active_grant

PROVIDER = a_provider(Use.WEB_IDENTITY)
THEIRS = replace(PROVIDER, identity_token="theirs")
LENDER = Role(ROLE, "https://sts.eu-central-1.amazonaws.com", "eu-central-1", "")
IDENTITY = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl"
KEYS = {
    "AccessKeyId": "ASIAEXAMPLE000000001",
    "SecretAccessKey": "the/secret+key",
    "SessionToken": "the+session/token==",
    "Expiration": "2026-03-01T13:00:00Z",
}


def answering(monkeypatch: pytest.MonkeyPatch, status: int, body: str) -> list[dict[str, Any]]:
    """STS answers like this; what it is asked."""
    asked: list[dict[str, Any]] = []

    def post(_provider: object, url: str, **more: Any) -> Reply:
        asked.append({"url": url, **more})
        return Reply(status, {}, body.encode())

    monkeypatch.setattr(mint_aws, "post", post)
    return asked


def an_answer(**changes: str) -> str:
    """Keys as STS lends them."""
    fields = "".join(f"<{name}>{value}</{name}>" for name, value in (KEYS | changes).items() if value)
    return (
        '<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">'
        f"<AssumeRoleWithWebIdentityResult><Credentials>{fields}</Credentials></AssumeRoleWithWebIdentityResult>"
        "</AssumeRoleWithWebIdentityResponse>"
    )


def refusal(code: str, message: str = "") -> str:
    """An error as STS says it."""
    return (
        '<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type>'
        f"<Code>{code}</Code><Message>{message}</Message></Error><RequestId>r</RequestId></ErrorResponse>"
    )


def refused(monkeypatch: pytest.MonkeyPatch, status: int, body: str, provider: Any = PROVIDER) -> CloudPushError:
    """What becomes of an answer."""
    answering(monkeypatch, status, body)
    with pytest.raises(CloudPushError) as caught:
        assume(provider, LENDER, IDENTITY, name="cloudpush-x", policy="{}")
    return caught.value


def test_it_asks_without_a_signature_for_a_narrowed_session(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answering(monkeypatch, 200, an_answer())
    keys = assume(PROVIDER, LENDER, IDENTITY, name="cloudpush-x", policy="the policy")
    assert asked == [
        {
            "url": "https://sts.eu-central-1.amazonaws.com/",
            "data": {
                "Action": "AssumeRoleWithWebIdentity",
                "Version": "2011-06-15",
                "RoleArn": ROLE,
                "RoleSessionName": "cloudpush-x",
                "WebIdentityToken": IDENTITY,
                "Policy": "the policy",
                "DurationSeconds": "3600",
            },
            "headers": {"Accept": "application/xml"},
        }
    ]
    assert keys.expires_at == NOON + timedelta(hours=1)
    assert keys.secret.reveal() == {
        "access_key_id": KEYS["AccessKeyId"],
        "secret_access_key": KEYS["SecretAccessKey"],
        "session_token": KEYS["SessionToken"],
        "endpoint": "",
        "region": "eu-central-1",
    }
    assert KEYS["SecretAccessKey"] not in f"{keys!r}{keys.secret!r}"


@pytest.mark.parametrize(("seconds", "asked_for"), [(6, None), (899, None), (900, "900"), (10**6, "43200")])
def test_a_session_lasts_as_long_as_sts_lends_for(
    monkeypatch: pytest.MonkeyPatch, seconds: int, asked_for: str | None
) -> None:
    asked = answering(monkeypatch, 200, an_answer())
    assume(replace(PROVIDER, session_seconds=seconds), LENDER, IDENTITY, name="cloudpush-x", policy="{}")
    assert asked[0]["data"].get("DurationSeconds") == asked_for


@pytest.mark.parametrize(
    "body",
    [
        "",
        "<html>",
        an_answer(SessionToken=""),
        an_answer(AccessKeyId=""),
        an_answer(Expiration=""),
        an_answer(Expiration="soon"),
        an_answer(Expiration="2026-03-01T13:00:00"),
        an_answer(SecretAccessKey="with a blank"),
        f"<!DOCTYPE x []>{an_answer()}",
    ],
)
def test_what_are_no_keys_is_refused_and_not_repeated(monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    error = refused(monkeypatch, 200, body)
    assert error.code is Code.PROVIDER_REFUSED
    assert KEYS["SecretAccessKey"] not in f"{error}{error.detail}{error.__cause__}{error.__context__}"


@pytest.mark.parametrize(
    ("status", "code", "message", "ours", "words"),
    [
        (403, "AccessDenied", "Not authorized to perform sts", Code.ACCESS_DENIED, "trust policy must name CloudPush"),
        (400, "InvalidIdentityToken", "No OpenIDConnect provider found", Code.ACCESS_DENIED, "add it in IAM"),
        (
            400,
            "InvalidIdentityToken",
            "Couldn't retrieve verification key",
            Code.PROVIDER_UNAVAILABLE,
            "CLOUDPUSH_WEB_URL",
        ),
        (400, "InvalidParameterValue", "audience", Code.ACCESS_DENIED, "does not take our identity token"),
        (403, "IDPRejectedClaim", "", Code.ACCESS_DENIED, "trust policy"),
        (400, "ExpiredTokenException", "", Code.CLOCK_SKEW, "just made"),
        (400, "IDPCommunicationError", "", Code.PROVIDER_UNAVAILABLE, "cannot reach"),
        (400, "MalformedPolicyDocument", "", Code.BAD_INPUT, "prefix"),
        (400, "PackedPolicyTooLarge", "", Code.BAD_INPUT, "too long"),
        (403, "RegionDisabledException", "", Code.BAD_INPUT, "not activated"),
        (400, "ValidationError", "MaxSessionDuration", Code.PROVIDER_REFUSED, "maximum duration"),
        (400, "Throttling", "", Code.THROTTLED, "slow down"),
        (400, "ThrottlingException", "", Code.THROTTLED, "slow down"),
        (503, "ServiceUnavailable", "", Code.PROVIDER_UNAVAILABLE, "not available"),
        (500, "InternalFailure", "", Code.PROVIDER_UNAVAILABLE, "not available"),
        (429, "", "", Code.THROTTLED, "slow down"),
        (502, "", "", Code.PROVIDER_UNAVAILABLE, "not available"),
        (403, "SomethingNew", "", Code.ACCESS_DENIED, "does not accept"),
        (400, "SomethingNew", "", Code.PROVIDER_REFUSED, "400 SomethingNew"),
        (302, "{role}", "", Code.PROVIDER_REFUSED, "302 role"),
    ],
)
def test_a_refusal_says_who_must_do_what(
    monkeypatch: pytest.MonkeyPatch, status: int, code: str, message: str, ours: Code, words: str
) -> None:
    error = refused(monkeypatch, status, refusal(code, message))
    assert error.code is ours
    assert words in error.message
    assert message in error.detail


def test_fields_that_a_user_can_mend_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused(monkeypatch, 400, refusal("PackedPolicyTooLarge")).field == "destination"
    assert refused(monkeypatch, 403, refusal("RegionDisabledException")).field == "region"


def test_a_token_of_their_own_provider_is_their_users_business(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rejected: reconnect. Expired: a further one may do. The words speak of their provider, not of us."""
    assert refused(monkeypatch, 403, refusal("IDPRejectedClaim"), THEIRS).code is Code.CONSENT_NEEDED
    over = refused(monkeypatch, 400, refusal("ExpiredTokenException"), THEIRS)
    assert isinstance(over, IdentityOverError)
    assert over.code.retryable
    assert "signs in at" in refused(monkeypatch, 403, refusal("AccessDenied"), THEIRS).message


def test_a_token_that_is_quoted_back_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert IDENTITY not in refused(monkeypatch, 400, refusal("InvalidIdentityToken", IDENTITY)).detail


def test_no_html_and_no_garbage_is_a_code(monkeypatch: pytest.MonkeyPatch) -> None:
    error = refused(monkeypatch, 400, "<html><Error><Code>{trust}</Code></Error>")
    assert error.code is Code.PROVIDER_REFUSED
    assert "without a code" in error.message


# -- which role, and where -------------------------------------------------------------------------


def test_a_role_is_the_users_and_sts_is_the_operators() -> None:
    assert Role.of(PROVIDER, an_active_grant(), ()) == LENDER
    china = an_active_grant(settings={"role_arn": "arn:aws-cn:iam::123456789012:role/x", "region": "cn-north-1"})
    assert Role.of(PROVIDER, china, ()).sts == "https://sts.cn-north-1.amazonaws.com.cn"
    weed = replace(PROVIDER, sts_endpoint="http://127.0.0.1:8333", endpoint="http://127.0.0.1:8333/")
    found = Role.of(weed, an_active_grant(settings={"role_arn": "arn:aws:iam::role/Push"}), ())
    assert (found.endpoint, found.region, found.pins_subjects) == ("http://127.0.0.1:8333", "", False)
    assert LENDER.pins_subjects


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"role_arn": "", "region": "eu-central-1"}, "role_arn"),
        ({"role_arn": f"{ROLE}\n", "region": "eu-central-1"}, "role_arn"),
        ({"role_arn": ROLE, "region": "evil.example/"}, "region"),
        ({"role_arn": ROLE, "region": "eu-central-1@evil"}, "region"),
        ({"role_arn": ROLE}, "region"),
    ],
)
def test_an_answer_that_is_none_is_named(settings: dict[str, str], field: str) -> None:
    with pytest.raises(CloudPushError) as caught:
        Role.of(PROVIDER, an_active_grant(settings=settings), ())
    assert (caught.value.code, caught.value.field) == (Code.BAD_INPUT, field)


def test_identity_tokens_go_by_https_or_to_whom_the_operator_lists() -> None:
    for provider, field in (
        (replace(PROVIDER, sts_endpoint=""), "lab.sts_endpoint"),
        (replace(PROVIDER, sts_endpoint="http://sts.example"), "lab.sts_endpoint"),
        (replace(PROVIDER, endpoint="https://s3.example/path"), "lab.endpoint"),
    ):
        with pytest.raises(CloudPushError) as caught:
            Role.of(provider, an_active_grant(), ())
        assert (caught.value.code, caught.value.field) == (Code.SETTINGS_INVALID, field)
    listed = Role.of(replace(PROVIDER, sts_endpoint="http://sts.example"), an_active_grant(), ("sts.example",))
    assert listed.sts == "http://sts.example"


# -- what a session may do --------------------------------------------------------------------------


def a_destination(dialect: str, prefix: str = "runs/7") -> Destination:
    return Destination("s3", "results", prefix, Profile(dialect, dialect))


def test_amazons_sessions_may_use_the_accounts_keys_through_s3() -> None:
    policy = json.loads(session_policy(a_destination("aws"), ROLE, listing=True))
    assert policy["Statement"][-1] == {
        "Effect": "Allow",
        "Action": ["kms:GenerateDataKey", "kms:Decrypt"],
        "Resource": "*",
        "Condition": {"StringLike": {"kms:ViaService": "s3.*"}},
    }
    other = json.loads(session_policy(a_destination("seaweedfs"), ROLE, listing=True))
    assert other["Statement"] == policy["Statement"][:-1]


def test_a_pattern_in_a_prefix_is_written_out_for_amazon_and_refused_for_others() -> None:
    policy = json.loads(session_policy(a_destination("aws", "a*b?c$d"), ROLE, listing=True))
    assert policy["Statement"][0]["Resource"] == "arn:aws:s3:::results/a${*}b${?}c${$}d/*"
    assert policy["Statement"][2]["Condition"] == {"StringLike": {"s3:prefix": "a${*}b${?}c${$}d/*"}}
    with pytest.raises(CloudPushError, match=r"has '\*'"):
        session_policy(a_destination("minio", "a*b"), ROLE, listing=True)


@pytest.mark.parametrize(("prefix", "below"), [("runs/7", "runs/7/"), ("", "")])
def test_preflight_may_delete_its_probes_and_nothing_else(prefix: str, below: str) -> None:
    """Right below the prefix, by their name; a push may delete nothing."""
    where = a_destination("aws", prefix)
    push, probe = (json.loads(session_policy(where, ROLE, listing=True, probe=p))["Statement"] for p in (False, True))

    assert [statement for statement in probe if statement not in push] == [
        {
            "Effect": "Allow",
            "Action": "s3:DeleteObject",
            "Resource": f"arn:aws:s3:::{where.bucket}/{below}.cloudpush-preflight-*",
        }
    ]
    assert [statement for statement in push if statement not in probe] == []


def test_policy_that_has_no_room_for_a_probe_is_that_of_a_push() -> None:
    """What is short enough for a push fails no preflight; the probe then stays."""
    destination = a_destination("aws", "p" * 300)
    longest = next(
        where
        for n in range(300, 1024)
        if _too_long(where := replace(destination, prefix="p" * n), probe=False) is False
        and _too_long(replace(destination, prefix="p" * (n + 1)), probe=False)
    )

    assert session_policy(longest, ROLE, listing=True, probe=True) == session_policy(longest, ROLE, listing=True)


def _too_long(destination: Destination, *, probe: bool) -> bool:
    try:
        session_policy(destination, ROLE, listing=True, probe=probe)
    except CloudPushError:
        return True
    return False

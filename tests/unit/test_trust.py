"""What a user pastes into AWS: the trust policy in three languages, and what hostile names may not make of it."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudpush.errors import CloudPushError, Code
from cloudpush.push.grants.model import Use
from cloudpush.push.grants.trust import Trust
from fakes_mint import a_provider, an_active_grant

ISSUER = "https://push.example.org"
ROLE = "arn:aws:iam::123456789012:role/lab/cloudpush"
SUBJECT = "7b0e4f8e-0000-4000-8000-000000000001"
HOSTILE = (
    st.lists(
        st.sampled_from(
            [
                *"ab/\"'\\${}%*?#:&!|>-[],",
                " ",
                "\u2028",
                "é",
                "😀",
                "${file(",
                '"}',
                "{ x",
                "- ",
                "\\n",
                "%{ if",
                "$${",
                "---",
            ]
        ),
        min_size=1,
        max_size=20,
    )
    .map("".join)
    .map(lambda text: text.replace("{{", "{").strip("/ ") or "x")
    .filter(lambda text: "{{" not in text)
)


def a_trust(**changes: Any) -> Trust:
    return Trust(**({"issuer": ISSUER, "audience": "cloudpush", "subject": SUBJECT, "role_arn": ROLE} | changes))


def test_the_trust_policy_accepts_one_connection_for_one_audience() -> None:
    assert json.loads(a_trust().json()) == {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {"Federated": "arn:aws:iam::123456789012:oidc-provider/push.example.org"},
                "Action": "sts:AssumeRoleWithWebIdentity",
                "Condition": {
                    "StringEquals": {"push.example.org:aud": "cloudpush", "push.example.org:sub": SUBJECT},
                },
            }
        ],
    }


def test_it_is_made_of_the_grant_and_its_provider() -> None:
    grant = an_active_grant(settings={"role_arn": ROLE})
    provider = a_provider(Use.WEB_IDENTITY, audience="https://push", session_seconds=7200)
    made = Trust.of(provider, grant, f"{ISSUER}/", " results ", "/runs/7/")
    assert made == a_trust(
        audience="https://push", subject=str(grant.id), bucket="results", prefix="runs/7", session_seconds=7200
    )


def test_a_bucket_adds_the_least_permissions_and_none_adds_none() -> None:
    assert [shape.title for shape in a_trust().shapes()] == ["CloudFormation", "Terraform", "Trust policy (JSON)"]
    *_, last = a_trust(bucket="results", prefix="runs").shapes()
    assert json.loads(last.text)["Statement"][0]["Resource"] == "arn:aws:s3:::results/runs/*"
    assert last.file == "permissions.json"


def test_the_template_makes_the_provider_unless_it_is_there_and_the_role() -> None:
    template = read_yaml(a_trust(bucket="results").cloudformation())
    assert template["Resources"]["IdentityProvider"] == {
        "Type": "AWS::IAM::OIDCProvider",
        "Condition": "ProviderIsMissing",
        "Properties": {"Url": ISSUER, "ClientIdList": ["cloudpush"]},
    }
    role = template["Resources"]["Role"]["Properties"]
    assert (role["RoleName"], role["Path"], role["MaxSessionDuration"]) == ("cloudpush", "/lab/", "3600")
    assert role["AssumeRolePolicyDocument"] == a_trust().document
    assert role["Policies"] == [{"PolicyName": "cloudpush", "PolicyDocument": a_trust(bucket="results").permissions}]
    assert template["Conditions"] == {"ProviderIsMissing": {"Fn::Equals": [{"Ref": "MakeIdentityProvider"}, "true"]}}


@given(HOSTILE)
def test_no_name_ends_its_string_in_yaml(prefix: str) -> None:
    """Read back, the template holds the policies that were meant, and the same outline as for a harmless name."""
    hostile = a_trust(bucket="results", prefix=prefix)
    found = read_yaml(hostile.cloudformation())
    role = found["Resources"]["Role"]["Properties"]
    assert role["Policies"][0]["PolicyDocument"] == hostile.permissions
    assert outline(found) == outline(read_yaml(a_trust(bucket="results", prefix="x").cloudformation()))


@given(HOSTILE)
def test_no_name_ends_its_string_in_terraform(prefix: str) -> None:
    """Outside of its quoted texts it is the same as for a harmless name, and no text holds an expression."""
    hostile = a_trust(bucket="results", prefix=prefix)
    outside, texts = split_quoted(hostile.terraform())
    assert outside == split_quoted(a_trust(bucket="results", prefix="x").terraform())[0]
    assert not any("${" in text or "%{" in text for text in texts)
    assert hostile.permissions is not None
    assert hostile.permissions["Statement"][0]["Resource"] in [unescaped(text) for text in texts]


@given(HOSTILE)
def test_no_name_ends_its_string_in_json(prefix: str) -> None:
    hostile = a_trust(bucket="results", prefix=prefix)
    assert json.loads(hostile.shapes()[-1].text) == hostile.permissions


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"role_arn": ""}, "role_arn"),
        ({"role_arn": "arn:aws:iam::role/NoAccount"}, "role_arn"),
        ({"role_arn": f'{ROLE}"\nEvil: "x'}, "role_arn"),
        ({"role_arn": f"{ROLE}\n"}, "role_arn"),
        ({"audience": "${aws:username}"}, "audience"),
        ({"audience": ""}, "audience"),
        ({"issuer": "https://push.example.org/?x"}, "web_url"),
        ({"issuer": "push.example.org"}, "web_url"),
        ({"bucket": "Not_A_Bucket"}, "bucket"),
        ({"prefix": "runs"}, "bucket"),
        ({"bucket": "results", "prefix": "a\nb"}, "prefix"),
        ({"bucket": "results", "prefix": "{{resolve:secretsmanager:admin}}"}, "prefix"),
    ],
)
def test_what_no_policy_can_say_is_refused_and_named(changes: dict[str, str], field: str) -> None:
    with pytest.raises(CloudPushError) as caught:
        a_trust(**changes)
    assert caught.value.field == field
    assert caught.value.code in {Code.BAD_INPUT, Code.SETTINGS_INVALID}


@pytest.mark.parametrize(
    ("issuer", "why"),
    [
        ("https://push.example.org", ""),
        ("http://push.example.org", "https issuers only"),
        ("https://push.example.org:8443", "no issuer with a port"),
        ("https://push", "private network"),
        ("https://push.internal", "private network"),
    ],
)
def test_an_issuer_that_aws_cannot_trust_is_told_before_anybody_pastes(issuer: str, why: str) -> None:
    assert why in a_trust(issuer=issuer).obstacle
    assert bool(a_trust(issuer=issuer).obstacle) == bool(why)


def test_a_role_may_be_assumed_for_as_long_as_a_session_lasts() -> None:
    assert "max_session_duration = 7200" in a_trust(session_seconds=7200).terraform()
    assert "max_session_duration = 3600" in a_trust(session_seconds=900).terraform()
    assert "max_session_duration = 43200" in a_trust(session_seconds=10**6).terraform()


def test_policies_of_chinas_partition_are_for_chinas_partition() -> None:
    made = a_trust(role_arn="arn:aws-cn:iam::123456789012:role/cloudpush", bucket="results")
    assert made.provider_arn.startswith("arn:aws-cn:iam::")
    assert made.permissions is not None
    assert made.permissions["Statement"][0]["Resource"] == "arn:aws-cn:s3:::results/*"


# -- witnesses: readers of what the formats allow, which know nothing of how it was written -------------------------------


def unescaped(text: str) -> str:
    """A quoted text of YAML or Terraform, as both read it."""
    return re.sub(
        r'\\(U[0-9A-F]{8}|u[0-9A-Fa-f]{4}|["\\])',
        lambda m: chr(int(m[1][1:], 16)) if m[1][0] in "uU" else m[1],
        text,
    )


def split_quoted(text: str) -> tuple[str, list[str]]:
    """What stands outside of quotes, and what inside; nothing but quotes and backslashes decide."""
    texts = re.findall(r'"((?:[^"\\\n]|\\.)*)"', text)
    return re.sub(r'"(?:[^"\\\n]|\\.)*"', '""', text), texts


def outline(value: object) -> object:
    """The same without texts."""
    if isinstance(value, dict):
        return {key: outline(item) for key, item in value.items()}
    return [outline(item) for item in value] if isinstance(value, list) else "text"


def read_yaml(text: str) -> Any:
    """A reader of block mappings, block lists and double-quoted or plain scalars, by indentation."""
    lines = [(len(line) - len(line.lstrip()), line.strip()) for line in text.splitlines() if line.strip()]
    value, rest = read_block(lines, 0)
    assert not rest
    return value


def read_block(lines: list[tuple[int, str]], depth: int) -> tuple[Any, list[tuple[int, str]]]:
    if lines[0][1].startswith("- "):
        items: list[Any] = []
        while lines and lines[0][0] == depth and lines[0][1].startswith("- "):
            item = lines[0][1][2:]
            if re.match(r'(?:"(?:[^"\\]|\\.)*"|[A-Za-z]+):', item):
                # Its first pair stands where the others of the mapping do.
                value, lines = read_block([(depth + 2, item), *lines[1:]], depth + 2)
            else:
                value, lines = scalar(item), lines[1:]
            items.append(value)
        return items, lines
    found: dict[str, Any] = {}
    while lines and lines[0][0] == depth:
        match = re.fullmatch(r'("(?:[^"\\]|\\.)*"|[A-Za-z0-9]+):(?: (.*))?', lines[0][1])
        assert match, lines[0]
        key = scalar(match[1])
        assert key not in found
        lines = lines[1:]
        if match[2] is None:
            found[key], lines = read_block(lines, lines[0][0])
        else:
            found[key] = scalar(match[2])
    return found, lines


def scalar(text: str) -> str:
    if text.startswith('"'):
        assert re.fullmatch(r'"(?:[^"\\]|\\.)*"', text), text
        return unescaped(text[1:-1])
    assert re.fullmatch(r"[A-Za-z0-9]+", text), text
    return text

"""Policies in AWS' language, and what a hostile prefix may not make of them."""

from __future__ import annotations

import fnmatch
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudpush.errors import InputError
from cloudpush.push.grants import policies
from cloudpush.push.grants.policies import below, compact, document, keys_through_s3, literal, partition_of

PREFIXES = st.lists(
    st.sampled_from([*"ab/.*?$[]{}\\\"'%&<>: ", "é", "\u2028", "😀", "${aws:username}", "${*}", "$${"]),
    min_size=1,
    max_size=12,
).map("".join)


def as_aws_matches(pattern: str, text: str) -> bool:
    """A witness of its own: how IAM reads a pattern. ``${*}`` is the character; unknown variables match nothing."""
    parts = re.split(r"(\$\{[^}]*\}|[*?])", pattern)
    plain = {"${*}": r"\*", "${?}": r"\?", "${$}": r"\$", "*": ".*", "?": "."}
    expression = "".join(plain.get(p, r"(?!)" if p.startswith("${") else re.escape(p)) for p in parts)
    return re.fullmatch(expression, text, re.DOTALL) is not None


def test_a_push_gets_what_it_needs_and_no_more() -> None:
    """The whole policy, to the letter: no deletion, no ACLs, no other bucket; it lists below its prefix only."""
    assert document(below("results", "runs/7", listing=True)) == {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Action": ["s3:PutObject", "s3:GetObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"],
                "Resource": "arn:aws:s3:::results/runs/7/*",
            },
            {"Effect": "Allow", "Action": "s3:ListBucketMultipartUploads", "Resource": "arn:aws:s3:::results"},
            {
                "Effect": "Allow",
                "Action": "s3:ListBucket",
                "Resource": "arn:aws:s3:::results",
                "Condition": {"StringLike": {"s3:prefix": "runs/7/*"}},
            },
        ],
    }


def test_who_does_not_look_before_sending_does_not_list() -> None:
    assert all(s["Action"] != "s3:ListBucket" for s in below("results", "runs/7", listing=False))


def test_a_whole_bucket_is_listed_without_condition() -> None:
    objects, _, listing = below("results", "", listing=True)
    assert objects["Resource"] == "arn:aws:s3:::results/*"
    assert "Condition" not in listing


@pytest.mark.parametrize(
    ("arn", "partition"),
    [
        ("arn:aws:iam::123456789012:role/x", "aws"),
        ("arn:aws-cn:iam::123456789012:role/x", "aws-cn"),
        ("arn:aws-us-gov:iam::123456789012:role/x", "aws-us-gov"),
        ("arn:aws:iam::role/x", "aws"),
        ("anything", "aws"),
    ],
)
def test_a_policy_is_for_the_partition_of_the_role(arn: str, partition: str) -> None:
    assert partition_of(arn) == partition
    assert below("results", "", partition=partition, listing=False)[0]["Resource"] == f"arn:{partition}:s3:::results/*"


@given(PREFIXES, PREFIXES)
def test_a_prefix_stands_for_itself_only(prefix: str, other: str) -> None:
    """Whatever is in it, the policy matches keys below it and below nothing else."""
    pattern = str(below("results", prefix, listing=False)[0]["Resource"]).removeprefix("arn:aws:s3:::results/")
    assert as_aws_matches(pattern, f"{prefix}/key")
    assert as_aws_matches(pattern, f"{other}/key") == f"{other}/key".startswith(f"{prefix}/")


@given(PREFIXES, PREFIXES)
def test_where_variables_are_unknown_a_prefix_is_literal_or_refused(prefix: str, other: str) -> None:
    try:
        pattern = str(below("results", prefix, variables=False, listing=False)[0]["Resource"])
    except InputError:
        return
    assert "${" not in pattern
    found = fnmatch.fnmatchcase(f"{other}/key", pattern.removeprefix("arn:aws:s3:::results/").replace("[", "[[]"))
    assert found == f"{other}/key".startswith(f"{prefix}/")


@pytest.mark.parametrize("text", ["a\nb", "a\x00", "\x7f"])
@pytest.mark.parametrize("variables", [True, False])
def test_control_characters_are_refused(text: str, variables: bool) -> None:
    with pytest.raises(InputError, match="control character"):
        literal(text, variables=variables)


@pytest.mark.parametrize("bucket", ["", "*", "a*", "results/x", "Results", "${aws:username}", "a" * 64, "results:x"])
def test_a_bucket_is_a_name(bucket: str) -> None:
    with pytest.raises(InputError) as caught:
        below(bucket, "x", listing=False)
    assert caught.value.field == "bucket"


def test_a_policy_is_sent_in_ascii_without_blanks() -> None:
    text = compact(below("results", "Größe 7", listing=False))
    assert text.isascii()
    assert '"Statement":[{"Effect":' in text
    assert json.loads(text)["Statement"][0]["Resource"] == "arn:aws:s3:::results/Größe 7/*"


def test_a_policy_that_sts_would_not_take_is_refused_with_its_length() -> None:
    compact([*below("results", "x" * 700, listing=True), keys_through_s3()])
    with pytest.raises(InputError, match=r"too long .* 2,\d\d\d characters, and STS takes 2,048") as caught:
        compact(below("results", "ü" * 150, listing=True))
    assert caught.value.field == "destination"


def test_nothing_denies_everything() -> None:
    assert document([policies.NOTHING])["Statement"] == [{"Effect": "Deny", "Action": "*", "Resource": "*"}]

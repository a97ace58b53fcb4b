"""Policies in AWS' language: what a session may do for one push, what a role may do for all of them. Pure.

A prefix is a user's text, and in a policy ``*`` and ``?`` match anything and ``${…}`` is replaced. So none of them is ever
written as it is: AWS has variables that stand for the three characters themselves. Servers that imitate AWS do not know these
(SeaweedFS 4.48 takes them for text), and what they make of a backslash differs: for them such a prefix is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from cloudpush.errors import Code, InputError

Statement = Mapping[str, Any]

VERSION = "2012-10-17"
#: What uploading needs, whole or in pieces; GetObject is what a HEAD is judged by.
OBJECT_ACTIONS = ("s3:PutObject", "s3:GetObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts")
#: Names of unfinished uploads, to forget those that a killed worker left: S3 cannot narrow it to a prefix.
UPLOADS_ACTION = "s3:ListBucketMultipartUploads"
LIST_ACTION = "s3:ListBucket"
#: Of a preflight, for its probes alone.
DELETE_ACTION = "s3:DeleteObject"
#: For buckets that S3 encrypts with a key of the account's, through S3 only.
KEY_ACTIONS = ("kms:GenerateDataKey", "kms:Decrypt")
#: May do nothing: for finding out whether a role can be assumed at all.
NOTHING: Statement = {"Effect": "Deny", "Action": "*", "Resource": "*"}

#: Characters of an inline session policy that STS takes at most.
MOST = 2_048

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PARTITION = re.compile(r"arn:(aws[a-z-]*):iam::")
_MEANS_SOMETHING = re.compile(r"[*?$]")
_UNCLEAR = re.compile(r"[*?\\]|\$\{")


def partition_of(role_arn: str) -> str:
    """``aws``, ``aws-cn``, ``aws-us-gov``: the first part of every ARN beside ``role_arn``; ``aws`` where it tells none."""
    match = _PARTITION.match(role_arn)
    return match[1] if match else "aws"


def literal(text: str, *, variables: bool) -> str:
    """``text`` for a policy, where it stands for itself only. ``variables``: the reader knows AWS' ``${*}``.

    Raises InputError BAD_INPUT where it cannot be written so.
    """
    if any(ord(c) < ord(" ") or ord(c) == 0x7F for c in text):
        raise _refused(text, "has a control character")
    if variables:
        return _MEANS_SOMETHING.sub(lambda found: f"${{{found[0]}}}", text)
    if found := _UNCLEAR.search(text):
        raise _refused(
            text, f"has {found[0]!r}, which would mean something in the policy that narrows the session to it"
        )
    return text


def below(
    bucket: str, prefix: str, *, partition: str = "aws", variables: bool = True, listing: bool, probe: str = ""
) -> list[Statement]:
    """What pushing to ``bucket`` below ``prefix`` needs, and no more. ``listing``: look there before sending.

    ``probe``: a pattern of names right below it that may be deleted.
    ``prefix`` without leading or trailing slash, may be empty. Raises InputError.
    """
    if not _BUCKET.fullmatch(bucket):
        raise InputError(
            Code.BAD_INPUT,
            f"bucket {bucket[:64]!r} is no bucket's name: write 3 to 63 lower-case letters, digits, dots and dashes.",
            field="bucket",
        )
    arn = f"arn:{partition}:s3:::{bucket}"
    pattern = f"{literal(prefix, variables=variables)}/*" if prefix else "*"
    found: list[Statement] = [
        {"Effect": "Allow", "Action": list(OBJECT_ACTIONS), "Resource": f"{arn}/{pattern}"},
        {"Effect": "Allow", "Action": UPLOADS_ACTION, "Resource": arn},
    ]
    if probe:
        where = f"{arn}/{pattern[:-1]}{probe}"
        found.append({"Effect": "Allow", "Action": DELETE_ACTION, "Resource": where})
    if listing:
        may: dict[str, Any] = {"Effect": "Allow", "Action": LIST_ACTION, "Resource": arn}
        found.append(may | {"Condition": {"StringLike": {"s3:prefix": pattern}}} if prefix else may)
    return found


def keys_through_s3() -> Statement:
    """Use of the account's encryption keys, as far as the role has it, through S3 only."""
    return {
        "Effect": "Allow",
        "Action": list(KEY_ACTIONS),
        "Resource": "*",
        "Condition": {"StringLike": {"kms:ViaService": "s3.*"}},
    }


def document(statements: Sequence[Statement]) -> dict[str, Any]:
    """A policy."""
    return {"Version": VERSION, "Statement": list(statements)}


def compact(statements: Sequence[Statement]) -> str:
    """A policy as STS takes it: no blanks, nothing beyond ASCII. Raises InputError BAD_INPUT where it is too long."""
    text = json.dumps(document(statements), separators=(",", ":"))
    if len(text) > MOST:
        raise InputError(
            Code.BAD_INPUT,
            f"destination: its prefix is too long for the policy that narrows the session to it: {len(text):,} characters, and "
            f"STS takes {MOST:,} (six for each that is not ASCII). Push to a shorter prefix.",
            field="destination",
        )
    return text


def _refused(text: str, why: str) -> InputError:
    return InputError(Code.BAD_INPUT, f"prefix {text[:200]!r} {why}; push to a prefix without it.", field="destination")

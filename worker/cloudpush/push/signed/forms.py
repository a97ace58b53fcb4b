"""POST policy forms of S3: the one signature that sits in fields and not in the URL.

The policy is JSON in base64; it says until when, and which fields and sizes are taken. Source: AWS "POST policy" and
"Authenticating requests: browser-based uploads using POST" (SigV4, and SigV2 before it).
"""

from __future__ import annotations

import binascii
import json
import re
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from cloudpush.errors import InputError
from cloudpush.push.signed.model import SignedUrl
from cloudpush.push.signed.refusals import bad_row
from cloudpush.push.signed.signatures import YEARS
from cloudpush.push.uris import KEY_BYTES

#: Browsers could send no larger one in a form; AWS takes 20 KiB beside the file.
_POLICY_BYTES = 20 * 1024
_MOST_FIELDS = 100

_V4_FIELDS = ("x-amz-algorithm", "x-amz-credential", "x-amz-date", "x-amz-signature")
_V2_FIELDS = ("awsaccesskeyid", "signature")
#: The answer would be a redirect, and none is followed.
_REDIRECTS = frozenset({"success_action_redirect", "redirect"})

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_EXPIRATION = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(?:\.\d{1,6})?Z", re.ASCII)
_V4_DATE = re.compile(r"\d{8}T\d{6}Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Policy:
    """What a form's policy demands. Sizes in bytes, inclusive; ``largest`` None where it sets no limit."""

    expires_at: datetime
    smallest: int = 0
    largest: int | None = None


def fields_of(value: Mapping[str, object]) -> dict[str, str]:
    """The column ``fields``: names and values as they are, in order. Raises InputError BAD_MANIFEST."""
    if len(value) > _MOST_FIELDS:
        raise _bad(f"has {len(value)} fields", f"{_MOST_FIELDS} are the most")
    found: dict[str, str] = {}
    for name, text in value.items():
        if not _NAME.fullmatch(name):
            raise _bad("has a name that no form field of S3 has", "hand over the fields as the SDK returned them")
        if name.lower() in {known.lower() for known in found}:
            raise _bad(f"has {name.lower()} twice", "write each field once")
        if name.lower() == "file":
            raise _bad("has the field file", "leave it out: the upload appends it")
        if name.lower() in _REDIRECTS:
            raise _bad(f"has {name.lower()}, and redirects are not followed", "sign the policy without it")
        if not isinstance(text, str) or _CONTROL.search(text):
            raise _bad(
                f"has a value of {name} that is no line of text", "hand over the fields as the SDK returned them"
            )
        if "${" in text:
            raise _bad(f"has a placeholder in {name}", "sign the policy for the whole key")
        found[name] = text
    return found


def policy_of(fields: Mapping[str, str]) -> Policy:
    """What the policy in ``fields`` demands. Raises InputError BAD_MANIFEST where it is none."""
    policy = _decoded(_lower(fields).get("policy", ""))
    expiration = policy.get("expiration")
    if not isinstance(expiration, str) or not _EXPIRATION.fullmatch(expiration):
        raise _bad("has a policy without a valid expiration", "sign it with the provider's own SDK")
    expires_at = _time(expiration)
    smallest: int = 0
    largest: int | None = None
    for condition in _conditions(policy):
        if isinstance(condition, list) and len(condition) == 3 and condition[0] == "content-length-range":
            low, high = condition[1:]
            least, most = _size(low), _size(high)
            if least is None or most is None or least > most:
                raise _bad("has a content-length-range that is none", "sign it with two numbers of bytes")
            smallest = max(smallest, least)
            largest = most if largest is None else min(largest, most)
    return Policy(expires_at, smallest, largest)


def with_form(url: SignedUrl, fields: Mapping[str, str]) -> SignedUrl:
    """``url``, a form's address, with the key, version and times that ``fields`` tell.

    Raises InputError BAD_MANIFEST: fields that are missing, a key that is none, or one that the policy forbids.
    """
    known = _lower(fields)
    if "policy" not in known:
        raise _bad("lacks policy", "hand over the fields as the SDK returned them")
    version, needed = ("v2", _V2_FIELDS) if "awsaccesskeyid" in known else ("v4", _V4_FIELDS)
    for name in needed:
        if not known.get(name):
            raise _bad(f"lacks {name}", "hand over the fields as the SDK returned them")
    key = known.get("key", "")
    _check_key(key)
    policy = policy_of(fields)
    for condition in _conditions(_decoded(known["policy"])):
        _check_condition(condition, url.bucket, key)
    starts = known.get("x-amz-date", "")
    if starts and not _V4_DATE.fullmatch(starts):
        raise _bad("has a malformed x-amz-date", "hand over the fields as the SDK returned them")
    return replace(
        url,
        version=version,
        key=f"{url.key}/{key}" if url.key else key,
        starts_at=_time(f"{starts[:4]}-{starts[4:6]}-{starts[6:11]}:{starts[11:13]}:{starts[13:]}") if starts else None,
        expires_at=policy.expires_at,
        temporary="x-amz-security-token" in known,
    )


def _check_key(key: str) -> None:
    if not key or key.endswith("/"):
        raise _bad("has no key that names an object", "sign the policy for the whole key")
    if {".", ".."} & set(key.split("/")):
        raise _bad("has . or .. as a segment of its key", "rename the object and sign that")
    if len(key.encode(errors="surrogatepass")) > KEY_BYTES:
        raise _bad(f"has a key of more than {KEY_BYTES} bytes", "rename the object and sign that")


def _check_condition(condition: object, bucket: str, key: str) -> None:
    """That a condition on ``key`` or ``bucket`` is met: the provider would refuse every upload."""
    pairs: list[tuple[str, object, object]] = []
    if isinstance(condition, dict):
        pairs = [("eq", f"${name}", value) for name, value in condition.items()]
    elif isinstance(condition, list) and len(condition) == 3:
        pairs = [(str(condition[0]).lower(), condition[1], condition[2])]
    for operator, name, value in pairs:
        for wanted, actual in (("$key", key), ("$bucket", bucket)):
            if str(name).lower() != wanted or not actual:
                continue
            met = actual.startswith(str(value)) if operator == "starts-with" else actual == value
            if not met:
                raise _bad(f"has a policy for another {wanted[1:]}", "sign the policy for this one")


def _decoded(text: str) -> Mapping[str, object]:
    if len(text) > _POLICY_BYTES:
        raise _bad("has a policy that is too long", f"{_POLICY_BYTES} bytes are the most")
    try:
        policy = json.loads(b64decode(text, validate=True))
    except (binascii.Error, ValueError, RecursionError):  # what they hold is the policy, which is not to be shown
        policy = None
    if not isinstance(policy, dict):
        raise _bad("has a policy that is no JSON object in base64", "hand over the fields as the SDK returned them")
    return policy


def _conditions(policy: Mapping[str, object]) -> list[object]:
    conditions = policy.get("conditions")
    if not isinstance(conditions, list):
        raise _bad("has a policy without conditions", "sign it with the provider's own SDK")
    return conditions


def _size(value: object) -> int | None:
    """``value`` as a number of bytes, which some SDKs write as text; None where it is none."""
    if isinstance(value, str):
        return int(value) if len(value) <= 18 and value.isascii() and value.isdigit() else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _time(text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        at = None
    if at is None or at.year not in YEARS:
        raise _bad("has a time that is none", "sign it with the provider's own SDK")
    return at


def _lower(fields: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): text for name, text in fields.items()}


def _bad(why: str, fix: str) -> InputError:
    return bad_row("fields", why, fix)

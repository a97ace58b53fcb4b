"""AWS Signature Version 4, and the old Version 2, from the server's side: what a request ought to be signed with."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from urllib.parse import quote, unquote

ALGORITHM = "AWS4-HMAC-SHA256"
UNSIGNED = "UNSIGNED-PAYLOAD"
#: Parameters that are part of what Version 2 signs (the ones that uploads use).
SUBRESOURCES = frozenset({"acl", "partNumber", "tagging", "uploadId", "uploads", "versionId"})


def signing_key(secret: str, day: str, region: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for step in (day, region, "s3", "aws4_request"):
        key = hmac.digest(key, step.encode(), "sha256")
    return key


def signature_v4(
    secret: str,
    method: str,
    path: str,
    query: Sequence[tuple[str, str]],
    headers: Mapping[str, str],
    signed: Sequence[str],
    stamp: str,
    region: str,
    payload: str = UNSIGNED,
) -> str:
    """``path`` as sent, ``query`` decoded and without the signature, ``headers`` by lower-case name."""
    pairs = sorted((quote(name, safe="~"), quote(value, safe="~")) for name, value in query)
    canonical = "\n".join(
        [
            method,
            quote(unquote(path), safe="/~"),
            "&".join(f"{name}={value}" for name, value in pairs),
            *(f"{name}:{' '.join(headers.get(name, '').split())}" for name in signed),
            "",
            ";".join(signed),
            payload,
        ]
    )
    scope = f"{stamp[:8]}/{region}/s3/aws4_request"
    text = "\n".join([ALGORITHM, stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    return hmac.digest(signing_key(secret, stamp[:8], region), text.encode(), "sha256").hex()


def signature_v2(
    secret: str, method: str, path: str, query: Sequence[tuple[str, str]], headers: Mapping[str, str], expires: str
) -> str:
    """As :func:`signature_v4`. Content-MD5, Content-Type and every x-amz-* header are always part of it.

    An x-amz-* parameter of the query, such as a session's token, is signed as if it were a header.
    """
    given = sorted({**dict(query), **headers}.items())
    amz = "".join(f"{name}:{value.strip()}\n" for name, value in given if name.startswith("x-amz-"))
    sub = "&".join(f"{name}={value}" if value else name for name, value in sorted(query) if name in SUBRESOURCES)
    resource = f"{path}?{sub}" if sub else path
    md5, kind = headers.get("content-md5", ""), headers.get("content-type", "")
    text = f"{method}\n{md5}\n{kind}\n{expires}\n{amz}{resource}"
    return base64.b64encode(hmac.digest(secret.encode(), text.encode(), "sha1")).decode()

"""AWS Signature Version 4 in headers, for S3 requests without a body.

botocore signs the same requests in ten times the time: it is made for every service and re-derives the key for
each request. Here the key is derived once a day and everything that does not change is a prepared string, which makes
thousands of HEADs a second affordable. botocore is the oracle of this module's tests.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import quote

_ALGORITHM = "AWS4-HMAC-SHA256"
#: SHA-256 of nothing: the payload of every request that is signed here.
_EMPTY = hashlib.sha256().hexdigest()


class Signer:
    """Signs requests of one key to one host and region. Holds a derived key; never shows it."""

    __slots__ = (
        "_access_key_id",
        "_day",
        "_host",
        "_key",
        "_region",
        "_scope",
        "_second",
        "_secret",
        "_stamp",
        "_token",
    )

    def __init__(
        self, *, access_key_id: str, secret_access_key: str, session_token: str, region: str, host: str
    ) -> None:
        """``host``: as the Host header has it, with the port unless it is the scheme's own."""
        self._access_key_id = access_key_id
        self._secret = secret_access_key
        self._token = session_token
        self._region = region
        self._host = host
        self._day = self._scope = self._stamp = ""
        self._second = -1
        self._key = b""

    def __repr__(self) -> str:
        return f"<Signer for {self._host}>"

    def headers(
        self, method: str, path: str, query: str, now: float, extra: Mapping[str, str] | None = None
    ) -> dict[str, str]:
        """All headers of a request, signed.

        ``path`` as :func:`encode_path` gives it and ``query`` as :func:`encode_query`: both must go over the wire
        exactly so. ``now``: seconds since the epoch. ``extra``: further headers to sign, names in lower case,
        values without surrounding or repeated spaces.
        """
        self._prepare(now)
        signed = {
            "host": self._host,
            "x-amz-content-sha256": _EMPTY,
            "x-amz-date": self._stamp,
        }
        if self._token:
            signed["x-amz-security-token"] = self._token
        if extra:
            signed.update(extra)
        names = sorted(signed)
        listed = ";".join(names)
        canonical = "\n".join([method, path, query, *[f"{name}:{signed[name]}" for name in names], "", listed, _EMPTY])
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        signature = hmac.digest(self._key, f"{_ALGORITHM}\n{self._stamp}\n{self._scope}\n{digest}".encode(), "sha256")
        signed["Authorization"] = (
            f"{_ALGORITHM} Credential={self._access_key_id}/{self._scope}, SignedHeaders={listed}, "
            f"Signature={signature.hex()}"
        )
        return signed

    def _prepare(self, now: float) -> None:
        """The time stamp anew each second, the key anew each day."""
        second = int(now)
        if second == self._second:
            return
        self._second = second
        self._stamp = datetime.fromtimestamp(second, UTC).strftime("%Y%m%dT%H%M%SZ")
        day = self._stamp[:8]
        if day == self._day:
            return
        self._day = day
        self._scope = f"{day}/{self._region}/s3/aws4_request"
        key = f"AWS4{self._secret}".encode()
        for step in (day, self._region, "s3", "aws4_request"):
            key = hmac.digest(key, step.encode(), "sha256")
        self._key = key


def encode_path(key: str) -> str:
    """``key`` for a URL's path, byte for byte as S3 canonicalises it: slashes stay, nothing is normalised."""
    return quote(key, safe="/~")


def encode_query(parameters: Mapping[str, str]) -> str:
    """A query string in canonical form: encoded, then sorted by name."""
    pairs = sorted((quote(name, safe="~"), quote(value, safe="~")) for name, value in parameters.items())
    return "&".join(f"{name}={value}" for name, value in pairs)

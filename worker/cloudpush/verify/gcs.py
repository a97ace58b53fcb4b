"""The Inspector for Google Cloud Storage: HEADs of the XML API, with an access token.

``x-goog-hash`` has the MD5 that Google computed, except for objects that were composed of others: these have a CRC-32C
only, which we do not compute, and are proved by their size. The ETag is not looked at, it may be anything.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Collection, Mapping

from cloudpush.errors import Code, DestinationError
from cloudpush.net import Answer, Pool
from cloudpush.push.endpoints import Endpoint
from cloudpush.push.job import Destination, Secret, Seen
from cloudpush.verify.answers import GOOGLE, Refused, error_of, read_refusal
from cloudpush.verify.questions import HeadInspector, Questions
from cloudpush.verify.wire import Wire


class GcsInspector(HeadInspector):
    """Asks Google."""

    def questions(
        self, pool: Pool, endpoint: Endpoint, destination: Destination, secret: Secret, allowed: Collection[str]
    ) -> Questions:
        """See :class:`HeadInspector`."""
        return _GcsQuestions(pool, endpoint, destination, secret, allowed)


class _GcsQuestions(Questions):
    def __init__(
        self, pool: Pool, endpoint: Endpoint, destination: Destination, secret: Secret, allowed: Collection[str]
    ) -> None:
        super().__init__(Wire(pool, endpoint, destination.bucket, allowed))
        self._bucket = destination.bucket
        self._token = secret.reveal()["access_token"]

    async def head(self, key: str) -> Answer:
        return await self._request("HEAD", key, {}, limit=0)

    async def first_byte(self, key: str) -> Answer:
        return await self._request("GET", key, {"range": "bytes=0-0"}, limit=64 * 1024)

    async def _request(self, method: str, key: str, extra: Mapping[str, str], limit: int) -> Answer:
        headers = {"authorization": f"Bearer {self._token}", **extra}
        return await self._wire.request(method, self._wire.path(key), "", lambda _now: headers, limit=limit)

    def says_all(self, answer: Answer) -> bool:
        """A token that is not taken needs no words."""
        return answer.status == 401

    def refused(self, answer: Answer) -> Refused:
        if answer.status == 401:
            return Refused(answer.status, "AuthenticationRequired")
        return read_refusal(answer.status, answer.body)

    def error(self, refused: Refused, key: str) -> DestinationError:
        return error_of(refused, bucket=self._bucket, what=repr(key), secrets=(self._token,), codes=GOOGLE)

    def seen(self, answer: Answer) -> Seen:
        headers = answer.headers
        # What is stored, where a compressed object would be unpacked on its way.
        size = headers.get("x-goog-stored-content-length") or headers.get("Content-Length", "")
        md5 = _md5(answer)
        why = None if md5 else DestinationError(Code.NOT_VERIFIED, _NO_MD5)
        return Seen(
            exists=True,
            size=int(size) if size.isdecimal() else None,
            etag=headers.get("ETag", "").removeprefix("W/").strip('"'),
            version_id=headers.get("x-goog-generation", ""),
            opaque_etag=True,
            md5=md5,
            error=why,
        )


_NO_MD5 = "Google tells no MD5 of it, as of objects that are composed of others or encrypted with the customer's keys"


def _md5(answer: Answer) -> bytes:
    """From ``x-goog-hash: crc32c=…,md5=…``, which may be one header or several; empty where there is none."""
    for name, value in answer.headers.items():
        if name.lower() == "x-goog-hash":
            for item in value.split(","):
                algorithm, _, digest = item.strip().partition("=")
                if algorithm == "md5":
                    try:
                        return base64.b64decode(digest, validate=True)
                    except binascii.Error:
                        return b""
    return b""

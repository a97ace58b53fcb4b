"""The Inspector for Azure Blob Storage: HEADs with a shared access signature.

Azure tells no digest that it computed over the object: ``Content-MD5`` is what a client stored there, whatever it was. So
what is there right after an upload is proved in one of two ways, which depend on how the engine sends (``push.blocks``):

- in one request without a digest, up to a block: the blob is read back, and its bytes are hashed;
- in blocks, each with its MD5, which Azure compared as it came: the upload's success and the size are the proof.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from urllib.parse import parse_qs

import aiohttp

from cloudpush.errors import Code, DestinationError
from cloudpush.net import PASSING, Answer, Pool, read_answer
from cloudpush.push.blocks import BLOCK
from cloudpush.push.endpoints import Endpoint
from cloudpush.push.grants.model import Sas
from cloudpush.push.job import Destination, Secret, Seen
from cloudpush.verify.answers import AZURE, FATAL, Refused, error_of, read_refusal
from cloudpush.verify.questions import HeadInspector, Questions
from cloudpush.verify.wire import Reading, Wire

VERSION = "2022-11-02"
#: Bytes of an answer that is an error.
WORDS = 64 * 1024


class AzureInspector(HeadInspector):
    """Asks Azure."""

    def questions(
        self, pool: Pool, endpoint: Endpoint, destination: Destination, secret: Secret, allowed: Collection[str]
    ) -> Questions:
        """See :class:`HeadInspector`."""
        return _AzureQuestions(pool, endpoint, destination, secret, allowed)


class _AzureQuestions(Questions):
    def __init__(
        self, pool: Pool, endpoint: Endpoint, destination: Destination, secret: Secret, allowed: Collection[str]
    ) -> None:
        super().__init__(Wire(pool, endpoint, destination.bucket, allowed))
        self._bucket = destination.bucket
        self._query = secret.reveal()["query"]
        self._ends = secret.expires_at if isinstance(secret, Sas) else None

    async def head(self, key: str) -> Answer:
        return await self._request("HEAD", key, {})

    async def first_byte(self, key: str) -> Answer:
        return await self._request("GET", key, {"x-ms-range": "bytes=0-0"}, limit=WORDS)

    async def proved(self, key: str, seen: Seen) -> Seen:
        """What was sent in one request is read back; what is larger was sent in blocks."""
        if seen.size is None:
            return seen
        if seen.size > BLOCK:
            return replace(seen, ingest=True)
        try:
            answer = await self._request("GET", key, {}, read=_digest)
        except DestinationError as e:
            if e.code is not Code.NETWORK:
                raise
            return self.passing(e)
        if answer.status in PASSING:
            return self.passing(self.error(Refused(answer.status), key))
        if answer.status == 200:
            return replace(seen, reread=answer.body)
        if answer.status == 404:  # it was there a moment ago
            self._absent = answer
            return Seen(exists=False)
        error = self.error(self.refused(answer), key)
        if error.code in FATAL:
            raise error  # as of a HEAD: a signature that ended meanwhile must not leave a whole batch unproved for good
        return replace(seen, error=error)

    async def _request(
        self, method: str, key: str, extra: Mapping[str, str], *, limit: int = 0, read: Reading | None = None
    ) -> Answer:
        headers = {"x-ms-version": VERSION, **extra}
        path = self._wire.path(key)
        return await self._wire.request(method, path, self._query, lambda _now: headers, limit=limit, read=read)

    def says_all(self, answer: Answer) -> bool:
        """A HEAD has its words in a header."""
        return bool(answer.headers.get("x-ms-error-code"))

    def refused(self, answer: Answer) -> Refused:
        code = answer.headers.get("x-ms-error-code", "")
        return Refused(answer.status, code) if code else read_refusal(answer.status, answer.body)

    def error(self, refused: Refused, key: str) -> DestinationError:
        return error_of(
            refused,
            bucket=self._bucket,
            what=repr(key),
            secrets=(self._query, *parse_qs(self._query).get("sig", ())),
            codes=AZURE,
            ended=self._ends is not None and datetime.now(UTC) >= self._ends,
        )

    def seen(self, answer: Answer) -> Seen:
        headers = answer.headers
        length = headers.get("Content-Length", "")
        return Seen(
            exists=True,
            size=int(length) if length.isdecimal() else None,
            etag=headers.get("ETag", "").strip('"'),
            version_id=headers.get("x-ms-version-id", ""),
            opaque_etag=True,
        )


async def _digest(response: aiohttp.ClientResponse) -> Answer:
    """SHA-256 of the body as the answer's body: of an object that is no larger than was told, or of more than that."""
    if response.status != 200:
        return await read_answer(response, WORDS)
    sha256, length = hashlib.sha256(), 0
    async for data in response.content.iter_any():
        sha256.update(data)
        length += len(data)
        if length > BLOCK:
            response.close()  # it was replaced meanwhile: what was read differs from what was sent in any case
            break
    return Answer(response.status, response.headers, sha256.digest())

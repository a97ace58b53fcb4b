"""Signed requests to one bucket, many at once; each is tried three times where its failure may pass."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Collection, Mapping
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from cloudpush.net import PASSING, Answer, Pool, no_answer, read_answer
from cloudpush.push.endpoints import Endpoint
from cloudpush.push.guard import addresses
from cloudpush.push.job import Secret
from cloudpush.verify.sigv4 import Signer, encode_path, encode_query

TRIES = 3
#: Seconds before the second try; doubled before the third; by chance between half and all of it.
PAUSE = 0.2
#: Seconds that a Retry-After may keep us within a call; a longer one is left to the caller's own back-off.
LONGEST_PAUSE = 5.0
#: Seconds: to connect, between two packets, and for a request as a whole.
TIMEOUT = aiohttp.ClientTimeout(total=60, sock_connect=5, sock_read=20)


class Wire:
    """Signed requests to one bucket with one secret."""

    def __init__(self, pool: Pool, endpoint: Endpoint, bucket: str, secret: Secret, allowed: Collection[str]) -> None:
        """Resolves the host, which blocks. Raises DestinationError ENDPOINT_UNRESOLVABLE, ENDPOINT_FORBIDDEN."""
        url = urlsplit(endpoint.bucket_url(bucket))
        self._host = url.hostname or ""
        port = url.port or (443 if url.scheme == "https" else 80)
        self._pool = pool
        pool.pin(self._host, addresses(self._host, port, {self._host} if endpoint.trusted else allowed))
        self._origin = f"{url.scheme}://{url.netloc}"
        self._base = url.path
        fields = secret.reveal()
        self._signer = Signer(
            access_key_id=fields.get("access_key_id", ""),
            secret_access_key=fields.get("secret_access_key", ""),
            session_token=fields.get("session_token", ""),
            region=endpoint.region,
            host=url.netloc,
        )

    async def head(self, key: str) -> Answer:
        """HEAD of an object, with the digests that the provider computed."""
        return await self._request("HEAD", self._path(key), "", {"x-amz-checksum-mode": "ENABLED"}, limit=0)

    async def first_byte(self, key: str) -> Answer:
        """GET of an object's first byte: says in words what a HEAD says by status only."""
        return await self._request("GET", self._path(key), "", {"range": "bytes=0-0"}, limit=64 * 1024)

    async def page(self, parameters: Mapping[str, str], limit: int) -> Answer:
        """GET of the bucket itself."""
        return await self._request("GET", self._base or "/", encode_query(parameters), {}, limit=limit)

    def _path(self, key: str) -> str:
        return f"{self._base}/{encode_path(key)}"

    async def _request(self, method: str, path: str, query: str, extra: Mapping[str, str], limit: int) -> Answer:
        """The answer, whatever its status; the last one where all tries failed for a passing reason.

        Raises DestinationError where there was no answer: ENDPOINT_REFUSED, TLS_FAILED, NETWORK.
        """
        # Encoded by us and left alone by yarl: what goes over the wire is what was signed.
        url = URL(f"{self._origin}{path}?{query}" if query else f"{self._origin}{path}", encoded=True)
        for left in reversed(range(TRIES)):
            pause = PAUSE * 2 ** (TRIES - 1 - left)
            try:
                answer = await self._once(
                    method, url, self._signer.headers(method, path, query, time.time(), extra), limit
                )
            except (aiohttp.ClientError, TimeoutError, OSError) as e:
                error = no_answer(e, self._origin, self._host)
                if not left or not error.code.retryable:
                    raise error from e
            else:
                if answer.status not in PASSING or not left:
                    return answer
                asked = answer.headers.get("Retry-After", "")
                pause = max(pause, min(float(asked), LONGEST_PAUSE)) if asked.isdecimal() else pause
            await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 -- spreads load, guards nothing
        raise AssertionError("unreachable: the last try returns or raises")

    async def _once(self, method: str, url: URL, headers: Mapping[str, str], limit: int) -> Answer:
        async with self._pool.session().request(method, url, headers=headers, allow_redirects=False) as response:
            return await read_answer(response, limit)

"""Requests to one bucket, many at once; each is tried three times where its failure may pass."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from cloudpush.errors import DestinationError
from cloudpush.net import PASSING, Answer, Pool, no_answer, read_answer, trusting
from cloudpush.push.endpoints import Endpoint
from cloudpush.push.guard import addresses
from cloudpush.verify.sigv4 import encode_path

TRIES = 3
#: Seconds before the second try; doubled before the third; by chance between half and all of it.
PAUSE = 0.2
#: Seconds that a Retry-After may keep us within a call; a longer one is left to the caller's own back-off.
LONGEST_PAUSE = 5.0
#: Seconds: to connect, between two packets, and for a request as a whole.
TIMEOUT = aiohttp.ClientTimeout(total=60, sock_connect=5, sock_read=20)


#: Headers of a request that is made at this time, in seconds since the epoch.
Headers = Callable[[float], Mapping[str, str]]
#: What becomes of an answer.
Reading = Callable[[aiohttp.ClientResponse], Awaitable[Answer]]


class Wire:
    """Requests to one bucket. ``base``: the bucket's path, without a slash at its end; ``host``: as the Host header has it."""

    def __init__(self, pool: Pool, endpoint: Endpoint, bucket: str, allowed: Collection[str]) -> None:
        """Resolves the host, which blocks. Raises DestinationError ENDPOINT_UNRESOLVABLE, ENDPOINT_FORBIDDEN; SettingsError."""
        url = urlsplit(endpoint.bucket_url(bucket))
        self._name = url.hostname or ""
        port = url.port or (443 if url.scheme == "https" else 80)
        self._pool = pool
        self._trusted = trusting(endpoint.ca_file) if endpoint.ca_file else True
        pool.pin(self._name, addresses(self._name, port, {self._name} if endpoint.trusted else allowed))
        self._origin = f"{url.scheme}://{url.netloc}"
        self.host = url.netloc
        self.base = url.path

    def path(self, key: str) -> str:
        """The path of an object."""
        return f"{self.base}/{encode_path(key)}"

    async def request(
        self, method: str, path: str, query: str, headers: Headers, *, limit: int = 0, read: Reading | None = None
    ) -> Answer:
        """The answer, whatever its status; the last one where all tries failed for a passing reason.

        ``limit``: bytes of its body; ``read`` does something else with it. Raises DestinationError where there was no
        answer: ENDPOINT_REFUSED, TLS_FAILED, NETWORK. A query may hold a secret, and is in no error.
        """
        # Encoded by us and left alone by yarl: what goes over the wire is what was signed.
        url = URL(f"{self._origin}{path}?{query}" if query else f"{self._origin}{path}", encoded=True)

        async def body(response: aiohttp.ClientResponse) -> Answer:
            return await read_answer(response, limit)

        for left in reversed(range(TRIES)):
            pause = PAUSE * 2 ** (TRIES - 1 - left)
            error: DestinationError | None = None
            try:
                answer = await self._once(method, url, headers(time.time()), read or body)
            except (aiohttp.ClientError, TimeoutError, OSError) as e:
                error = no_answer(e, self._origin, self._name)
            else:
                if answer.status not in PASSING or not left:
                    return answer
                asked = answer.headers.get("Retry-After", "")
                pause = max(pause, min(float(asked), LONGEST_PAUSE)) if asked.isdecimal() else pause
            # Not above: the cause may quote the URL, and what is raised while it is handled keeps it.
            if error is not None and (not left or not error.code.retryable):
                raise error
            await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 -- spreads load, guards nothing
        raise AssertionError("unreachable: the last try returns or raises")

    async def _once(self, method: str, url: URL, headers: Mapping[str, str], read: Reading) -> Answer:
        sent = self._pool.session().request(method, url, headers=headers, allow_redirects=False, ssl=self._trusted)
        async with sent as response:
            return await read(response)

"""Calls a user's webhook: a signed POST, to a host that was judged, with a bounded answer.

One signature covers the moment, the question and all of its body::

    CloudPush-Timestamp: 1700000000                       seconds since 1970, of this try
    CloudPush-Id: 3c0e…                                   a UUID; the same for every try of one question
    CloudPush-Signature: v1=<HMAC-SHA256, hex>            over "<timestamp>.<id>.<body>", with the shared secret

The host is a user's, so it is judged as every other one: resolved, judged and connected to by ourselves, without redirects
and proxies. The URL's path and query may hold secrets, so that no error names more than its host, and nothing of an answer
is repeated.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import random
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from cloudpush.errors import Code, DestinationError, InputError
from cloudpush.net import PASSING, Pool, no_answer
from cloudpush.push.guard import Origin, addresses, check_endpoint, parse_endpoint

TRIES = 3
#: Seconds that one try may take from connecting to the answer's last byte.
TRY_SECONDS = 30.0
CONNECT_SECONDS = 5.0
#: Seconds before the second try; doubled before the third; by chance between half and all of it.
PAUSE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Words:
    """What a kind of webhook is called in errors, which kind its credential is, and what is expected of it."""

    what: str  # "The callback"
    kind: str
    expected: str  # "200 and the fresh URLs"
    good: frozenset[int] = frozenset({200})  # statuses of an answer that says yes


@dataclass(frozen=True, slots=True)
class Message:
    """What is sent, and whereto. The same for every try, but for the time of day."""

    url: URL = field(repr=False)
    origin: Origin
    secret: bytes = field(repr=False)
    id: str
    body: bytes = field(repr=False)

    def headers(self, now: float) -> dict[str, str]:
        """Its headers, signed, of a try at ``now``."""
        timestamp = str(int(now))
        signed = b".".join((timestamp.encode(), self.id.encode(), self.body))
        return {
            "Content-Type": "application/json",
            "Accept": "application/json",
            "CloudPush-Timestamp": timestamp,
            "CloudPush-Id": self.id,
            "CloudPush-Signature": f"v1={hmac.new(self.secret, signed, hashlib.sha256).hexdigest()}",
        }


class Webhook:
    """One kind of webhook. Thread-safe."""

    def __init__(self, pool: Pool, allowed: Collection[str], words: Words, *, seconds: float, pause: float) -> None:
        """``allowed``: the operator's listed hosts, see ``push.guard``."""
        self._pool = pool
        self._allowed = allowed
        self._words = words
        self._timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=min(seconds, CONNECT_SECONDS))
        self._pause = pause

    def message(self, fields: Mapping[str, str], id_: str, body: bytes) -> Message:
        """``body`` for the webhook of ``fields``, whose host is judged and resolved here. Raises DestinationError."""
        origin, url = self._whereto(fields["url"])
        self._pool.pin(origin.host, addresses(origin.host, origin.port, self._allowed))
        return Message(url, origin, fields["secret"].encode(), id_, body)

    async def answer(self, message: Message, limit: int) -> bytes:
        """The body of a good answer. Raises DestinationError; tries again where the failure may pass."""
        for left in reversed(range(TRIES)):
            try:
                return await self._once(message, limit)
            except DestinationError as e:
                if not left or not e.code.retryable:
                    raise
            pause = self._pause * 2 ** (TRIES - 1 - left)
            await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 -- spreads load, guards nothing
        raise AssertionError("unreachable: the last try returns or raises")

    def _whereto(self, text: str) -> tuple[Origin, URL]:
        """The origin, judged, and the URL. The value was checked when it was sealed: trust nothing twice."""
        if not text.isascii() or not text.isprintable() or " " in text or "\\" in text or "#" in text:
            raise self._unusable("has a URL with blanks, a fragment or characters beyond ASCII")
        try:
            parts = urlsplit(text)
        except ValueError:
            parts = None  # the message quotes it, so that it must not become the cause of what is raised
        if parts is None:
            raise self._unusable("has an address that is no URL")
        if "@" in parts.netloc:
            raise self._unusable("has a URL with a user name or password")
        try:
            origin = parse_endpoint(check_endpoint(f"{parts.scheme}://{parts.netloc}", self._allowed))
        except InputError as e:
            raise DestinationError(e.code, f"{self._words.what} is not asked: {e.message}.") from e
        target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
        return origin, URL(f"{origin.url}{target}", encoded=True)

    async def _once(self, message: Message, limit: int) -> bytes:
        host = named(message.origin)
        try:
            async with self._pool.session().post(
                message.url,
                data=message.body,
                headers=message.headers(time.time()),
                timeout=self._timeout,
                allow_redirects=False,
            ) as response:
                if response.status not in self._words.good:
                    response.close()  # its words may be anything: they are not read
                    raise self._refused(response.status, host)
                return await self._read(response, host, limit)
        except (aiohttp.ClientError, TimeoutError, OSError) as e:
            failure = no_answer(e, f"{self._words.what} at {host}", message.origin.host)
        raise failure  # not above: the cause quotes the URL, and what is raised while it is handled keeps it

    async def _read(self, response: aiohttp.ClientResponse, host: str, limit: int) -> bytes:
        body = bytearray()
        while more := await response.content.readany():
            body += more
            if len(body) > limit:
                response.close()
                raise DestinationError(
                    Code.PROVIDER_REFUSED, f"{self._words.what} at {host} answers with more than {limit:,} bytes."
                )
        return bytes(body)

    def _unusable(self, why: str) -> DestinationError:
        return DestinationError(
            Code.PROVIDER_REFUSED,
            f"{self._words.what} {why}: add it anew with `cloudpush credential add --kind {self._words.kind}`.",
        )

    def _refused(self, status: int, host: str) -> DestinationError:
        what = f"{self._words.what} at {host} answers {status}"
        if status in PASSING:
            return DestinationError(Code.PROVIDER_UNAVAILABLE, f"{what}, {TRIES} times.")
        if 300 <= status < 400:
            why = "redirects are not followed, register the address that it leads to"
        elif status in {401, 403}:
            why = "it must verify the signature with the secret that was registered"
        else:
            why = f"expected {self._words.expected}"
        return DestinationError(Code.PROVIDER_REFUSED, f"{what}: {why}.")


def named(origin: Origin) -> str:
    """What errors call a webhook's place: never more than its host and port."""
    return repr(origin.url.partition("://")[2])

"""Asks a pipeline's callback for fresh URLs: a signed question, a bounded answer.

The question is a POST of JSON, so that one signature covers all of it::

    CloudPush-Timestamp: 1700000000                       seconds since 1970, of this try
    CloudPush-Id: 3c0e…                                   a UUID; the same for every try of one question
    CloudPush-Signature: v1=<HMAC-SHA256, hex>            over "<timestamp>.<id>.<body>", with the shared secret

    {"version": 1, "push": "…", "owner": "…", "destination": "s3://…",
     "files": [{"seq": 7, "path": "a/b.csv", "key": "run/a/b.csv", "kind": "multipart", "parts": [3, 4]}]}

and the answer ``{"files": [rows as a manifest has them]}``. A callback's host is a user's, so it is judged as every
other one: resolved, judged and connected to by ourselves, without redirects and proxies. Its path and query may hold
secrets, so that no error names more than its host, and nothing of its answer is repeated.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import random
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit
from uuid import uuid4

import aiohttp
from yarl import URL

from cloudpush.errors import Code, DestinationError, InputError
from cloudpush.net import PASSING, Pool, no_answer, watched
from cloudpush.push.guard import Origin, addresses, check_endpoint, parse_endpoint
from cloudpush.push.job import Push
from cloudpush.push.ports import Control
from cloudpush.push.signed.model import Kind, Need
from cloudpush.push.signed.roles import MOST_PARTS

#: Of the question; a callback may refuse one that it does not know.
VERSION = 1
TRIES = 3
#: Seconds that one try may take from connecting to the answer's last byte.
TRY_SECONDS = 30.0
CONNECT_SECONDS = 5.0
#: Seconds before the second try; doubled before the third; by chance between half and all of it.
PAUSE_SECONDS = 1.0
#: Bytes of an answer: besides the rows, for each file's row, for each part's URL; at most.
BASE_BYTES = FILE_BYTES = 64 * 1024
PART_BYTES = 16 * 1024
ANSWER_BYTES = 16 * 1024 * 1024
#: Values in an answer, likewise: a row has a dozen columns, and objects of headers and fields. What takes three bytes there
#: takes a hundred in memory.
BASE_VALUES, FILE_VALUES, PART_VALUES = 64, 512, 8


@dataclass(frozen=True, slots=True)
class _Question:
    """What is sent, and whereto. The same for every try, but for the time of day."""

    url: URL = field(repr=False)
    origin: Origin
    secret: bytes = field(repr=False)
    id: str
    body: bytes = field(repr=False)

    def headers(self, now: float) -> dict[str, str]:
        timestamp = str(int(now))
        signed = b".".join((timestamp.encode(), self.id.encode(), self.body))
        return {
            "Content-Type": "application/json",
            "Accept": "application/json",
            "CloudPush-Timestamp": timestamp,
            "CloudPush-Id": self.id,
            "CloudPush-Signature": f"v1={hmac.new(self.secret, signed, hashlib.sha256).hexdigest()}",
        }


class HttpHook:
    """``push.signed.ports.Hook`` over HTTPS. Thread-safe."""

    def __init__(
        self,
        pool: Pool,
        allowed: Collection[str],
        *,
        seconds: float = TRY_SECONDS,
        pause: float = PAUSE_SECONDS,
    ) -> None:
        """``allowed``: the operator's listed hosts, see ``push.guard``."""
        self._pool = pool
        self._allowed = allowed
        self._timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=min(seconds, CONNECT_SECONDS))
        self._pause = pause

    def ask(self, fields: Mapping[str, str], push: Push, needs: Sequence[Need], control: Control) -> Iterable[object]:
        """See the port. DestinationError names the callback's host and nothing else of its URL."""
        control.check()
        origin, url = self._whereto(fields["url"])
        question = _Question(url, origin, fields["secret"].encode(), str(uuid4()), _body(push, needs))
        self._pool.pin(origin.host, addresses(origin.host, origin.port, self._allowed))
        limit = _most(needs, BASE_BYTES, FILE_BYTES, PART_BYTES)
        body = self._pool.run(watched(self._answer(question, limit), control))
        return _rows(body, needs, origin)

    def _whereto(self, text: str) -> tuple[Origin, URL]:
        """The callback's origin, judged, and its URL. The value was checked when it was sealed: trust nothing twice."""
        if not text.isascii() or not text.isprintable() or " " in text or "\\" in text or "#" in text:
            raise _unusable("has a URL with blanks, a fragment or characters beyond ASCII")
        try:
            parts = urlsplit(text)
        except ValueError:
            parts = None  # the message quotes it, so that it must not become the cause of what is raised
        if parts is None:
            raise _unusable("has an address that is no URL")
        if "@" in parts.netloc:
            raise _unusable("has a URL with a user name or password")
        try:
            origin = parse_endpoint(check_endpoint(f"{parts.scheme}://{parts.netloc}", self._allowed))
        except InputError as e:
            raise DestinationError(e.code, f"The callback is not asked: {e.message}.") from e
        target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
        return origin, URL(f"{origin.url}{target}", encoded=True)

    async def _answer(self, question: _Question, limit: int) -> bytes:
        """The body of an answer 200. Raises DestinationError; tries again where the failure may pass."""
        for left in reversed(range(TRIES)):
            try:
                return await self._once(question, limit)
            except DestinationError as e:
                if not left or not e.code.retryable:
                    raise
            pause = self._pause * 2 ** (TRIES - 1 - left)
            await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 -- spreads load, guards nothing
        raise AssertionError("unreachable: the last try returns or raises")

    async def _once(self, question: _Question, limit: int) -> bytes:
        host = _named(question.origin)
        try:
            async with self._pool.session().post(
                question.url,
                data=question.body,
                headers=question.headers(time.time()),
                timeout=self._timeout,
                allow_redirects=False,
            ) as response:
                if response.status != 200:
                    response.close()  # its words may be anything: they are not read
                    raise _refused(response.status, host)
                return await self._read(response, host, limit)
        except (aiohttp.ClientError, TimeoutError, OSError) as e:
            failure = no_answer(e, f"The callback at {host}", question.origin.host)
        raise failure  # not above: the cause quotes the URL, and what is raised while it is handled keeps it

    async def _read(self, response: aiohttp.ClientResponse, host: str, limit: int) -> bytes:
        body = bytearray()
        while more := await response.content.readany():
            body += more
            if len(body) > limit:
                response.close()
                raise DestinationError(
                    Code.PROVIDER_REFUSED, f"The callback at {host} answers with more than {limit:,} bytes."
                )
        return bytes(body)


def _body(push: Push, needs: Sequence[Need]) -> bytes:
    files = [
        {"seq": need.seq, "path": need.path, "key": need.key, "kind": need.kind.value, "parts": list(need.parts)}
        for need in needs
    ]
    question = {
        "version": VERSION,
        "push": str(push.id),
        "owner": push.owner,
        "destination": push.destination.uri,
        "files": files,
    }
    return json.dumps(question, separators=(",", ":")).encode()


def _rows(body: bytes, needs: Sequence[Need], origin: Origin) -> list[object]:
    """The answer's rows: objects for files that were asked for, each at most once."""
    host = _named(origin)
    # Each value but the first has one of these before it; texts have a few, too.
    values = sum(map(body.count, (b",", b"[", b"{", b":")))
    most = _most(needs, BASE_VALUES, FILE_VALUES, PART_VALUES)
    if values > most:
        raise DestinationError(
            Code.PROVIDER_REFUSED, f"The callback at {host} answers with {values:,} values, and {most:,} are the most."
        )
    try:
        answer = json.loads(body, object_pairs_hook=_object)
    except (ValueError, RecursionError):
        answer = None  # the error quotes what it read
    rows = answer.get("files") if isinstance(answer, dict) else None
    if not isinstance(rows, list):
        raise DestinationError(
            Code.PROVIDER_REFUSED, f'The callback at {host} answers with something else than {{"files": […]}} in JSON.'
        )
    if len(rows) > len(needs):
        raise DestinationError(
            Code.PROVIDER_REFUSED,
            f"The callback at {host} answers for {len(rows)} files; it was asked for {len(needs)}.",
        )
    asked = {need.path for need in needs}
    if len(needs) == 1 or all(need.kind is Kind.TREE for need in needs):
        asked.add("")  # a SAS for the whole tree, or the only file there is, needs no path
    for number, row in enumerate(rows, 1):
        path = row.get("path", "") if isinstance(row, dict) else None
        if not isinstance(path, str) or path not in asked:
            raise DestinationError(
                Code.PROVIDER_REFUSED,
                f"The callback at {host} answers in row {number} for a file that it was not asked for, or twice.",
            )
        asked.remove(path)
    return rows


def _most(needs: Sequence[Need], base: int, per_file: int, per_part: int) -> int:
    """How much of something an answer may have; of bytes never more than ANSWER_BYTES."""
    parts = sum(len(need.parts) or MOST_PARTS for need in needs if need.kind is Kind.MULTIPART)
    return min(base + per_file * len(needs) + per_part * parts, ANSWER_BYTES)


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object whose names are all different: of two values nobody knows which one counts."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")
    return found


def _named(origin: Origin) -> str:
    """What errors call the callback: never more than its host and port."""
    return repr(origin.url.partition("://")[2])


def _unusable(why: str) -> DestinationError:
    return DestinationError(
        Code.PROVIDER_REFUSED, f"The callback {why}: add it anew with `cloudpush credential add --kind resign_hook`."
    )


def _refused(status: int, host: str) -> DestinationError:
    if status in PASSING:
        return DestinationError(Code.PROVIDER_UNAVAILABLE, f"The callback at {host} answers {status}, {TRIES} times.")
    if 300 <= status < 400:
        why = "redirects are not followed, register the address that it leads to"
    elif status in {401, 403}:
        why = "it must verify the signature with the secret that was registered"
    else:
        why = "expected 200 and the fresh URLs"
    return DestinationError(Code.PROVIDER_REFUSED, f"The callback at {host} answers {status}: {why}.")

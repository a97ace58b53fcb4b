"""The Inspector for S3 and everything that speaks it: HEADs, many at once, and listings where they are cheaper."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence

from cloudpush.errors import Code, DestinationError
from cloudpush.net import PASSING, Answer, BadXml, Pool, watched
from cloudpush.push.endpoints import Endpoint, resolve
from cloudpush.push.job import Destination, Fingerprint, Secret, Seen
from cloudpush.push.ports import Control, Inspector
from cloudpush.push.states import Strength
from cloudpush.verify.answers import FATAL, Refused, error_of, read_refusal
from cloudpush.verify.listing import PAGE_BYTES, Survey, page_parameters, read_page
from cloudpush.verify.proof import strength_of
from cloudpush.verify.wire import TIMEOUT, Wire

#: Requests in flight in one call.
CONCURRENCY = 64
#: Up to so many keys HEADs are sent at once, and are as quick as the first page of a listing.
FEW = 32
#: Keys in a row that got no proper answer: the rest would not either, and each would take its time.
STREAK = 8

#: Encryption under which an ETag is no MD5, although it may have the shape of one.
_OPAQUE = ("aws:kms", "aws:kms:dsse")


class S3Inspector(Inspector):
    """Asks S3-compatible destinations. Safe to use from several threads.

    Its connections are kept for the next call: an event loop in a thread of its own holds them.
    """

    def __init__(self, *, allowed_endpoints: Collection[str] = (), concurrency: int = CONCURRENCY) -> None:
        """``allowed_endpoints``: the operator's listed hosts, which may be private; see push.guard."""
        self._allowed = frozenset(allowed_endpoints)
        self._concurrency = concurrency
        self._pool = Pool("inspector", TIMEOUT)

    def close(self) -> None:
        """Close the kept connections."""
        self._pool.close()

    def look(self, destination: Destination, secret: Secret, keys: Sequence[str], control: Control) -> Sequence[Seen]:
        """See Inspector. Blocks, so it must not be called from within an event loop."""
        return self._run(destination, secret, keys, control, _Questions.look)

    def survey(self, destination: Destination, secret: Secret, keys: Sequence[str], control: Control) -> Sequence[Seen]:
        """See Inspector. Answers from a listing have no version and no digest but the ETag."""
        ask = _Questions.peek if len(keys) <= FEW else _Questions.survey
        return self._run(destination, secret, keys, control, ask)

    def strength(self, expected: Fingerprint, seen: Seen) -> Strength:
        """See Inspector and :func:`cloudpush.verify.proof.strength_of`."""
        return strength_of(expected, seen)

    def _run(
        self,
        destination: Destination,
        secret: Secret,
        keys: Sequence[str],
        control: Control,
        ask: Callable[[_Questions, Sequence[str]], Coroutine[None, None, Mapping[str, Seen]]],
    ) -> Sequence[Seen]:
        control.check()
        if not keys:
            return []
        endpoint = resolve(destination, secret, self._allowed)
        lanes = min(self._concurrency, len(keys))
        wire = Wire(self._pool, endpoint, destination.bucket, secret, self._allowed)
        questions = _Questions(wire, endpoint, destination, secret, lanes)
        answers = self._pool.run(watched(ask(questions, keys), control))
        return [answers[key] for key in keys]


async def _stop(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class _Questions:
    """One call's conversation with the destination."""

    def __init__(self, wire: Wire, endpoint: Endpoint, destination: Destination, secret: Secret, lanes: int) -> None:
        self._wire = wire
        self._region = endpoint.region
        self._bucket = destination.bucket
        self._secret = secret
        self._lanes = lanes
        self._explained: dict[int, DestinationError] = {}
        self._explaining = asyncio.Lock()
        self._streak = 0

    async def survey(self, keys: Sequence[str]) -> Mapping[str, Seen]:
        """Listings first; what they leave open is asked key by key."""
        survey = Survey(keys)
        while (after := survey.start_after()) is not None:
            try:
                answer = await self._wire.page(page_parameters(survey.prefix, after), PAGE_BYTES)
                if answer.status == 404:
                    raise self._error(read_refusal(answer.status, answer.body), keys[0])
                if answer.status != 200:
                    break  # may not list, or something that the HEADs will run into and put into words
                survey.take(read_page(answer.body))
            except BadXml:
                break
        answers = survey.answers()
        rest = [key for key in keys if key not in answers]
        return answers if not rest else {**answers, **await self.peek(rest)}

    async def look(self, keys: Sequence[str]) -> Mapping[str, Seen]:
        """HEADs of all ``keys``. Raises DestinationError where no key can be asked, or the bucket is missing."""
        answers = await self.peek(keys)
        if all(seen.exists is False for seen in answers.values()):
            # A HEAD says 404 for a missing bucket, too.
            await self._explain(404, keys[0], "")
        return answers

    async def peek(self, keys: Sequence[str]) -> Mapping[str, Seen]:
        """HEADs of all ``keys``, ``lanes`` at a time; a missing bucket holds none of them, and nothing is said of it.

        Raises DestinationError where no key can be asked.
        """
        answers: dict[str, Seen] = {}
        waiting = iter(dict.fromkeys(keys))

        async def lane() -> None:
            for key in waiting:
                answers[key] = await self._look_at(key)

        lanes = [asyncio.create_task(lane()) for _ in range(self._lanes)]
        try:
            await asyncio.gather(*lanes)
        finally:
            await _stop(lanes)
        if all(seen.error is not None and seen.error.code.retryable for seen in answers.values()):
            raise next(seen.error for seen in answers.values() if seen.error is not None)
        return answers

    async def _look_at(self, key: str) -> Seen:
        try:
            answer = await self._wire.head(key)
        except DestinationError as e:
            if e.code is not Code.NETWORK:
                raise
            return self._passing(e)
        if answer.status in PASSING:
            return self._passing(self._error(Refused(answer.status), key))
        self._streak = 0
        if answer.status == 200:
            return _seen(answer)
        if answer.status == 404:
            return Seen(exists=False)
        error = await self._explain(answer.status, key, answer.headers.get("x-amz-bucket-region", ""))
        return Seen(exists=None, error=error)

    def _passing(self, error: DestinationError) -> Seen:
        self._streak += 1
        if self._streak >= STREAK:
            raise error
        return Seen(exists=None, error=error)

    async def _explain(self, status: int, key: str, region: str) -> DestinationError:
        """What ``status`` of a HEAD means, by a GET of the same key; asked once per status.

        Raises it where it concerns every key.
        """
        async with self._explaining:
            error = self._explained.get(status)
            if error is None:
                answer = await self._wire.first_byte(key)
                # A GET that succeeds, or finds another obstacle that may pass, says nothing about the HEAD.
                told = answer.status >= 300 and answer.status not in PASSING
                region = region or answer.headers.get("x-amz-bucket-region", "")
                refused = read_refusal(answer.status, answer.body, region) if told else Refused(status, region=region)
                error = self._explained[status] = self._error(refused, key)
        if error.code in FATAL:
            raise error
        return error

    def _error(self, refused: Refused, key: str) -> DestinationError:
        fields = self._secret.reveal()
        return error_of(
            refused,
            bucket=self._bucket,
            what=repr(key),
            region=self._region,
            session=bool(fields.get("session_token")),
            secrets=tuple(v for k, v in fields.items() if k in {"access_key_id", "secret_access_key", "session_token"}),
        )


def _seen(answer: Answer) -> Seen:
    headers = answer.headers
    length = headers.get("Content-Length", "")
    sha256 = headers.get("x-amz-checksum-sha256", "")
    return Seen(
        exists=True,
        size=int(length) if length.isdecimal() else None,
        etag=headers.get("ETag", "").removeprefix("W/").strip('"'),
        version_id=headers.get("x-amz-version-id", ""),
        opaque_etag=(
            headers.get("x-amz-server-side-encryption", "") in _OPAQUE
            or "x-amz-server-side-encryption-customer-algorithm" in headers
        ),
        sha256="" if "-" in sha256 else sha256,  # with a dash it is a digest of digests
    )

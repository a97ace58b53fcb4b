"""GCS' resumable uploads: a signed start gives a session, whose URI takes the content chunk by chunk.

The session's URI is a capability of its own that lives for a week: neither the expiry of the signed start nor a renewal
touches it. What it has is what it says: after each chunk and after any interruption the server's ``Range`` decides
where to go on, never our own count (cloud.google.com, resumable uploads).
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from cloudpush.errors import Code, DestinationError, InputError
from cloudpush.net import Answer
from cloudpush.push.guard import Origin, parse_endpoint
from cloudpush.push.signed.hosts import Styles, place_of
from cloudpush.push.signed.model import Arrival, Provider, SignedUrl, Ticket
from cloudpush.push.signed.proof import URL, put_proof, sent_with
from cloudpush.transfer.signed import look
from cloudpush.transfer.signed.job import Job
from cloudpush.transfer.signed.request import Request, Stream
from cloudpush.transfer.signed.source import STREAM_BYTES, SourceStream, Take
from cloudpush.transfer.signed.whole import Whole

#: Every chunk but the last is a multiple of this; bytes.
GRAIN = 256 * 1024
#: Bytes of a chunk. An interruption costs at most what the server had not stored of one.
CHUNK = 64 * GRAIN
#: Requests in a row after which a session that stores nothing more is given up.
STANDSTILLS = 4
#: What a session may answer, besides 2xx: go on; not known, or not any more.
_ANSWERS = frozenset({308, 404, 410})
_CANCELLED = frozenset({404, 410, 499})
_RANGE = re.compile(r"bytes=0-(?P<last>\d{1,19})")


class _AskFirstError(DestinationError):
    """A chunk was interrupted: what the server has of it must be asked before anything is sent again."""

    def __init__(self) -> None:
        super().__init__(Code.PROVIDER_REFUSED, "a chunk was interrupted")


class _Gone(Exception):
    """The server does not know the session, or not any more."""


async def upload(job: Job) -> Arrival:
    """Send what the session has not stored; start one where there is none.

    Raises DestinationError: ENDPOINT_FORBIDDEN (the session is at another server), UPLOAD_GONE (it is over, and there is
    no URL to start another), URL_EXPIRED (nobody renews the start), PROVIDER_UNAVAILABLE (it stores nothing more),
    CORRUPTED, and what GCS refuses.
    """
    try:
        return await _upload(job)
    except DestinationError as e:
        if e.code is Code.CORRUPTED:
            await job.lost()  # it is complete, and would only say so again
        raise


async def _upload(job: Job) -> Arrival:
    session = job.session or _handed_over(job.ticket)
    if session:
        try:
            return await _send_all(job, session, None)
        except _Gone as e:
            await job.lost()
            if _handed_over(job.ticket) == session:
                raise _gone(job) from e
    ticket = await job.current()
    if ticket.url.session:  # a fresh ticket may be a session, too
        fresh, stored = ticket.url.text, None
    else:
        fresh, stored = await _start(job), 0
    try:
        return await _send_all(job, fresh, stored)
    except _Gone as e:
        await job.lost()
        raise _gone(job) from e


async def abort(job: Job) -> str:
    """Cancel the session; what stays behind, in a sentence, empty where nothing does."""
    session = job.session or _handed_over(job.ticket)
    if not session:
        return ""
    try:
        await job.sender.send(Request("DELETE", session, accepts=_CANCELLED))
    except DestinationError as e:
        return f"What was stored of {job.file.key!r} stays at the provider for a week: cancelling failed with {e.code}."
    return ""


def _handed_over(ticket: Ticket | None) -> str:
    return ticket.url.text if ticket is not None and ticket.url.session else ""


def _gone(job: Job) -> DestinationError:
    return DestinationError(
        Code.UPLOAD_GONE,
        f"The provider does not know the resumable upload of {job.file.path!r}, or not any more, "
        "and there is no URL to start another.",
    )


# -- the session ---------------------------------------------------------------------------


async def _start(job: Job) -> str:
    """Start a session and keep its URI before a byte is sent. Raises DestinationError."""

    def build(ticket: Ticket) -> Request:
        headers = {name.lower(): value for name, value in ticket.headers.items()}
        headers["x-goog-resumable"] = "start"
        return Request("POST", ticket.url.text, headers, expires_at=ticket.url.expires_at)

    answer = await job.ask(build)
    session = answer.headers.get("Location", "")
    ticket = await job.current()
    if not _same_origin(session, ticket.url.origin):
        raise DestinationError(
            Code.ENDPOINT_FORBIDDEN,
            f"{ticket.url.origin.url} started a resumable upload of {job.file.path!r} at another server, or said not where: "
            "it is not followed.",
        )
    await job.began(session)
    return session


def _same_origin(session: str, origin: Origin) -> bool:
    """Whether the URI leads to the server that was judged: anything else could lead into our own network."""
    try:
        parts = urlsplit(session)
        return (
            session.isascii()
            and len(session) <= 16 * 1024
            and parse_endpoint(f"{parts.scheme}://{parts.netloc}") == origin
        )
    except (InputError, ValueError):
        return False


async def _send_all(job: Job, session: str, stored: int | None) -> Arrival:
    """Send the rest. ``stored``: bytes that the session is known to have, None to ask. Raises _Gone."""
    size = job.file.size
    async with Whole(job.source) as whole:
        answer, stored = (None, stored) if stored is not None else await _ask(job, session)
        standstills, most = 0, stored
        while answer is None:
            end = min(size, stored + CHUNK)
            whole.reach(end)
            answer, stored = await _send_chunk(job, session, stored, end)
            # More than ever before: what it forgets and stores again is no progress.
            standstills, most = (0, stored) if stored > most else (standstills + 1, most)
            if answer is None and standstills >= STANDSTILLS:
                raise DestinationError(
                    Code.PROVIDER_UNAVAILABLE,
                    f"The provider has stored {stored} of the {size} bytes of {job.file.path!r} and takes no more.",
                )
        digests = await whole.digests()
    url = job.ticket.url if job.ticket is not None else _bare(job, session)
    sent = {**sent_with(job.ticket), URL: session} if job.ticket is not None else None
    return await look.arrival(job, put_proof(url, digests, answer.headers, sent), digests)


async def _send_chunk(job: Job, session: str, start: int, end: int) -> tuple[Answer | None, int]:
    """Send one chunk: the last answer, or None and how much the session has now."""
    size = job.file.size
    if size == 0:
        return await _ask(job, session)  # of an empty file, the question completes it
    headers = {"content-range": f"bytes {start}-{end - 1}/{size}"}
    loaded = job.source.loaded
    body: bytes | Stream
    body = loaded[start:end] if loaded is not None else _Once(job.source.stream(start, end - start, Take.CRC32C))
    content = len(body) if isinstance(body, bytes) else 0
    try:
        async with job.budget.hold(STREAM_BYTES if loaded is None else content):
            answer = await job.sender.send(Request("PUT", session, headers, body, content=content, accepts=_ANSWERS))
    except _AskFirstError:
        return await _ask(job, session)
    return _judge(job, answer, end)


async def _ask(job: Job, session: str) -> tuple[Answer | None, int]:
    """What the session has: the last answer if it is complete, or None and how many bytes are stored."""
    size = job.file.size
    request = Request("PUT", session, {"content-range": f"bytes */{size}"}, accepts=_ANSWERS)
    return _judge(job, await job.sender.send(request), size)


def _judge(job: Job, answer: Answer, most: int) -> tuple[Answer | None, int]:
    """``most``: bytes that it can have. Raises _Gone, DestinationError PROVIDER_REFUSED."""
    if answer.status in {404, 410}:
        raise _Gone
    if answer.status != 308:
        if most < job.file.size:
            raise DestinationError(
                Code.CORRUPTED,
                f"The provider says that {job.file.path!r} is complete when {most} of its {job.file.size} bytes were sent.",
            )
        return answer, job.file.size
    told = answer.headers.get("Range", "")
    if not told:
        return None, 0
    found = _RANGE.fullmatch(told)
    stored = int(found["last"]) + 1 if found else -1
    if not 0 < stored <= most:
        raise DestinationError(
            Code.PROVIDER_REFUSED,
            f"The provider says that it has other bytes of {job.file.path!r} than were sent.",
            detail=f"Range: {told[:64]!r}",
        )
    return None, stored


def _bare(job: Job, session: str) -> SignedUrl:
    """The session as a URL, where nothing else is left of the ticket: a host that only the operator knows is nobody's."""
    parts = urlsplit(session)
    origin = parse_endpoint(f"{parts.scheme}://{parts.netloc}")
    try:
        vouched = place_of(origin.url, Styles()).vouched
    except InputError:
        vouched = False
    return SignedUrl(session, Provider.GCS, "gcs", "session", origin, "", job.file.key, session=True, vouched=vouched)


@dataclass(eq=False, slots=True)
class _Once(Stream):
    """A chunk that is not sent again by itself when its request fails."""

    source: SourceStream
    _begun: bool = field(default=False)

    @property
    def size(self) -> int:
        """Bytes."""
        return self.source.size

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """See ``Stream``; the second time raises _AskFirstError."""
        if self._begun:
            raise _AskFirstError
        self._begun = True
        async with aclosing(self.source.chunks()) as chunks:
            async for chunk in chunks:
                yield chunk

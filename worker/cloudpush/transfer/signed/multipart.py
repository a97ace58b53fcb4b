"""Multipart uploads: part URLs, one to complete, one to abort (S3, and GCS' XML interface).

Whoever signed the URLs began the upload and thereby chose its id and how many parts it can have; how large they are is
chosen here. A part that arrived stays at the provider until the upload is completed or aborted, so an attempt that
comes after goes on with what is missing, also with fresh URLs of the same upload.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlsplit
from xml.sax.saxutils import escape

from cloudpush.errors import Code, DestinationError
from cloudpush.net import Answer, BadXml, parse_xml
from cloudpush.push.signed.model import MIB, Arrival, Piece, Provider, Ticket
from cloudpush.push.signed.proof import (
    URL,
    Digests,
    Proof,
    base64_be,
    clean_name,
    md5_base64,
    multipart_proof,
    piece_proof,
    secrets_of,
)
from cloudpush.push.states import Strength
from cloudpush.transfer.signed import look
from cloudpush.transfer.signed.job import Job
from cloudpush.transfer.signed.pieces import Slice, cut, kept_of, round_up, send_pieces, size_of
from cloudpush.transfer.signed.request import Request
from cloudpush.transfer.signed.source import STREAM_BYTES, Take, digests_of

#: Bytes; S3's and GCS' limits of a part that is not the last one, and of parts in an upload.
SMALLEST_PART = 5 * MIB
LARGEST_PART = 5 * 1024 * MIB
MOST_PARTS = 10_000
#: Of a part's number at most; the number itself is judged where it is used.
_DIGITS = 9
#: What a provider may answer to a request that completes an upload: names, ETag, checksums.
_FIELDS = {
    "ETag": "etag",
    "ChecksumCRC32C": "x-amz-checksum-crc32c",
    "ChecksumCRC64NVME": "x-amz-checksum-crc64nvme",
    "ChecksumSHA256": "x-amz-checksum-sha256",
    "ChecksumType": "x-amz-checksum-type",
}


class _AnotherUploadError(Exception):
    """Fresh URLs belong to another upload than the one that was under way."""


async def upload(job: Job) -> Arrival:
    """Send the parts that are missing, complete the upload, say what the answers prove.

    Raises DestinationError: URL_UNUSABLE, TOO_LARGE (the URLs cannot hold the file: nothing was sent), URL_EXPIRED
    (nobody renews; what arrived stays), UPLOAD_GONE (what arrived is lost), CORRUPTED, and what providers refuse.
    """
    kept: Sequence[Piece] = job.pieces
    for last in (False, True):
        ticket = await job.current()
        try:
            return await _attempt(job, ticket, kept)
        except _AnotherUploadError as e:
            if last:
                raise DestinationError(
                    Code.CONFLICT, f"The URLs of {job.file.path!r} were renewed twice, each time for another upload."
                ) from e
            await job.lost()
            await _abort(job, ticket)
            kept = ()
    raise AssertionError("unreachable: the last attempt returns or raises")


async def abort(job: Job) -> str:
    """Abort the upload; what stays behind, in a sentence, empty where nothing does. Never raises CloudPushError."""
    if job.ticket is None:
        return f"The parts of {job.file.key!r} stay at the provider: the URL that aborts their upload was destroyed."
    return await _abort(job, job.ticket)


async def _attempt(job: Job, ticket: Ticket, pieces: Sequence[Piece]) -> Arrival:
    under_way = _Upload(job, upload_name(ticket))
    if any(piece.upload != under_way.name for piece in pieces):
        await job.lost()
    pieces = [piece for piece in pieces if piece.upload == under_way.name]
    slices = slices_of(job, ticket, pieces)
    try:
        parts, digests = await send_pieces(job, slices, kept_of(pieces, slices), under_way.send)
        # Once it is complete no part can be sent again: whoever goes on from here must know that all of them are there.
        await job.settled()
        return await under_way.complete(parts, digests)
    except DestinationError as e:
        if e.code is Code.UPLOAD_GONE:
            await job.lost()
        raise


# -- how it is cut -------------------------------------------------------------------------


def upload_name(ticket: Ticket) -> str:
    """Which upload a ticket belongs to: a fingerprint, fit to be stored."""
    return hashlib.sha256(ticket.url.upload.encode()).hexdigest()[:16]


def slices_of(job: Job, ticket: Ticket, pieces: Sequence[Piece]) -> list[Slice]:
    """The parts: all but the last of the same size, which R2 demands (400 InvalidPart).

    As large as the ticket says; else as earlier pieces of this upload were; else as few bytes as the URLs allow.
    Raises DestinationError TOO_LARGE, URL_UNUSABLE where the missing parts have no URL.
    """
    size, urls = job.file.size, part_urls(ticket)
    most = max(urls, default=0)
    part_size = ticket.part_size or size_of(pieces, size) or max(SMALLEST_PART, round_up(-(-size // max(most, 1))))
    if part_size > LARGEST_PART:
        raise DestinationError(
            Code.TOO_LARGE,
            f"{job.file.path!r} has {size} bytes; {most} parts of at most 5 GiB do not hold them: hand over more part URLs.",
        )
    slices = cut(size, part_size)
    if len(slices) > MOST_PARTS:
        raise DestinationError(
            Code.TOO_LARGE,
            f"{job.file.path!r} makes {len(slices)} parts of {part_size} bytes; an upload has at most {MOST_PARTS}.",
        )
    kept = kept_of(pieces, slices)
    missing = [s.number for s in slices if s.number not in urls and s.number not in kept]
    if missing:
        raise DestinationError(
            Code.URL_UNUSABLE,
            f"{job.file.path!r} needs {len(slices)} part URLs for {size} bytes in parts of {part_size}; "
            f"there is none for part {missing[0]}: hand over more of them, or larger parts.",
        )
    return slices


def part_urls(ticket: Ticket) -> dict[int, str]:
    """By the number that each part URL names itself; fresh URLs may be those of missing parts only."""
    urls = {}
    for position, text in enumerate(ticket.parts, 1):
        told = _parameter(text, "partnumber")
        urls[int(told) if told.isdecimal() and len(told) <= _DIGITS else position] = text
    return urls


def _parameter(url: str, name: str) -> str:
    return next((value for key, value in parse_qsl(urlsplit(url).query) if key.lower() == name), "")


# -- a part --------------------------------------------------------------------------------


@dataclass(eq=False, slots=True)
class _Upload:
    """One multipart upload under way, known by its fingerprint ``name``."""

    job: Job
    name: str
    _ticket: Ticket | None = None
    _urls: Mapping[int, str] = field(default_factory=dict, repr=False)

    def check(self, ticket: Ticket) -> Mapping[int, str]:
        """The part URLs of ``ticket``, read once. Raises _AnotherUploadError where they are of another upload."""
        if ticket is not self._ticket:
            if upload_name(ticket) != self.name:
                raise _AnotherUploadError
            self._ticket, self._urls = ticket, part_urls(ticket)
        return self._urls

    async def send(self, part: Slice) -> Piece:
        """Send one part; a second time where it did not arrive as it was sent. Raises DestinationError, SourceError."""
        held = min(part.size, STREAM_BYTES)
        try:
            return await self.job.holding(held, lambda: self._send_once(part))
        except DestinationError as e:
            if e.code is not Code.CORRUPTED:
                raise
        return await self.job.holding(held, lambda: self._send_once(part))

    async def _send_once(self, part: Slice) -> Piece:
        job = self.job
        ticket = await job.current()
        take = Take.MD5 | Take.CRC64
        if ticket.url.provider is Provider.GCS:
            take |= Take.CRC32C
        small = await job.source.read(part.offset, part.size) if job.source.loaded is not None else None
        stream = job.source.stream(part.offset, part.size, take) if small is None else None
        if small is not None:
            known: Digests | None = digests_of(small, take)
        elif signed_headers(self.check(ticket).get(part.number, "")) & _COMPUTED.keys():
            # What a header has to name before the part is sent takes a reading of its own.
            known = await job.source.digests(part.offset, part.size, take | Take.SHA256 | Take.CRC32C)
        else:
            known = None
        sent: dict[str, str] = {}

        def build(ticket: Ticket) -> Request:
            url = self.check(ticket).get(part.number)
            if url is None:
                raise DestinationError(
                    Code.URL_EXPIRED, f"The fresh URLs of {job.file.path!r} have none for part {part.number}."
                )
            sent.clear()
            sent.update(_headers(url, ticket, known))
            body = stream or small or b""
            return Request("PUT", url, dict(sent), body, content=len(small or b""), expires_at=ticket.expires_at)

        answer = await job.ask(build, held=True)
        digests = known or (await stream.digests() if stream is not None else None)
        if digests is None or digests.md5 is None or digests.crc64 is None:
            raise AssertionError("MD5 and CRC-64 of each part are taken")
        ticket = await job.current()
        url = self.check(ticket).get(part.number, "")
        # It has to be sent back in XML, and stored until then.
        etag = clean_name(answer.headers.get("ETag", ""), secrets_of(url, sent))
        if not etag:
            raise DestinationError(
                Code.PROVIDER_REFUSED,
                f"The provider took part {part.number} of {job.file.path!r} and gave it no ETag, or none that can be one.",
            )
        proof = piece_proof(ticket.url, digests, answer.headers, {**sent, URL: url})
        return Piece(
            seq=job.file.seq,
            number=part.number,
            offset=part.offset,
            size=part.size,
            etag=etag,
            md5=digests.md5,
            crc64=digests.crc64,
            upload=self.name,
            proof=proof.strength,
        )

    async def complete(self, parts: Sequence[Piece], digests: Digests) -> Arrival:
        """Complete the upload. Raises DestinationError UPLOAD_GONE where it is not known and may not have been completed.

        The request may be repeated: a provider answers once more for an upload that it has completed, or no longer
        knows it (both run). Then only a companion URL can tell what became of it.
        """
        job = self.job
        body = _document(parts)
        more = {
            "content-md5": md5_base64(hashlib.md5(body, usedforsecurity=False).digest()),
            "x-amz-mp-object-size": str(job.file.size),
            "x-amz-checksum-type": "FULL_OBJECT",
        }
        md5s = job.md5s = [part.md5 for part in parts]

        def build(ticket: Ticket) -> Request:
            self.check(ticket)
            headers = _headers(ticket.url.text, ticket, digests, more)
            return Request("POST", ticket.url.text, headers, body, expires_at=ticket.url.expires_at)

        try:
            answer = await job.ask(build)
        except DestinationError as e:
            if e.code is Code.CORRUPTED:
                # It has other parts than those that it acknowledged: none of them can be relied on.
                await job.lost()
            if e.code is not Code.UPLOAD_GONE:
                raise
            return await _completed_before(job, digests, md5s, e)
        ticket = await job.current()
        weakest = min(part.proof for part in parts)
        sent = _headers(ticket.url.text, ticket, digests, more)
        proof = multipart_proof(ticket.url, digests, md5s, weakest, answer.headers, _result(job, answer), sent)
        return await look.arrival(job, proof, digests, md5s)


#: Headers that we can fill in where they are signed and were not given.
_COMPUTED: dict[str, Callable[[Digests], str | None]] = {
    "content-md5": lambda d: md5_base64(d.md5) if d.md5 is not None else None,
    "x-amz-checksum-crc64nvme": lambda d: base64_be(d.crc64, 8) if d.crc64 is not None else None,
    "x-amz-checksum-crc32c": lambda d: base64_be(d.crc32c, 4) if d.crc32c is not None else None,
    "x-amz-checksum-sha256": lambda d: base64.b64encode(d.sha256).decode() if d.sha256 is not None else None,
}


def signed_headers(url: str) -> frozenset[str]:
    """Names, lower case, of the headers that a request with this URL must carry, apart from Host and Content-Length."""
    names = _parameter(url, "x-amz-signedheaders") or _parameter(url, "x-goog-signedheaders")
    return frozenset(names.lower().split(";")) - {"", "host", "content-length"}


def _headers(
    url: str, ticket: Ticket, digests: Digests | None, more: Mapping[str, str] | None = None
) -> dict[str, str]:
    """What this URL's signature demands, and nothing else: as it was given, or filled in by us."""
    given = {name.lower(): value for name, value in ticket.headers.items()}
    given.update(more or {})
    headers = {}
    for name in signed_headers(url):
        value = given.get(name)
        if value is None and digests is not None and name in _COMPUTED:
            value = _COMPUTED[name](digests)
        if value is not None:
            headers[name] = value
    return headers


# -- the end -------------------------------------------------------------------------------


async def _completed_before(job: Job, digests: Digests, md5s: Sequence[bytes], gone: DestinationError) -> Arrival:
    """The arrival of an upload that was completed by a request whose answer was lost. Raises ``gone`` otherwise."""
    nothing = Proof(Strength.NONE)
    try:
        seen = await look.after(job, nothing, digests, md5s)
    except DestinationError:
        seen = nothing
    if seen.strength < Strength.CHECKSUM:
        raise DestinationError(
            Code.UPLOAD_GONE,
            f"The provider does not know the upload of {job.file.path!r}: it was aborted, or it was completed by a "
            f"request whose answer was lost, and no companion URL can tell.",
            detail=gone.detail,
        ) from gone
    return look.arrival_of(digests, seen, sent=job.sent)


def _document(parts: Sequence[Piece]) -> bytes:
    items = "".join(
        f"<Part><PartNumber>{part.number}</PartNumber><ETag>{escape(part.etag)}</ETag></Part>" for part in parts
    )
    return f"<CompleteMultipartUpload>{items}</CompleteMultipartUpload>".encode()


def _result(job: Job, answer: Answer) -> dict[str, str]:
    """What the body says of the object, named as headers are. Raises DestinationError where it is no such answer.

    S3 sends its 200 before it knows: the body may be an error all the same (botocore, CompleteMultipartUpload).
    """
    fields: dict[str, str] = {}

    def leaf(path: tuple[str, ...], text: str) -> None:
        if path[:-1] == ("CompleteMultipartUploadResult",) and path[-1] in _FIELDS:
            fields[_FIELDS[path[-1]]] = text.strip()

    try:
        parse_xml(answer.body.strip(), leaf)
    except BadXml:
        fields.clear()
    if not fields.get("etag"):
        raise DestinationError(
            Code.PROVIDER_UNAVAILABLE,
            f"The provider answered {answer.status} and did not say that the upload of {job.file.path!r} is complete.",
        )
    return fields


async def _abort(job: Job, ticket: Ticket) -> str:
    stays = f"The parts of {job.file.key!r} stay at the provider until a lifecycle rule of the bucket removes them"
    if not ticket.abort:
        return f"{stays}: no abort_url was handed over."
    try:
        await job.sender.send(Request("DELETE", ticket.abort, _headers(ticket.abort, ticket, None)))
    except DestinationError as e:
        if e.code in {Code.UPLOAD_GONE, Code.NO_SUCH_BUCKET}:
            return ""
        return f"{stays}: aborting their upload failed with {e.code}."
    return ""

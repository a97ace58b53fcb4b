"""A file in one request: PUT at S3 and GCS, Put Blob at Azure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from cloudpush.errors import Code, DestinationError, SourceError
from cloudpush.push.signed.model import MIB, Arrival, Provider, Ticket
from cloudpush.push.signed.proof import URL, Digests, Proof, base64_be, md5_base64, needs_md5, put_proof
from cloudpush.push.states import Overwrite
from cloudpush.transfer.signed import look
from cloudpush.transfer.signed.job import Job
from cloudpush.transfer.signed.request import Request, object_url
from cloudpush.transfer.signed.source import STREAM_BYTES, SourceStream, Take

#: Azure: what goes in one request, although it could be cut into blocks; bytes.
AZURE_AT_ONCE = 256 * MIB
#: Azure: what one request may carry at most.
AZURE_MOST = 5_000 * MIB
#: From here on MD5 is not taken while a file is sent to a provider that answers with a digest of its own; bytes.
MD5_LATER = 64 * MIB

#: Headers whose value depends on the bytes: they are computed where they are signed and were not handed over.
_COMPUTED = {
    "content-md5": Take.MD5,
    "x-amz-checksum-sha256": Take.SHA256,
    "x-amz-checksum-crc64nvme": Take.CRC64,
    "x-amz-checksum-crc32c": Take.CRC32C,
    "x-goog-hash": Take.CRC32C | Take.MD5,
}
#: Headers that every request has.
_ALWAYS = frozenset({"host", "content-length"})


def fits(ticket: Ticket, size: int) -> bool:
    """Whether a file of ``size`` bytes is to go to Azure in one request, not in blocks (which need the right ``w``)."""
    return size <= AZURE_AT_ONCE or ("w" not in ticket.url.permissions and size <= AZURE_MOST)


async def upload(job: Job) -> Arrival:
    """Send the file in one request. See ``job``."""
    ticket = await job.current()
    if ticket.url.provider is Provider.AZURE and job.file.size > AZURE_MOST:
        raise DestinationError(
            Code.TOO_LARGE,
            f"{job.file.path!r} has {job.file.size:,} bytes; with a SAS that lacks the right w at most {AZURE_MOST:,} can be sent.",
        )
    if job.source.loaded is not None:
        proof, digests = await _send(job, job.source.loaded, await job.source.digests())
    else:
        proof, digests = await job.holding(STREAM_BYTES, _Streaming(job))
    return await look.arrival(job, proof, digests)


class _Streaming:
    """The sending of a large file, which may be begun anew with another ticket."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._taken = Take(0)
        self._known = Digests(job.file.size)

    async def __call__(self) -> tuple[Proof, Digests]:
        job, ticket = self._job, await self._job.current()
        first = _needed_first(ticket)
        if first & ~self._taken:
            self._known, self._taken = await job.source.digests(take=first), first
        later = self._known.md5 is not None or (ticket.url.flavour == "aws" and job.file.size > MD5_LATER)
        return await _send(job, job.source.stream(take=Take.FAST if later else Take.ALL), self._known)


async def _send(job: Job, body: bytes | SourceStream, known: Digests) -> tuple[Proof, Digests]:
    """``known``: what was digested before the sending."""
    carried: Mapping[str, str] = {}

    def build(ticket: Ticket) -> Request:
        nonlocal carried
        carried = headers_of(job, ticket, known)
        return Request(
            "PUT",
            object_url(ticket, job.file.key),
            carried,
            body,
            content=len(body) if isinstance(body, bytes) else 0,
            expires_at=ticket.url.expires_at,
        )

    answer = await job.ask(build, held=True)
    ticket = await job.current()
    url = ticket.url
    digests = known if isinstance(body, bytes) else await _sent(job, body, known)
    if digests.md5 is None and needs_md5(url, answer.headers):
        digests = replace(digests, md5=(await job.source.digests(take=Take.MD5)).md5)
    return put_proof(url, digests, answer.headers, {**carried, URL: object_url(ticket, job.file.key)}), digests


async def _sent(job: Job, body: SourceStream, known: Digests) -> Digests:
    """Of what was sent, with the MD5 that was taken before. Raises SourceError: those were other bytes."""
    sent = await body.digests()
    for before, now in ((known.sha256, sent.sha256), (known.crc64, sent.crc64), (known.crc32c, sent.crc32c)):
        if before is not None and before != now:
            raise SourceError(Code.SOURCE_CHANGED, f"{job.file.path!r} changed while it was sent")
    return sent if sent.md5 is not None else replace(sent, md5=known.md5)


def headers_of(job: Job, ticket: Ticket, digests: Digests) -> dict[str, str]:
    """What the request must carry and nothing that the signature does not allow.

    Raises SourceError SOURCE_DIFFERS where a digest that was handed over is not the file's; DestinationError
    URL_UNUSABLE where a signed header was not handed over and is none that can be computed.
    """
    url = ticket.url
    headers = {name.lower(): value for name, value in ticket.headers.items()}
    demanded = {*url.signed_headers} | (headers.keys() & _COMPUTED.keys())
    if url.provider is Provider.AZURE:
        headers.setdefault("x-ms-blob-type", "BlockBlob")
        demanded.add("content-md5")
        if job.overwrite is Overwrite.NEVER:
            headers["if-none-match"] = "*"
    for name in sorted(demanded - _ALWAYS):
        if name in _COMPUTED:
            ours = _computed(name, digests)
            if not _agrees(headers.setdefault(name, ours), ours):
                raise SourceError(
                    Code.SOURCE_DIFFERS, f"{job.file.path!r} is not the file that the header {name} was given for."
                )
        elif name not in headers:
            raise DestinationError(
                Code.URL_UNUSABLE,
                f"The URL of {job.file.path!r} demands the header {name}, which was not handed over: "
                f"give its value in the manifest, or sign without it.",
            )
    if headers.get("content-length", str(job.file.size)) != str(job.file.size):
        raise SourceError(
            Code.SOURCE_DIFFERS,
            f"{job.file.path!r} has {job.file.size} bytes, and its URL is for {headers['content-length']}.",
        )
    return {name: value for name, value in headers.items() if name not in _ALWAYS}


def _agrees(given: str, ours: str) -> bool:
    """Whether every digest in ``given`` is in ours: x-goog-hash may have one or two."""
    return {*given.replace(" ", "").split(",")} <= {*ours.split(",")}


def _needed_first(ticket: Ticket) -> Take:
    """Digests that the request's headers carry, so that the file must be read before it is sent."""
    names = ticket.url.signed_headers | {name.lower() for name in ticket.headers}
    if ticket.url.provider is Provider.AZURE:
        names |= {"content-md5"}
    needed = Take(0)
    for name in names & _COMPUTED.keys():
        needed |= _COMPUTED[name]
    return needed


def _computed(name: str, digests: Digests) -> str:
    match name:
        case "content-md5":
            return md5_base64(digests.md5 or b"")
        case "x-amz-checksum-sha256":
            return md5_base64(digests.sha256 or b"")
        case "x-amz-checksum-crc64nvme":
            return base64_be(digests.crc64 or 0, 8)
        case "x-amz-checksum-crc32c":
            return base64_be(digests.crc32c or 0, 4)
        case _:
            return f"crc32c={base64_be(digests.crc32c or 0, 4)},md5={md5_base64(digests.md5 or b'')}"

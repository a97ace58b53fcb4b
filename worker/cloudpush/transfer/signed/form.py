"""A POST policy form: S3's one kind of signature that can bound the size."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

from cloudpush.errors import Code, DestinationError
from cloudpush.push.signed.forms import policy_of
from cloudpush.push.signed.model import Arrival, Ticket
from cloudpush.push.signed.proof import Digests, Proof, put_proof
from cloudpush.transfer.signed import look
from cloudpush.transfer.signed.job import Job
from cloudpush.transfer.signed.request import Request, Stream
from cloudpush.transfer.signed.source import STREAM_BYTES, SourceStream

#: The part of the form that the content is in; what comes after it is ignored by S3.
FILE_FIELD = "file"


async def upload(job: Job) -> Arrival:
    """Send the file as the last field of its form. See ``job``."""
    _check_size(job, await job.current())
    if job.source.loaded is not None:
        proof, digests = await _send(job, None)
    else:
        proof, digests = await job.holding(STREAM_BYTES, lambda: _send(job, job.source.stream()))
    return await look.arrival(job, proof, digests)


async def _send(job: Job, stream: SourceStream | None) -> tuple[Proof, Digests]:
    data = job.source.loaded
    # One that no content can hold but by a chance of 2⁻¹²⁸.
    boundary = f"cloudpush-{secrets.token_hex(16)}"

    def build(ticket: Ticket) -> Request:
        head, tail = _frame(ticket.fields, boundary)
        return Request(
            "POST",
            ticket.url.text,
            {"content-type": f"multipart/form-data; boundary={boundary}"},
            Framed(head, stream, tail) if stream is not None else head + (data or b"") + tail,
            content=job.file.size if stream is None else 0,
            expires_at=ticket.url.expires_at,
            fields=ticket.fields,
        )

    answer = await job.ask(build, held=True)
    ticket = await job.current()
    digests = await job.source.digests() if stream is None else await stream.digests()
    return put_proof(ticket.url, digests, answer.headers, ticket.fields), digests


class Framed(Stream):
    """A stream with something before and after it."""

    def __init__(self, head: bytes, inner: Stream, tail: bytes) -> None:
        self._head = head
        self._inner = inner
        self._tail = tail

    @property
    def size(self) -> int:
        """Of everything."""
        return len(self._head) + self._inner.size + len(self._tail)

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """See ``Stream``."""
        yield self._head
        async with aclosing(self._inner.chunks()) as chunks:
            async for chunk in chunks:
                yield chunk
        yield self._tail


def _frame(fields: Mapping[str, str], boundary: str) -> tuple[bytes, bytes]:
    """What comes before and after the content: the fields in the order in which they were handed over."""
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{_quoted(name)}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
        if name.lower() != FILE_FIELD
    ]
    parts.append(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{FILE_FIELD}"; filename="{FILE_FIELD}"\r\n\r\n'
    )
    return "".join(parts).encode(), f"\r\n--{boundary}--\r\n".encode()


def _quoted(name: str) -> str:
    """As browsers write it."""
    return name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")


def _check_size(job: Job, ticket: Ticket) -> None:
    """Raise DestinationError TOO_LARGE, URL_UNUSABLE where the policy does not take a file of this size."""
    policy, size = policy_of(ticket.fields), job.file.size
    if policy.largest is not None and size > policy.largest:
        raise DestinationError(
            Code.TOO_LARGE, f"{job.file.path!r} has {size:,} bytes; the form's policy takes at most {policy.largest:,}."
        )
    if size < policy.smallest:
        raise DestinationError(
            Code.URL_UNUSABLE,
            f"{job.file.path!r} has {size:,} bytes; the form's policy takes no less than {policy.smallest:,}.",
        )

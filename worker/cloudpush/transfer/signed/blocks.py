"""Azure block blobs: Put Block for each piece, then Put Block List makes an object of them.

Each block goes with its MD5, which Azure checks before it takes it. Blocks stay with the blob, uncommitted, for a week, so
an attempt that comes after goes on with what is missing. Their ids are of this upload alone: whoever else writes to
the same blob cannot put other bytes under them, and all have one length, which Azure demands.
"""

from __future__ import annotations

import asyncio
import base64
import secrets
from collections.abc import Mapping, Sequence
from urllib.parse import quote
from xml.sax.saxutils import escape

from cloudpush.errors import Code, DestinationError
from cloudpush.push.signed.model import MIB, Arrival, Piece, Ticket
from cloudpush.push.signed.proof import URL, Digests, blocks_proof, md5_base64, piece_proof
from cloudpush.push.states import Overwrite
from cloudpush.transfer.signed import look
from cloudpush.transfer.signed.job import Job
from cloudpush.transfer.signed.pieces import Slice, cut, kept_of, round_up, send_pieces, size_of
from cloudpush.transfer.signed.request import Request, object_url, with_query
from cloudpush.transfer.signed.source import Take, digests_of

#: Bytes of a block: what is held in memory for each that is on its way.
BLOCK = 8 * MIB
#: Azure's limits (learn.microsoft.com, scalability targets): blocks of a blob, bytes of a block.
MOST_BLOCKS = 50_000
LARGEST_BLOCK = 4_000 * MIB
#: Random bytes in the ids of an upload's blocks.
_TOKEN_BYTES = 9
#: Headers of a blob, as Put Blob has them and as Put Block List does.
_OF_BLOB = {
    "content-type": "x-ms-blob-content-type",
    "content-encoding": "x-ms-blob-content-encoding",
    "content-language": "x-ms-blob-content-language",
    "content-disposition": "x-ms-blob-content-disposition",
    "cache-control": "x-ms-blob-cache-control",
}
#: Headers of Put Blob that have no meaning, or another one, with blocks.
_NOT_OF_LIST = frozenset({"x-ms-blob-type", "content-md5", "x-ms-content-crc64", "content-length", "host"})
#: Headers that each request to the blob must carry once they are given.
_OF_BLOCK = ("x-ms-lease-id", "x-ms-encryption-", "x-ms-version")


async def upload(job: Job) -> Arrival:
    """Send the blocks that are missing and commit them.

    Raises DestinationError: TOO_LARGE, URL_EXPIRED (nobody renews; what arrived stays), OBJECT_EXISTS (overwrite=never),
    UPLOAD_GONE where Azure loses blocks twice, CORRUPTED, and what Azure refuses.
    """
    try:
        return await _attempt(job, job.pieces)
    except DestinationError as e:
        if e.code is not Code.UPLOAD_GONE:
            raise
    # Blocks vanish after a week, and when somebody else commits to the same blob.
    await job.lost()
    return await _attempt(job, ())


async def abort(job: Job) -> str:
    """What stays behind, in a sentence. Azure has no request that drops blocks."""
    return f"Blocks of {job.file.key!r} that were not committed stay at Azure for a week." if job.pieces else ""


async def _attempt(job: Job, pieces: Sequence[Piece]) -> Arrival:
    slices = slices_of(job, pieces)
    token = secrets.token_hex(_TOKEN_BYTES)

    async def send(block: Slice) -> Piece:
        return await _send(job, block, block_id(token, block.number))

    done, digests = await send_pieces(job, slices, kept_of(pieces, slices), send)
    return await _commit(job, done, digests)


def slices_of(job: Job, pieces: Sequence[Piece]) -> list[Slice]:
    """The blocks: as earlier ones were cut, else as small as the number of blocks allows. Raises TOO_LARGE."""
    size = job.file.size
    block_size = size_of(pieces, size) or max(BLOCK, round_up(-(-size // MOST_BLOCKS)))
    if block_size > LARGEST_BLOCK:
        raise DestinationError(
            Code.TOO_LARGE,
            f"{job.file.path!r} has {size} bytes; {MOST_BLOCKS} blocks of at most 4,000 MiB do not hold them.",
        )
    return cut(size, block_size)


def block_id(token: str, number: int) -> str:
    """The id of a block, in base64: 24 bytes, whatever the number."""
    return base64.b64encode(f"{token}{number:06d}".encode()).decode()


async def _send(job: Job, block: Slice, name: str) -> Piece:
    """Put one block; a second time where it did not arrive as it was sent."""

    async def send() -> Piece:
        data = await job.source.read(block.offset, block.size)
        digests = await asyncio.to_thread(digests_of, data, Take.MD5 | Take.CRC64)
        try:
            return await _put(job, block, name, data, digests)
        except DestinationError as e:
            if e.code is not Code.CORRUPTED:
                raise
        return await _put(job, block, name, data, digests)

    return await job.holding(block.size, send)


async def _put(job: Job, block: Slice, name: str, data: bytes, digests: Digests) -> Piece:
    if digests.md5 is None or digests.crc64 is None:
        raise AssertionError("MD5 and CRC-64 of each block are taken")
    integrity = {"content-md5": md5_base64(digests.md5)}

    def build(ticket: Ticket) -> Request:
        url = with_query(object_url(ticket, job.file.key), f"comp=block&blockid={quote(name, safe='')}")
        headers = _block_headers(ticket) | integrity
        return Request("PUT", url, headers, data, content=len(data), expires_at=ticket.url.expires_at)

    answer = await job.ask(build, held=True)
    ticket = await job.current()
    sent = _block_headers(ticket) | integrity | {URL: object_url(ticket, job.file.key)}
    proof = piece_proof(ticket.url, digests, answer.headers, sent)
    return Piece(
        seq=job.file.seq,
        number=block.number,
        offset=block.offset,
        size=block.size,
        etag=name,  # Put Block answers with none; the id is what commits it
        md5=digests.md5,
        crc64=digests.crc64,
        proof=proof.strength,
    )


async def _commit(job: Job, blocks: Sequence[Piece], digests: Digests) -> Arrival:
    items = "".join(f"<Latest>{escape(block.etag)}</Latest>" for block in blocks)
    body = f'<?xml version="1.0" encoding="utf-8"?><BlockList>{items}</BlockList>'.encode()

    def build(ticket: Ticket) -> Request:
        url = with_query(object_url(ticket, job.file.key), "comp=blocklist")
        headers = _list_headers(job, ticket) | {"content-md5": md5_base64(_md5(body))}
        return Request("PUT", url, headers, body, expires_at=ticket.url.expires_at)

    answer = await job.ask(build)
    ticket = await job.current()
    sent = _list_headers(job, ticket) | {URL: object_url(ticket, job.file.key)}
    proof = blocks_proof(ticket.url, min(block.proof for block in blocks), answer.headers, sent)
    return await look.arrival(job, proof, digests)


def _md5(data: bytes) -> bytes:
    return digests_of(data, Take.MD5).md5 or b""


def _block_headers(ticket: Ticket) -> dict[str, str]:
    """What each request to the blob carries: what was signed, and what Azure wants to see each time."""
    return {
        name: value
        for name, value in _given(ticket).items()
        if name in ticket.url.signed_headers or name.startswith(_OF_BLOCK)
    }


def _list_headers(job: Job, ticket: Ticket) -> dict[str, str]:
    """The headers that were given for the blob, under the names that Put Block List has for them."""
    headers = {}
    for name, value in _given(ticket).items():
        if name in ticket.url.signed_headers:
            headers[name] = value
        if name not in _NOT_OF_LIST:
            headers[_OF_BLOB.get(name, name)] = value
    if job.overwrite is Overwrite.NEVER:
        headers["if-none-match"] = "*"
    return headers


def _given(ticket: Ticket) -> Mapping[str, str]:
    return {name.lower(): value for name, value in ticket.headers.items()}

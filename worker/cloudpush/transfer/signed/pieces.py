"""A file that is sent in pieces: how it is cut, what an earlier attempt left, and the sending of the rest.

What multipart uploads and Azure's blocks have in common. Pieces of one file leave side by side. Where one cannot be
sent, no other is begun, but those on their way may arrive: each that does need not be sent again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from cloudpush.errors import CloudPushError, Code, SourceError
from cloudpush.push.signed.model import MIB, Piece
from cloudpush.push.signed.proof import Digests
from cloudpush.transfer.signed.job import Job
from cloudpush.transfer.signed.whole import Whole, same_bytes

#: Pieces of one file that are on their way at the same time; memory and the pace of the server may allow fewer.
LANES = 8


@dataclass(frozen=True, slots=True)
class Slice:
    """A piece to be: ``number`` counts from 1; bytes."""

    number: int
    offset: int
    size: int

    @property
    def end(self) -> int:
        """Where the next one begins."""
        return self.offset + self.size


def cut(size: int, piece_size: int) -> list[Slice]:
    """``size`` bytes in slices of ``piece_size``, the last one shorter; one empty slice of an empty file."""
    offsets = range(0, size, piece_size) if size else (0,)
    return [Slice(n, offset, min(piece_size, size - offset)) for n, offset in enumerate(offsets, 1)]


def round_up(size: int) -> int:
    """To whole MiB."""
    return -(-size // MIB) * MIB


def size_of(pieces: Sequence[Piece], size: int) -> int | None:
    """How large pieces were cut when these arrived of a file of ``size`` bytes; None where they do not tell, or disagree."""
    sizes = {p.offset // (p.number - 1) if p.number > 1 else p.size for p in pieces if p.offset or p.size < size}
    if len(sizes) != 1:
        return None
    piece_size = sizes.pop()
    return piece_size if piece_size > 0 and all(_fits(p, piece_size, size) for p in pieces) else None


def _fits(piece: Piece, piece_size: int, size: int) -> bool:
    offset = (piece.number - 1) * piece_size
    return piece.number > 0 and piece.offset == offset and piece.size == min(piece_size, size - offset)


def kept_of(pieces: Sequence[Piece], slices: Sequence[Slice]) -> dict[int, Piece]:
    """By number those of ``pieces``, all of one upload, that are cut as ``slices`` are."""
    cuts = {(s.number, s.offset, s.size) for s in slices}
    return {p.number: p for p in pieces if (p.number, p.offset, p.size) in cuts}


async def send_pieces(
    job: Job, slices: Sequence[Slice], kept: dict[int, Piece], send: Callable[[Slice], Awaitable[Piece]]
) -> tuple[list[Piece], Digests]:
    """Send what is not in ``kept``; all pieces in order, and the digests of the whole file.

    ``send`` sends one slice; its piece is kept in the journal here. A kept piece whose bytes are others now is sent anew.
    Raises what ``send`` raises, for the first slice that failed, and SourceError SOURCE_CHANGED.
    """
    done = dict(kept)
    job.missing = lambda: [s.number for s in slices if s.number not in done]
    async with Whole(job.source, list(kept.values())) as whole:
        await _send_all(job, [s for s in slices if s.number not in done], send, done, whole)
        digests = await whole.digests()
        for number in whole.differing:
            del done[number]
        await _send_all(job, [s for s in slices if s.number not in done], send, done, whole)
    pieces = [done[s.number] for s in slices]
    if not same_bytes(digests, pieces):
        raise SourceError(Code.SOURCE_CHANGED, f"{job.file.path!r} changed while it was read")
    return pieces, digests


async def _send_all(
    job: Job,
    slices: Sequence[Slice],
    send: Callable[[Slice], Awaitable[Piece]],
    done: dict[int, Piece],
    whole: Whole,
) -> None:
    waiting = deque(slices)
    failures: list[Exception] = []

    async def lane() -> None:
        while waiting and not failures:
            next_one = waiting.popleft()
            whole.reach(next_one.end)
            try:
                piece = await send(next_one)
                await job.arrived(piece)
            except CloudPushError as e:
                failures.append(e)
            else:
                done[piece.number] = piece

    lanes = [asyncio.create_task(lane()) for _ in range(min(LANES, len(slices)))]
    try:
        await asyncio.gather(*lanes)
    finally:
        for task in lanes:
            task.cancel()
        await asyncio.gather(*lanes, return_exceptions=True)
    if failures:
        raise failures[0]

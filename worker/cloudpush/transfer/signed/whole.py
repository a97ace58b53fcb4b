"""The digests of a whole file whose pieces are sent in any order, at once, or not again.

SHA-256 can only be taken from the beginning to the end, while pieces leave side by side and some arrived in an earlier
attempt. Holding pieces until their turn comes would cost memory by the piece, so a file that is sent in pieces is read
by a second reader, in order, which never runs ahead of the sending: what it reads was read a moment ago, and comes from
the system's page cache, not from the disk. Both readings are compared by their CRCs, so the SHA-256 is that of what
was sent.
"""

from __future__ import annotations

import asyncio
import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Self

from awscrt import checksums

from cloudpush.errors import Code, SourceError
from cloudpush.push.signed.model import Piece
from cloudpush.push.signed.proof import Digests
from cloudpush.transfer.signed.source import CHUNK, OpenSource

#: Bytes that are read in a row; then another file has its turn.
STEP = 16 * CHUNK


class Whole:
    """Digests of one file, taken in order as far as ``reach`` allows; an asynchronous context.

    ``kept``: pieces of an earlier attempt, whose MD5 is compared with that of the bytes as they are now.
    """

    def __init__(self, source: OpenSource, kept: Sequence[Piece] = ()) -> None:
        self._source = source
        self._kept = {piece.offset: piece for piece in kept}
        self._same: set[int] = set()
        self._stops = sorted({source.size, *self._kept, *(piece.offset + piece.size for piece in kept)} - {0})
        self._sha256 = hashlib.sha256()
        self._crc64 = 0
        self._crc32c = 0
        self._done = 0
        self._limit = 0
        self._stopped = False
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._step: Future[None] | None = None
        self._reading: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The file may be closed after us, so the thread that reads it has to be at its end.
        self._stopped = True
        if self._step is not None:
            self._step.cancel()  # if it has not begun; else it is over within a chunk
        if self._reading is not None:
            await asyncio.wait([self._reading])
            if not self._reading.cancelled():
                self._reading.exception()  # told by ``digests``, or of no interest any more

    @property
    def differing(self) -> list[int]:
        """Numbers of the kept pieces that were not seen to be the file's bytes; complete once ``digests`` has returned."""
        return [piece.number for piece in self._kept.values() if piece.number not in self._same]

    def reach(self, end: int) -> None:
        """Everything before ``end`` may be read now, in the background."""
        self._limit = max(self._limit, end)
        idle = self._reading is None or (self._reading.done() and self._reading.exception() is None)
        if idle and self._done < self._limit:
            self._reading = asyncio.create_task(self._read())

    async def digests(self) -> Digests:
        """Of the whole, whose rest is read now. Raises SourceError: SOURCE_CHANGED, SOURCE_UNREADABLE."""
        while self._done < self._source.size:
            self.reach(self._source.size)
            if self._reading is not None:
                await asyncio.shield(self._reading)  # cut short, its thread would go on beside the next one
        return Digests(self._source.size, sha256=self._sha256.digest(), crc64=self._crc64, crc32c=self._crc32c)

    async def _read(self) -> None:
        while self._done < self._limit and not self._stopped:
            end = min(self._limit, self._done + STEP, self._stops[bisect_right(self._stops, self._done)])
            self._step = self._source.in_order(self._take, self._done, end)
            await asyncio.wrap_future(self._step)
            self._done = end

    def _take(self, start: int, end: int) -> None:
        """Digest a range; in a thread."""
        passed = bisect_right(self._stops, start)
        begin = self._stops[passed - 1] if passed else 0
        piece = self._kept.get(begin)
        if start == begin:
            self._md5 = hashlib.md5(usedforsecurity=False)
        for offset in range(start, end, CHUNK):
            if self._stopped:
                raise SourceError(Code.SOURCE_UNREADABLE, "the reading was stopped")
            data = self._source.read_now(offset, min(CHUNK, end - offset))
            self._crc64 = checksums.crc64nvme(data, self._crc64)
            self._crc32c = checksums.crc32c(data, self._crc32c)
            self._sha256.update(data)
            if piece is not None:
                self._md5.update(data)
        if piece is not None and end == begin + piece.size and self._md5.digest() == piece.md5:
            self._same.add(piece.number)


def same_bytes(whole: Digests, pieces: Sequence[Piece]) -> bool:
    """Whether the pieces, in order, are the bytes that ``whole`` was taken of, by their CRCs."""
    crc = 0
    for piece in pieces:
        crc = checksums.combine_crc64nvme(crc, piece.crc64, piece.size)
    return crc == whole.crc64

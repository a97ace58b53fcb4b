"""A file of the source, open: judged once, read as it is sent, judged again.

Small files are read at once. Of a large one, a thread reads ahead of the sending by a few chunks and takes the digests
of what it has handed over, so that neither waits for the other and each byte is read once.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Flag, auto
from pathlib import Path
from typing import TypeVar

from awscrt import checksums

from cloudpush.errors import Code, SourceError
from cloudpush.push.fingerprint import check_opened, check_same, source_error
from cloudpush.push.job import PlannedFile
from cloudpush.push.signed.proof import Digests
from cloudpush.transfer.signed.request import Stream

T = TypeVar("T")

MIB = 1024 * 1024
#: Files up to this size are read at once; bytes.
SMALL = MIB
#: Bytes that are read and digested at a time.
CHUNK = MIB
#: Chunks that are read ahead of the sending.
AHEAD = 3
#: Bytes that a stream holds at most: what is ahead, what is being digested, and what is on its way out.
STREAM_BYTES = (AHEAD + 2) * CHUNK


class Take(Flag):
    """Digests to take. Never none of them: what is sent is always accounted for."""

    SHA256 = auto()
    MD5 = auto()
    CRC64 = auto()
    CRC32C = auto()
    FAST = SHA256 | CRC64 | CRC32C
    ALL = FAST | MD5


@dataclass(eq=False, slots=True)
class Meter:
    """Counts bytes of content. ``sent``: all that went out; ``moved``: without what had to be sent again.

    ``above``: the meter of the whole session, which counts along.
    """

    above: Meter | None = None
    sent: int = 0
    moved: int = 0

    def add(self, count: int) -> None:
        """So many bytes went out."""
        self.sent += count
        self.moved += count
        if self.above is not None:
            self.above.add(count)

    def take_back(self, count: int) -> None:
        """So many of them have to be sent again."""
        self.moved -= count
        if self.above is not None:
            self.above.take_back(count)


class Readers:
    """The threads that read and digest, shared by all files of a process."""

    def __init__(self) -> None:
        self.files = ThreadPoolExecutor(16, "signed-reader")
        # MD5 takes as long as everything else together: it has threads of its own, which wait for nobody.
        self.md5 = ThreadPoolExecutor(16, "signed-md5")
        # Second readings, see ``whole``: they may take as long as the file is large, and nobody is to wait for them.
        self.whole = ThreadPoolExecutor(8, "signed-whole")

    def close(self) -> None:
        """End the threads."""
        self.files.shutdown(cancel_futures=True)
        self.md5.shutdown(cancel_futures=True)
        self.whole.shutdown(cancel_futures=True)


class OpenSource:
    """One file of the source, open. Its methods that are coroutines do not block the event loop.

    They raise SourceError: SOURCE_CHANGED where the file is not the planned one any more, SOURCE_UNREADABLE. Close it.
    """

    def __init__(self, planned: PlannedFile, readers: Readers, meter: Meter) -> None:
        self.planned = planned
        self.meter = meter
        self._readers = readers
        self._data: bytes | None = None
        self._digests: Digests | None = None
        self._fd = -1
        # A thread may still be reading when the file is closed: its number must not be another file's by then.
        self._lock = threading.Lock()
        self._users = 0
        self._closing = False

    def open(self, path: Path, roots: Sequence[str]) -> None:
        """Open ``path``, and read it if it is small. Blocks. Raises SourceError as fingerprint.fingerprint does."""
        try:
            # O_NONBLOCK: a pipe that took the file's place must not hang us.
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
            try:
                check_opened(fd, self.planned, roots)
                if self.size <= SMALL:
                    self._load(fd)
                else:
                    with self._lock:
                        if not self._closing:  # it may have been closed before it was open: whoever waited was stopped
                            self._fd, fd = fd, -1
            finally:
                if fd >= 0:
                    os.close(fd)
        except OSError as e:
            raise source_error(e, self.planned) from e

    @property
    def size(self) -> int:
        """As planned; what is read is held to it."""
        return self.planned.size

    @property
    def loaded(self) -> bytes | None:
        """The whole content of a small file; None for another."""
        return self._data

    async def read(self, offset: int, size: int) -> bytes:
        """So many bytes in memory. Take them from the budget first."""
        if self._data is not None:
            return self._data[offset : offset + size]
        return await self._in_thread(self._read_checked, offset, size)

    async def digests(self, offset: int = 0, size: int | None = None, take: Take = Take.ALL) -> Digests:
        """Of a range, or of the whole; read without being sent."""
        size = self.size - offset if size is None else size
        if self._data is not None:
            whole = (offset, size) == (0, self.size)
            return self._small() if whole else digests_of(self._data[offset : offset + size], take)
        pump = _Pump(self, self._readers.md5, offset, size, take)
        try:
            return await self._in_thread(pump.run)
        finally:
            pump.stop()

    def stream(self, offset: int = 0, size: int | None = None, take: Take = Take.ALL) -> SourceStream:
        """A range, or the whole, as the body of a request; holds STREAM_BYTES at most."""
        return SourceStream(self, self._readers, offset, self.size - offset if size is None else size, take)

    def again(self) -> OpenSource:
        """The same file, to be opened once more; its bytes are counted on."""
        return OpenSource(self.planned, self._readers, self.meter)

    def in_order(self, step: Callable[..., None], *args: object) -> Future[None]:
        """Do ``step`` of a second reading in a thread."""
        return self._readers.whole.submit(step, *args)

    def close(self) -> None:
        """Forget the content and close the file, as soon as no thread reads it any more. Repeatable."""
        with self._lock:
            self._data = None
            self._closing = True
            fd, self._fd = (-1, self._fd) if self._users else (self._fd, -1)
        if fd >= 0:
            os.close(fd)

    @contextmanager
    def _used(self) -> Iterator[int]:
        with self._lock:
            if self._closing or self._fd < 0:
                raise SourceError(Code.SOURCE_UNREADABLE, f"{self.planned.path!r} was closed while it was read")
            self._users += 1
        try:
            yield self._fd
        finally:
            with self._lock:
                self._users -= 1
                last = self._closing and not self._users
                fd, self._fd = (self._fd, -1) if last else (-1, self._fd)
            if fd >= 0:
                os.close(fd)

    def read_now(self, offset: int, size: int) -> bytes:
        """So many bytes; blocks. Raises SourceError: SOURCE_CHANGED where there are fewer."""
        loaded = self._data
        if loaded is not None:
            return loaded[offset : offset + size]
        try:
            with self._used() as fd:
                return self._pread(fd, offset, size)
        except OSError as e:
            raise source_error(e, self.planned) from e

    def check_now(self) -> None:
        """Raise SourceError SOURCE_CHANGED unless size and time are the planned ones, or were when all of it was read."""
        if self._data is not None:
            return
        try:
            with self._used() as fd:
                check_same(os.fstat(fd), self.planned)
        except OSError as e:
            raise source_error(e, self.planned) from e

    def _load(self, fd: int) -> None:
        data = self._pread(fd, 0, self.size)
        check_same(os.fstat(fd), self.planned)
        self._digests = digests_of(data)
        self._data = data

    def _pread(self, fd: int, offset: int, size: int) -> bytes:
        data = os.pread(fd, size, offset)
        while len(data) < size:
            more = os.pread(fd, size - len(data), offset + len(data))
            if not more:
                raise SourceError(Code.SOURCE_CHANGED, f"{self.planned.path!r} became shorter while it was read")
            data += more
        return data

    def _small(self) -> Digests:
        if self._digests is None:
            raise AssertionError("a loaded file has its digests")
        return self._digests

    def _read_checked(self, offset: int, size: int) -> bytes:
        data = self.read_now(offset, size)
        self.check_now()
        return data

    async def _in_thread(self, work: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._readers.files, work, *args)


class SourceStream(Stream):
    """A range of a file as the body of a request. Reads anew, from the beginning, each time it is asked for chunks.

    The last chunk is handed out only when the file was seen to be unchanged after it was read, so what changed under
    our hands is never a complete upload.
    """

    def __init__(self, source: OpenSource, readers: Readers, offset: int, size: int, take: Take) -> None:
        self._source = source
        self._readers = readers
        self._offset = offset
        self._size = size
        self._take = take
        self._counted = 0
        self._taken: Future[Digests] | None = None

    @property
    def size(self) -> int:
        """Bytes."""
        return self._size

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The bytes; counted when the next chunk is asked for."""
        meter = self._source.meter
        meter.take_back(self._counted)
        self._counted = 0
        loop = asyncio.get_running_loop()
        arrived: asyncio.Queue[bytes | SourceError] = asyncio.Queue()
        pump = _Pump(self._source, self._readers.md5, self._offset, self._size, self._take)
        pump.give = lambda data: loop.call_soon_threadsafe(arrived.put_nowait, data)
        self._taken = self._readers.files.submit(pump.run)
        complete = False
        try:
            while self._counted < self._size:
                data = await arrived.get()
                if isinstance(data, SourceError):
                    raise data
                complete = self._counted + len(data) == self._size
                yield data
                meter.add(len(data))
                self._counted += len(data)
                pump.room.release()
        finally:
            if not complete:
                pump.stop()

    async def digests(self) -> Digests:
        """Of the last complete run. Raises SourceError as the reading did."""
        if self._taken is None:
            raise AssertionError("nothing was sent yet")
        return await asyncio.wrap_future(self._taken)


class _Pump:
    """Reads a range once, in a thread; gives its chunks away and takes their digests."""

    def __init__(self, source: OpenSource, helpers: ThreadPoolExecutor, offset: int, size: int, take: Take) -> None:
        self.give: Callable[[bytes | SourceError], object] | None = None
        self.room = threading.Semaphore(AHEAD)
        self._source = source
        self._helpers = helpers
        self._offset = offset
        self._size = size
        self._take = take
        self._stopped = False

    def stop(self) -> None:
        """End ``run`` within one chunk."""
        self._stopped = True
        self.room.release()

    def run(self) -> Digests:
        """The digests. Raises SourceError, also into ``give``."""
        try:
            return self._run()
        except SourceError as e:
            if self.give is not None:
                self.give(e)
            raise

    def _run(self) -> Digests:
        running = _Running(self._take)
        slow: Future[None] | None = None
        done = 0
        while done < self._size:
            if self.give is not None:
                self.room.acquire()
            if self._stopped:
                raise SourceError(Code.SOURCE_UNREADABLE, "the reading was stopped")
            data = self._source.read_now(self._offset + done, min(CHUNK, self._size - done))
            done += len(data)
            if done == self._size:
                self._source.check_now()
            if self.give is not None:
                self.give(data)
            if slow is not None:
                slow.result()
            slow = self._helpers.submit(running.take_md5, data) if Take.MD5 in self._take else None
            running.take_fast(data)
        if slow is not None:
            slow.result()
        return running.digests(self._size)


class _Running:
    """Digests of what has been read so far."""

    def __init__(self, take: Take) -> None:
        self._sha256 = hashlib.sha256() if Take.SHA256 in take else None
        self._md5 = hashlib.md5(usedforsecurity=False) if Take.MD5 in take else None
        self._crc64 = 0 if Take.CRC64 in take else None
        self._crc32c = 0 if Take.CRC32C in take else None

    def take_fast(self, data: bytes) -> None:
        """All but MD5."""
        if self._crc64 is not None:
            self._crc64 = checksums.crc64nvme(data, self._crc64)
        if self._crc32c is not None:
            self._crc32c = checksums.crc32c(data, self._crc32c)
        if self._sha256 is not None:
            self._sha256.update(data)

    def take_md5(self, data: bytes) -> None:
        """MD5 alone."""
        if self._md5 is not None:
            self._md5.update(data)

    def digests(self, size: int) -> Digests:
        """What came of it."""
        return Digests(
            size=size,
            sha256=self._sha256.digest() if self._sha256 is not None else None,
            md5=self._md5.digest() if self._md5 is not None else None,
            crc64=self._crc64,
            crc32c=self._crc32c,
        )


def digests_of(data: bytes, take: Take = Take.ALL) -> Digests:
    """Of bytes in memory."""
    running = _Running(take)
    running.take_fast(data)
    running.take_md5(data)
    return running.digests(len(data))

"""What a source file is, read once: size, time, SHA-256 and the digest that the destination will report.

Memory is constant and the file is read a single time. The same pass notices a file that is not the planned one any more.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from cloudpush.errors import Code, SourceError
from cloudpush.push.job import Fingerprint, PlannedFile
from cloudpush.push.walk import is_below

if TYPE_CHECKING:
    from hashlib import _Hash

MIB = 1024 * 1024
#: Bytes read at a time. The digests release the interpreter while they run, from 2 KiB on.
CHUNK = MIB
#: From here on a second thread pays for itself: it reads ahead and takes SHA-256 while this one takes MD5.
TWO_THREADS = 4 * MIB


def fingerprint(
    path: Path,
    planned: PlannedFile,
    piece_size: int | None,
    check: Callable[[], None],
    roots: Sequence[str] = (),
) -> Fingerprint:
    """Read ``path`` once. ``piece_size``: bytes of a piece if the file is sent in pieces, else None.

    ``check`` is called for each MiB and may raise to stop the reading. ``roots``, as walk.real_roots gives them:
    the file that was really opened must be under one of them, whatever became of the path since it was planned.

    Raises SourceError: SOURCE_MISSING (it vanished), SOURCE_UNREADABLE, SOURCE_NOT_A_FILE, SOURCE_OUTSIDE_ROOTS,
    SOURCE_CHANGED (size or time differ from the plan, before or after the reading); and what ``check`` raises.
    """
    check()
    try:
        # O_NONBLOCK: a pipe that took the file's place must not hang us.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            check_opened(fd, planned, roots)
            digests = _Digests(planned.size, piece_size)
            if planned.size <= CHUNK:
                digests.take(memoryview(os.read(fd, planned.size + 1)))
            elif planned.size < TWO_THREADS:
                _read_in_turn(fd, digests, check)
            else:
                _read_ahead(fd, digests, check)
            check_same(os.fstat(fd), planned)
        finally:
            os.close(fd)
    except OSError as e:
        raise source_error(e, planned) from e
    if digests.length != planned.size:
        raise _changed(planned)
    return Fingerprint(
        size=planned.size,
        mtime_ns=planned.mtime_ns,
        sha256=digests.sha256.digest(),
        md5=digests.plain_md5(),
        md5_etag=digests.etag(),
    )


def unchanged(path: Path, planned: PlannedFile) -> bool:
    """Whether ``path`` still has the planned size and time; False where it vanished."""
    try:
        now = path.stat()
    except OSError:
        return False
    return (now.st_size, now.st_mtime_ns) == (planned.size, planned.mtime_ns)


class _Digests:
    """SHA-256 of everything, and MD5 of everything or of each piece."""

    def __init__(self, size: int, piece_size: int | None) -> None:
        self.length = 0
        self.sha256 = hashlib.sha256()
        self._piece_size = piece_size
        self._pieces: list[bytes] = []
        self._md5: _Hash = hashlib.md5(usedforsecurity=False)
        self._room = piece_size if piece_size is not None else size + 1

    def take(self, data: memoryview) -> None:
        """Both digests of ``data``."""
        self.sha256.update(data)
        self.take_md5(data)

    def take_md5(self, data: memoryview) -> None:
        """MD5 of ``data``, cut where a piece ends."""
        self.length += len(data)
        if self._piece_size is None:
            self._md5.update(data)
            return
        while data:
            head, data = data[: self._room], data[self._room :]
            self._md5.update(head)
            self._room -= len(head)
            if not self._room:
                self._end_piece()

    def _end_piece(self) -> None:
        self._pieces.append(self._md5.digest())
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._room = self._piece_size or 0

    def plain_md5(self) -> bytes | None:
        """MD5 of the whole; None where pieces were digested: both would cost twice the time."""
        return self._md5.digest() if self._piece_size is None else None

    def etag(self) -> str:
        """What S3 reports: the MD5, or the MD5 of the pieces' MD5s with their number."""
        if self._piece_size is None:
            return self._md5.hexdigest()
        if self._room != self._piece_size or not self._pieces:
            self._end_piece()
        whole = hashlib.md5(b"".join(self._pieces), usedforsecurity=False)
        return f"{whole.hexdigest()}-{len(self._pieces)}"


def _read_in_turn(fd: int, digests: _Digests, check: Callable[[], None]) -> None:
    buffer = memoryview(bytearray(CHUNK))
    while count := os.readv(fd, [buffer]):
        check()
        digests.take(buffer[:count])


def _read_ahead(fd: int, digests: _Digests, check: Callable[[], None]) -> None:
    """Two buffers in turn: while this thread takes MD5 of one, the other reads and takes SHA-256 of the next."""

    def fill(buffer: memoryview) -> memoryview:
        data = buffer[: os.readv(fd, [buffer])]
        digests.sha256.update(data)
        return data

    buffers = [memoryview(bytearray(CHUNK)) for _ in range(2)]
    with ThreadPoolExecutor(1, "reader") as helper:
        data = fill(buffers[0])
        while data:
            buffers.reverse()
            following = helper.submit(fill, buffers[0])
            digests.take_md5(data)
            data = following.result()
            check()


def check_opened(fd: int, planned: PlannedFile, roots: Sequence[str]) -> None:
    """The open file, not its name, is judged: names can be swapped under us."""
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        raise SourceError(Code.SOURCE_NOT_A_FILE, f"{planned.path!r} is no regular file any more")
    # os.readlink, not Path: this is asked for every file of every push.
    if roots and not is_below(os.readlink(f"/proc/self/fd/{fd}"), roots):  # noqa: PTH115
        raise SourceError(Code.SOURCE_OUTSIDE_ROOTS, f"{planned.path!r} leads out of the source roots now")
    check_same(found, planned)


def check_same(found: os.stat_result, planned: PlannedFile) -> None:
    """Raise SourceError SOURCE_CHANGED unless size and time are the planned ones."""
    if (found.st_size, found.st_mtime_ns) != (planned.size, planned.mtime_ns):
        raise _changed(planned)


def _changed(planned: PlannedFile) -> SourceError:
    return SourceError(Code.SOURCE_CHANGED, f"{planned.path!r} changed after it was planned")


def source_error(error: OSError, planned: PlannedFile) -> SourceError:
    """What the system said of the file, in our words."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return SourceError(Code.SOURCE_MISSING, f"{planned.path!r} vanished after it was planned")
    if isinstance(error, PermissionError):
        return SourceError(Code.SOURCE_UNREADABLE, f"{planned.path!r} may not be read by the worker")
    return SourceError(Code.SOURCE_UNREADABLE, f"{planned.path!r} cannot be read: {error.strerror}")

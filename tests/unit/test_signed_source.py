"""A file that is read as it is sent: its digests, its limits, and what is noticed when it changes."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cloudpush.errors import Code, SourceError
from cloudpush.push.job import PlannedFile
from cloudpush.push.signed.model import Piece
from cloudpush.push.signed.proof import Digests
from cloudpush.transfer.signed import whole
from cloudpush.transfer.signed.source import AHEAD, CHUNK, SMALL, Meter, OpenSource, Readers, Take, digests_of

MIB = 1024 * 1024
SIZES = [0, 1, SMALL, SMALL + 1, 3 * CHUNK, 5 * CHUNK + 17]


@pytest.fixture(scope="module")
def readers() -> Iterator[Readers]:
    made = Readers()
    yield made
    made.close()


@pytest.fixture
def opened(readers: Readers, tmp_path: Path) -> Iterator[Callable[[bytes], OpenSource]]:
    sources = []

    def make(data: bytes) -> OpenSource:
        path = tmp_path / "f"
        path.write_bytes(data)
        source = OpenSource(PlannedFile(1, "f", "f", len(data), path.stat().st_mtime_ns), readers, Meter(Meter()))
        sources.append(source)
        source.open(path, [str(tmp_path.resolve())])
        return source

    yield make
    for source in sources:
        source.close()


def expected(data: bytes) -> tuple[int, bytes, bytes]:
    return len(data), hashlib.sha256(data).digest(), hashlib.md5(data).digest()


def told(digests: Digests) -> tuple[int, bytes | None, bytes | None]:
    return digests.size, digests.sha256, digests.md5


@pytest.mark.parametrize("size", SIZES)
def test_a_file_is_digested_whole_in_ranges_and_as_it_is_sent(opened: Callable[[bytes], OpenSource], size: int) -> None:
    data = os.urandom(size)
    source = opened(data)
    middle = slice(size // 3, size // 3 + size // 2)

    async def story() -> None:
        stream = source.stream()
        assert b"".join([chunk async for chunk in stream.chunks()]) == data
        assert told(await stream.digests()) == expected(data)
        assert told(await source.digests()) == expected(data)
        assert told(await source.digests(middle.start, size // 2)) == expected(data[middle])
        assert await source.read(middle.start, size // 2) == data[middle]
        part = source.stream(middle.start, size // 2)
        assert b"".join([chunk async for chunk in part.chunks()]) == data[middle]
        assert await part.digests() == digests_of(data[middle])

    asyncio.run(story())
    assert (source.loaded is None) == (size > SMALL)
    above = source.meter.above
    assert above is not None
    assert above.sent == source.meter.sent == size + size // 2


def test_the_crcs_are_those_of_their_check_values() -> None:
    digests = digests_of(b"123456789")
    assert (digests.crc64, digests.crc32c) == (0xAE8B14860A799888, 0xE3069283)
    assert base64.b64encode((digests.crc32c or 0).to_bytes(4, "big")) == b"4waSgw=="
    assert digests.crc32c != zlib.crc32(b"123456789")


def test_only_what_is_asked_for_is_taken(opened: Callable[[bytes], OpenSource]) -> None:
    source = opened(os.urandom(2 * MIB))

    async def story() -> Digests:
        return await source.digests(take=Take.MD5)

    digests = asyncio.run(story())
    assert (digests.sha256, digests.crc64, digests.crc32c) == (None, None, None)
    assert digests.md5 is not None


def test_a_second_run_is_from_the_beginning_and_what_is_repeated_counts_as_sent(
    opened: Callable[[bytes], OpenSource],
) -> None:
    data = os.urandom(4 * CHUNK)
    source = opened(data)

    async def story() -> None:
        stream = source.stream()
        first = stream.chunks()
        await anext(first)
        await anext(first)
        await first.aclose()
        assert b"".join([chunk async for chunk in stream.chunks()]) == data
        assert told(await stream.digests()) == expected(data)

    asyncio.run(story())
    assert (source.meter.moved, source.meter.sent) == (4 * CHUNK, 5 * CHUNK)


def test_no_more_is_read_ahead_than_its_memory_allows(
    opened: Callable[[bytes], OpenSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = opened(bytes(20 * CHUNK))
    reads, ahead = [], threading.Event()
    real = source.read_now

    def read_now(offset: int, size: int) -> bytes:
        reads.append(offset)
        if len(reads) == AHEAD:
            ahead.set()
        return real(offset, size)

    monkeypatch.setattr(source, "read_now", read_now)

    async def story() -> None:
        chunks = source.stream().chunks()
        await anext(chunks)
        await asyncio.to_thread(ahead.wait, 5)
        assert len(reads) == AHEAD
        await chunks.aclose()

    asyncio.run(story())


@pytest.mark.parametrize("change", ["touch", "grow", "shrink"])
def test_a_file_that_changes_is_never_read_to_its_end(
    opened: Callable[[bytes], OpenSource], tmp_path: Path, change: str
) -> None:
    source = opened(bytes(10 * CHUNK))
    codes: list[Code] = []

    async def story() -> int:
        got = 0
        try:
            async for chunk in source.stream().chunks():
                got += len(chunk)
                match change:
                    case "touch":
                        os.utime(tmp_path / "f", ns=(1, 1))
                    case "grow":
                        os.truncate(tmp_path / "f", 11 * CHUNK)
                    case "shrink":
                        os.truncate(tmp_path / "f", 9 * CHUNK)
        except SourceError as e:
            codes.append(e.code)
        return got

    assert asyncio.run(story()) < 10 * CHUNK
    assert codes == [Code.SOURCE_CHANGED]


@pytest.mark.parametrize("size", [10, 2 * MIB])
def test_what_is_not_the_planned_file_is_not_opened(readers: Readers, tmp_path: Path, size: int) -> None:
    (tmp_path / "f").write_bytes(bytes(size))
    (tmp_path / "out").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "pipe")
    now = (tmp_path / "f").stat().st_mtime_ns
    roots = [str(tmp_path.resolve())]

    def code(name: str, size: int, mtime: int) -> Code:
        with pytest.raises(SourceError) as caught:
            OpenSource(PlannedFile(1, name, name, size, mtime), readers, Meter()).open(tmp_path / name, roots)
        return caught.value.code

    assert [
        code("f", size + 1, now),
        code("f", size, now + 1),
        code("gone", size, now),
        code("pipe", 0, now),
        code("out", size, now),
    ] == [
        Code.SOURCE_CHANGED,
        Code.SOURCE_CHANGED,
        Code.SOURCE_MISSING,
        Code.SOURCE_NOT_A_FILE,
        Code.SOURCE_OUTSIDE_ROOTS,
    ]


def test_a_file_is_closed_only_when_nobody_reads_it_any_more(opened: Callable[[bytes], OpenSource]) -> None:
    source = opened(bytes(2 * MIB))
    with source._used() as fd:
        source.close()
        assert os.fstat(fd).st_size == 2 * MIB
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    with pytest.raises(SourceError):
        source.read_now(0, 1)


def test_a_file_that_was_closed_before_it_was_open_stays_closed(readers: Readers, tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(bytes(2 * MIB))
    source = OpenSource(PlannedFile(1, "f", "f", 2 * MIB, path.stat().st_mtime_ns), readers, Meter())
    source.close()
    source.open(path, [str(tmp_path.resolve())])
    assert path not in [Path(fd).resolve() for fd in Path("/proc/self/fd").iterdir()]


# -- the second reading of a file that is sent in pieces -----------------------------------


def kept(data: bytes, piece_size: int) -> list[Piece]:
    offsets = range(0, len(data), piece_size)
    md5s = [hashlib.md5(data[o : o + piece_size]).digest() for o in offsets]
    return [
        Piece(1, n, o, min(piece_size, len(data) - o), "e", md5, 0)
        for n, (o, md5) in enumerate(zip(offsets, md5s, strict=True), 1)
    ]


def test_a_second_reading_in_small_steps_digests_the_whole_and_knows_its_pieces(
    opened: Callable[[bytes], OpenSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others have their turn between two steps, also in the middle of a piece."""
    monkeypatch.setattr(whole, "STEP", CHUNK)
    data = os.urandom(7 * CHUNK + 11)
    pieces = kept(data, 3 * CHUNK)
    pieces[1] = replace(pieces[1], md5=bytes(16))
    steps: list[object] = []

    async def story() -> tuple[Digests, list[int]]:
        source = opened(data)
        in_order = source.in_order
        source.in_order = lambda *step: steps.append(step[1:]) or in_order(*step)  # type: ignore[method-assign, func-returns-value]  # counts
        async with whole.Whole(source, pieces) as reading:
            reading.reach(CHUNK + 1)
            return await reading.digests(), reading.differing

    digests, differing = asyncio.run(story())
    assert (digests.sha256, differing) == (hashlib.sha256(data).digest(), [2])
    assert len(steps) >= 8


def test_a_second_reading_that_has_not_begun_is_not_waited_for(
    opened: Callable[[bytes], OpenSource], readers: Readers
) -> None:
    """All threads read other files: whoever is stopped must not wait until they are done."""
    gate = threading.Event()
    busy = [readers.whole.submit(gate.wait, 10) for _ in range(20)]

    async def story() -> None:
        async with whole.Whole(opened(b"x" * (2 * CHUNK))) as reading:
            reading.reach(CHUNK)
            await asyncio.sleep(0)

    asyncio.run(story())
    assert not any(each.done() for each in busy)
    gate.set()


def test_a_second_reading_that_is_under_way_ends_within_a_chunk(
    opened: Callable[[bytes], OpenSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go = threading.Event(), threading.Event()
    read = OpenSource.read_now
    chunks: list[int] = []

    def slow(self: OpenSource, offset: int, size: int) -> bytes:
        chunks.append(offset)
        begun.set()
        assert go.wait(10)
        return read(self, offset, size)

    monkeypatch.setattr(OpenSource, "read_now", slow)

    async def story() -> None:
        async with whole.Whole(opened(b"x" * (8 * CHUNK))) as reading:
            reading.reach(8 * CHUNK)
            await asyncio.to_thread(begun.wait, 10)
            asyncio.get_running_loop().call_later(0.01, go.set)

    asyncio.run(story())
    assert chunks == [0]

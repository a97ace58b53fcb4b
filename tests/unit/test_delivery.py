"""One batch: what concerns sending and reading side by side. The rest is told in test_lifecycle."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from builders import BUCKET, NOON, a_push
from cloudpush.errors import Cancelled, Code, DestinationError
from cloudpush.push import delivery as module
from cloudpush.push.delivery import Delivery
from cloudpush.push.job import Destination, FileResult, PlannedFile, Secret, Seen
from cloudpush.push.ports import Control
from cloudpush.push.states import FileState, Overwrite, Strength
from fakes_inspector import FakeInspector, GoOn, PlainSecret
from worlds import Carrier

MIB = 1024 * 1024


class Stage:
    """A source of one file, and what a batch needs."""

    def __init__(self, source: Path, helpers: ThreadPoolExecutor, control: Control) -> None:
        self.bucket = FakeInspector(BUCKET)
        self.carrier = Carrier(self.bucket)
        self.source = source
        self.delivery = Delivery(
            push=a_push(source),
            root=source,
            roots=[str(source)],
            secret=PlainSecret,
            session=self.carrier,
            inspector=self.bucket,
            control=control,
            helpers=helpers,
            now=lambda: NOON,
        )

    def file(self, seq: int, name: str, size: int) -> PlannedFile:
        """Write and plan a file."""
        path = self.source / name
        path.write_bytes(bytes(size))
        return PlannedFile(seq, name, name, size, path.stat().st_mtime_ns)


class Switch(Control):
    """A control that can be told to stop."""

    def __init__(self) -> None:
        self.stopped = threading.Event()
        self.asked = 0

    def check(self) -> None:
        self.asked += 1
        if self.stopped.is_set():
            raise Cancelled


@pytest.fixture
def helpers() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything counts as large: it is read and sent at the same time."""
    monkeypatch.setattr(module, "INLINE_BYTES", -1)


@pytest.fixture
def stage(tmp_path: Path, helpers: ThreadPoolExecutor) -> Stage:
    return Stage(tmp_path, helpers, GoOn())


def states(results: list[FileResult]) -> dict[int, tuple[FileState, Strength, Code | None]]:
    return {r.seq: (r.state, r.strength, r.error.code if r.error else None) for r in results}


@pytest.mark.usefixtures("large")
def test_large_files_are_read_while_they_are_sent(stage: Stage) -> None:
    """The digest is there when the destination's is."""
    files = [stage.file(1, "a", 10), stage.file(2, "b", 2 * MIB)]

    results = stage.delivery.batch(files)

    assert states(results) == {
        1: (FileState.VERIFIED, Strength.CHECKSUM, None),
        2: (FileState.VERIFIED, Strength.CHECKSUM, None),
    }


@pytest.mark.usefixtures("large")
def test_a_large_file_that_cannot_be_read_fails_although_it_was_sent(stage: Stage) -> None:
    """Without our own digest nothing is proved."""
    good, bad = stage.file(1, "a", 10), stage.file(2, "b", 10)
    changed = PlannedFile(2, "b", "b", 10, bad.mtime_ns - 1)

    results = stage.delivery.batch([good, changed])

    assert states(results) == {
        1: (FileState.VERIFIED, Strength.CHECKSUM, None),
        2: (FileState.FAILED, Strength.NONE, Code.SOURCE_CHANGED),
    }


@pytest.mark.usefixtures("large")
def test_reading_stops_when_sending_was_refused(stage: Stage, helpers: ThreadPoolExecutor) -> None:
    """A wrong key is told at once, not after a terabyte was read."""
    reading, refused = threading.Event(), threading.Event()
    read_all = Delivery._read_all
    read: list[int] = []

    def slowly(self: Delivery, files: list[PlannedFile], check: object) -> Iterator[object]:
        for f in files:
            reading.set()
            refused.wait(5)
            read.extend(seq for seq, _ in read_all(self, [f], check))  # type: ignore[arg-type]
            yield f.seq, None

    stage.carrier.failing = DestinationError(Code.BAD_SIGNATURE, "wrong key")
    stage.carrier.during = lambda path: assert_true(reading.wait(5))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Delivery, "_read_all", slowly)
        with pytest.raises(DestinationError):
            stage.delivery.batch([stage.file(1, "a", 10), stage.file(2, "b", 10)])
        refused.set()
        helpers.shutdown(wait=True)

    assert read == []


def assert_true(value: object) -> None:
    """An assertion that is an expression."""
    assert value


@pytest.mark.parametrize("inline", [MIB * 100, -1])
def test_cancelling_stops_reading_and_sending(
    tmp_path: Path, helpers: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, inline: int
) -> None:
    """Whether they are done one after the other or side by side."""
    monkeypatch.setattr(module, "INLINE_BYTES", inline)
    switch = Switch()
    stage = Stage(tmp_path, helpers, switch)
    stage.carrier.during = lambda path: switch.stopped.set()

    with pytest.raises(Cancelled):
        stage.delivery.batch([stage.file(1, "a", 10), stage.file(2, "b", 10)])

    assert stage.bucket.objects == {}


def test_a_batch_asks_before_it_begins(tmp_path: Path, helpers: ThreadPoolExecutor) -> None:
    """A cancelled part does not even look at the destination."""
    switch = Switch()
    switch.stopped.set()
    stage = Stage(tmp_path, helpers, switch)

    with pytest.raises(Cancelled):
        stage.delivery.batch([stage.file(1, "a", 10)])

    assert (stage.bucket.asked, stage.carrier.sent) == ([], [])


def test_files_that_are_there_are_read_once(stage: Stage) -> None:
    """The digest that told it differs is the one that proves the upload."""
    f = stage.file(1, "a", 10)
    stage.bucket.put("a", b"0123456789")

    (result,) = stage.delivery.batch([f])

    assert (result.state, result.etag == result.expected, stage.carrier.sent) == (FileState.VERIFIED, True, ["a"])


class Azure(FakeInspector):
    """Tells no digest unless it reads back, which a survey does not; large objects were checked as they came."""

    def survey(self, destination: Destination, secret: Secret, keys: Sequence[str], control: Control) -> Sequence[Seen]:
        seen = self.look(destination, secret, keys, control)
        return [replace(s, reread=b"", ingest=False) for s in seen]

    def look(self, destination: Destination, secret: Secret, keys: Sequence[str], control: Control) -> Sequence[Seen]:
        return [
            replace(s, etag="0x1", opaque_etag=True, ingest=s.size == LARGE, reread=self.digests.get(key, b""))
            for key, s in zip(keys, super().look(destination, secret, keys, control), strict=True)
        ]

    digests: ClassVar[dict[str, bytes]] = {
        "mine": hashlib.sha256(bytes(10)).digest(),
        "other": hashlib.sha256(b"0123456789").digest(),
    }


LARGE = 20


def test_what_an_attempt_that_was_killed_has_sent_is_no_obstacle(stage: Stage) -> None:
    """With overwrite=never, where only reading back proves anything: ours is skipped, anything else is kept."""
    files = [
        stage.file(1, "mine", 10),
        stage.file(2, "other", 10),
        stage.file(3, "large", LARGE),
        stage.file(4, "new", 5),
    ]
    bucket = Azure(BUCKET, {f.key: Seen(exists=True, size=f.size) for f in files[:3]})
    push = replace(stage.delivery.push, overwrite=Overwrite.NEVER, min_strength=Strength.SIZE)

    results = replace(stage.delivery, push=push, inspector=bucket, session=Carrier(bucket)).batch(files)

    assert states(results) == {
        1: (FileState.SKIPPED, Strength.REREAD, None),
        2: (FileState.FAILED, Strength.NONE, Code.OBJECT_EXISTS),
        3: (FileState.FAILED, Strength.NONE, Code.OBJECT_EXISTS),
        4: (FileState.VERIFIED, Strength.SIZE, None),
    }

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cloudpush.errors import Cancelled, Code, SourceError
from cloudpush.push import fingerprint as module
from cloudpush.push.fingerprint import CHUNK, TWO_THREADS, fingerprint, unchanged
from cloudpush.push.job import Fingerprint, PlannedFile
from fakes_inspector import etag_of


def go_on() -> None:
    """A check that never objects."""


def planned(path: Path) -> PlannedFile:
    found = path.stat()
    return PlannedFile(1, path.name, path.name, found.st_size, found.st_mtime_ns)


def code_of(path: Path, plan: PlannedFile, check: Callable[[], None] = go_on, roots: tuple[str, ...] = ()) -> Code:
    with pytest.raises(SourceError) as caught:
        fingerprint(path, plan, None, check, roots)
    return caught.value.code


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "data.bin"
    made.write_bytes(b"0123456789")
    return made


@pytest.mark.parametrize("size", [0, 1, CHUNK, CHUNK + 1, TWO_THREADS - 1, TWO_THREADS, TWO_THREADS + CHUNK // 2])
@pytest.mark.parametrize("piece_size", [None, 700_001, CHUNK, 2 * CHUNK, 1024 * CHUNK])
def test_digests_of_every_size(tmp_path: Path, size: int, piece_size: int | None) -> None:
    """Around every boundary of reading, the digests are those of the whole and of its pieces."""
    data = (b"%08d" * (size // 8 + 1) % tuple(range(size // 8 + 1)))[:size] if size < CHUNK else os.urandom(size)
    path = tmp_path / "x"
    path.write_bytes(data)

    found = fingerprint(path, planned(path), piece_size, go_on)

    assert found == Fingerprint(
        size=size,
        mtime_ns=path.stat().st_mtime_ns,
        sha256=hashlib.sha256(data).digest(),
        md5=hashlib.md5(data).digest() if piece_size is None else None,
        md5_etag=etag_of(data, piece_size),
    )


def test_a_file_that_changed_since_it_was_planned(path: Path) -> None:
    """Another size, or the same size at another time, is not the planned file."""
    plan = planned(path)
    path.write_bytes(b"01234567890")
    longer = code_of(path, plan)
    path.write_bytes(b"9876543210")
    os.utime(path, ns=(0, plan.mtime_ns + 1))

    assert (longer, code_of(path, plan)) == (Code.SOURCE_CHANGED, Code.SOURCE_CHANGED)


def test_a_file_that_changed_is_not_read(tmp_path: Path) -> None:
    """Reading a large file only to say that it is another one would be a waste."""
    path = tmp_path / "x"
    path.write_bytes(bytes(3 * CHUNK))
    plan = planned(path)
    os.utime(path, ns=(0, plan.mtime_ns + 1))
    asked: list[None] = []

    code = code_of(path, plan, lambda: asked.append(None))

    assert (code, len(asked)) == (Code.SOURCE_CHANGED, 1)


@pytest.mark.parametrize("size", [CHUNK, 2 * CHUNK, TWO_THREADS + CHUNK])
def test_a_file_that_changes_while_it_is_read(tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written in the middle of the reading is noticed after it."""
    path = tmp_path / "x"
    path.write_bytes(bytes(size))
    plan = planned(path)
    check_opened = module.check_opened

    def write_after(*args: object) -> None:
        check_opened(*args)  # type: ignore[arg-type]  # passed on as they came
        with path.open("r+b") as f:
            f.write(b"!")
        os.utime(path, ns=(0, plan.mtime_ns + 5))

    monkeypatch.setattr(module, "check_opened", write_after)

    assert code_of(path, plan) is Code.SOURCE_CHANGED


def test_files_that_cannot_be_read(path: Path, tmp_path: Path) -> None:
    """A file that vanished, became a directory or became a pipe has a code of its own."""
    plan = planned(path)
    os.mkfifo(tmp_path / "pipe")

    assert {
        "vanished": code_of(tmp_path / "gone", plan),
        "below a file": code_of(path / "x", plan),
        "directory": code_of(tmp_path, plan),
        "pipe": code_of(tmp_path / "pipe", plan),
    } == {
        "vanished": Code.SOURCE_MISSING,
        "below a file": Code.SOURCE_MISSING,
        "directory": Code.SOURCE_NOT_A_FILE,
        "pipe": Code.SOURCE_NOT_A_FILE,
    }


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(5, "Input/output error")])
def test_a_file_that_may_not_be_read(path: Path, error: OSError, monkeypatch: pytest.MonkeyPatch) -> None:
    """Missing rights and broken disks are the operator's matter."""
    plan = planned(path)

    def refuse(*_: object) -> int:  # as the kernel does for anybody but root
        raise error

    monkeypatch.setattr(os, "open", refuse)

    assert code_of(path, plan) is Code.SOURCE_UNREADABLE


def test_a_path_that_was_swapped_for_a_way_out(tmp_path: Path) -> None:
    """The open file is judged: neither the last component nor a directory above may lead out of the roots."""
    root, outside = tmp_path / "root", tmp_path / "outside"
    for directory in (root / "d", outside):
        directory.mkdir(parents=True)
        (directory / "x").write_bytes(b"same size")
        os.utime(directory / "x", ns=(7, 7))
    plan = planned(root / "d/x")
    (root / "link").symlink_to(outside / "x")
    (root / "tree").symlink_to(outside)
    (root / "inside").symlink_to("d/x")
    roots = (str(root.resolve()),)

    assert (
        code_of(root / "link", plan, roots=roots),
        code_of(root / "tree/x", plan, roots=roots),
        fingerprint(root / "inside", plan, None, go_on, roots).size,
    ) == (Code.SOURCE_OUTSIDE_ROOTS, Code.SOURCE_OUTSIDE_ROOTS, 9)


@pytest.mark.parametrize("size", [10, 2 * CHUNK, TWO_THREADS + CHUNK])
def test_reading_stops_when_told_to(tmp_path: Path, size: int) -> None:
    """Whatever the check raises comes out, whichever way the file is read."""
    path = tmp_path / "x"
    path.write_bytes(bytes(size))
    asked = iter([None] * (1 if size > CHUNK else 0))

    def cancel() -> None:
        if next(asked, Cancelled) is Cancelled:
            raise Cancelled

    with pytest.raises(Cancelled):
        fingerprint(path, planned(path), None, cancel)


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_descriptors_are_closed(path: Path, tmp_path: Path) -> None:
    """Success and failure leave nothing open."""
    plan = planned(path)
    before = descriptors()

    fingerprint(path, plan, None, go_on)
    code_of(tmp_path, plan)

    assert descriptors() == before


def test_unchanged(path: Path) -> None:
    """Size and time tell; a file that vanished has changed."""
    plan = planned(path)
    same = unchanged(path, plan)
    os.utime(path, ns=(0, plan.mtime_ns + 1))
    touched = unchanged(path, plan)
    path.unlink()

    assert (same, touched, unchanged(path, plan)) == (True, False, False)

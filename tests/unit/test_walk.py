from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from cloudpush.errors import CloudPushError, Code
from cloudpush.push import walk as module
from cloudpush.push.job import PlannedFile
from cloudpush.push.uris import parse_destination
from cloudpush.push.walk import walk


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """The root, with a source ``src`` in it and a place outside."""
    (tmp_path / "root" / "src").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    return tmp_path / "root"


def make(directory: Path, *names: str) -> None:
    for name in names:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name, errors="surrogateescape")


def walked(
    top: Path, source: str = "src", *, prefix: str = "", include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> list[tuple[str, str | Code]]:
    """(path, key) of each file and (path, code) of each refusal."""
    found = walk(top / source, [top], parse_destination(f"s3://bucket/{prefix}", {}), include, exclude)
    return [(x.path, x.key if isinstance(x, PlannedFile) else x.error.code) for x in found]


def paths(found: list[tuple[str, str | Code]]) -> list[str]:
    return [path for path, _ in found]


def code_of(top: Path, source: Path, roots: Sequence[Path] | None = None) -> Code:
    with pytest.raises(CloudPushError) as caught:
        walk(source, [top] if roots is None else roots, parse_destination("s3://bucket", {}))
    return caught.value.code


def test_a_directory_goes_below_the_prefix(top: Path) -> None:
    """Rows are numbered from 1 and carry path, key, size and time; the source's own name is no part of the key."""
    make(top / "src", "b/c.txt", "a.txt")
    os.utime(top / "src/a.txt", ns=(1, 2_000_000_003))
    os.utime(top / "src/b/c.txt", ns=(1, 4))

    rows = list(walk(top / "src", [top], parse_destination("s3://bucket/p/q/", {})))

    assert rows == [
        PlannedFile(1, "a.txt", "p/q/a.txt", 5, 2_000_000_003),
        PlannedFile(2, "b/c.txt", "p/q/b/c.txt", 7, 4),
    ]


def test_a_single_file_goes_below_the_prefix_under_its_name(top: Path) -> None:
    """The prefix is a directory, whether or not it ends with a slash."""
    make(top, "src/a.txt")

    assert walked(top, "src/a.txt", prefix="p") == [("a.txt", "p/a.txt")]


def test_order_is_the_byte_order_of_keys(top: Path) -> None:
    """Directories sort as if their names ended with a slash, and not-ASCII by its UTF-8."""
    names = [
        "a",
        "a-b",
        "a.c/x",
        "b/x",
        "b0",
        "b!",
        "Z",
        "é",
        "z",
        "\uffff",
        "\U0001f600",
        "e\u0301",
        "b/x-y",
        "b/x.d/y",
    ]
    make(top / "src", *names)

    assert paths(walked(top)) == sorted(names, key=lambda n: n.encode())


def test_names_that_a_file_system_allows(top: Path) -> None:
    """Spaces, newlines, leading dashes, control characters, globs and backslashes are names like any other."""
    names = [
        "-rf",
        " a ",
        "a\nb",
        "a\tb",
        "a\x01b",
        "a*b",
        "a?b",
        "a[b]",
        "a\\b",
        "a'b",
        'a"b',
        "$HOME",
        "#x",
        "x%41",
        "...",
    ]
    make(top / "src", *names)

    assert walked(top) == [(n, n) for n in sorted(names)]


def test_empty_files_are_pushed_and_empty_directories_are_not(top: Path) -> None:
    """A key needs a file; a file needs no bytes."""
    (top / "src/d/e").mkdir(parents=True)
    (top / "src/empty").touch()

    assert walked(top) == [("empty", "empty")]


def test_a_name_that_is_not_utf8_is_refused(top: Path) -> None:
    """The row shows its bytes as escapes; a directory of such a name is refused once for all it holds."""
    make(top / "src", "ok", "bad\udcff", "dir\udcfe/x", "dir\udcfe/y")

    assert walked(top) == [
        ("bad\\xff", Code.NAME_NOT_A_KEY),
        ("dir\\xfe", Code.NAME_NOT_A_KEY),
        ("ok", "ok"),
    ]


def test_keys_are_at_most_1024_bytes(top: Path) -> None:
    """The prefix counts; the limit itself is allowed."""
    deep = "/".join(["d" * 250] * 4)
    make(top / "src", f"{deep}/{'x' * 13}", f"{deep}/{'y' * 14}", f"{deep}/{'z' * 12}é")

    found = walked(top, prefix="prefix")

    assert [x if isinstance(x, Code) else len(x.encode()) for _, x in found] == [
        1024,
        Code.NAME_NOT_A_KEY,
        Code.NAME_NOT_A_KEY,
    ]


def test_what_is_no_file_is_refused_by_name(top: Path) -> None:
    """Pipes, sockets and links to devices fail their own row."""
    make(top / "src", "a")
    os.mkfifo(top / "src/pipe")
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(os.path.relpath(top / "src/sock"))
    roots = [top, Path("/dev")]
    (top / "src/zero").symlink_to("/dev/zero")

    found = walk(top / "src", roots, parse_destination("s3://bucket", {}))

    assert [(x.path, "" if isinstance(x, PlannedFile) else str(x.error.message)) for x in found] == [
        ("a", ""),
        ("pipe", "'pipe' is a pipe"),
        ("sock", "'sock' is a socket"),
        ("zero", "'zero' is a device"),
    ]


def test_symlinks_inside_the_roots_are_followed(top: Path) -> None:
    """A link's content goes under the link's own name, with the target's size."""
    make(top, "shared/data.bin", "shared/more/x")
    (top / "src/file").symlink_to("../shared/data.bin")
    (top / "src/tree").symlink_to(top / "shared")

    assert walked(top) == [
        ("file", "file"),
        ("tree/data.bin", "tree/data.bin"),
        ("tree/more/x", "tree/more/x"),
    ]


def test_symlinks_out_of_the_roots_are_refused(top: Path) -> None:
    """Directly, through a second link, or to a neighbour whose name begins like a root."""
    outside = top.parent / "outside"
    make(outside, "secret")
    make(top.parent, "root-2/secret")
    (top / "src/a").symlink_to(outside / "secret")
    (top / "src/b").symlink_to(outside)
    (top / "src/c").symlink_to("a")
    (top / "src/d").symlink_to(top.parent / "root-2")
    (top / "src/e").symlink_to("/etc/passwd")

    assert walked(top) == [(n, Code.SOURCE_OUTSIDE_ROOTS) for n in "abcde"]


def test_symlinks_to_nothing_are_missing(top: Path) -> None:
    """A dangling link and a link to itself fail their own rows."""
    (top / "src/gone").symlink_to("nowhere")
    (top / "src/self").symlink_to("self")

    assert walked(top) == [("gone", Code.SOURCE_MISSING), ("self", Code.SOURCE_UNREADABLE)]


def test_symlink_loops_end(top: Path) -> None:
    """A link to a directory above itself is refused once; what is beside it is pushed."""
    make(top / "src", "d/x")
    (top / "src/d/up").symlink_to("..")
    (top / "src/d/here").symlink_to(".")

    assert walked(top) == [
        ("d/here", Code.SOURCE_NOT_A_FILE),
        ("d/up", Code.SOURCE_NOT_A_FILE),
        ("d/x", "d/x"),
    ]


def test_symlinks_that_multiply_end(top: Path) -> None:
    """Thirty directories with two links each to the next would be a thousand million files; eight levels are entered."""
    for i in range(30):
        directory = top / f"n{i}"
        directory.mkdir()
        for side in "ab":
            (directory / side).symlink_to(f"../n{i + 1}")

    found = walked(top, "n0")

    assert (len(found), {code for _, code in found}) == (2**9, {Code.SOURCE_NOT_A_FILE})


@pytest.mark.parametrize(
    ("include", "exclude", "left"),
    [
        ([], [], ["a.csv", "a.tmp", "cache/x.csv", "raw/b.csv", "raw/c.bin", "raw/deep/d.csv"]),
        (["*.csv"], [], ["a.csv", "cache/x.csv", "raw/b.csv", "raw/deep/d.csv"]),
        (["*.csv"], ["cache/"], ["a.csv", "raw/b.csv", "raw/deep/d.csv"]),
        (["raw"], [], ["raw/b.csv", "raw/c.bin", "raw/deep/d.csv"]),
        (["raw/*"], ["*.bin"], ["raw/b.csv", "raw/deep/d.csv"]),
        (["/a.*"], ["*.tmp"], ["a.csv"]),
        ([], ["*.csv", "raw/**"], ["a.tmp"]),
        (["nothing"], [], []),
    ],
)
def test_patterns_choose(top: Path, include: list[str], exclude: list[str], left: list[str]) -> None:
    """Exclusion beats inclusion; what matches a directory stands for all that is below it."""
    make(top / "src", "a.csv", "a.tmp", "cache/x.csv", "raw/b.csv", "raw/c.bin", "raw/deep/d.csv")

    assert paths(walked(top, include=include, exclude=exclude)) == left


def test_what_is_excluded_is_neither_entered_nor_refused(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An excluded directory is not even listed, and an excluded pipe fails nothing."""
    make(top / "src", "a", ".git/config")
    os.mkfifo(top / "src/pipe")
    listed: list[str] = []
    scandir = os.scandir

    def noted(path: str) -> object:
        listed.append(str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", noted)

    found = walked(top, exclude=[".git", "pipe"])

    assert (found, [p for p in listed if ".git" in p]) == ([("a", "a")], [])


@pytest.mark.parametrize("kind", ["directory", "file"])
def test_what_vanishes_during_the_walk_is_missing(top: Path, kind: str) -> None:
    """A directory or file that somebody removes before its turn fails its own row."""
    make(top / "src", "a", "b/x" if kind == "directory" else "b")
    found = walk(top / "src", [top], parse_destination("s3://bucket", {}))
    first = next(found)
    (top / "src/b/x").unlink() if kind == "directory" else (top / "src/b").unlink()
    if kind == "directory":
        (top / "src/b").rmdir()

    second = next(found)

    assert (first.path, second.path.rstrip("/"), getattr(second, "error").code) == ("a", "b", Code.SOURCE_MISSING)  # noqa: B009 -- both kinds


def test_a_directory_that_may_not_be_read_is_refused(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One closed directory does not fail its neighbours."""
    make(top / "src", "a", "closed/x", "d")
    scandir = os.scandir

    def closed(path: str | Path) -> object:  # as the kernel does for anybody but root
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)

    assert walked(top) == [("a", "a"), ("closed/", Code.SOURCE_UNREADABLE), ("d", "d")]
    assert code_of(top, top / "src/closed") is Code.SOURCE_UNREADABLE


def test_directories_larger_than_the_bound_are_read_in_runs(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is lost or doubled beyond the number of entries that are sorted in memory."""
    monkeypatch.setattr(module, "SORTED_ENTRIES", 7)
    names = [f"{i:03d}" for i in range(50)]
    make(top / "src", *names)

    found = paths(walked(top))

    assert (sorted(found), sorted(found[:7])) == (names, found[:7])


def test_a_directory_deeper_than_recursion_allows(top: Path) -> None:
    """Depth is the user's choice, up to the longest key."""
    deep = "/".join(["d"] * 500)
    make(top / "src", f"{deep}/x")
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(200)
    try:
        found = walked(top)
    finally:
        sys.setrecursionlimit(limit)

    assert found == [(f"{deep}/x", f"{deep}/x")]


def test_sources_that_are_refused_as_a_whole(top: Path) -> None:
    """Each wrong source raises at once, with its own code."""
    make(top, "file")
    make(top.parent / "outside", "x")
    os.mkfifo(top / "pipe")
    (top / "leaves").symlink_to(top.parent / "outside")
    (top / "dangling").symlink_to("nowhere")

    codes = {
        "missing": code_of(top, top / "nope"),
        "below a file": code_of(top, top / "file/x"),
        "dangling": code_of(top, top / "dangling"),
        "pipe": code_of(top, top / "pipe"),
        "outside": code_of(top, top.parent / "outside"),
        "outside and missing": code_of(top, top.parent / "outside/nope"),
        "up and out": code_of(top, top / "../outside"),
        "leaves by symlink": code_of(top, top / "leaves/x"),
        "no roots": code_of(top, top / "src", []),
        "relative": code_of(top, Path("src")),
        "NUL": code_of(top, top / "a\0b"),
        "no text": code_of(top, top / "a\ud800"),
    }

    assert codes == {
        "missing": Code.SOURCE_MISSING,
        "below a file": Code.SOURCE_MISSING,
        "dangling": Code.SOURCE_MISSING,
        "pipe": Code.SOURCE_NOT_A_FILE,
        "outside": Code.SOURCE_OUTSIDE_ROOTS,
        "outside and missing": Code.SOURCE_OUTSIDE_ROOTS,
        "up and out": Code.SOURCE_OUTSIDE_ROOTS,
        "leaves by symlink": Code.SOURCE_OUTSIDE_ROOTS,
        "no roots": Code.SOURCE_OUTSIDE_ROOTS,
        "relative": Code.BAD_INPUT,
        "NUL": Code.BAD_INPUT,
        "no text": Code.BAD_INPUT,
    }


def test_roots_may_be_symlinks(top: Path) -> None:
    """A root is what it leads to, and a source may be named through it."""
    make(top / "src", "a")
    alias = top.parent / "alias"
    alias.symlink_to(top)

    found = list(walk(alias / "src", [alias], parse_destination("s3://bucket", {})))

    assert [x.path for x in found] == ["a"]


def test_names_that_azure_does_not_keep_are_refused_one_by_one(top: Path) -> None:
    """A directory whose name ends with a dot is refused with all that is in it; the others are planned."""
    make(top, "src/a.txt", "src/b.", "src/c./d.txt", "src/e\\f", "src/line\nfeed")

    def found(uri: str) -> dict[str, Code | None]:
        rows = walk(top / "src", [top], parse_destination(uri, {}))
        return {row.path: None if isinstance(row, PlannedFile) else row.error.code for row in rows}

    assert found("az://data/p") == {
        "a.txt": None,
        **dict.fromkeys(("b.", "c.", "e\\f", "line\nfeed"), Code.NAME_NOT_A_KEY),
    }
    assert found("gs://data/p") == {
        **dict.fromkeys(("a.txt", "b.", "c./d.txt", "e\\f")),
        "line\nfeed": Code.NAME_NOT_A_KEY,
    }

"""What was seen of a manifest: found again, kept apart by kind, in memory that does not grow."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudpush.push.signed import pathbook
from cloudpush.push.signed.pathbook import FileBook, PathBook


@given(st.lists(st.tuples(st.sampled_from(["path", "key"]), st.text(max_size=3)), max_size=30))
def test_a_text_that_comes_again_is_told_with_its_first_line(entries: list[tuple[str, str]]) -> None:
    """As a dictionary would, which does not fit into memory."""
    witness: dict[tuple[str, str], int] = {}
    with closing(PathBook()) as book:
        for line, (kind, text) in enumerate(entries, 1):
            assert book.add(kind, text, line) == witness.get((kind, text))
            witness.setdefault((kind, text), line)


def test_names_that_only_look_alike_are_two() -> None:
    """Case, Unicode's two spellings of one letter, and bytes that are no UTF-8."""
    names = ["a", "A", "é", "e\u0301", "a/", "\udcff", "\udcfe", ""]
    with closing(PathBook()) as book:
        assert [book.add("path", name, 1) for name in names] == [None] * len(names)


def test_files_are_found_by_their_paths() -> None:
    """A path that was not put in is nobody's."""
    with closing(FileBook()) as book:
        book.put("a/b", 7, "runs/a/b")
        book.put("ä", 1, "ä")

        assert [book.find(path) for path in ("a/b", "ä", "b", "")] == [(7, "runs/a/b"), (1, "ä"), None, None]


def test_nothing_of_a_book_lies_in_a_named_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is too much for its cache goes to a file that was unlinked before it was written."""
    monkeypatch.setattr(pathbook, "_CACHE_KIB", 64)

    def files() -> list[str]:
        return [str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]

    with closing(PathBook()) as book:
        for n in range(20_000):
            book.add("path", f"{n}", n)
        ours = [name for name in files() if "etilqs" in name]

    assert (len(ours), [name for name in ours if not name.endswith(" (deleted)")]) == (1, [])


def test_memory_does_not_grow_with_the_names() -> None:
    """A hundred thousand entries after the first ones take little more than the cache."""
    process = psutil.Process()
    with closing(PathBook()) as book:
        for n in range(20_000):
            book.add("path", f"{n}", n)
        before = process.memory_info().rss
        for n in range(20_000, 120_000):
            book.add("path", f"{n}", n)
        assert process.memory_info().rss - before < 24 * 2**20

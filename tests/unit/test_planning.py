"""Cutting a walk into parts and parts into batches."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import a_file, a_refusal
from cloudpush.push.job import Page, Part, PlannedFile, Refusal
from cloudpush.push.planning import Limits, batches, cut

PUSH = uuid4()


def sizes(pages: list[Page]) -> list[list[int]]:
    return [[r.size if isinstance(r, PlannedFile) else -1 for r in page.rows] for page in pages]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([], []),
        ([5], [[5]]),
        ([5, 5, 5, 5, 5], [[5, 5, 5], [5, 5]]),
        ([60, 40, 1], [[60, 40], [1]]),
        ([60, 41], [[60], [41]]),
        ([1, 500, 1], [[1], [500], [1]]),
        ([0] * 7, [[0, 0, 0], [0, 0, 0], [0]]),
    ],
)
def test_parts_are_bounded_in_files_and_bytes(found: list[int], expected: list[list[int]]) -> None:
    """Three files and a hundred bytes here; a file that is larger is a part of its own."""
    files = [a_file(i, size) for i, size in enumerate(found, 1)]

    assert sizes(list(cut(files, PUSH, Limits(files=3, bytes=100)))) == expected


def test_a_part_says_which_files_it_holds() -> None:
    """Refusals count as files without bytes."""
    found: list[PlannedFile | Refusal] = [a_file(1, 10), a_refusal(2), a_file(3, 10), a_refusal(4)]

    parts = [page.part for page in cut(found, PUSH, Limits(files=3))]

    assert parts == [Part(PUSH, 1, 1, 3, 3, 20), Part(PUSH, 2, 4, 4, 1, 0)]


def test_a_walk_is_consumed_a_part_at_a_time() -> None:
    """Constant memory: nothing is read ahead but the file that did not fit."""
    taken = []

    def endless() -> Iterator[PlannedFile | Refusal]:
        for i in itertools.count(1):
            taken.append(i)
            yield a_file(i)

    next(cut(endless(), PUSH, Limits(files=3)))

    assert taken == [1, 2, 3, 4]


@given(st.lists(st.integers(0, 200)), st.integers(1, 5), st.integers(1, 300))
def test_nothing_is_lost_by_cutting(found: list[int], files: int, limit: int) -> None:
    """Every file is in one part, in order, numbered without gaps."""
    planned = [a_file(i, size) for i, size in enumerate(found, 1)]

    pages = list(cut(planned, PUSH, Limits(files, limit)))

    assert [r for page in pages for r in page.rows] == planned
    assert [page.part.number for page in pages] == list(range(1, len(pages) + 1))
    for page in pages:
        held = [r.size for r in page.rows if isinstance(r, PlannedFile)]
        assert (page.part.files, page.part.bytes) == (len(held), sum(held))
        assert len(held) <= files
        assert sum(held) <= limit or len(held) == 1


@given(st.lists(st.integers(0, 200)), st.integers(1, 5), st.integers(1, 300))
def test_nothing_is_lost_by_batching(found: list[int], files: int, limit: int) -> None:
    """Likewise."""
    planned = [a_file(i, size) for i, size in enumerate(found, 1)]

    groups = list(batches(planned, max_files=files, max_bytes=limit))

    assert [f for group in groups for f in group] == planned
    assert all(0 < len(g) <= files and (sum(f.size for f in g) <= limit or len(g) == 1) for g in groups)

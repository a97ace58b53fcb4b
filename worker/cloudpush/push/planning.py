"""Cutting a walk into parts: bounded in files and bytes, in constant memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from uuid import UUID

from cloudpush.push.job import Page, Part, PlannedFile, Refusal


@dataclass(frozen=True, slots=True)
class Limits:
    """How large a part may be. A single file may exceed ``bytes``: files are not cut."""

    files: int = 5_000
    bytes: int = 8 * 1024**3


def cut(found: Iterable[PlannedFile | Refusal], push_id: UUID, limits: Limits) -> Iterator[Page]:
    """The walk's findings as pages, each the rows of one part, numbered from 1 without gaps."""
    number = 0
    rows: list[PlannedFile | Refusal] = []
    size = 0
    for item in found:
        adds = item.size if isinstance(item, PlannedFile) else 0
        if rows and (len(rows) >= limits.files or size + adds > limits.bytes):
            number += 1
            yield _page(push_id, number, rows, size)
            rows, size = [], 0
        rows.append(item)
        size += adds
    if rows:
        yield _page(push_id, number + 1, rows, size)


def batches(files: Iterable[PlannedFile], *, max_files: int, max_bytes: int) -> Iterator[list[PlannedFile]]:
    """Files in the order given, in groups that are sent and verified together."""
    group: list[PlannedFile] = []
    size = 0
    for f in files:
        if group and (len(group) >= max_files or size + f.size > max_bytes):
            yield group
            group, size = [], 0
        group.append(f)
        size += f.size
    if group:
        yield group


def _page(push_id: UUID, number: int, rows: list[PlannedFile | Refusal], size: int) -> Page:
    part = Part(push_id, number, first=rows[0].seq, last=rows[-1].seq, files=len(rows), bytes=size)
    return Page(part, tuple(rows))

"""What a push with signed URLs consists of: the rows of its manifest, or what lies below its source (TREE).

A row's number is its file's. A file is looked up by the rules of :mod:`cloudpush.push.walk`; a row without one that
can be pushed is a Refusal: it fails that file, not the push.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from cloudpush.errors import Code, CredentialError, SourceError
from cloudpush.push.job import PlannedFile, Push, Refusal
from cloudpush.push.signed.book import TicketBook
from cloudpush.push.signed.model import Kind, Ticket
from cloudpush.push.walk import Lookup, real_roots, resolve_source, walk


def find(push: Push, book: TicketBook, roots: tuple[Path, ...]) -> Iterator[PlannedFile | Refusal]:
    """The files of ``push``, whose whole set is ``book``, in constant memory.

    Raises at once what concerns the source itself, as :func:`walk` does; CredentialError URL_EXPIRED where the set
    was destroyed before the push was planned; VaultError, CredentialError (corrupt).
    """
    rows = book.rows()
    head = next(rows, None)
    if head is None:
        raise _gone(push)
    if head[1].kind is Kind.TREE:
        return walk(push.source, roots, push.destination, push.include, push.exclude)
    source = resolve_source(push.source, roots)
    return _look_up(push, source, chain([head], rows), roots)


def _look_up(
    push: Push, source: Path, rows: Iterator[tuple[int, Ticket]], roots: tuple[Path, ...]
) -> Iterator[PlannedFile | Refusal]:
    single = not source.is_dir()
    lookup = Lookup(str(source.parent if single else source), real_roots(roots))
    for seq, ticket in rows:
        path = ticket.path
        try:
            if single:
                path = _only(push.source, path)
                found = lookup.file(source.name)
            else:
                found = lookup.file(path)
        except SourceError as e:
            yield Refusal(seq, path, e)
        else:
            yield PlannedFile(seq, path, ticket.key, found.st_size, found.st_mtime_ns)


def _only(source: Path, path: str) -> str:
    """The one path below a source that is a file. Raises SourceError for any other."""
    if path not in {"", source.name}:
        raise SourceError(Code.SOURCE_MISSING, f"{path!r} is not there: the source is the file {source.name!r} alone")
    return source.name


def _gone(push: Push) -> CredentialError:
    return CredentialError(
        Code.URL_EXPIRED, f"The signed URLs of push {push.id} expired and were destroyed before its files were planned."
    )

"""What a push consists of: the files below its source, each with its key, in constant memory.

A finding that cannot be pushed is a Refusal: it fails that file, not the push. Empty files are pushed;
empty directories have no key and are passed over, as every S3 tool does. Symlinks are followed where they stay
under the source roots; what they lead to goes under the link's own name. A name may hold anything that a
file system allows (spaces, newlines, leading dashes), provided it is UTF-8 and its key at most 1,024 bytes.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from cloudpush.errors import CloudPushError, Code, InputError, SourceError
from cloudpush.push.job import Destination, PlannedFile, Refusal
from cloudpush.push.patterns import Pattern, compile_patterns
from cloudpush.push.uris import KEY_BYTES, key_below, unstorable

#: Entries of one directory that are sorted in memory (about 25 MB). A larger directory is read in runs of this
#: many, each sorted for itself: memory stays bounded, and order helps only the speed of later listings.
SORTED_ENTRIES = 100_000

#: Directories whose real paths a Lookup remembers.
_KNOWN_DIRECTORIES = 1_000

#: Symlinked directories that may lie on one path. Links to siblings multiply: without a bound, thirty
#: directories of two links each would be a thousand million files.
_LINK_DEPTH = 8


def walk(
    source: Path,
    roots: Sequence[Path],
    destination: Destination,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> Iterator[PlannedFile | Refusal]:
    """The files of ``source``, a file or a directory, numbered from 1, in the byte order of their keys.

    A directory's contents go below the destination's prefix (its own name is no part of the keys, whether or
    not it was written with a trailing slash); a single file goes below the prefix under its name. Patterns:
    see :mod:`cloudpush.push.patterns`; they apply to what is below a directory, not to a source that is a file.

    Raises at once, before anything is yielded, what concerns the source itself: SourceError SOURCE_OUTSIDE_ROOTS,
    SOURCE_MISSING, SOURCE_UNREADABLE, SOURCE_NOT_A_FILE, NAME_NOT_A_KEY; InputError BAD_INPUT for a relative source
    or a bad pattern.
    """
    walker = _Walker(
        real_roots(roots),
        destination,
        compile_patterns(include, "include"),
        compile_patterns(exclude, "exclude"),
    )
    real = resolve_source(source, roots)
    try:
        found = real.stat()
        if stat.S_ISDIR(found.st_mode):
            os.scandir(real).close()  # an unreadable source fails the push, not one of its rows
            return walker.below(str(real), found)
    except OSError as e:
        raise _os_error(e, str(source)) from e
    if stat.S_ISREG(found.st_mode):
        return iter([walker.file(source.name, found)])
    raise SourceError(Code.SOURCE_NOT_A_FILE, f"source {str(source)!r} is {_kind(found.st_mode)}")


def resolve_source(source: Path, roots: Sequence[Path]) -> Path:
    """``source`` with every symlink resolved. Raises SourceError, InputError as :func:`walk` does."""
    if not source.is_absolute() or not _nameable(str(source)):
        raise InputError(
            Code.BAD_INPUT, f"source {str(source)!r} is not an absolute path; write it from /", field="source"
        )
    real = os.path.realpath(source)
    # Before anything else is said: whether a path outside the roots exists is nobody's business.
    if not is_below(real, real_roots(roots)):
        shown = ", ".join(str(r) for r in roots) or "none, the operator has set no CLOUDPUSH_SOURCE_ROOTS"
        raise SourceError(
            Code.SOURCE_OUTSIDE_ROOTS, f"source {str(source)!r} is not under a source root ({shown})", field="source"
        )
    try:
        Path(real).stat()
    except OSError as e:
        raise _os_error(e, str(source)) from e
    return Path(real)


def real_roots(roots: Sequence[Path]) -> tuple[str, ...]:
    """The roots with their symlinks resolved, as :func:`is_below` wants them."""
    return tuple(os.path.realpath(root) for root in roots)


def is_below(real: str, roots: Sequence[str]) -> bool:
    """Whether ``real``, a path without symlinks, is one of ``roots`` or below one."""
    return any(real == root or real.startswith(root.rstrip("/") + "/") for root in roots)


class Lookup:
    """Finds single files below ``top``, a directory without symlinks, by the rules of :func:`walk`.

    ``roots``: as :func:`real_roots` gives them.
    """

    def __init__(self, top: str, roots: Sequence[str]) -> None:
        self._top = top
        self._roots = roots
        self._directories: dict[str, str] = {}

    def file(self, path: str) -> os.stat_result:
        """The regular file at ``path``, relative to the top. Raises SourceError."""
        try:
            directory, _, name = path.rpartition("/")
            real = f"{self._directory(directory)}/{name}"
            found = os.lstat(real)
            if stat.S_ISLNK(found.st_mode):
                real = self._inside(os.path.realpath(real, strict=True), path)
                found = os.lstat(real)
        except OSError as e:
            raise _os_error(e, path) from e
        except ValueError as e:
            raise SourceError(Code.NAME_NOT_A_KEY, "a path holds a character that no file name can") from e
        if not stat.S_ISREG(found.st_mode):
            what = "a directory" if stat.S_ISDIR(found.st_mode) else _kind(found.st_mode)
            raise SourceError(Code.SOURCE_NOT_A_FILE, f"{_printable(path)!r} is {what}")
        return found

    def _directory(self, path: str) -> str:
        """Neighbours share one, and resolving it takes ten times as long as looking at a file."""
        known = self._directories.get(path)
        if known is None:
            real = os.path.realpath(f"{self._top}/{path}", strict=True)
            if len(self._directories) >= _KNOWN_DIRECTORIES:
                self._directories.clear()
            known = self._directories[path] = self._inside(real, path).rstrip("/")
        return known

    def _inside(self, real: str, path: str) -> str:
        if not is_below(real, self._roots):
            raise SourceError(Code.SOURCE_OUTSIDE_ROOTS, f"{_printable(path)!r} leads out of the source roots")
        return real


@dataclass(frozen=True, slots=True)
class _Entry:
    """A directory entry that the patterns let through.

    ``target`` is what a symlink leads to. What is no symlink is asked for size and time only when its turn
    comes: that is fresher, and a hundred thousand entries stay small.
    """

    item: os.DirEntry[str]
    directory: bool
    included: bool
    target: os.stat_result | None = None
    error: CloudPushError | None = None

    @property
    def order(self) -> str:
        """Sorts like the keys: strings compare by code point, which is the order of their UTF-8 bytes."""
        return self.item.name + "/" if self.directory else self.item.name


@dataclass(slots=True)
class _Level:
    """A directory being walked. ``path`` is relative to the source, with a trailing slash unless empty."""

    path: str
    identity: tuple[int, int]
    links: int
    entries: Iterator[_Entry]


@dataclass(slots=True)
class _Walker:
    roots: tuple[str, ...]
    destination: Destination
    include: tuple[Pattern, ...]
    exclude: tuple[Pattern, ...]
    seq: int = 0
    levels: list[_Level] = field(default_factory=list)

    def below(self, top: str, found: os.stat_result) -> Iterator[PlannedFile | Refusal]:
        """Everything below the directory ``top``. Levels on a stack of our own: depth is the user's choice."""
        self._enter(top, "", found, links=0, included=not self.include)
        while self.levels:
            level = self.levels[-1]
            try:
                entry = next(level.entries, None)
            except OSError as e:
                self.levels.pop()
                yield self.refuse(level.path, _os_error(e, level.path))
                continue
            if entry is None:
                self.levels.pop()
                continue
            path = level.path + entry.item.name
            try:
                row = self._take(path, entry, level)
            except OSError as e:
                row = self.refuse(path, _os_error(e, path))
            except SourceError as e:
                row = self.refuse(path, e)
            if row is not None:
                yield row

    def _take(self, path: str, entry: _Entry, level: _Level) -> PlannedFile | Refusal | None:
        """The row of an entry; None for a directory, which is entered. Raises OSError, SourceError."""
        if entry.error is not None:
            raise entry.error
        found = entry.target or entry.item.stat(follow_symlinks=False)
        if entry.directory:
            links = level.links + (entry.target is not None)
            self._check_enterable(path, found, links)
            self._enter(entry.item.path, path + "/", found, links, included=entry.included)
            return None
        if not stat.S_ISREG(found.st_mode):
            raise SourceError(Code.SOURCE_NOT_A_FILE, f"{_printable(path)!r} is {_kind(found.st_mode)}")
        return self.file(path, found)

    def file(self, path: str, found: os.stat_result) -> PlannedFile:
        """The plan's row of one regular file. Raises SourceError where its name cannot be a key."""
        self._check_key(path)
        self.seq += 1
        return PlannedFile(self.seq, path, key_below(self.destination, path), found.st_size, found.st_mtime_ns)

    def refuse(self, path: str, error: CloudPushError) -> Refusal:
        """The plan's row of what cannot be pushed."""
        self.seq += 1
        return Refusal(self.seq, _printable(path), error)

    def _enter(self, directory: str, path: str, found: os.stat_result, links: int, *, included: bool) -> None:
        entries = self._entries(directory, path, included=included)
        self.levels.append(_Level(path, (found.st_dev, found.st_ino), links, entries))

    def _check_enterable(self, path: str, found: os.stat_result, links: int) -> None:
        if (found.st_dev, found.st_ino) in [above.identity for above in self.levels]:
            raise SourceError(
                Code.SOURCE_NOT_A_FILE, f"{_printable(path)!r} is a symlink to a directory that contains it"
            )
        if links > _LINK_DEPTH:
            raise SourceError(
                Code.SOURCE_NOT_A_FILE,
                f"{_printable(path)!r} lies behind more than {_LINK_DEPTH} symlinked directories",
            )
        self._check_key(path + "/")  # whatever is in it has a longer key still

    def _check_key(self, path: str) -> None:
        key = key_below(self.destination, path)
        try:
            length = len(key.encode())
        except UnicodeEncodeError as e:
            raise SourceError(Code.NAME_NOT_A_KEY, f"{_printable(path)!r} is not UTF-8") from e
        if length > KEY_BYTES:
            raise SourceError(
                Code.NAME_NOT_A_KEY,
                f"{_printable(path)!r} makes a key of {length} bytes; at most {KEY_BYTES} are possible",
            )
        why = unstorable(self.destination.profile.dialect, key)
        if why:
            raise SourceError(Code.NAME_NOT_A_KEY, f"{_printable(path)!r} makes a key that {why}")

    def _entries(self, directory: str, path: str, *, included: bool) -> Iterator[_Entry]:
        """The entries of one directory, in runs that are sorted. Raises OSError."""
        with os.scandir(directory) as listing:
            while run := list(islice(listing, SORTED_ENTRIES)):
                # Most directories fit into one run, and their descriptor need not stay open while we go deeper.
                if len(run) < SORTED_ENTRIES:
                    listing.close()
                entries = [e for e in (self._judge(item, path, included=included) for item in run) if e is not None]
                del run
                entries.sort(key=lambda e: e.order, reverse=True)
                while entries:
                    yield entries.pop()

    def _judge(self, item: os.DirEntry[str], path: str, *, included: bool) -> _Entry | None:
        """The entry as symlinks and patterns make it; None where the patterns keep it out."""
        target: os.stat_result | None = None
        error: CloudPushError | None = None
        if item.is_symlink():
            try:
                target = self._target(item.path, path + item.name)
            except OSError as e:
                error = _os_error(e, path + item.name)
            except SourceError as e:
                error = e
            directory = target is not None and stat.S_ISDIR(target.st_mode)
        else:
            directory = item.is_dir(follow_symlinks=False)
        if self.include or self.exclude:
            segments = (path + item.name).split("/")
            if any(p.matches(segments, directory=directory) for p in self.exclude):
                return None
            included = included or any(p.matches(segments, directory=directory) for p in self.include)
            if not included and not directory:
                return None
        return _Entry(item, directory, included, target, error)

    def _target(self, link: str, path: str) -> os.stat_result:
        real = os.path.realpath(link, strict=True)
        if not is_below(real, self.roots):
            raise SourceError(
                Code.SOURCE_OUTSIDE_ROOTS, f"{_printable(path)!r} is a symlink that leaves the source roots"
            )
        return Path(real).lstat()


def _os_error(error: OSError, path: str) -> SourceError:
    """What the operating system said, as one of our codes."""
    shown = _printable(path) or "the source"
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return SourceError(Code.SOURCE_MISSING, f"{shown!r} does not exist, or is a symlink to nothing")
    if isinstance(error, PermissionError):
        return SourceError(Code.SOURCE_UNREADABLE, f"{shown!r} may not be read by the worker")
    return SourceError(Code.SOURCE_UNREADABLE, f"{shown!r} cannot be read: {error.strerror}")


def _kind(mode: int) -> str:
    for test, word in ((stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"), (stat.S_ISBLK, "a block device")):
        if test(mode):
            return word
    return "a device" if stat.S_ISCHR(mode) else "no regular file"


def _nameable(path: str) -> bool:
    """Whether a file system can hold such a name at all."""
    try:
        return b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        return False


def _printable(path: str) -> str:
    """``path`` as text that can be stored: bytes that are not UTF-8 become backslash escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")

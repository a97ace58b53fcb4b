"""The files of one ``send`` and the ways to send them.

One file: one ``operations/copyfile``. A few: the same in a ``job/batch``, where each has an error of its own. Many:
``sync/copy`` of a list, which takes a quarter less CPU but tells only *that* something failed; then those files are
sent once more, each for itself, to learn which. Lists are for S3 only: elsewhere rclone asks whether the list's directory
is a file, which a credential may not be allowed to know.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloudpush.errors import CloudPushError, Code, EngineError
from cloudpush.push.job import PlannedFile
from cloudpush.push.ports import Control
from cloudpush.transfer.flight import Flight
from cloudpush.transfer.names import standard
from cloudpush.transfer.rc import RcError
from cloudpush.transfer.remotes import SOURCE_REMOTE
from cloudpush.transfer.translate import WIDE, accepted

#: Up to so many files each is its own call: what that costs in CPU is little, and failures are known exactly.
EXACT = 100
#: From so many files on, the smallest goes ahead, if it is small. With an endpoint that is out of order each request is
#: repeated with growing pauses for all files together: many at once take minutes to fail, one takes no time.
SCOUTED = 3
SCOUT_BYTES = 1024 * 1024
#: The second time, what may have failed for being too much at once is sent by so many times fewer lanes.
GENTLY = 4

Failures = dict[int, CloudPushError]


@dataclass(frozen=True, slots=True)
class Batch:
    """``root``: what the files' paths are relative to. ``directory``: private, for lists of files."""

    flight: Flight
    control: Control
    root: Path
    directory: Path
    #: A directory of the bucket as rclone calls it (None: the bucket itself), with the configuration to send files there.
    bucket: Callable[[Sequence[PlannedFile], str | None], tuple[str, dict[str, Any]]]
    lists: bool = True  # whether many files may go as a list

    def send(self, files: Sequence[PlannedFile]) -> Failures:
        """Failures by ``seq``. Raises CloudPushError for what concerns all files, Cancelled, LeaseLost."""
        if len(files) == 1:
            return self._one(files[0])
        scout = min(files, key=lambda f: f.size)
        if len(files) < SCOUTED or scout.size > SCOUT_BYTES:
            return self._several(files, sent=0)
        failures = self._one(scout)
        for error in failures.values():
            if error.code.retryable:
                raise error
        rest = [f for f in files if f is not scout]
        return failures | self._several(rest, sent=1 - len(failures))

    def _several(self, files: Sequence[PlannedFile], *, sent: int) -> Failures:
        """``sent``: how many rclone has already counted."""
        return self._each(files) if len(files) <= EXACT or not self.lists else self._many(files, sent)

    def _one(self, file: PlannedFile) -> Failures:
        bucket, config = self.bucket([file], None)
        try:
            self._run("operations/copyfile", {**self._copy(file, bucket), "_config": config})
        except RcError as e:
            return self._failures([(file, e.text)])
        return {}

    def _each(self, files: Sequence[PlannedFile], *, lanes_by: int = 1) -> Failures:
        """Each file for itself, many at once."""
        bucket, config = self.bucket(files, None)
        inputs = [{"_path": "operations/copyfile", **self._copy(f, bucket)} for f in files]
        lanes = max(1, config["Transfers"] // lanes_by)
        try:
            answer = self._run("job/batch", {"inputs": inputs, "concurrency": lanes, "_config": config})
        except RcError as e:
            raise self.flight.words.error(e.text) from None
        results = zip(files, answer["results"], strict=True)
        return self._failures([(f, str(r["error"])) for f, r in results if "error" in r])

    def _many(self, files: Sequence[PlannedFile], sent: int) -> Failures:
        """Files with one base in one go, the others each for itself; likewise those of a list that failed."""
        base = _base(files[0])
        listed = [f for f in files if _base(f) == base] if base is not None else []
        if base is None or len(listed) <= EXACT:
            return self._each(files)
        if self._list(listed, base):
            failures = {} if self.flight.transferred() == sent + len(listed) else self._passed_over(listed)
        else:
            failures = self._each(listed, lanes_by=GENTLY)
        others = [f for f in files if _base(f) != base]
        return failures | self._each(others) if others else failures

    def _list(self, files: Sequence[PlannedFile], base: str) -> bool:
        """Send ``files`` by ``sync/copy``; whether it called that a success. Raises what concerns all files."""
        bucket, config = self.bucket(files, base)
        names = _write_list(self.directory, [standard(f.path) for f in files])
        try:
            self._run(
                "sync/copy",
                {
                    "srcFs": self._source,
                    "dstFs": bucket,
                    "_filter": {"FilesFromRaw": [str(names)]},
                    "_config": config,
                },
            )
        except RcError as e:
            error = self.flight.words.error(e.text)
            if error.code in WIDE:
                raise error from None
            return False
        finally:
            names.unlink(missing_ok=True)
        return True

    def _passed_over(self, files: Sequence[PlannedFile]) -> Failures:
        """Listed names that are no files any more: rclone passes over them in silence."""
        gone = [f for f in files if not (self.root / f.path).is_file()]
        return {f.seq: self.flight.words.error(self._why_gone(f), f.path) for f in gone}

    def _why_gone(self, file: PlannedFile) -> str:
        """What rclone says of a single file like this."""
        return "is a directory not a file" if (self.root / file.path).exists() else "object not found"

    def _failures(self, texts: Sequence[tuple[PlannedFile, str]]) -> Failures:
        """Errors by file. Raises the first that concerns all files."""
        failures = {f.seq: self.flight.words.error(text, f.path) for f, text in texts if not accepted(text)}
        for error in failures.values():
            if error.code in WIDE:
                raise error
        return failures

    def _run(self, path: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        return self.flight.run(path, parameters, self.control)

    def _copy(self, file: PlannedFile, bucket: str) -> dict[str, Any]:
        return {
            "srcFs": self._source,
            "srcRemote": standard(file.path),
            "dstFs": bucket,
            "dstRemote": standard(file.key),
        }

    @property
    def _source(self) -> str:
        return f"{SOURCE_REMOTE}:{standard(str(self.root))}"


def _base(file: PlannedFile) -> str | None:
    """What precedes the path in the key: empty, or with a trailing slash; None where the key is not of this form."""
    base = file.key.removesuffix(file.path)
    return None if base == file.key or (base and not base.endswith("/")) else base


def _write_list(directory: Path, paths: Sequence[str]) -> Path:
    """A new private file that names ``paths``, one a line. Raises EngineError."""
    path = directory / f"{secrets.token_hex(8)}.list"
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "w", encoding="utf-8", newline="\n") as file:  # noqa: PTH123 - a descriptor has no Path
            file.writelines(f"{p}\n" for p in paths)
    except OSError as e:
        path.unlink(missing_ok=True)
        full = e.errno in {errno.ENOSPC, errno.EDQUOT}
        code = Code.DISK_FULL if full else Code.ENGINE_CRASHED
        raise EngineError(code, f"A list of files cannot be written to {directory}: {e.strerror}.") from e
    return path

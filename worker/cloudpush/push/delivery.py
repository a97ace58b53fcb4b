"""One batch of files: skip what is there, send the rest, look at what arrived, say what it proves.

Nothing here decides about retries and nothing is written: the outcome is a value for each file.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cloudpush.errors import CloudPushError, Code, DestinationError, SourceError
from cloudpush.push.fingerprint import fingerprint, unchanged
from cloudpush.push.job import FileResult, Fingerprint, PlannedFile, Push, Secret, Seen
from cloudpush.push.ports import Control, Inspector, Session
from cloudpush.push.states import FileState, Overwrite, Strength

#: Below this many bytes in a batch, reading first and sending after is quicker than a second thread.
INLINE_BYTES = 4 * 1024 * 1024

Prints = dict[int, Fingerprint | CloudPushError]


class _SendingFailedError(Exception):
    """Ends the reading that goes on beside a sending that failed: nobody needs its digests any more."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """What the batches of one part have in common."""

    push: Push
    root: Path  # what the files' paths are relative to
    roots: Sequence[str]  # the source roots without symlinks: nothing outside them is ever read
    secret: Callable[[], Secret]  # the one that is valid now
    session: Session
    inspector: Inspector
    control: Control
    helpers: Executor
    now: Callable[[], datetime]

    def batch(self, files: Sequence[PlannedFile]) -> list[FileResult]:
        """Deal with ``files``; one result each, in no particular order.

        Raises CloudPushError where nothing of the batch can succeed, Cancelled, LeaseLost.
        """
        self.control.check()
        results, to_send, prints = self._what_is_there(files)
        if not to_send:
            return results
        failures = self._send(to_send, prints)
        arrived = [f for f in to_send if f.seq not in failures]
        seen = self._look(arrived)
        uploaded_at = self.now()
        results += [failed(f, failures[f.seq], prints.get(f.seq)) for f in to_send if f.seq in failures]
        results += [self._judge(f, prints[f.seq], s, uploaded_at) for f, s in zip(arrived, seen, strict=True)]
        return results

    # -- before sending ------------------------------------------------------------------

    def _what_is_there(self, files: Sequence[PlannedFile]) -> tuple[list[FileResult], list[PlannedFile], Prints]:
        if self.push.overwrite is Overwrite.ALWAYS:
            return [], list(files), {}
        seen = self.inspector.survey(self.push.destination, self.secret(), [f.key for f in files], self.control)
        results: list[FileResult] = []
        to_send: list[PlannedFile] = []
        prints: Prints = {}
        if self.push.overwrite is Overwrite.NEVER:
            seen = self._seen_closely(files, seen, prints)
        for f, s in zip(files, seen, strict=True):
            settled = self._settle(f, s, prints) if s.exists is not False else None
            if settled is None:
                to_send.append(f)
            else:
                results.append(settled)
        return results, to_send, prints

    def _seen_closely(self, files: Sequence[PlannedFile], seen: Sequence[Seen], prints: Prints) -> Sequence[Seen]:
        """``seen``, with a closer look at what would fail for want of proof: it may be an earlier attempt's own.

        A worker was killed after it had sent, and before that was on record. Where a provider tells no digest a survey
        proves nothing, a look may read back. What it calls checked as it came was not sent just now: that proves no more.
        """
        answers, unsure = list(seen), []
        for n, (f, s) in enumerate(zip(files, seen, strict=True)):
            if s.exists and s.size == f.size:
                found = prints[f.seq] = self._read(f, self.control.check)
                if not isinstance(found, CloudPushError):
                    unsure += [n] if Strength.NONE < self.inspector.strength(found, s) < Strength.CHECKSUM else []
        for n, s in zip(unsure, self._look([files[n] for n in unsure]), strict=True):
            answers[n] = s
        return answers

    def _settle(self, f: PlannedFile, seen: Seen, prints: Prints) -> FileResult | None:
        """The result for a file that need not, or must not, be sent; None to send it."""
        never = self.push.overwrite is Overwrite.NEVER
        if seen.exists is None:
            return failed(f, _cannot_tell(f, seen)) if never else None
        if seen.size == f.size:
            found = prints[f.seq] = prints.get(f.seq) or self._read(f, self.control.check)
            if isinstance(found, CloudPushError):
                return failed(f, found)
            strength = self.inspector.strength(found, seen)
            if strength >= Strength.CHECKSUM:
                enough = strength >= self.push.min_strength
                return FileResult(
                    f.seq,
                    FileState.SKIPPED if enough else FileState.UNVERIFIED,
                    strength,
                    sha256=found.sha256,
                    expected=found.md5_etag,
                    etag=seen.etag,
                    version_id=seen.version_id,
                    error=None if enough else _not_enough(f, seen, strength, self.push.min_strength),
                )
        if never:
            message = f"{f.key!r} is there already and not proved equal; overwrite=never keeps it."
            return failed(f, DestinationError(Code.OBJECT_EXISTS, message))
        return None

    # -- sending ---------------------------------------------------------------------------

    def _send(self, files: Sequence[PlannedFile], prints: Prints) -> dict[int, CloudPushError]:
        """Send and read at the same time: the provider's digest is compared with ours afterwards."""
        unread = [f for f in files if f.seq not in prints]
        if sum(f.size for f in unread) <= INLINE_BYTES:
            prints.update(self._read_all(unread, self.control.check))
            failures = dict(self.session.send(self.root, _readable(files, prints), self.control))
        else:
            failures = self._send_and_read(files, unread, prints)
        for f in files:
            found = prints[f.seq]
            if isinstance(found, CloudPushError):
                failures[f.seq] = found
        return failures

    def _send_and_read(
        self, files: Sequence[PlannedFile], unread: Sequence[PlannedFile], prints: Prints
    ) -> dict[int, CloudPushError]:
        failed = threading.Event()

        def check() -> None:
            self.control.check()
            if failed.is_set():
                raise _SendingFailedError

        reading = self.helpers.submit(lambda: dict(self._read_all(unread, check)))
        try:
            failures = dict(self.session.send(self.root, files, self.control))
        except BaseException:
            # A refused upload must not wait until a large file has been read to its end.
            failed.set()
            raise
        prints.update(reading.result())
        return failures

    def _read_all(
        self, files: Sequence[PlannedFile], check: Callable[[], None]
    ) -> Iterator[tuple[int, Fingerprint | CloudPushError]]:
        for f in files:
            yield f.seq, self._read(f, check)

    def _read(self, f: PlannedFile, check: Callable[[], None]) -> Fingerprint | CloudPushError:
        try:
            return fingerprint(self.root / f.path, f, self.session.piece_size(f.size), check, self.roots)
        except SourceError as e:
            return e

    # -- after sending -----------------------------------------------------------------------

    def _look(self, files: Sequence[PlannedFile]) -> Sequence[Seen]:
        if not files:
            return []
        return self.inspector.look(self.push.destination, self.secret(), [f.key for f in files], self.control)

    def _judge(
        self, f: PlannedFile, found: Fingerprint | CloudPushError, seen: Seen, uploaded_at: datetime
    ) -> FileResult:
        """What the answer of the destination makes of an upload that the engine called done."""
        if isinstance(found, CloudPushError):
            return failed(f, found)
        if seen.exists is None:
            # We may not look, or could not: all we have is that the upload was accepted.
            if seen.error is not None and seen.error.code.retryable:
                return failed(f, seen.error, found)
            if not unchanged(self.root / f.path, f):
                return failed(f, changed(f), found)
            return self._proved(f, found, seen, Strength.RESPONSE, uploaded_at)
        if not seen.exists:
            message = f"The upload of {f.key!r} was accepted, but the object is not there."
            return failed(f, DestinationError(Code.OBJECT_MISSING, message), found)
        strength = self.inspector.strength(found, seen)
        if not unchanged(self.root / f.path, f):
            # Even where what arrived is whole: it is not what the source holds now, so somebody is still writing.
            return failed(f, changed(f), found)
        if strength is Strength.NONE:
            message = (
                f"{f.key!r} differs from its source: expected {found.size} bytes with digest {found.md5_etag}, "
                f"the destination reports {seen.size} bytes with {seen.etag or 'none'}."
            )
            return failed(f, DestinationError(Code.CORRUPTED, message), found)
        return self._proved(f, found, seen, strength, uploaded_at)

    def _proved(
        self, f: PlannedFile, found: Fingerprint, seen: Seen, strength: Strength, uploaded_at: datetime
    ) -> FileResult:
        enough = strength >= self.push.min_strength
        return FileResult(
            f.seq,
            FileState.VERIFIED if enough else FileState.UNVERIFIED,
            strength,
            sha256=found.sha256,
            expected=found.md5_etag,
            etag=seen.etag,
            version_id=seen.version_id,
            uploaded_at=uploaded_at,
            error=None if enough else _not_enough(f, seen, strength, self.push.min_strength),
        )


def _readable(files: Sequence[PlannedFile], prints: Prints) -> list[PlannedFile]:
    return [f for f in files if not isinstance(prints[f.seq], CloudPushError)]


def failed(f: PlannedFile, error: CloudPushError, found: Fingerprint | CloudPushError | None = None) -> FileResult:
    """A failure. One that may pass, or waits for somebody, leaves the file planned: the next attempt takes it up."""
    known = found if isinstance(found, Fingerprint) else None
    return FileResult(
        f.seq,
        FileState.PLANNED if error.code.retryable or error.code.waits else FileState.FAILED,
        sha256=known.sha256 if known else None,
        expected=known.md5_etag if known else "",
        error=error,
    )


def changed(f: PlannedFile) -> SourceError:
    """``f`` is not what was planned any more."""
    return SourceError(Code.SOURCE_CHANGED, f"{f.path!r} changed while it was pushed.")


def _cannot_tell(f: PlannedFile, seen: Seen) -> CloudPushError:
    if seen.error is not None and seen.error.code.retryable:
        return seen.error
    return DestinationError(
        Code.ACCESS_DENIED,
        f"overwrite=never needs to know whether {f.key!r} exists, and the credential may not look.",
        detail=seen.error.detail if seen.error else "",
    )


def _not_enough(f: PlannedFile, seen: Seen, strength: Strength, demanded: Strength) -> CloudPushError:
    return not_enough(f, seen.error.message if seen.error else "", strength, demanded)


def not_enough(f: PlannedFile, why: str, strength: Strength, demanded: Strength) -> CloudPushError:
    """``f`` is there, but proved by less than the push demands. ``why``: in a few words, or empty."""
    why = f" ({why})" if why else ""
    return DestinationError(
        Code.NOT_VERIFIED,
        f"{f.key!r} is proved by {strength.word} only{why}; the push demands {demanded.word}.",
    )

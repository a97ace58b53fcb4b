"""Preflight: whether a credential reaches a destination, proved with a tiny object before any data moves.

::

    write     an object of some bytes, by the engine, as a push sends it
    head      looked at as a push looks: says how strongly this destination can prove
    delete    always tried, so that nothing stays; a failure only where deleting was wished
    abort     where wished: an upload in pieces is begun, and the engine finds and ends it

What was tried is a value, failures included; what could not even be tried (no secret, no engine) is raised.
"""

from __future__ import annotations

import secrets
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from cloudpush.errors import (
    Cancelled,
    CloudPushError,
    Code,
    ConsentRevoked,
    CredentialError,
    DestinationError,
    LeaseLost,
    VaultError,
)
from cloudpush.logs import get_logger
from cloudpush.push.fingerprint import fingerprint
from cloudpush.push.job import Destination, FileResult, Fingerprint, PlannedFile, Push, Secret
from cloudpush.push.keys import Key
from cloudpush.push.ports import Control, Inspector, Session
from cloudpush.push.states import Strength
from cloudpush.push.uris import key_below

log = get_logger(__name__)

WRITE, HEAD, DELETE, ABORT = "write", "head", "delete", "abort"
#: What a preflight does beside writing and looking, where it is wished.
WANTS = (DELETE, ABORT)
#: The name of a probe begins so; the push's id and the number of its attempt follow, so that the next one can clean up.
PROBE = ".cloudpush-preflight-"
#: Earlier attempts whose probe is deleted, too: each of them may have lost its worker.
CLEANED = 3
#: Seconds that tidying up may take.
TIDYING_SECONDS = 15.0
#: What the destination itself can explain better than the engine: asked once more, by the inspector.
_EXPLAINED = frozenset({Code.CLOCK_SKEW, Code.WRONG_REGION, Code.NO_SUCH_BUCKET})
#: What says nothing about the destination: whoever asked tries again, waits or stops.
_NOT_ITS_FAULT = (Cancelled, LeaseLost, ConsentRevoked, CredentialError, VaultError)


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was tried. ``ok`` with a ``code`` is a warning. ``strength``: of a ``head``, what it proves."""

    name: str
    ok: bool
    code: Code | None = None
    message: str = ""
    detail: str = ""
    ms: int = 0
    strength: str = ""

    def told(self) -> dict[str, Any]:
        """As JSON tells it: what is empty is left out."""
        words = {"code": self.code, "message": self.message, "detail": self.detail, "strength": self.strength}
        return {"name": self.name, "ok": self.ok, "ms": self.ms, **{k: str(v) for k, v in words.items() if v}}


@dataclass(frozen=True, slots=True)
class Report:
    """What a preflight found."""

    checks: tuple[Check, ...] = ()

    @property
    def error(self) -> CloudPushError | None:
        """Why pushes would fail there; None where they would not."""
        failed = next((check for check in self.checks if not check.ok), None)
        return DestinationError(failed.code or Code.INTERNAL, failed.message, detail=failed.detail) if failed else None


class Uploads(Protocol):
    """Begins uploads in pieces that nobody finishes."""

    def begin_upload(self, destination: Destination, secret: Secret, key: str, control: Control) -> str:
        """Its id; empty where the destination forgets unfinished uploads by itself. Raises DestinationError."""

    def erase(self, destination: Destination, secret: Secret, key: str, control: Control) -> bool:
        """Delete an object without looking at it; False where there is no such way. Raises DestinationError."""

    def end_upload(self, destination: Destination, secret: Secret, key: str, upload: str, control: Control) -> None:
        """Abort it; also where it is gone already. Raises DestinationError."""


class Looking(Inspector, Uploads, Protocol):
    """An inspector that can also begin uploads."""


class Visit(Protocol):
    """A destination, opened as a push would."""

    @property
    def key(self) -> Key:
        """What opens it."""

    @property
    def session(self) -> Session:
        """In the engine."""


#: Opens the destination of a push, or of what stands for one. Raises as ``Trip.set_out``.
Opening = Callable[[Push, str, Control], AbstractContextManager[Visit]]


class Preflight:
    """Tries destinations out. One instance a worker process; safe to use from several threads."""

    def __init__(self, inspector: Looking, opening: Mapping[str, Opening], scratch: Path | None = None) -> None:
        """``opening``: by kind of credential; what is not there has no preflight. ``scratch``: for the probe's file."""
        self._inspector = inspector
        self._opening = opening
        self._scratch = scratch

    def knows(self, kind: str) -> bool:
        """Whether there is a preflight with such credentials."""
        return kind in self._opening

    def run(self, push: Push, control: Control, wants: Collection[str] = ()) -> Report:
        """Try out where ``push`` goes with its credential, whose use is recorded by then.

        ``min_strength`` of the push is what a look must prove. Raises Cancelled, LeaseLost, ConsentRevoked, VaultError,
        CredentialError, and EngineError where there is no engine.
        """
        asks = replace(push, probe=True)
        group = f"{push.id.hex}-preflight-{secrets.token_hex(4)}"
        with (
            _probe(push.destination, _name(push, push.attempt), self._scratch) as (root, planned),
            self._opening[push.credential_kind](asks, group, control) as visit,
        ):
            attempt: list[_Attempt] = []
            before = range(max(1, push.attempt - CLEANED), push.attempt)
            left = [key_below(push.destination, _name(push, number)) for number in before]

            def deliver(_files: Sequence[PlannedFile]) -> list[FileResult]:
                attempt[:] = [_Attempt(self._inspector, push, visit, root, planned, frozenset(wants), left)]
                attempt[0].run()
                return []

            try:
                visit.key.used(deliver, [planned])
            except CloudPushError as e:
                if not attempt or isinstance(e, _NOT_ITS_FAULT) or e.code.waits:
                    raise
                attempt[0].broke_off(e)
            return Report(tuple(attempt[0].checks))


@dataclass
class _Attempt:
    inspector: Looking
    push: Push
    visit: Visit
    root: Path
    planned: PlannedFile
    wants: frozenset[str]
    left: Sequence[str]  # keys that earlier attempts may have left behind
    checks: list[Check] = field(default_factory=list)
    at: str = WRITE
    since: float = field(default_factory=time.monotonic)

    def run(self) -> None:
        """Raises what makes going on pointless; ``broke_off`` notes it."""
        self._begin(WRITE)
        found = fingerprint(self.root / self.planned.path, self.planned, None, self.visit.key.check)
        failures = self._send()
        if failures is not None:
            self._failed(failures)
            return
        self._done()
        try:
            self._look(found)
        finally:
            # Whatever the look met: what was written goes.
            at, since = self.at, self.since
            self._delete()
            self.at, self.since = at, since
        if ABORT in self.wants:
            self._abort()

    def broke_off(self, error: CloudPushError) -> None:
        """The step that was under way ended with ``error``."""
        if self.at not in {check.name for check in self.checks}:
            self._failed(error)

    # -- the steps -----------------------------------------------------------------------------

    def _send(self) -> CloudPushError | None:
        control = self.visit.key
        try:
            return self.visit.session.send(self.root, [self.planned], control).get(self.planned.seq)
        except DestinationError as e:
            if e.code is Code.CREDENTIAL_EXPIRED:
                raise
            return self._explained(e)

    def _explained(self, error: CloudPushError) -> CloudPushError:
        """``error`` in the destination's own words, where it has better ones: the right region, by how much a clock is off."""
        if error.code not in _EXPLAINED:
            return error
        try:
            self._seen()
        except DestinationError as e:
            return e if e.code in _EXPLAINED else error
        return error

    def _look(self, found: Fingerprint) -> None:
        self._begin(HEAD)
        seen = self._seen()
        demanded = self.push.min_strength
        if seen.exists is None:
            error = seen.error or DestinationError(Code.ACCESS_DENIED, "The destination does not tell what it has.")
            if error.code.retryable:
                self._failed(error)
                return
            strength = Strength.RESPONSE
            words = f"{error.message} So nothing but the answer to an upload proves it"
            if demanded <= Strength.RESPONSE:
                self._note(HEAD, Check(HEAD, ok=True, code=error.code, message=f"{words}.", strength=strength.word))
                return
            said = DestinationError(error.code, f"{words}; {demanded.word} is demanded.", detail=error.detail)
            self._failed(said)
            return
        strength = self.inspector.strength(found, seen)
        if not seen.exists:
            self._failed(DestinationError(Code.OBJECT_MISSING, "A probe was accepted, but it is not there."))
        elif strength is Strength.NONE:
            self._failed(DestinationError(Code.CORRUPTED, "What arrived of a probe is not what was sent."))
        elif strength < demanded:
            words = f"This destination proves objects by {strength.word} only; {demanded.word} is demanded."
            self._failed(DestinationError(Code.NOT_VERIFIED, words), strength.word)
        else:
            self._note(HEAD, Check(HEAD, ok=True, strength=strength.word, message=f"Proved by {strength.word}."))

    def _delete(self) -> None:
        self._begin(DELETE)
        key, wished = self.planned.key, DELETE in self.wants
        try:
            error = self.visit.session.remove([key], _Tidying()).get(key)
        except CloudPushError as e:
            error = e
        if error is not None and error.code is Code.ACCESS_DENIED:
            error = self._erased(key, error)
        if error is None:
            self._done()
            self._clean_up()
            return
        message = f"{error.message} The probe {key!r} stays behind: delete it yourself."
        log.warning("probe left behind", key=key, code=error.code)
        self._note(DELETE, Check(DELETE, ok=not wished, code=error.code, message=message, detail=error.detail))

    def _clean_up(self) -> None:
        """Probes of workers that were killed over them. Who may delete one may delete these; if not, they stay."""
        try:
            failures = self.visit.session.remove(self.left, _Tidying()) if self.left else {}
        except CloudPushError as e:
            failures = dict.fromkeys(self.left, e)
        for key, error in failures.items():
            log.warning("probe left behind", key=key, code=error.code)

    def _erased(self, key: str, error: CloudPushError) -> CloudPushError | None:
        """Why the probe stays, None where it does not. The engine looks before it deletes: who may not look may still delete."""
        destination, secret = self.push.destination, self.visit.key.secret()
        try:
            return None if self.inspector.erase(destination, secret, key, _Tidying()) else error
        except DestinationError:
            return error

    def _abort(self) -> None:
        self._begin(ABORT)
        destination, key, control = self.push.destination, f"{self.planned.key}-pieces", self.visit.key
        try:
            upload = self.inspector.begin_upload(destination, control.secret(), key, control)
        except DestinationError as e:
            self._failed(e)
            return
        if not upload:
            self._note(
                ABORT, Check(ABORT, ok=True, message="Nothing to abort: unfinished uploads vanish by themselves.")
            )
            return
        error: CloudPushError | None = None
        try:
            if not self.visit.session.abandon([key], _Tidying()):
                error = DestinationError(Code.ACCESS_DENIED, "The destination does not list an upload that was begun.")
        except CloudPushError as e:
            words = "The destination does not let this credential list or abort uploads."
            error = DestinationError(e.code, words, detail=e.detail) if e.code is Code.ACCESS_DENIED else e
        if error is None:
            self._done()
            return
        try:
            # Who may not list may still abort what they know the id of.
            self.inspector.end_upload(destination, control.secret(), key, upload, _Tidying())
        except DestinationError:
            error = DestinationError(
                error.code,
                f"{error.message} A begun upload to {key!r} stays behind: abort it yourself.",
                detail=error.detail,
            )
        self._failed(error)

    # -- pieces --------------------------------------------------------------------------------

    def _seen(self) -> Any:
        key = self.visit.key
        return self.inspector.look(self.push.destination, key.secret(), [self.planned.key], key)[0]

    def _begin(self, name: str) -> None:
        self.at, self.since = name, time.monotonic()

    def _done(self) -> None:
        self._note(self.at, Check(self.at, ok=True))

    def _failed(self, error: CloudPushError, strength: str = "") -> None:
        words = {"code": error.code, "message": error.message, "detail": error.detail, "strength": strength}
        self._note(self.at, Check(self.at, ok=False, **words))  # type: ignore[arg-type]

    def _note(self, name: str, check: Check) -> None:
        self.checks.append(replace(check, name=name, ms=round((time.monotonic() - self.since) * 1000)))


class _Tidying:
    """A Control for tidying up: goes on although its push is cancelled or lost, but not for ever."""

    def __init__(self) -> None:
        self._until = time.monotonic() + TIDYING_SECONDS

    def check(self) -> None:
        """See ``push.ports.Control``."""
        if time.monotonic() > self._until:
            raise DestinationError(Code.NETWORK, f"The destination gave no answer within {TIDYING_SECONDS:.0f} s.")


def _name(push: Push, attempt: int) -> str:
    """A file's name in each attempt: one that is still at work with another worker is not met."""
    return f"{PROBE}{push.id.hex}-{attempt}"


@contextmanager
def _probe(destination: Destination, name: str, scratch: Path | None) -> Iterator[tuple[Path, PlannedFile]]:
    """A directory of our own with the probe in it, and the probe as a file of a plan."""
    with tempfile.TemporaryDirectory(prefix="cloudpush-preflight-", dir=scratch) as directory:
        path = Path(directory) / name
        path.write_text(f"CloudPush was here to see whether it may write. {secrets.token_hex(16)}\n", encoding="utf-8")
        found = path.stat()
        yield Path(directory), PlannedFile(1, name, key_below(destination, name), found.st_size, found.st_mtime_ns)

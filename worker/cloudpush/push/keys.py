"""What opens the destination on one trip: a secret that stays, or one that is renewed before it ends.

A key is the trip's Control, too: where no further secret can be had, the trip is to stop, in mid-upload as well.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from datetime import datetime
from typing import Protocol

from cloudpush.errors import CloudPushError, Code, DestinationError, LeaseLost
from cloudpush.logs import get_logger, traceback_of
from cloudpush.push.delivery import failed
from cloudpush.push.grants.model import Pass
from cloudpush.push.job import FileResult, PlannedFile, Secret
from cloudpush.push.ports import Clock, Control, Session
from cloudpush.push.states import FileState

log = get_logger(__name__)

#: Seconds until a renewal that brought nothing is tried again: doubled each time, up to the second.
PAUSE, LONGEST_PAUSE = 1.0, 30.0
#: Seconds after which the renewer looks at the clock in any case: a machine that slept wakes up late.
LOOK = 60.0

Batch = Callable[[Sequence[PlannedFile]], list[FileResult]]


class Key(Control, Protocol):
    """Opens the destination for one trip. Thread-safe."""

    def secret(self) -> Secret:
        """The one that is valid now."""

    def kept_valid(self, session: Session) -> AbstractContextManager[None]:
        """While the context lasts ``session`` is given every further secret."""

    def used(self, deliver: Batch, files: Sequence[PlannedFile]) -> list[FileResult]:
        """The results of ``deliver(files)``, which uses ``secret``. Raises as it does."""


class FixedKey:
    """One secret for the whole trip: what is refused stays refused."""

    def __init__(self, secret: Secret, control: Control) -> None:
        self._secret = secret
        self.check = control.check

    def secret(self) -> Secret:
        """See :class:`Key`."""
        return self._secret

    def kept_valid(self, session: Session) -> AbstractContextManager[None]:  # noqa: ARG002 -- the protocol's
        """Nothing to do."""
        return nullcontext()

    def used(self, deliver: Batch, files: Sequence[PlannedFile]) -> list[FileResult]:
        """See :class:`Key`."""
        return deliver(files)


class RenewedKey:
    """The secret of a pass, minted anew when it is time by a thread of its own.

    A renewal that fails for a passing reason is tried again until the pass ends; then that reason ends the trip. One
    that fails for good (the consent is revoked, or needed anew) ends it at the next ``check``.
    """

    def __init__(self, mint: Callable[[Secret | None], Pass], control: Control, clock: Clock, name: str) -> None:
        """Mints the first pass. ``mint``: see ``push.grants.ports.Minter``; ``name``: of the push, for logs."""
        self._mint = mint
        self._control = control
        self._clock = clock
        self._name = name
        self._pass = mint(None)
        self._trouble: CloudPushError | None = None  # why there is no further one
        self._failures = 0
        self._session: Session | None = None
        self._minting = threading.Lock()

    def secret(self) -> Secret:
        """See :class:`Key`."""
        return self._pass.secret

    def check(self) -> None:
        """See ``push.ports.Control``."""
        self._control.check()
        trouble = self._trouble
        if trouble is not None and (_final(trouble) or self._over()):
            raise trouble

    # -- ahead of its end ----------------------------------------------------------------------

    @contextmanager
    def kept_valid(self, session: Session) -> Iterator[None]:
        """See :class:`Key`."""
        stop = threading.Event()
        self._session = session

        def renew() -> None:
            while not stop.wait(min(self.wait(), LOOK)):
                self.look()

        thread = threading.Thread(target=renew, name=f"renewer-{self._name[:8]}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            # Not joined: it may be waiting for a provider, and what it brings is nobody's any more.
            self._session = None
            stop.set()

    def wait(self) -> float:
        """Seconds until there is something to renew."""
        at = self._pass.renew_at
        if at is None or (self._trouble is not None and _final(self._trouble)):
            return LOOK
        pause = min(PAUSE * 2.0 ** (self._failures - 1), LONGEST_PAUSE) if self._failures else 0.0
        return max((at - self._clock.now()).total_seconds(), pause)

    def look(self) -> None:
        """Renew the pass where it is time."""
        at = self._pass.renew_at
        if at is None or self._clock.now() < at or (self._trouble is not None and _final(self._trouble)):
            return
        try:
            self._renew(None)
        except CloudPushError as e:
            log.warning("pass not renewed", push=self._name, code=e.code, error=e.message)
        except Exception as e:  # noqa: BLE001 -- without this thread the part dies of its pass's end
            self._trouble = CloudPushError(Code.INTERNAL, f"{type(e).__name__} while a pass was renewed.")
            log.error("pass not renewed", push=self._name, traceback=traceback_of(e))  # noqa: TRY400 -- it would show local variables

    def _renew(self, refused: Secret | None) -> None:
        """Have a further pass, and tell the session. Raises CloudPushError, which ``check`` may raise from then on."""
        with self._minting:
            if refused is not None and self._pass.secret.reveal() != refused.reveal():
                return  # another thread was quicker
            try:
                fresh = self._mint(refused)
            except CloudPushError as e:
                self._failures += 1
                self._trouble = e
                raise
            if fresh == self._pass:  # no other is to be had now: it lives on while it lives
                self._failures += 1
                self._trouble = self._trouble or _no_other()
                return
            known = self._pass.secret.reveal() == fresh.secret.reveal()
            self._pass, self._failures, self._trouble = fresh, 0, None
            session = self._session  # the trip may end meanwhile
            if session is not None and not known:
                self._hand_over(session, fresh.secret)

    def _hand_over(self, session: Session, secret: Secret) -> None:
        try:
            session.renew(secret)
        except CloudPushError as e:
            # What runs fails by itself, and is sent again with this one.
            log.warning("secret not handed over", push=self._name, code=e.code, error=e.message)

    def _over(self) -> bool:
        end = self._pass.expires_at
        return end is not None and end <= self._clock.now()

    # -- refused before its end ------------------------------------------------------------------

    def used(self, deliver: Batch, files: Sequence[PlannedFile]) -> list[FileResult]:
        """See :class:`Key`. What is refused as expired is delivered once more, with another secret.

        Where that is refused as well, the failure may pass: files stay planned, and nobody is told to add a credential.
        """
        used = self.secret()
        try:
            results = deliver(files)
        except CloudPushError as e:
            if not _expired(e):
                raise
            results, refused = [], list(files)
        else:
            again = {r.seq for r in results if r.error is not None and _expired(r.error)}
            refused = [f for f in files if f.seq in again]
            results = [r for r in results if r.seq not in again]
        if not refused:
            return results
        ends = None
        try:
            self._renew(used)
            self.check()
            ends = self._pass.expires_at
            return results + [self._passing(r, ends) for r in deliver(refused)]
        except CloudPushError as e:
            told = self._refused(e, ends) if _expired(e) else e
            if results and (told.code.retryable or told.code.waits) and not isinstance(told, LeaseLost):
                # What arrived did arrive; what did not is for another attempt, now or when its user has consented.
                return results + [failed(f, told) for f in refused]
            if told is e:
                raise
            raise told from e

    def _passing(self, result: FileResult, ends: datetime | None) -> FileResult:
        if result.error is None or not _expired(result.error):
            return result
        return replace(result, state=FileState.PLANNED, error=self._refused(result.error, ends))

    def _refused(self, error: CloudPushError, ends: datetime | None) -> CloudPushError:
        """``ends``: of what was used."""
        outlasted = ends is not None and ends <= self._clock.now()
        return DestinationError(
            Code.PROVIDER_UNAVAILABLE,
            "An upload took longer than what opens the destination lives; the operator can raise the provider's session_seconds."
            if outlasted
            else "The destination calls expired what the consent gave a moment ago.",
            detail=error.detail or error.message,
        )


def _expired(error: CloudPushError) -> bool:
    return error.code is Code.CREDENTIAL_EXPIRED


def _final(error: CloudPushError) -> bool:
    return not error.code.retryable


def _no_other() -> CloudPushError:
    return DestinationError(Code.PROVIDER_UNAVAILABLE, "The provider gave nothing that lives longer.")

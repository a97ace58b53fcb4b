"""One ``send`` under way: its calls to rclone, and the looking up from them while they last."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from cloudpush.errors import CloudPushError
from cloudpush.push.job import Progress
from cloudpush.push.ports import Control
from cloudpush.transfer.rc import RcError, RcGoneError
from cloudpush.transfer.rcd import Child
from cloudpush.transfer.translate import WIDE, Translator

#: Every how many looks rclone is asked whether it makes sense to go on. Most calls end before the first time.
ASK_EVERY = 3
#: After so many failures for passing reasons with no success between them, the rest is not tried now.
ENOUGH_FAILURES = 4
#: After a stop, how long the end of what is in flight is waited for. Requests are aborted at once; what may last is the
#: provider's answer to "forget the pieces".
STOP_SECONDS = 1.5


class Flight:
    """Calls in one group of rclone's statistics."""

    def __init__(self, child: Child, words: Translator, group: str) -> None:
        self.group = group
        self.words = words
        self.over = False
        self._child = child
        self._moment = Progress()
        self._sent = 0  # files, at the last look that saw more than before
        self._failed = 0  # at the same look

    @property
    def moment(self) -> Progress:
        """What it has brought; asks rclone while it is under way. What cannot be learnt now stays as it was."""
        if not self.over:
            with suppress(RcError, RcGoneError):
                found = _progress(self._statistics())
                if not self.over:
                    self._moment = found
        return self._moment

    def end(self, *, bytes_: int, files: int) -> None:
        """It is over and has brought so much."""
        self.over = True
        self._moment = Progress(bytes=bytes_, files=files)

    def transferred(self) -> int | None:
        """How many files rclone says it has sent; None if it does not say."""
        with suppress(RcError, RcGoneError):
            return int(self._statistics().get("transfers", 0))
        return None

    def run(self, path: str, parameters: Mapping[str, Any], control: Control) -> dict[str, Any]:
        """The result of a call that lasts.

        Raises RcError; and CloudPushError, with everything stopped: rclone has crashed, ``control`` says so, or what
        failed so far shows that nothing can succeed.
        """
        watch = _Watch(control.check, self._hopeless, self._stop)
        answer: dict[str, Any] = {}
        try:
            answer = self._child.rc.call_watched(path, {**parameters, "_group": self.group}, watch)
        except RcError:
            if watch.reason is None:
                raise
        except RcGoneError:
            if watch.reason is None:
                raise self._child.crashed() from None
        if watch.reason is not None:
            raise watch.reason
        return answer

    def _stop(self) -> None:
        with suppress(RcError, RcGoneError):
            self._child.rc.call("job/stopgroup", group=self.group)

    def _statistics(self) -> dict[str, Any]:
        return self._child.rc.call("core/stats", group=self.group, short=True)

    def _hopeless(self) -> CloudPushError | None:
        """The error that makes it pointless to go on; None while it makes sense."""
        try:
            found = self._statistics()
        except (RcError, RcGoneError):
            return None  # the call itself will say
        failed = int(found.get("errors") or 0)
        if not failed:
            return None
        error = self.words.error(str(found.get("lastError", "")))
        if error.code in WIDE:
            return error
        sent = int(found.get("transfers") or 0)
        if sent > self._sent:
            self._sent, self._failed = sent, failed
        # Each of them was tried several times, with pauses. Only what may pass: elsewhere another file may fare better.
        return error if failed - self._failed >= ENOUGH_FAILURES and error.code.retryable else None


class _Watch:
    """Looks up from a long call: is it still wanted, and does it still make sense. ``reason``: why it was stopped."""

    def __init__(
        self, check: Callable[[], None], hopeless: Callable[[], CloudPushError | None], stop: Callable[[], None]
    ) -> None:
        self.reason: CloudPushError | None = None
        self._check = check
        self._hopeless = hopeless
        self._stop = stop
        self._looks = 0

    def __call__(self) -> float | None:
        if self.reason is None:
            self.reason = self._why()
        if self.reason is None:
            return None
        # At every look: a call that had only just been sent may not have been there to be stopped.
        self._stop()
        return STOP_SECONDS

    def _why(self) -> CloudPushError | None:
        try:
            self._check()
        except CloudPushError as e:  # Cancelled, LeaseLost, ConsentRevoked, a secret that is not renewed
            return e
        self._looks += 1
        return self._hopeless() if self._looks % ASK_EVERY == 0 else None


def _progress(found: Mapping[str, Any]) -> Progress:
    eta = found.get("eta")
    return Progress(
        bytes=int(found.get("bytes") or 0),
        files=int(found.get("transfers") or 0),
        speed=float(found.get("speed") or 0.0),
        eta=None if eta is None else float(eta),
    )

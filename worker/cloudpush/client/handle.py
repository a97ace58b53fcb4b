"""A push that was submitted: wait for it, watch it, stop it, have its proof."""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload
from uuid import UUID

from cloudpush.client.answers import Event, File, Progress, Push, Resigned, read
from cloudpush.client.paging import pages
from cloudpush.client.stream import events
from cloudpush.client.transport import Transport
from cloudpush.errors import AccessError, CloudPushError, Code, InputError, SourceError

#: Streams tell that they are alive every ten seconds or so; one that was silent for so long is dead.
SILENCE_SECONDS = 30.0
#: When the patience of whoever waits ends before so long, questions are asked in place of a stream: they can be timed.
STREAM_WORTH_SECONDS = 15.0
#: Pauses between questions while there is no stream.
POLL_SECONDS, POLL_CAP_SECONDS = 0.25, 5.0
#: A server that is away for longer than so is not waited for any more; the push goes on all the same.
AWAY_SECONDS = 600.0
#: … and one that answers, with an error of its own.
DEFECT_SECONDS = 30.0

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Handle:
    """One push. ``created``: False where its idempotency key was known already; None for one that was only looked up.

    ``announced``: False where the broker was away: it goes out by itself. ``warnings``: what may go wrong, in sentences.
    """

    id: UUID
    created: bool | None = None
    announced: bool = True
    warnings: tuple[str, ...] = ()
    _transport: Transport = field(repr=False, compare=False, kw_only=True)

    # -- looking ---------------------------------------------------------------------------

    def show(self) -> Push:
        """Where it stands now."""
        return read(Push, self._transport.call("GET", self._path()).json)

    def files(self, *, state: str = "", q: str = "", limit: int = 1000) -> Iterator[File]:
        """Its files in order, page by page: those in a state, or with ``q`` in their path. ``limit``: of a page."""
        for row in pages(self._transport, self._path("/files"), {"state": state, "q": q}, limit):
            yield read(File, row)

    def events(self) -> Iterator[Event]:
        """Everything that happened to it, as the API orders it, page by page."""
        for row in pages(self._transport, self._path("/events"), {}, 1000):
            yield read(Event, row)

    def needs(self) -> Iterator[dict[str, Any]]:
        """The files that fresh URLs are needed for, and what arrived of each, as the API says; page by page."""
        return pages(self._transport, self._path("/needs"), {}, 1000)

    # -- waiting ---------------------------------------------------------------------------

    def wait(self, timeout: float | None = None, *, until_paused: bool = False) -> Push:
        """The push with its verdict, which need not be a success: see ``Push.check()``.

        ``until_paused``: also as soon as it waits for somebody to act. A connection that breaks is made anew, and a server
        that is away for up to ten minutes is waited for. Raises TimeoutError after ``timeout`` seconds (the push goes on).
        """
        for moment in self.follow(timeout):
            if isinstance(moment, Push) and (moment.final or (until_paused and moment.paused)):
                return moment
        raise TimeoutError(f"push {self.id} has no verdict after {timeout} s; it goes on")

    def progress(self, timeout: float | None = None) -> Iterator[Progress]:
        """How it gets on, until it has its verdict, which the last one's ``state`` tells. Raises TimeoutError."""
        state, last = "", None
        for moment in self.follow(timeout):
            if isinstance(moment, Push):
                state = moment.state
                made = progress_of(moment)
                if made != last:
                    yield made
                last = made
                if moment.final:
                    return
            else:
                last = moment if moment.state else Progress(**{**_fields(moment), "state": state})
                yield last
        raise TimeoutError(f"push {self.id} has no verdict after {timeout} s; it goes on")

    def follow(self, timeout: float | None = None) -> Iterator[Push | Progress]:
        """Everything that is heard of it, beginning with where it stands: a Push for each state, Progress in between.

        Ends after a final state, or after ``timeout`` seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        patience = _Patience()
        while True:
            heard = False
            try:
                push = self.show()
                patience.heard()
                yield push
                if push.final:
                    return
                if _left(deadline) > STREAM_WORTH_SECONDS:
                    for moment in self._stream(deadline):
                        heard = True
                        patience.heard()
                        yield moment
                        if isinstance(moment, Push) and moment.final:
                            return
            except CloudPushError as e:
                patience.bear(e)
            left = _left(deadline)
            if left <= 0:
                return
            self._transport.sleep(min(patience.pause(again=heard), left))

    def _stream(self, deadline: float | None) -> Iterator[Push | Progress]:
        """What one stream tells, until it ends or it is time to ask in its place. Raises CloudPushError."""
        try:
            with self._transport.open(
                self._path("/progress"),
                headers={"accept": "text/event-stream"},
                timeout=min(SILENCE_SECONDS, _left(deadline)),
            ) as pieces:
                for name, document in events(pieces):
                    if name == "state":
                        yield read(Push, document)
                    elif name == "progress":
                        yield read(Progress, {"state": "", **document})
                    if _left(deadline) <= STREAM_WORTH_SECONDS:
                        return
        except ValueError:
            return  # no stream of ours: questions do as well

    # -- acting ----------------------------------------------------------------------------

    def cancel(self) -> str:
        """Ask it to stop, which it does within seconds; its state now. Repeatable."""
        answer = self._transport.call("POST", self._path("/cancel"), repeatable=True).json
        return str(answer["state"])

    def retry(self) -> Handle:
        """Push again what did not succeed: a new push, or this one where it only waits for its next attempt. Repeatable."""
        answer = self._transport.call("POST", self._path("/retry"), repeatable=True).json
        return handle_of(self._transport, answer, self.id)

    def resign(self, rows: Iterable[Row]) -> Resigned:
        """Hand over fresh URLs, rows as in docs/signed-urls.md: it goes on where it stopped.

        Not repeated by itself where the connection breaks: look at ``needs()`` then.
        """
        answer = self._transport.call("POST", self._path("/resign"), body={"urls": list(rows)}, timeout=600.0)
        return read(Resigned, answer.json)

    # -- proof -----------------------------------------------------------------------------

    @overload
    def receipt(self, path: None = None, *, timeout: float | None = None) -> bytes: ...

    @overload
    def receipt(self, path: str | os.PathLike[str], *, timeout: float | None = None) -> Path: ...

    def receipt(self, path: str | os.PathLike[str] | None = None, *, timeout: float | None = None) -> bytes | Path:
        """Its signed receipt: the bytes, or the ``path`` that they were written to, whole or not at all.

        Waits for it, and so for the push's end. Raises TimeoutError after ``timeout`` seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        patience = _Patience()
        while True:
            try:
                if path is None:
                    with self.open_receipt() as pieces:
                        return b"".join(pieces)
                return self._save(Path(path))
            except CloudPushError as e:
                if e.code is Code.RECEIPT_PENDING:
                    patience.heard()
                    pause = max(patience.pause(), getattr(e, "retry_after", 0.0) if _left(deadline) > 5 else 0.0)
                else:
                    patience.bear(e)
                    pause = patience.pause()
            left = _left(deadline)
            if left <= 0:
                raise TimeoutError(f"push {self.id} has no receipt after {timeout} s")
            self._transport.sleep(min(pause, left))

    def open_receipt(self) -> AbstractContextManager[Iterator[bytes]]:
        """Its receipt in pieces, as they come. Raises InputError RECEIPT_PENDING where none is signed yet."""
        return self._transport.open(
            self._path("/receipt"), headers={"accept": "application/vnd.cloudpush.receipt+json, application/json"}
        )

    def _save(self, path: Path) -> Path:
        with self.open_receipt() as pieces:
            try:
                descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent or Path())
            except OSError as e:
                raise SourceError(
                    Code.SOURCE_UNREADABLE, f"path={str(path)!r} cannot be written: {e.strerror}.", field="path"
                ) from e
            try:
                with os.fdopen(descriptor, "wb") as out:
                    for piece in pieces:
                        out.write(piece)
                Path(name).replace(path)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise
        return path

    def _path(self, below: str = "") -> str:
        return f"/pushes/{self.id}{below}"


def handle_of(transport: Transport, answer: Mapping[str, Any], known: UUID | None = None) -> Handle:
    """The handle to what a submission was answered with; ``known``: the push that is meant where the answer has none."""
    push = answer.get("push")
    number = push.get("id") if isinstance(push, Mapping) else push or known
    return Handle(
        UUID(str(number)),
        answer.get("created"),
        answer.get("announced", True),
        tuple(answer.get("warnings") or ()),
        _transport=transport,
    )


def progress_of(push: Push) -> Progress:
    """How a push gets on, from where it stands."""
    return Progress(
        state=push.state,
        bytes=push.bytes_verified + push.sent_bytes,
        files=push.files_verified + push.files_skipped + push.sent_files,
        bytes_total=push.bytes_total,
        files_total=push.files_total,
        speed=push.speed,
        eta=push.eta_seconds,
    )


class _Patience:
    """How long a server that is away is waited for, and how often it is asked meanwhile."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: float | None = None
        self._pause = POLL_SECONDS

    def heard(self) -> None:
        """It answered."""
        self._since = None

    def bear(self, error: CloudPushError) -> None:
        """Go on although it did not answer; raises ``error`` where waiting is of no use, or was for long enough."""
        refused = isinstance(error, InputError | AccessError) and error.code not in (Code.NOT_FOUND, Code.RATE_LIMITED)
        if refused:
            raise error
        now = self._clock()
        self._since = now if self._since is None else self._since
        # A defect over there is no outage: it seldom goes away by itself.
        if now - self._since > (DEFECT_SECONDS if error.code is Code.INTERNAL else AWAY_SECONDS):
            raise error

    def pause(self, *, again: bool = False) -> float:
        """Seconds until it is asked again; ``again``: short ones from here on, as something was heard."""
        if again:
            self._pause = POLL_SECONDS
        pause = self._pause
        self._pause = min(self._pause * 1.5, POLL_CAP_SECONDS)
        return pause * random.uniform(0.75, 1.0)  # noqa: S311 -- spreads questions, guards nothing


def _left(deadline: float | None) -> float:
    return float("inf") if deadline is None else deadline - time.monotonic()


def _fields(value: Progress) -> dict[str, Any]:
    return {name: getattr(value, name) for name in ("bytes", "files", "bytes_total", "files_total", "speed", "eta")}

"""A transfer engine in memory: a bucket that files are read into, and failures on demand."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cloudpush.errors import CloudPushError, Code, DestinationError, EngineError, SourceError
from cloudpush.push.job import Destination, PlannedFile, Progress, Secret
from cloudpush.push.ports import Control, Engine, Session


@dataclass
class FakeEngine(Engine):
    """Stores what is sent in ``objects``.

    ``bucket``: the only one that exists. ``accepts``: judges the secret. ``refused``: errors by key. ``error``: raised by
    every send. ``absent``: rclone cannot be started. ``before``: called before each file is read. ``sends``: the keys of
    each send. ``sessions``: groups that are open.
    """

    bucket: str
    objects: dict[str, bytes] = field(default_factory=dict)
    accepts: Callable[[Secret], bool] = lambda secret: True
    refused: dict[str, CloudPushError] = field(default_factory=dict)
    error: CloudPushError | None = None
    absent: bool = False
    before: Callable[[PlannedFile], None] = lambda file: None
    sends: list[list[str]] = field(default_factory=list)
    sessions: set[str] = field(default_factory=set)
    renewed: list[Secret] = field(default_factory=list)  # what sessions were given later
    kept: set[str] = field(default_factory=set)  # keys that may not be deleted; the empty one: none may be
    pieces_of: int | None = None  # bytes; None: everything goes in one request
    lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def open(self, destination: Destination, secret: Secret, group: str) -> Iterator[Session]:
        if self.absent:
            raise EngineError(Code.ENGINE_MISSING, "rclone is not there.")
        with self.lock:
            assert group not in self.sessions, "a group names one session"
            self.sessions.add(group)
        try:
            yield FakeSession(self, destination, secret)
        finally:
            self.sessions.discard(group)


@dataclass
class FakeSession(Session):
    """Reads each file when it is sent, as an engine does."""

    engine: FakeEngine
    destination: Destination
    secret: Secret
    sent: Progress = field(default_factory=Progress)

    def piece_size(self, size: int) -> int | None:
        piece = self.engine.pieces_of
        return piece if piece is not None and size >= piece else None

    def send(self, root: Path, files: Sequence[PlannedFile], control: Control) -> Mapping[int, CloudPushError]:
        control.check()
        if not files:
            return {}
        self.engine.sends.append([f.key for f in files])
        if self.engine.error is not None:
            raise self.engine.error
        if self.destination.bucket != self.engine.bucket:
            raise DestinationError(Code.NO_SUCH_BUCKET, f"The bucket {self.destination.bucket!r} does not exist.")
        if not self.engine.accepts(self.secret):
            raise DestinationError(Code.BAD_SIGNATURE, "The key is wrong.")
        failures: dict[int, CloudPushError] = {}
        for file in files:
            control.check()
            error = self._send(root, file)
            if error is not None:
                failures[file.seq] = error
        return failures

    def _send(self, root: Path, file: PlannedFile) -> CloudPushError | None:
        if file.key in self.engine.refused:
            return self.engine.refused[file.key]
        self.engine.before(file)
        try:
            data = (root / file.path).read_bytes()
        except OSError:
            return SourceError(Code.SOURCE_MISSING, f"{file.path!r} vanished after it was planned.")
        with self.engine.lock:
            self.engine.objects[file.key] = data
            self.sent = Progress(self.sent.bytes + len(data), self.sent.files + 1)
        return None

    def renew(self, secret: Secret) -> None:
        self.secret = secret
        self.engine.renewed.append(secret)

    def abandon(self, keys: Sequence[str], control: Control) -> int:
        control.check()
        return 0  # nothing is ever half sent here

    def remove(self, keys: Sequence[str], control: Control) -> Mapping[str, CloudPushError]:
        control.check()
        failures: dict[str, CloudPushError] = {}
        for key in keys:
            if key in self.engine.kept or "" in self.engine.kept:
                failures[key] = DestinationError(Code.ACCESS_DENIED, f"{key!r} may not be deleted.")
            else:
                self.engine.objects.pop(key, None)
        return failures

    def progress(self) -> Progress:
        return self.sent

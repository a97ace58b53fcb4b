"""One destination, opened with one secret: remotes in rclone's memory that live as long as the session."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from cloudpush.errors import CloudPushError
from cloudpush.push.job import PlannedFile, Progress
from cloudpush.push.ports import Control, Session
from cloudpush.transfer.batch import Batch
from cloudpush.transfer.flight import Flight
from cloudpush.transfer.names import standard
from cloudpush.transfer.rc import RcError, RcGoneError
from cloudpush.transfer.rcd import Child
from cloudpush.transfer.remotes import CUTOFF, DESTINATION_TYPE, QUIETLY, piece_size
from cloudpush.transfer.translate import Translator


class RcloneSession(Session):
    """``push.ports.Session``. Thread-safe."""

    def __init__(
        self,
        *,
        child: Child,
        directory: Path,
        bucket: str,
        options: Mapping[str, str],
        config: Mapping[str, Any],
        group: str,
        words: Translator,
    ) -> None:
        """``options``: of the remote, the secret among them; ``config``: of every call that moves bytes."""
        self._child = child
        self._directory = directory
        self._bucket = bucket
        self._options = dict(options)
        self._config = dict(config)
        self._lanes = int(config["Transfers"])
        self._group = group
        self._words = words
        self._name = f"s{secrets.token_hex(8)}"
        self._lock = threading.Lock()
        self._remotes: set[str] = set()
        self._numbers = count(1)
        self._flights: list[Flight] = []

    def __repr__(self) -> str:
        return f"<RcloneSession {self._group} to {self._bucket}>"

    def piece_size(self, size: int) -> int | None:
        """See ``push.ports.Session``."""
        return piece_size(size)

    def send(self, root: Path, files: Sequence[PlannedFile], control: Control) -> Mapping[int, CloudPushError]:
        """See ``push.ports.Session``."""
        control.check()
        if not files:
            return {}
        with self._flight() as flight:
            failures = Batch(flight, control, root, self._directory, self._destination).send(files)
            sent = [f.size for f in files if f.seq not in failures]
            flight.end(bytes_=sum(sent), files=len(sent))
        return failures

    def progress(self) -> Progress:
        """See ``push.ports.Session``. Never raises."""
        with self._lock:
            flights = list(self._flights)
        moments = [f.moment for f in flights]
        etas = [m.eta for m in moments if m.eta is not None]
        return Progress(
            bytes=sum(m.bytes for m in moments),
            files=sum(m.files for m in moments),
            speed=sum(m.speed for m in moments),
            eta=max(etas, default=None),
        )

    def abandon(self, keys: Sequence[str], control: Control) -> int:
        """Make the destination forget the pieces of unfinished uploads to exactly these ``keys``; how many uploads.

        Needed only after rclone was killed: one that fails or is stopped tidies up itself. Repeatable. An upload to
        the same key by somebody else is forgotten too. Raises CloudPushError where the credential may not list or
        abort uploads, and what ``send`` raises for all files at once.
        """
        forgotten = 0
        for key in sorted(keys, key=len, reverse=True):
            control.check()
            root = f"{self._remote(keep=False)}{self._bucket}/{standard(key)}/"
            uploads = self._uploads(root)
            # The answer is for every key that begins so, and aborting is not by key: leave what would hit others. Our
            # own longer keys have had their turn.
            if uploads and all(found == key for found in uploads):
                self._call("backend/command", command="cleanup", fs=root, opt={"max-age": "0s"}, _config=self._config)
                forgotten += len(uploads)
        return forgotten

    def close(self) -> None:
        """Forget the secret. Repeatable."""
        with self._lock:
            names, flights = sorted(self._remotes), list(self._flights)
            self._remotes.clear()
        forget: list[dict[str, Any]] = [{"_path": "core/stats-delete", "group": flight.group} for flight in flights]
        for name in names:
            # Deleting a remote leaves what was made of it in rclone's cache; changing it empties the cache.
            without: dict[str, Any] = {"parameters": {"secret_access_key": ""}, "opt": QUIETLY}
            forget += [
                {"_path": "config/update", "name": name, **without},
                {"_path": "config/delete", "name": name},
            ]
        self._options.clear()
        if forget:
            # If rclone is gone, so is what it knew.
            with suppress(RcGoneError, RcError):
                self._child.rc.call("job/batch", concurrency=1, inputs=forget)

    @contextmanager
    def _flight(self) -> Iterator[Flight]:
        flight = Flight(self._child, self._words, f"{self._group}/{next(self._numbers)}")
        with self._lock:
            self._flights.append(flight)
        try:
            yield flight
        finally:
            flight.over = True

    def _destination(self, files: Sequence[PlannedFile]) -> tuple[str, dict[str, Any]]:
        """The bucket as rclone calls it, and the configuration to send ``files`` there with. Raises CloudPushError."""
        # Idle connections stay open for a minute after the session and nothing closes them before. Where each
        # is used for one request anyway, none is kept.
        keep = len(files) > self._lanes or any(f.size >= CUTOFF for f in files)
        config = self._config if keep else self._config | {"DisableHTTPKeepAlives": True}
        return self._remote(keep=keep) + self._bucket, config

    def _remote(self, *, keep: bool) -> str:
        """The remote's name with its colon; made when it is first asked for.

        There may be two, since a remote's connections are configured once: to be kept, or not.
        """
        name = f"{self._name}{'k' if keep else ''}"
        with self._lock:
            if name not in self._remotes:
                # Before the answer: what may have been made has to be deleted.
                self._remotes.add(name)
                self._call("config/create", name=name, type=DESTINATION_TYPE, parameters=self._options, opt=QUIETLY)
        return f"{name}:"

    def _uploads(self, root: str) -> list[str]:
        """The key of each unfinished upload below ``root``."""
        answer = self._call("backend/command", command="list-multipart-uploads", fs=root, _config=self._config)
        found = answer.get("result") or {}
        return [str(upload.get("Key")) for uploads in found.values() for upload in uploads or []]

    def _call(self, path: str, **parameters: Any) -> dict[str, Any]:
        try:
            return self._child.rc.call(path, **parameters)
        except RcError as e:
            raise self._words.error(e.text) from None
        except RcGoneError:
            raise self._child.crashed() from None

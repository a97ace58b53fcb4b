"""One destination, opened with one secret: remotes in rclone's memory that live as long as the session."""

from __future__ import annotations

import re
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from cloudpush.errors import CloudPushError, Code, DestinationError
from cloudpush.push.job import PlannedFile, Progress, Secret
from cloudpush.push.ports import Control, Session
from cloudpush.transfer.batch import Batch
from cloudpush.transfer.flight import Flight
from cloudpush.transfer.names import standard
from cloudpush.transfer.rc import RcError, RcGoneError
from cloudpush.transfer.rcd import Child
from cloudpush.transfer.remotes import CUTOFF, QUIETLY, Backend
from cloudpush.transfer.translate import Translator

#: rclone's words for an object that is not there.
_GONE = re.compile(r"object not found|directory not found")
#: Secrets of a session that are masked: the newest, each of up to three strings. Older ones have ended.
MASKED = 24


class RcloneSession(Session):
    """``push.ports.Session``. Thread-safe."""

    def __init__(
        self,
        *,
        child: Child,
        directory: Path,
        backend: Backend,
        bucket: str,
        options: Mapping[str, str],
        config: Mapping[str, Any],
        group: str,
        check: Callable[[Secret], None],
        words: Translator,
    ) -> None:
        """``options``: of the remote, the secret among them; ``config``: of every call that moves bytes.

        ``check``: raises InputError for a further secret that leads elsewhere.
        """
        self._child = child
        self._directory = directory
        self._backend = backend
        self._check = check
        self._bucket = bucket
        self._options = dict(options)
        self._config = dict(config)
        self._lanes = int(config["Transfers"])
        self._group = group
        self._words = words
        self._name = f"s{secrets.token_hex(8)}"
        self._lock = threading.Lock()
        self._remotes: dict[str, int] = {}  # name → the number of the secret that it was made with
        self._opened: dict[str, dict[str, Any]] = {}  # what uploads go to, as rclone calls it → the configuration
        self._secret = 0  # number of the present one
        self._closed = False
        self._numbers = count(1)
        self._flights: list[Flight] = []

    def __repr__(self) -> str:
        return f"<RcloneSession {self._group} to {self._bucket}>"

    def piece_size(self, size: int) -> int | None:
        """See ``push.ports.Session``."""
        return self._backend.piece_size(size)

    def send(self, root: Path, files: Sequence[PlannedFile], control: Control) -> Mapping[int, CloudPushError]:
        """See ``push.ports.Session``."""
        control.check()
        if not files:
            return {}
        with self._flight() as flight:
            batch = Batch(flight, control, root, self._directory, self._destination, lists=self._backend.lists)
            failures = batch.send(files)
            sent = [f.size for f in files if f.seq not in failures]
            flight.end(bytes_=sum(sent), files=len(sent))
        return failures

    def renew(self, secret: Secret) -> None:
        """See ``push.ports.Session``. After ``close`` nothing happens.

        S3: every destination that this session has opened is told; uploads under way use the same. Others: the
        configuration is changed. Uploads under way look there once what they have ends (Google) or never (Azure), new
        ones at once, since a remote that is changed is made anew.
        """
        self._check(secret)
        opens = self._backend.opens(secret)
        with self._lock:
            if self._closed:
                return
            self._options.update(opens)
            self._secret += 1
            masked = tuple(s for s in self._backend.masked(secret) if s)
            self._words = replace(
                self._words, secrets=(self._words.secrets + masked)[-MASKED:], ends=self._backend.ends(secret)
            )
            for flight in self._flights:
                # What is under way may use what it began with: once that ends, a refusal is about that.
                ends = self._words.ends if self._backend.sets else flight.words.ends
                flight.words = replace(self._words, ends=ends)
            if self._backend.sets:
                for fs, config in self._opened.items():
                    self._set(fs, opens, config)
            else:
                for name in self._remotes:
                    self._call("config/update", name=name, parameters=opens, opt=QUIETLY)

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

        Google and Azure forget them by themselves, after a week: 0. Needed only after rclone was killed: one that fails or is stopped tidies up itself. Repeatable. An upload to
        the same key by somebody else is forgotten too. Raises CloudPushError where the credential may not list or
        abort uploads, and what ``send`` raises for all files at once.
        """
        forgotten = 0
        control.check()
        if not self._backend.abandons:
            return 0
        for key in sorted(keys, key=len, reverse=True):
            control.check()
            root = self._open(f"{self._bucket}/{standard(key)}/", self._config, keep=False, lasting=False)
            uploads = self._uploads(root)
            # The answer is for every key that begins so, and aborting is not by key: leave what would hit others. Our
            # own longer keys have had their turn.
            if uploads and all(found == key for found in uploads):
                self._call("backend/command", command="cleanup", fs=root, opt={"max-age": "0s"}, _config=self._config)
                forgotten += len(uploads)
        return forgotten

    def remove(self, keys: Sequence[str], control: Control) -> Mapping[str, CloudPushError]:
        """See ``push.ports.Session``. rclone looks at an object before it deletes it: who may not look may not delete."""
        failures: dict[str, CloudPushError] = {}
        for key in keys:
            directory, _, name = standard(key).rpartition("/")
            with self._flight() as flight:
                control.check()
                fs = self._open(f"{self._bucket}/{directory}/", self._config, keep=False, lasting=False)
                try:
                    flight.run("operations/deletefile", {"fs": fs, "remote": name, "_config": self._config}, control)
                except RcError as e:
                    if not _GONE.search(e.text):
                        failures[key] = _not_deleted(key, flight.words.error(e.text, key))
        return failures

    def close(self) -> None:
        """Forget the secret. Repeatable."""
        with self._lock:
            names, flights = sorted(self._remotes), list(self._flights)
            forgotten = dict.fromkeys(self._backend.secrets, "")
            self._remotes.clear()
            self._opened.clear()
            self._closed = True
        forget: list[dict[str, Any]] = [{"_path": "core/stats-delete", "group": flight.group} for flight in flights]
        for name in names:
            # Deleting a remote leaves what was made of it in rclone's cache; changing it empties the cache.
            without: dict[str, Any] = {"parameters": forgotten, "opt": QUIETLY}
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
        with self._lock:
            flight = Flight(self._child, self._words, f"{self._group}/{next(self._numbers)}")
            self._flights.append(flight)
        try:
            yield flight
        finally:
            flight.over = True

    def _destination(self, files: Sequence[PlannedFile], base: str | None) -> tuple[str, dict[str, Any]]:
        """The bucket, or ``base`` in it, as rclone calls it, and the configuration to send ``files`` there with.

        Raises CloudPushError.
        """
        # Idle connections stay open for a minute after the session and nothing closes them before. Where each
        # is used for one request anyway, none is kept.
        keep = not self._backend.own_connections or len(files) > self._lanes or any(f.size >= CUTOFF for f in files)
        config = self._config if keep else self._config | {"DisableHTTPKeepAlives": True}
        # With its trailing slash rclone does not ask whether a directory is a file.
        path = self._bucket if base is None else f"{self._bucket}/{standard(base)}"
        return self._open(path, config, keep=keep), config

    def _open(self, path: str, config: dict[str, Any], *, keep: bool, lasting: bool = True) -> str:
        """``path`` with its remote as rclone calls it, opened by the present secret.

        ``lasting``: uploads go there, so that further secrets are told to it.
        """
        name = self._remote(keep=keep)
        fs = f"{name}:{path}"
        with self._lock:
            if fs not in self._opened:
                if self._backend.sets and self._remotes.get(name, self._secret) < self._secret:
                    self._set(fs, {option: self._options[option] for option in self._backend.secrets}, config)
                if lasting:
                    self._opened[fs] = config
        return fs

    def _set(self, fs: str, opens: Mapping[str, str], config: Mapping[str, Any]) -> None:
        self._call("backend/command", command="set", fs=fs, opt=opens, _config=config)

    def _remote(self, *, keep: bool) -> str:
        """The remote's name; made when it is first asked for.

        There may be two, since a remote's connections are configured once: to be kept, or not.
        """
        name = f"{self._name}{'k' if keep else ''}"
        with self._lock:
            if name not in self._remotes:
                # Before the answer: what may have been made has to be deleted.
                self._remotes[name] = self._secret
                made = {"type": self._backend.type, "parameters": self._options}
                self._call("config/create", name=name, **made, opt=QUIETLY)
        return name

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


def _not_deleted(key: str, error: CloudPushError) -> CloudPushError:
    """The words of a refusal are those of an upload."""
    if error.code is not Code.ACCESS_DENIED:
        return error
    words = f"The destination does not let this credential delete {key!r}."
    return DestinationError(error.code, words, detail=error.detail)

"""The worker's side of the scribe: the process that refreshes tokens and outlives its worker.

Between a provider's answer and the write to Vault the new tokens are nowhere but in memory, and with a provider that rotates
the old ones are dead. Workers are killed: for taking too much memory, by a deployment, by an impatient operator. So refreshes
happen in a child (``cloudpush.scribe``) in a session of its own, that is not told when its worker dies and ends by itself when
nobody asks any more and nothing is under way.

::

    to it     settings as JSON (one line), then {"id": 7, "grant": UUID, "seen": 4} a line
    from it   {"ready": true}, then {"id": 7, "ok": true} or {"id": 7, "code": CODE, "message": WORDS} a line

Ids and words only: tokens never pass here. Settings go through the pipe since a command line and an environment can be read by
others of the same account, and one of them may be a password of Postgres.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import Future
from contextlib import suppress
from itertools import count
from typing import IO
from uuid import UUID

from cloudpush.errors import (
    CloudPushError,
    Code,
    ConsentRevoked,
    CredentialError,
    InputError,
    StoreError,
    VaultError,
)
from cloudpush.logs import get_logger, redact
from cloudpush.settings import PREFIX, Settings

log = get_logger(__name__)

MODULE = "cloudpush.scribe"
#: Longer than any refresh takes that does end: the lock, Vault, the provider, Vault again, Postgres.
ANSWER_SECONDS = 300.0
#: How long `close` waits for what is under way; the scribe goes on without us.
CLOSE_SECONDS = 5.0
_KINDS: dict[Code, type[CloudPushError]] = {
    Code.CONSENT_NEEDED: CredentialError,
    Code.CREDENTIAL_PURGED: CredentialError,
    Code.CREDENTIAL_CORRUPT: CredentialError,
    Code.VAULT_SEALED: VaultError,
    Code.VAULT_UNREACHABLE: VaultError,
    Code.VAULT_DENIED: VaultError,
    Code.DATABASE_UNREACHABLE: StoreError,
    Code.DATABASE_SCHEMA: StoreError,
    Code.UNKNOWN_PROVIDER: InputError,
}


class _Life:
    """One life of the child: its pipes, and who waits for which answer."""

    def __init__(self, settings: Settings) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None,  # our own log
            env={name: value for name, value in os.environ.items() if not name.startswith(PREFIX)},
            start_new_session=True,
        )
        self._lock = threading.Lock()
        self._waiting: dict[int, Future[None]] | None = {}
        threading.Thread(target=self._read, name="scribe", daemon=True).start()
        self._write(settings.model_dump_json())

    def ask(self, number: int, grant_id: UUID, seen: int) -> Future[None]:
        """What the child will say. Raises OSError where it is gone."""
        future: Future[None] = Future()
        with self._lock:
            if self._waiting is None:
                raise BrokenPipeError
            self._waiting[number] = future
        self._write(json.dumps({"id": number, "grant": str(grant_id), "seen": seen}))
        return future

    def hang_up(self) -> None:
        """Ask nothing any more: it ends when it has done what it was asked. Never raises."""
        with suppress(OSError), self._lock:
            if self.process.stdin is not None:
                self.process.stdin.close()

    def _write(self, line: str) -> None:
        pipe: IO[bytes] | None = self.process.stdin
        assert pipe is not None  # noqa: S101 -- it was asked for
        with self._lock:
            try:
                pipe.write(line.encode() + b"\n")
                pipe.flush()
            except ValueError:  # closed by us
                raise BrokenPipeError from None

    def _read(self) -> None:
        """Hand out answers until it ends; whoever waits then is told that it did."""
        pipe: IO[bytes] | None = self.process.stdout
        assert pipe is not None  # noqa: S101 -- it was asked for
        with pipe:
            for line in pipe:
                self._answer(line)
        status = self.process.wait()
        with self._lock:
            waiting, self._waiting = self._waiting or {}, None
        if waiting or status:
            log.warning("scribe.ended", status=status, waiting=len(waiting))
        for future in waiting.values():
            future.set_exception(_gone(f"with status {status}"))

    def _answer(self, line: bytes) -> None:
        try:
            said = json.loads(line)
            number = said.get("id")
        except (ValueError, AttributeError):
            log.warning("scribe.babble", line=redact(line.decode(errors="replace"), limit=200))
            return
        with self._lock:
            future = self._waiting.pop(number, None) if self._waiting is not None else None
        if future is None:
            return  # the greeting, or for somebody who did not wait
        if said.get("ok"):
            future.set_result(None)
        else:
            future.set_exception(_error(str(said.get("code")), str(said.get("message", ""))))


class Scribe:
    """Implements ``push.grants.ports.Renewing``. Thread-safe. The child is started when it is first needed, and again."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._life: _Life | None = None
        self._numbers = count(1)

    @property
    def pid(self) -> int | None:
        """The child's process id; None where there is none just now."""
        life = self._life
        return life.process.pid if life is not None and life.process.poll() is None else None

    def start(self) -> None:
        """Start the child ahead of its first task. Raises CloudPushError WORKER_LOST."""
        self._alive()

    def refresh(self, grant_id: UUID, seen: int) -> None:
        """See :meth:`push.grants.refresh.Refresher.refresh`; WORKER_LOST too where the child died: another is started then."""
        life = self._alive()
        try:
            future = life.ask(next(self._numbers), grant_id, seen)
        except OSError:
            life = self._alive()  # it died since the last one
            try:
                future = life.ask(next(self._numbers), grant_id, seen)
            except OSError:
                future = Future()
                future.set_exception(_gone("at once"))
        try:
            error = future.exception(timeout=ANSWER_SECONDS)
        except TimeoutError:
            self._leave(life)
            error = CloudPushError(Code.WORKER_LOST, "The refresh of a token takes too long; it is looked for again.")
        if error is not None:
            raise error

    def _leave(self, life: _Life) -> None:
        """Ask another child from now on: this one hangs. It is not killed, since it may have the only tokens in hand."""
        with self._lock:
            if self._life is not life:
                return
            self._life = None
        log.error("scribe.hangs", pid=life.process.pid)
        # By another thread: one that asks may be held up at the pipe of a child that reads no more.
        threading.Thread(target=life.hang_up, name="scribe-left", daemon=True).start()

    def close(self) -> None:
        """Let the child end when it has done what it was asked; waits a little for that. Never kills it."""
        with self._lock:
            life, self._life = self._life, None
        if life is not None:
            life.hang_up()
            with suppress(subprocess.TimeoutExpired):
                life.process.wait(CLOSE_SECONDS)

    def _alive(self) -> _Life:
        with self._lock:
            if self._life is None or self._life.process.poll() is not None:
                try:
                    self._life = _Life(self._settings)
                except OSError as e:
                    raise _gone(f"at its start ({e.strerror or type(e).__name__})") from None
            return self._life


def _error(code: str, message: str) -> CloudPushError:
    """The error that the child told, as it would have been raised here."""
    known = Code(code) if code in Code.__members__ else Code.INTERNAL
    if known is Code.CONSENT_REVOKED:
        return ConsentRevoked(message)
    return _KINDS.get(known, CloudPushError)(known, message)


def _gone(how: str) -> CloudPushError:
    return CloudPushError(
        Code.WORKER_LOST,
        f"The process that refreshes tokens ended {how}; it is started again and the refresh repeated.",
    )

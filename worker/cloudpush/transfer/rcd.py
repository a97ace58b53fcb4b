"""One ``rclone rcd`` child: started, found ready, watched, started again when it dies, stopped.

It listens on a Unix socket in a private directory, holds its configuration in memory only and is started with an empty
environment, so nothing secret is in its arguments, its environment or a file. It dies with the worker.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from pathlib import Path
from typing import IO

from cloudpush.errors import Code, EngineError, SettingsError
from cloudpush.logs import get_logger, redact
from cloudpush.transfer.binary import find_rclone, new_enough
from cloudpush.transfer.names import standard
from cloudpush.transfer.rc import RcClient, RcError, RcGoneError
from cloudpush.transfer.remotes import QUIETLY, SOURCE_PARAMETERS, SOURCE_REMOTE, SOURCE_TYPE

log = get_logger(__name__)

LAUNCHER = Path(__file__).with_name("launch.py")
PREFIX = "cloudpush-engine-"
#: A path in ``sockaddr_un`` has 108 bytes, the last of which is NUL.
SOCKET_PATH_BYTES = 107

READY_SECONDS = 15.0
POLL_SECONDS = 0.01
STOP_SECONDS = 5.0
#: Pause before the child is started again: doubles with each death in a row, from first to last.
BACKOFF_SECONDS = (0.05, 5.0)
#: A child that lived so long does not count as a death in a row.
STABLE_SECONDS = 10.0

#: Go's collector runs when the heap has grown by so much. rclone's heap is small and its garbage plenty: 400 instead
#: of 100 saves a fifth of its CPU time with small files; the limit below keeps the heap from growing without bound.
GC_PERCENT = 400
HEAP_BYTES = 1024**3

_LONGER_THAN_ANY_UPLOAD = "8760h"
#: Between two secrets: AWS lends a role for twelve hours at most. What sessions made is forgotten when they end.
_LONGER_THAN_ANY_SESSION = "24h"
#: Lines of stderr that are kept from the beginning, where a panic says why, and from the end.
_STDERR_LINES = 10
_STDERR_LINE_BYTES = 4096


class Child:
    """One life of rclone."""

    def __init__(self, process: subprocess.Popen[bytes], socket: Path) -> None:
        self.process = process
        self.socket = socket
        self.rc = RcClient(socket)
        self.started = time.monotonic()
        self.ended = threading.Event()
        self.ready = False
        self._first: list[str] = []
        self._last: deque[str] = deque(maxlen=_STDERR_LINES)

    def drain(self) -> None:
        """Read what it says until it ends, so that it never has to wait; little is kept. Blocks."""
        stderr: IO[bytes] | None = self.process.stderr
        assert stderr is not None  # noqa: S101 - it was asked for
        with stderr:
            while line := stderr.readline(_STDERR_LINE_BYTES):
                kept = self._first if len(self._first) < _STDERR_LINES else self._last
                kept.append(line.decode(errors="replace").rstrip())
        self.process.wait()
        self.ended.set()
        self.rc.close()

    def crashed(self) -> EngineError:
        """The error for whoever was using it."""
        # Its socket breaks a moment before it is seen to have ended.
        how = _ending(self.process.returncode) if self.ended.wait(1.0) else "does not answer"
        return EngineError(Code.ENGINE_CRASHED, f"rclone {how}.", detail=redact("\n".join([*self._first, *self._last])))


class Rcd:
    """Keeps one child alive. Thread-safe."""

    def __init__(self, rclone: str, runtime_dir: Path | None = None, ca_file: str = "") -> None:
        """``ca_file``: the CAs that it trusts, and no others; empty: the machine's own."""
        self._rclone = rclone
        self._ca_file = ca_file
        self._base = runtime_dir or Path(tempfile.gettempdir())
        self._lock = threading.Lock()
        self._supervisor: threading.Thread | None = None
        self._stopping = threading.Event()
        self._home: _Home | None = None
        self._child: Child | None = None
        self._failure: EngineError | None = None
        self._lives = 0
        self.version = ""  # of the rclone that was started last

    @property
    def directory(self) -> Path:
        """Private to this process (0700), on no disk that others read; gone after ``stop``."""
        if self._home is None:
            raise EngineError(Code.ENGINE_CRASHED, "rclone is not started.")
        return self._home.path

    def start(self) -> None:
        """Start it and wait until it answers; nothing happens if it runs.

        Raises EngineError (ENGINE_MISSING: absent or too old; ENGINE_CRASHED: it does not come up), SettingsError.
        """
        with self._lock:
            if self._supervisor is None:
                find_rclone(self._rclone)
                self._home = _Home(self._base)
                self._stopping.clear()
                # The death signal comes when the *thread* that forked ends, so this one does all the forking and
                # lives as long as we do. A daemon: it must not keep a worker from ending.
                self._supervisor = threading.Thread(target=self._supervise, name="rclone", daemon=True)
                self._supervisor.start()
        self.child()

    def stop(self) -> None:
        """End it, gently at first: it gives up what it is uploading. Repeatable; may be started again."""
        with self._lock:
            supervisor, home = self._supervisor, self._home
            self._supervisor = self._home = None
            self._stopping.set()
            child = self._child
        if supervisor is None:
            return
        if child is not None and not child.ended.is_set():
            child.process.terminate()
            if not child.ended.wait(STOP_SECONDS):
                child.process.kill()
        supervisor.join(STOP_SECONDS)
        self._child = None
        if home is not None:
            home.close()

    def child(self) -> Child:
        """The child, ready. Waits for one that is being started. Raises EngineError."""
        child = self._child
        if child is not None and child.ready and not child.ended.is_set():
            return child
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            with self._lock:
                if self._supervisor is None:
                    raise EngineError(Code.ENGINE_CRASHED, "rclone is not started.")
                if self._failure is not None:
                    raise self._failure
                child = self._child
                if child is not None and not child.ended.is_set() and (child.ready or self._prepare(child)):
                    return child
            time.sleep(POLL_SECONDS)
        raise EngineError(Code.ENGINE_CRASHED, f"rclone was not ready within {READY_SECONDS:.0f} s.")

    def _prepare(self, child: Child) -> bool:
        """Set up a child that answers; whether it did. Raises EngineError ENGINE_MISSING where it is too old."""
        if not child.socket.exists():
            return False
        try:
            self.version = new_enough(str(child.rc.call("core/version")["version"]), self._rclone)
            child.rc.call("debug/set-gc-percent", **{"gc-percent": GC_PERCENT})
            child.rc.call("debug/set-soft-memory-limit", **{"mem-limit": HEAP_BYTES})
            child.rc.call(
                "config/create",
                name=SOURCE_REMOTE,
                type=SOURCE_TYPE,
                parameters=SOURCE_PARAMETERS,
                opt=QUIETLY,
            )
        except RcGoneError:
            return False
        except RcError as e:
            raise EngineError(Code.ENGINE_MISSING, "rclone cannot be set up.", detail=redact(e.text)) from None
        child.ready = True
        log.info("rclone ready", pid=child.process.pid)
        return True

    # -- the supervisor's thread -----------------------------------------------------------

    def _supervise(self) -> None:
        pause, longest = BACKOFF_SECONDS
        while True:
            try:
                with self._lock:  # so that ``stop`` never misses a child
                    if self._stopping.is_set():
                        return
                    child = self._child = self._spawn()
                    self._failure = None
            except (OSError, EngineError) as e:
                self._failure = EngineError(Code.ENGINE_MISSING, "rclone cannot be started.", detail=redact(str(e)))
            else:
                child.drain()
                if self._stopping.is_set():
                    return
                if not child.ready:
                    self._failure = child.crashed()
                if child.ready and time.monotonic() - child.started > STABLE_SECONDS:
                    pause = BACKOFF_SECONDS[0]
                log.error("rclone ended", how=_ending(child.process.returncode), said=child.crashed().detail)
            self._stopping.wait(pause)
            pause = min(2 * pause, longest)

    def _spawn(self) -> Child:
        self._lives += 1
        socket = self.directory / f"rcd-{self._lives}.sock"
        process = subprocess.Popen(
            [
                *(sys.executable, "-I", "-S", LAUNCHER, str(os.getpid())),
                *(find_rclone(self._rclone), *_arguments(socket, self._ca_file)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={},
            cwd="/",
            start_new_session=True,  # a terminal's Ctrl-C is for the worker: it stops the engine in order
        )
        return Child(process, socket)


def _arguments(socket: Path, ca_file: str) -> list[str]:
    return [
        "rcd",
        f"--rc-addr=unix://{socket}",
        "--rc-no-auth",  # who can open the socket is the worker's own account
        "--config=",  # in memory only
        # Lower levels quote requests, with all that is in them, when an answer cannot be delivered.
        "--log-level=CRITICAL",
        # Uploads are calls that last; by default the answer to one that took more than an hour is thrown away.
        f"--rc-server-write-timeout={_LONGER_THAN_ANY_UPLOAD}",
        # Results come with the answer: nobody asks for them later.
        "--rc-job-expire-duration=1s",
        "--rc-job-expire-interval=1s",
        # A secret is swapped in an upload under way by naming its destination: it must still be known by that name, and
        # after five minutes without a call, however long that may last, it would not be.
        f"--fs-cache-expire-duration={_LONGER_THAN_ANY_SESSION}",
        *([f"--ca-cert={ca_file}"] if ca_file else []),
    ]


def _ending(status: int | None) -> str:
    if status is None:
        return "does not answer"
    if status < 0:
        return f"was ended by signal {-status} ({signal.Signals(-status).name})"
    return f"ended with status {status}"


class _Home:
    """A private directory, held by a lock: a directory whose lock is free belongs to a process that has died."""

    def __init__(self, base: Path) -> None:
        """Make one and remove those of the dead. Raises SettingsError, EngineError."""
        try:
            base.mkdir(parents=True, exist_ok=True, mode=0o700)
            _remove_stale(base)
            while True:
                self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
                fd = _lock_of(self.path)
                if fd is not None:
                    break
        except OSError as e:
            raise _unusable(base, f"cannot be used: {e.strerror}") from e
        self._fd = fd
        if len(os.fsencode(self.path / "rcd-00000.sock")) > SOCKET_PATH_BYTES or standard(str(self.path)) != str(
            self.path
        ):
            self.close()
            raise _unusable(base, "is too long, or holds characters that a socket's path should not")

    def close(self) -> None:
        """Remove it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._fd)


def _unusable(base: Path, why: str) -> SettingsError:
    return SettingsError(
        Code.SETTINGS_INVALID,
        f"CLOUDPUSH_RUNTIME_DIR={str(base)!r} {why}; name a short path to a directory of the worker's own, "
        "such as /run/cloudpush.",
        field="CLOUDPUSH_RUNTIME_DIR",
    )


def _lock_of(directory: Path) -> int | None:
    """A descriptor that holds the directory's lock; None where someone else does, or has removed it. Raises OSError."""
    try:
        fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    if os.fstat(fd).st_nlink == 0:  # it was cleaned away between the two
        os.close(fd)
        return None
    return fd


def _remove_stale(base: Path) -> None:
    for directory in base.glob(f"{PREFIX}*"):
        try:
            found = directory.lstat()
            if found.st_uid != os.geteuid() or directory.is_symlink():
                continue
            fd = _lock_of(directory)
        except OSError:
            continue  # not ours to remove
        if fd is not None:
            shutil.rmtree(directory, ignore_errors=True)
            os.close(fd)

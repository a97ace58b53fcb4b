"""The one directory that holds everything: who may use it, what lies where, and who uses it now.

::

    lock            held by the running `cloudpush up`; says its pid and since when
    state.json      what runs where; the ports to take next time
    cloudpush.env   settings for every other command
    postgres/ valkey/ openbao/ logs/
    run/            sockets; elsewhere if the path is too long for one
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from cloudpush.errors import Code, StackError
from cloudpush.stack.private import private_dir, write_private

#: A Unix socket's path has at most 107 bytes, and the engine's lies two private directories below `run`.
RUN_BYTES = 60
#: A comma separates hosts in a Postgres URL, and other signs mean something elsewhere.
_PLAIN = re.compile(r"[A-Za-z0-9/._@+~-]+")


@dataclass(frozen=True, slots=True)
class Holder:
    """The `cloudpush up` that uses a data directory."""

    pid: int
    since: str  # ISO 8601, with its zone
    created: float  # the process' start as the kernel counts it: a pid alone may be somebody else by now

    def alive(self) -> bool:
        """Whether that very process still runs."""
        try:
            return abs(psutil.Process(self.pid).create_time() - self.created) < 1
        except psutil.Error:
            return False


class DataDir:
    """A data directory. Nothing is created before :meth:`claim`."""

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.abspath(root))  # noqa: PTH100 - resolve() would follow the user's symlinks
        self.env_file = self.root / "cloudpush.env"
        self.logs = self.root / "logs"
        self._state = self.root / "state.json"
        self._lock = self.root / "lock"
        self._held: int | None = None

    def part(self, name: str) -> Path:
        """The directory of one service."""
        return self.root / name

    def log(self, name: str) -> Path:
        """The log file of one service."""
        return self.logs / f"{name}.log"

    def claim(self) -> None:
        """Make the directory ours until :meth:`release`. Raises StackError: held, foreign, not writable."""
        self._check_ours()
        try:
            private_dir(self.root)
            private_dir(self.logs)
            handle = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as e:
            raise StackError(Code.STACK, f"{self.root} cannot be used as data directory: {e.strerror}") from e
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            os.close(handle)
            raise self._held_by(self.holder()) from e
        self._held = handle
        me = psutil.Process()
        text = json.dumps(
            {"pid": me.pid, "since": datetime.now(UTC).isoformat(timespec="seconds"), "created": me.create_time()}
        )
        os.ftruncate(handle, 0)
        os.pwrite(handle, text.encode(), 0)

    def release(self) -> None:
        """Let others use the directory."""
        if self._held is not None:
            os.ftruncate(self._held, 0)
            os.close(self._held)
            self._held = None

    def in_use(self) -> bool:
        """Whether some process holds the lock now."""
        try:
            handle = os.open(self._lock, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        except OSError as e:
            raise StackError(Code.STACK, f"{self._lock} cannot be opened: {e.strerror}") from e
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(handle)
        return False

    def holder(self) -> Holder | None:
        """What the holder wrote; None where it is just coming or going."""
        try:
            return Holder(**json.loads(self._lock.read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def state(self) -> dict[str, Any]:
        """What the last `up` left; empty where there was none."""
        try:
            found = json.loads(self._state.read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def remember(self, state: Mapping[str, Any]) -> None:
        """Replace the state file."""
        write_private(self._state, json.dumps(state, indent=2) + "\n")

    def run_dir(self) -> Path:
        """The directory for sockets: `run`, or a private one elsewhere if that path cannot hold a socket."""
        path = self.root / "run"
        if len(os.fsencode(path)) <= RUN_BYTES and _PLAIN.fullmatch(str(path)):
            return private_dir(path)
        before = self.state().get("run_dir")
        if isinstance(before, str) and _is_ours(Path(before)):
            return Path(before)
        base = os.environ.get("XDG_RUNTIME_DIR", "")
        usable = base and len(os.fsencode(base)) <= RUN_BYTES - 20 and _PLAIN.fullmatch(base) and Path(base).is_dir()
        return Path(tempfile.mkdtemp(prefix="cloudpush-", dir=base if usable else "/tmp"))  # noqa: S108 - mode 0700

    def forget_run_dir(self, path: Path) -> None:
        """Remove the sockets' directory."""
        shutil.rmtree(path, ignore_errors=True)

    def _check_ours(self) -> None:
        try:
            found = self.root.stat()
            names = {path.name for path in self.root.iterdir()}
        except FileNotFoundError:
            return
        except OSError as e:
            raise StackError(Code.STACK, f"{self.root} cannot be used as data directory: {e.strerror}") from e
        if os.geteuid() not in (0, found.st_uid):
            raise StackError(
                Code.STACK, f"{self.root} belongs to user id {found.st_uid}; run as that user, or choose --data-dir."
            )
        if names and not {self._lock.name, self._state.name} & names:
            raise StackError(
                Code.STACK, f"{self.root} is not empty and was not made by `cloudpush up`; choose another --data-dir."
            )

    def _held_by(self, holder: Holder | None) -> StackError:
        who = f"process {holder.pid}, since {holder.since}" if holder else "a process that is just starting"
        return StackError(
            Code.STACK,
            f"{self.root} is in use by another `cloudpush up` ({who}). "
            f"Stop it with `cloudpush down --data-dir {self.root}`, or choose another --data-dir.",
        )


def _is_ours(path: Path) -> bool:
    """Whether a directory that was private to us still is: /tmp belongs to everybody."""
    try:
        found = path.lstat()
    except OSError:
        return False
    return path.is_dir() and not path.is_symlink() and found.st_uid == os.geteuid() and found.st_mode & 0o077 == 0

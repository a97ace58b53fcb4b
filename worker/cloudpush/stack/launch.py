"""Becomes one server, in such a way that it cannot outlive who started it.

A program of its own, run by path with the standard library only: what has to happen between fork and
exec (death signal, leaving root, the signal mask) happens here, in a fresh single-threaded interpreter,
and not in a ``preexec_fn`` of a process that may have threads. It costs about 20 ms.

::

    python -I -S launch.py PARENT_PID DEATH_SIGNAL UID:GID|- PROGRAM [ARGUMENT …]
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from contextlib import suppress

PR_SET_PDEATHSIG = 1
PR_SET_KEEPCAPS = 8
PR_SET_SECUREBITS = 28
PR_SET_CHILD_SUBREAPER = 36
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
CAP_DAC_OVERRIDE = 1
SECBIT_NO_SETUID_FIXUP = 1 << 2
CAPABILITY_VERSION_3 = 0x20080522


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def main(arguments: list[str]) -> None:
    """Never returns: either this process is the program now, or it has ended with a message."""
    parent, death, identity, *command = arguments
    os.umask(0o077)
    if identity != "-":
        uid, gid = identity.split(":")
        leave_root(int(uid), int(gid))
    # A change of user clears the death signal, so it comes after.
    _checked("prctl", PR_SET_PDEATHSIG, int(death), 0, 0, 0)
    if os.getppid() != int(parent):  # it died before we asked to be told
        sys.exit("the process that started this one is gone")
    # Python ignores these two for itself, and what is ignored stays so over exec; the mask of a
    # supervisor that waits for its signals would stay as well.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.execv(command[0], command)  # noqa: S606 - there is no shell, on purpose


def leave_root(uid: int, gid: int) -> None:
    """Become ``uid``, keeping of root's rights only the one to pass directories closed to others.

    Postgres refuses to run as root, but its binaries and data may lie below a directory that only root
    may enter. The capability is *ambient*, so it survives exec; nothing else does.
    """
    _checked("prctl", PR_SET_KEEPCAPS, 1, 0, 0, 0)
    # Postgres looks for its programs with access(2), for which the kernel leaves out the capabilities of a user that is
    # not root, unless this bit is set. Without the right to set it, only open directories work.
    with suppress(PermissionError):
        _checked("prctl", PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0)
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    only = 1 << CAP_DAC_OVERRIDE
    sets = (_Sets * 2)(_Sets(only, only, only), _Sets(0, 0, 0))
    _checked("capset", ctypes.byref(_Header(CAPABILITY_VERSION_3, 0)), sets)
    _checked("prctl", PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_OVERRIDE, 0, 0)


def become_subreaper() -> None:
    """Make orphans below this process its own children, so that it can end them."""
    _checked("prctl", PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _checked(function: str, *arguments: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    wide = [ctypes.c_ulong(a) if isinstance(a, int) else a for a in arguments]
    if getattr(libc, function)(*wide) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{function}: {os.strerror(number)}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except OSError as e:
        sys.exit(f"cannot start {sys.argv[4]}: {e}")

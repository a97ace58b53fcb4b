"""Becomes the engine, in such a way that it cannot outlive the worker.

A program of its own, run by path with the standard library only: the death signal has to be asked for between fork and
exec, which a process with threads cannot do safely in a ``preexec_fn``. It costs about 20 ms.

::

    python -I -S launch.py PARENT_PID PROGRAM [ARGUMENT …]
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Never returns: either this process is the program now, or it has ended with a message."""
    parent, *command = arguments
    os.umask(0o077)
    if ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), *[ctypes.c_ulong(0)] * 3) != 0:
        sys.exit("the death signal cannot be set")
    if os.getppid() != int(parent):  # it died before we asked to be told
        sys.exit("the worker is gone")
    # Python ignores these two for itself, and what is ignored stays so over exec, as does the mask.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    # `-I` keeps PYTHON* out, and the worker gave us no other variables; the engine gets none at all.
    os.execve(command[0], command, {})  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except OSError as e:
        sys.exit(f"cannot start {sys.argv[2]}: {e}")

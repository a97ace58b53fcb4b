"""The rclone program: where it is, and whether it is new enough.

rclone-python brings a ``version()`` for this. It is not used: it puts the program's path into a shell command line
unquoted, runs it with the worker's whole environment and keeps the path in a process-wide singleton. Its vocabulary of
backends is (see :mod:`cloudpush.transfer.remotes`).
"""

from __future__ import annotations

import re
import shutil
import subprocess

from cloudpush.errors import Code, EngineError
from cloudpush.logs import redact

#: The first release with the fixes of rclone's remote-control advisories.
AT_LEAST = (1, 73, 5)

_VERSION = re.compile(r"v?(\d+)\.(\d+)\.(\d+)(?:-(\S+))?")
_SECONDS = 15.0


def find_rclone(rclone: str) -> str:
    """The absolute path of ``rclone``, a path or a name on PATH. Raises EngineError ENGINE_MISSING."""
    path = shutil.which(rclone)
    if path is None:
        raise EngineError(
            Code.ENGINE_MISSING,
            f"CLOUDPUSH_RCLONE={rclone!r} is not a program that can be run.",
            field="CLOUDPUSH_RCLONE",
        )
    return path


def check_rclone(rclone: str) -> str:
    """The version of ``rclone``, such as ``1.75.2``. Raises EngineError ENGINE_MISSING: absent, broken or too old."""
    path = find_rclone(rclone)
    try:
        # An empty environment and configuration: what RCLONE_* variables and files say must not matter, nor be read.
        answer = subprocess.run(
            [path, "version", "--config", ""], env={}, capture_output=True, timeout=_SECONDS, check=False, text=True
        )
    except (OSError, subprocess.TimeoutExpired) as e:
        raise EngineError(Code.ENGINE_MISSING, f"{path} does not run.", detail=redact(str(e))) from e
    first = answer.stdout.partition("\n")[0]
    if answer.returncode != 0 or not first.startswith("rclone "):
        raise EngineError(Code.ENGINE_MISSING, f"{path} is not rclone.", detail=redact(answer.stderr))
    return new_enough(first.removeprefix("rclone "), path)


def new_enough(version: str, path: str) -> str:
    """``version`` without its ``v``. Raises EngineError ENGINE_MISSING where it is older than :data:`AT_LEAST`."""
    match = _VERSION.match(version)
    numbers = tuple(int(n) for n in match.groups()[:3]) if match else ()
    # A pre-release of the first good version comes before it.
    if match is None or numbers < AT_LEAST or (numbers == AT_LEAST and match[4]):
        wanted = ".".join(str(n) for n in AT_LEAST)
        raise EngineError(
            Code.ENGINE_MISSING,
            f"{path} is version {version[:40]}; CloudPush needs {wanted} or newer, "
            "since older ones have known holes in their remote control.",
            field="CLOUDPUSH_RCLONE",
        )
    return version.removeprefix("v")

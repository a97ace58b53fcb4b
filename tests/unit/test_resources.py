"""What a process has to live with."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from cloudpush.resources import GC_THRESHOLDS, calm_collector, resource, share_memory

#: Threads that each take and give back memory; prints how many heaps glibc made for them.
HEAPS = """
import ctypes, threading
from cloudpush.resources import share_memory
{call}
def work():
    b"".join(bytes(2000) for _ in range(2000))
    barrier.wait()
barrier = threading.Barrier(4)
threads = [threading.Thread(target=work) for _ in range(4)]
[t.start() for t in threads]
[t.join() for t in threads]
ctypes.CDLL(None).malloc_stats()
"""


@pytest.fixture
def collector() -> Iterator[None]:
    """As it was before."""
    thresholds = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)


def test_what_is_there_is_not_looked_through_again(collector: None) -> None:
    calm_collector()

    assert gc.get_threshold() == GC_THRESHOLDS
    assert gc.get_freeze_count() > 10_000


def heaps(call: str) -> int:
    """Told by glibc itself, on its standard error."""
    told = subprocess.run([sys.executable, "-c", HEAPS.format(call=call)], capture_output=True, text=True, check=True)
    return told.stderr.count("Arena ")


def test_threads_share_one_heap() -> None:
    assert (heaps("share_memory()"), heaps("") > 1) == (1, True)


def test_calling_it_twice_does_no_harm() -> None:
    share_memory()
    share_memory()


def test_a_directory_that_is_missing_is_named() -> None:
    with pytest.raises(FileNotFoundError, match="without its nothing directory"):
        resource("nothing")


#: The two doors by which processes with secrets come; prints what a crash may write, also of a child.
DOORS = {
    "command line": "from cloudpush.cli import main; main.app = lambda: None; main.main()",
    "scribe": "from cloudpush import scribe; scribe.main()",
}
TELL = "; import subprocess; subprocess.run(['sh', '-c', 'ulimit -c; ulimit -Hc; echo [$SSLKEYLOGFILE]'], check=True)"


@pytest.mark.parametrize("door", DOORS)
def test_no_process_leaves_secrets_on_the_disk(door: str) -> None:
    """Neither a crash of ours nor one of rclone's, which has the tokens, too; nor TLS, told to by the environment."""
    told = subprocess.run(
        [sys.executable, "-c", DOORS[door] + TELL],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "SSLKEYLOGFILE": "/nowhere/keys.log"},
    )
    assert told.stdout.split() == ["0", "0", "[]"]

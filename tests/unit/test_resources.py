"""What a process has to live with."""

from __future__ import annotations

import gc
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

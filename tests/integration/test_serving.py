"""Several processes serve the pages on one socket: one that dies is replaced, and they stop together."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from cloudpush.stack.ports import free_ports


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    (port,) = free_ports(1)
    env = os.environ | {
        "CLOUDPUSH_WEB_URL": f"http://127.0.0.1:{port}",
        "CLOUDPUSH_WEB_PORT": str(port),
        "CLOUDPUSH_WEB_PROCESSES": "2",
        "CLOUDPUSH_VAULT_AUTH_DIR": str(tmp_path),
    }
    started = subprocess.Popen([sys.executable, "-m", "cloudpush", "web"], env=env, stderr=subprocess.DEVNULL)
    try:
        yield started, port
    finally:
        if started.poll() is None:
            started.terminate()
            started.wait(30)


def _until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def _healthy(port: int) -> bool:
    asking = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        asking.request("GET", "/healthz")
        return asking.getresponse().status == 200
    except OSError:
        return False
    finally:
        asking.close()


def _serves(process: psutil.Process) -> bool:
    """Whether it still runs; where nobody waits for orphans, their remains stay."""
    with suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


def test_one_that_dies_is_replaced_and_all_stop_together(server: tuple[subprocess.Popen[bytes], int]) -> None:
    started, port = server
    process = psutil.Process(started.pid)
    _until(lambda: _healthy(port) and len(process.children()) == 2)
    lost, kept = process.children()

    lost.send_signal(signal.SIGKILL)
    _until(lambda: len([c for c in process.children() if c.pid != lost.pid]) == 2)
    assert kept.is_running()
    assert _healthy(port)

    children = process.children()
    started.send_signal(signal.SIGTERM)
    assert started.wait(30) == 0
    assert not any(c.is_running() for c in children)


def test_none_outlives_the_one_that_started_it(server: tuple[subprocess.Popen[bytes], int]) -> None:
    """Killed, it can tell nobody; left behind, they would keep the address from whoever comes next."""
    started, port = server
    process = psutil.Process(started.pid)
    _until(lambda: _healthy(port) and len(process.children()) == 2)
    children = process.children()

    started.kill()
    started.wait(30)

    try:
        _until(lambda: not any(_serves(c) for c in children))
    finally:
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.kill()

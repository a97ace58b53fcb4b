"""How the pages and the API are served: by one process, or by several that share one socket and stop together."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

from cloudpush.logs import get_logger
from cloudpush.settings import Settings

log = get_logger(__name__)

#: Seconds that answers under way have once we are asked to stop; live streams end by themselves before.
GRACE_SECONDS = 10
#: Seconds before a process that died by itself is replaced.
PAUSE_SECONDS = 1.0
PR_SET_PDEATHSIG = 1


def serve(settings: Settings, listening: socket.socket) -> None:
    """Serve until told to stop, in this process. Raises SettingsError."""
    import uvicorn  # noqa: PLC0415 -- with what serves pages: not for every command to load

    from cloudpush.web.app import make_app  # noqa: PLC0415 -- likewise
    from cloudpush.wiring import build_web  # noqa: PLC0415 -- likewise

    services = build_web(settings)
    server: uvicorn.Server | None = None
    try:
        app = make_app(services, stopping=lambda: server is not None and server.should_exit)
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                lifespan="off",
                loop="asyncio",
                http="h11",  # refuses what is not quite HTTP
                ws="none",
                # Nobody's word but the settings' on who we are, and our own log, without queries.
                proxy_headers=False,
                server_header=False,
                date_header=True,
                access_log=False,
                log_config=None,
                timeout_graceful_shutdown=GRACE_SECONDS,
            )
        )
        log.info("web ready", url=settings.web_url, host=settings.web_host, port=settings.web_port)
        server.run(sockets=[listening])
    finally:
        services.close()


class Workers:
    """``count`` processes that each ``run``. One that dies is replaced; told to stop, or killed, all of them stop.

    They are forked before anything is connected and while there is one thread only; each makes its own services.
    """

    def __init__(self, count: int, run: Callable[[], None]) -> None:
        self._count = count
        self._run = run
        self._alive: set[int] = set()
        self._stopping = False

    def supervise(self) -> None:
        """Until told to stop by SIGTERM or SIGINT, and every process has."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        try:
            while not self._stopping:
                while len(self._alive) < self._count and not self._stopping:
                    self._start()
                self._await_one()
        finally:
            self._stop()
            while self._alive:
                self._await_one()

    def _start(self) -> None:
        # Signals wait until it is known whose they are.
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
        parent = os.getpid()
        child = os.fork()
        if child:
            self._alive.add(child)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT))
            return
        code = 1
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT))
            _end_with(parent)
            self._run()
            code = 0
        except Exception:  # it is this process' end; the other one starts another
            log.exception("web process failed")
        finally:
            os._exit(code)

    def _await_one(self) -> None:
        try:
            child, status = os.wait()
        except ChildProcessError:
            self._alive.clear()
            return
        self._alive.discard(child)
        if not self._stopping:
            log.error("web process ended by itself", process=child, status=os.waitstatus_to_exitcode(status))
            time.sleep(PAUSE_SECONDS)

    def _stop(self, _number: int = 0, _frame: FrameType | None = None) -> None:
        self._stopping = True
        for child in self._alive:
            os.kill(child, signal.SIGTERM)


def _end_with(parent: int) -> None:
    """Have this process told to stop when ``parent`` is gone, however it went: it would keep the address for itself.

    By the kernel, on Linux; elsewhere nobody tells it.
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGTERM), *[ctypes.c_ulong(0)] * 3)
    if os.getppid() != parent:  # it died before we asked
        os.kill(os.getpid(), signal.SIGTERM)

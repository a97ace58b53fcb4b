"""The scribe: refreshes tokens for one worker, and finishes what it began when that worker is gone.

``python -m cloudpush.scribe``, started by ``credentials.scribe``, which says what passes through its pipes. It is in a session of
its own and ignores SIGINT and SIGTERM: a terminal's Ctrl-C and a service manager that signals every process are meant for
the worker, whose end closes our standard input. Then nothing more is begun, what is under way is finished, and we end.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import IO
from uuid import UUID

from cloudpush.errors import CloudPushError, Code
from cloudpush.logs import get_logger, setup_logs, traceback_of
from cloudpush.push.grants.ports import Renewing
from cloudpush.resources import keep_secrets_off_disk
from cloudpush.settings import Settings
from cloudpush.wiring import build_refresher

log = get_logger(__name__)

#: Grants that are refreshed at a time.
AT_ONCE = 8


class _Answers:
    """The way back to the worker, which may be gone."""

    def __init__(self, pipe: IO[str]) -> None:
        self._pipe = pipe
        self._lock = threading.Lock()

    def say(self, **said: object) -> None:
        """One line. Never raises."""
        with suppress(OSError, ValueError), self._lock:
            self._pipe.write(json.dumps(said) + "\n")
            self._pipe.flush()


def serve(renewing: Renewing, asks: IO[bytes], answers: IO[str]) -> None:
    """Answer until ``asks`` ends and nothing is under way."""
    back = _Answers(answers)
    back.say(ready=True)
    pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="refresh")
    for line in asks:
        try:
            asked = json.loads(line)
            task = int(asked["id"]), UUID(asked["grant"]), int(asked["seen"])
        except (ValueError, TypeError, KeyError):
            break  # not our worker, or half a line of one that died
        pool.submit(_refresh, renewing, back, *task)
    pool.shutdown(wait=True, cancel_futures=True)


def _refresh(renewing: Renewing, back: _Answers, number: int, grant_id: UUID, seen: int) -> None:
    try:
        renewing.refresh(grant_id, seen)
    except CloudPushError as e:
        back.say(id=number, code=str(e.code), message=e.message)
    except Exception as e:  # noqa: BLE001 -- the worker waits for an answer
        log.error("scribe.defect", grant=str(grant_id), traceback=traceback_of(e))  # noqa: TRY400 -- local variables stay out
        back.say(id=number, code=str(Code.INTERNAL), message=f"{type(e).__name__} inside CloudPush.")
    else:
        back.say(id=number, ok=True)


def main() -> None:
    """Read settings, then tasks, from standard input."""
    keep_secrets_off_disk()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    line = sys.stdin.buffer.readline()
    if not line:
        return  # the worker changed its mind
    settings = Settings.model_validate_json(line)
    setup_logs(settings.log_level, settings.log_format)
    services = build_refresher(settings)
    try:
        serve(services, sys.stdin.buffer, sys.stdout)
    finally:
        services.close()


if __name__ == "__main__":
    main()

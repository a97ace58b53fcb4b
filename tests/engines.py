"""The rclone of a worker that runs: how fast it may be."""

from __future__ import annotations

from cloudpush.settings import Settings
from cloudpush.transfer.rc import RcClient, RcError, RcGoneError
from cloudpush.transfer.rcd import PREFIX


def pace(settings: Settings, rate: str) -> int:
    """Slow the engines of every worker with these settings down to so many bytes a second, such as ``8M``; how many."""
    assert settings.runtime_dir is not None
    told = 0
    for socket in settings.runtime_dir.glob(f"{PREFIX}*/rcd-*.sock"):
        client = RcClient(socket)
        try:
            client.call("core/bwlimit", rate=rate)
            told += 1
        except (RcError, RcGoneError):
            pass  # of an earlier life
        finally:
            client.close()
    return told

"""The transfer engine: one supervised rclone, and in it a remote of its own for each session."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cloudpush.push.endpoints import Endpoint, resolve
from cloudpush.push.job import Destination, Secret
from cloudpush.push.ports import Engine
from cloudpush.settings import Settings
from cloudpush.transfer.egress import Egress
from cloudpush.transfer.rcd import Rcd
from cloudpush.transfer.remotes import CUTOFF, SECRET_OPTIONS, parameters
from cloudpush.transfer.session import RcloneSession
from cloudpush.transfer.translate import Translator

#: rclone's options for every call that moves bytes.
_CONFIG: dict[str, Any] = {
    "NoCheckDest": True,  # CloudPush has looked already
    "NoTraverse": True,
    "NoUnicodeNormalization": True,  # names that differ in their normal form only are two files
    "IgnoreChecksum": True,  # each request carries its MD5, and CloudPush compares what arrived
    "LowLevelRetries": 3,
    "Retries": 1,
    "MultiThreadCutoff": CUTOFF,  # pieces are read from the file as they are sent, so memory stays flat
    "ConnectTimeout": "20s",
    "Timeout": "5m",
}


class Rclone(Engine):
    """``push.ports.Engine`` for destinations that speak S3. Thread-safe."""

    def __init__(self, settings: Settings) -> None:
        """Nothing is started before ``start`` or the first session."""
        self._allowed = settings.allowed_endpoints
        self._config = _CONFIG | {"Transfers": settings.transfers, "Checkers": settings.transfers}
        self._rcd = Rcd(settings.rclone, settings.runtime_dir)
        self._egress = Egress(settings.allowed_endpoints)

    @property
    def pid(self) -> int:
        """Of the rclone that runs. Raises EngineError."""
        return self._rcd.child().process.pid

    def start(self) -> None:
        """Start rclone and wait until it answers. Raises EngineError, SettingsError."""
        self._rcd.start()

    def stop(self) -> None:
        """End it. Repeatable."""
        self._rcd.stop()
        self._egress.stop()

    @contextmanager
    def open(self, destination: Destination, secret: Secret, group: str) -> Iterator[RcloneSession]:
        """See ``push.ports.Engine``. Raises InputError too: an endpoint that may not be used, a secret that is no key."""
        endpoint = resolve(destination, secret, self._allowed)
        options = parameters(destination, secret, endpoint)
        self._rcd.start()
        with self._way_out(endpoint) as (config, token):
            masked = [token, *(options[name] for name in SECRET_OPTIONS)]
            session = RcloneSession(
                child=self._rcd.child(),
                directory=self._rcd.directory,
                bucket=destination.bucket,
                options=options,
                config=config,
                group=group,
                words=Translator(
                    bucket=destination.bucket,
                    endpoint=endpoint.url,
                    session=bool(options["session_token"]),
                    secrets=tuple(s for s in masked if s),
                ),
            )
            try:
                yield session
            finally:
                session.close()

    @contextmanager
    def _way_out(self, endpoint: Endpoint) -> Iterator[tuple[dict[str, Any], str]]:
        """Configuration for rclone, and the secret in it: endpoints that the operator does not vouch for are guarded."""
        if endpoint.trusted:
            yield self._config, ""
            return
        granted = self._egress.admit(endpoint.url)
        try:
            yield self._config | {"HTTPProxy": self._egress.url(granted)}, granted.token
        finally:
            self._egress.dismiss(granted)

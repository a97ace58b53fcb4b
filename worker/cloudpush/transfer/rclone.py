"""The transfer engine: one supervised rclone, and in it a remote of its own for each session.

One more for each private CA: Google's and Azure's remotes share the connections that the first of them made, so that
whom a process of rclone trusts is settled once.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cloudpush.errors import Code, InputError
from cloudpush.net import trusting
from cloudpush.push.endpoints import Endpoint, resolve
from cloudpush.push.job import Destination, Secret
from cloudpush.push.ports import Engine
from cloudpush.settings import Settings
from cloudpush.transfer.backends import BACKENDS
from cloudpush.transfer.egress import Egress
from cloudpush.transfer.rcd import Rcd
from cloudpush.transfer.remotes import CUTOFF
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
    """``push.ports.Engine`` for S3, Google Cloud Storage and Azure Blob Storage. Thread-safe."""

    def __init__(self, settings: Settings) -> None:
        """Nothing is started before ``start`` or the first session."""
        self._allowed = settings.allowed_endpoints
        self._config = _CONFIG | {"Transfers": settings.transfers, "Checkers": settings.transfers}
        self._settings = settings
        self._rcd = Rcd(settings.rclone, settings.runtime_dir)
        self._others: dict[str, Rcd] = {}  # by the file of the CAs that it trusts
        self._lock = threading.Lock()
        self._egress = Egress(settings.allowed_endpoints)

    @property
    def pid(self) -> int:
        """Of the rclone that runs. Raises EngineError."""
        return self._rcd.child().process.pid

    @property
    def version(self) -> str:
        """Of rclone, such as ``1.75.2``; empty before it has started."""
        return self._rcd.version

    def start(self) -> None:
        """Start rclone and wait until it answers. Raises EngineError, SettingsError."""
        self._rcd.start()

    def stop(self) -> None:
        """End it. Repeatable."""
        with self._lock:
            others = list(self._others.values())
        for rcd in (self._rcd, *others):
            rcd.stop()
        self._egress.stop()

    @contextmanager
    def open(self, destination: Destination, secret: Secret, group: str) -> Iterator[RcloneSession]:
        """See ``push.ports.Engine``.

        Raises InputError too: an endpoint that may not be used, a secret of another kind; SettingsError: an unusable CA.
        """
        endpoint = resolve(destination, secret, self._allowed)
        backend = BACKENDS[secret.kind]
        options = backend.parameters(destination, secret, endpoint)
        rcd = self._trusting(endpoint.ca_file)
        rcd.start()

        def check(fresh: Secret) -> None:
            if resolve(destination, fresh, self._allowed) != endpoint:
                raise InputError(Code.BAD_INPUT, f"A further secret for {destination.uri!r} leads to another endpoint.")

        with self._way_out(endpoint) as (config, token):
            session = RcloneSession(
                child=rcd.child(),
                directory=rcd.directory,
                backend=backend,
                bucket=destination.bucket,
                options=options,
                config=config,
                group=group,
                check=check,
                words=Translator(
                    bucket=destination.bucket,
                    endpoint=endpoint.url,
                    session=bool(options.get("session_token")),
                    secrets=tuple(s for s in (token, *backend.masked(secret)) if s),
                    ends=backend.ends(secret),
                ),
            )
            try:
                yield session
            finally:
                session.close()

    def _trusting(self, ca_file: str) -> Rcd:
        """The rclone that trusts these CAs. Raises SettingsError: by rclone's own reading of such a file it would end."""
        if not ca_file:
            return self._rcd
        trusting(ca_file)
        with self._lock:
            if ca_file not in self._others:
                self._others[ca_file] = Rcd(self._settings.rclone, self._settings.runtime_dir, ca_file)
            return self._others[ca_file]

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

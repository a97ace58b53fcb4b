"""Where forms of ours may lead to: the origins of the providers' consent pages."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

from cloudpush.errors import CloudPushError
from cloudpush.push.grants.model import Provider
from cloudpush.push.grants.ports import Providers

#: A provider whose metadata were not to be had is not asked again for so long: a page must not wait for it each time.
FORGIVEN_SECONDS = 60.0


class Origins:
    """URLs for ``form_action``. Thread-safe."""

    def __init__(self, providers: Providers) -> None:
        self._providers = providers
        self._lock = threading.Lock()
        self._silent: dict[str, float] = {}

    def of(self, names: Iterable[str]) -> list[str]:
        """A URL of each provider's consent page, as far as they are known."""
        return [url for name in sorted(set(names)) for url in self._one(name)]

    def _one(self, name: str) -> list[str]:
        try:
            provider = self._providers.get(name)
        except CloudPushError:
            return []  # the operator took it away
        if provider.authorization_endpoint:
            return [provider.authorization_endpoint]
        return [url for url in (self._found(provider), provider.issuer, provider.discovery) if url]

    def _found(self, provider: Provider) -> str:
        with self._lock:
            if time.monotonic() < self._silent.get(provider.name, 0.0):
                return ""
        try:
            return self._providers.resolve(provider).authorization_endpoint
        except CloudPushError:
            with self._lock:
                self._silent[provider.name] = time.monotonic() + FORGIVEN_SECONDS
            return ""

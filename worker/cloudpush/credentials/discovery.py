"""Providers' metadata (OpenID Connect Discovery, RFC 8414): what the operator's table leaves out.

Asked for when it is first needed and then kept; where it cannot be asked for anew, what was known before holds. What the
table says comes first. The metadata must be the issuer's that the table names, and its endpoints of the kind that the table may
name: else whoever answers there could have tokens sent to him.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from cloudpush.credentials import urls
from cloudpush.credentials.wire import CONNECT_SECONDS, READ_SECONDS, Careful, asked, origin_of
from cloudpush.errors import CloudPushError, Code
from cloudpush.logs import get_logger
from cloudpush.push.grants.model import Provider

log = get_logger(__name__)

#: Metadata changes when a provider moves: rarely, and with notice.
FRESH_SECONDS = 3600.0
#: After a failure with older metadata at hand.
AGAIN_SECONDS = 60.0
_ENDPOINTS = ("authorization_endpoint", "token_endpoint", "revocation_endpoint", "jwks_uri")


class Metadata:
    """The metadata of all providers. Thread-safe; several threads ask one provider once."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._asking: dict[tuple[str, str], threading.Lock] = {}
        self._known: dict[tuple[str, str], tuple[float, Mapping[str, Any]]] = {}

    def complete(self, provider: Provider) -> Provider:
        """``provider`` with its empty endpoints filled in. Raises CloudPushError."""
        if not provider.discovery:
            return provider
        found = self._of(provider)
        filled: dict[str, Any] = {name: str(found.get(name, "")) for name in _ENDPOINTS if not getattr(provider, name)}
        sends = provider.sends_issuer or found.get("authorization_response_iss_parameter_supported") is True
        return replace(provider, **filled, sends_issuer=sends)

    def _of(self, provider: Provider) -> Mapping[str, Any]:
        key = provider.discovery, provider.issuer
        with self._lock:  # held for a moment: a slow provider keeps nobody from the others
            asking = self._asking.setdefault(key, threading.Lock())
        with asking:
            until, known = self._known.get(key, (0.0, None))
            now = self._clock()
            if known is not None and now < until:
                return known
            try:
                known, until = _fetch(provider), now + FRESH_SECONDS
            except CloudPushError as e:
                if known is None:
                    raise
                log.warning("provider.metadata_not_renewed", provider=provider.name, code=str(e.code))
                until = now + AGAIN_SECONDS
            self._known[key] = until, known
            return known


def _fetch(provider: Provider) -> Mapping[str, Any]:
    urls.check(provider.discovery)
    with Careful() as session:
        session.arm(provider)

        def ask() -> tuple[int, bytes]:
            answer = session.get(
                provider.discovery, headers={"Accept": "application/json"}, timeout=(CONNECT_SECONDS, READ_SECONDS)
            )
            return answer.status_code, answer.content

        status, body = asked(provider.discovery, ask)
    if status != 200:
        raise _no(provider, f"answers {status}")
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise _no(provider, "answers with something else")
    if found.get("issuer") != provider.issuer:
        raise _no(
            provider, f"is {str(found.get('issuer'))[:200]!r}'s, expected {provider.issuer!r}'s: correct `issuer`"
        )
    for name in _ENDPOINTS:
        value = found.get(name, "")
        try:
            if value:
                urls.check(value if isinstance(value, str) else "")
        except ValueError as e:
            raise _no(provider, f"names a {name} that {e}") from None
        if value and _is_plain(value) and not _is_plain(provider.discovery):
            # Who speaks for a provider elsewhere has nothing to say about what listens on this machine.
            raise _no(provider, f"names a {name} on this machine")
    return found


def _is_plain(url: str) -> bool:
    return urlsplit(url).scheme == "http"


def _no(provider: Provider, why: str) -> CloudPushError:
    return CloudPushError(
        Code.PROVIDER_UNAVAILABLE, f"The metadata of {provider.name} at {origin_of(provider.discovery)} {why}."
    )

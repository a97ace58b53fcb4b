"""The way to a provider: requests that go where the operator said and nowhere else.

No proxy, netrc or certificate of the environment, no redirects, no more time or bytes than an answer needs. What
requests raises quotes URLs and holds the request with its secrets, so none of it leaves :func:`asked`: not even as the
cause of an error of ours.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, TypeVar
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError, NameResolutionError

from cloudpush.errors import CloudPushError, Code
from cloudpush.push.grants.model import Provider

T = TypeVar("T")

CONNECT_SECONDS = 5.0
READ_SECONDS = 15.0
#: From the head of an answer to its end.
BODY_SECONDS = 10.0
#: From the first byte of a request to the last of its answer.
WHOLE_SECONDS = 30.0
#: A token's answer takes 10 KiB with three JWTs in it, metadata 5, a set of keys 10.
BODY_BYTES = 256 * 1024
_CHUNK = 16 * 1024


#: Sockets of the session that asks just now.
_SOCKETS: ContextVar[list[socket.socket]] = ContextVar("sockets")


class _Http(HTTPConnection):
    def connect(self) -> None:
        super().connect()
        _SOCKETS.get().append(self.sock)


class _Https(HTTPSConnection):
    def connect(self) -> None:
        super().connect()
        _SOCKETS.get().append(self.sock)


class _HttpPool(HTTPConnectionPool):
    ConnectionCls = _Http


class _HttpsPool(HTTPSConnectionPool):
    ConnectionCls = _Https


class _Adapter(HTTPAdapter):
    """Tells the session which sockets it has."""

    def init_poolmanager(self, *given: Any, **more: Any) -> None:
        super().init_poolmanager(*given, **more)
        self.poolmanager.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}


class Careful(requests.Session):
    """A session that is told everything by its user. Answers come whole and within bounds. Not thread-safe."""

    def arm(self, provider: Provider) -> None:
        """Forget what the environment says; trust what the operator said about this provider."""
        self.trust(provider.ca_file)

    def trust(self, ca_file: str) -> None:
        """The same with the file of a private CA; an empty one: those that everybody trusts."""
        self.trust_env = False
        self.stream = True  # so that the body is read within bounds
        self.max_redirects = 0
        self.verify = ca_file or True
        self._sockets: list[socket.socket] = []
        for scheme in ("https://", "http://"):
            self.mount(scheme, _Adapter())

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        """The answer with its body, before anybody else may ask for that: a library's log does, and without bounds."""
        # Timeouts of a socket begin anew with each byte, and some that come are nothing when they are unpacked.
        over = threading.Event()
        timer = threading.Timer(WHOLE_SECONDS, _cut, (over, self._sockets))
        timer.daemon = True
        before = _SOCKETS.set(self._sockets)
        timer.start()
        try:
            answer = super().send(request, **kwargs)
            answer._content = _body(answer)  # noqa: SLF001 -- what `content` and `text` give
        finally:
            timer.cancel()
            _SOCKETS.reset(before)
        if over.is_set():  # what was cut may look whole
            raise _endless(answer)
        answer._content_consumed = True  # type: ignore[attr-defined] # noqa: SLF001 -- likewise
        answer.encoding = "utf-8"
        return answer

    def get_redirect_target(self, resp: requests.Response) -> None:  # noqa: ARG002 -- requests' signature
        """None is followed: a redirect would carry a token to wherever it leads."""
        return


def _cut(over: threading.Event, sockets: Sequence[socket.socket]) -> None:
    """End what goes over them; whoever reads there is told so by an error, or by the end."""
    over.set()
    for one in sockets:
        with suppress(OSError):  # it is closed already
            socket.socket.shutdown(one, socket.SHUT_RDWR)  # not TLS' own way, which may wait for the other side


def _body(response: requests.Response) -> bytes:
    """The whole body. Raises CloudPushError PROVIDER_UNAVAILABLE: too long; requests' errors."""
    deadline, body = time.monotonic() + BODY_SECONDS, b""
    try:
        while more := response.raw.read1(_CHUNK, decode_content=True):
            body += more
            if len(body) > BODY_BYTES or time.monotonic() > deadline:
                raise _endless(response)
    finally:
        response.close()
    return body


def _endless(response: requests.Response) -> CloudPushError:
    return CloudPushError(Code.PROVIDER_UNAVAILABLE, f"{origin_of(response.url)} sends an answer without end.")


def asked(url: str, request: Callable[[], T]) -> T:
    """What ``request`` to ``url`` returns. Raises CloudPushError for everything that goes wrong on the way."""
    try:
        return request()
    except CloudPushError:
        raise
    except (requests.RequestException, HTTPError, OSError) as e:
        failed = _failure(e, url)
    except Exception as e:  # noqa: BLE001 -- whatever a library makes of an answer may quote it
        failed = CloudPushError(Code.INTERNAL, f"{origin_of(url)} could not be asked: {type(e).__name__}.")
    raise failed  # outside the handler, so that what holds the request is not chained


def origin_of(url: str) -> str:
    """Scheme, host and port: what an error may show of a URL."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _failure(error: Exception, url: str) -> CloudPushError:
    where, causes = origin_of(url), _causes(error)
    names = " < ".join(dict.fromkeys(type(cause).__name__ for cause in causes))
    if any(isinstance(c, requests.exceptions.SSLError | ssl.SSLError) for c in causes):
        return CloudPushError(Code.TLS_FAILED, f"No trusted TLS connection to {where} is possible.", detail=names)
    if any(isinstance(c, NameResolutionError) for c in causes):
        return CloudPushError(Code.ENDPOINT_UNRESOLVABLE, f"The host of {where} has no address.", detail=names)
    if any(isinstance(c, ConnectionRefusedError) for c in causes):
        return CloudPushError(
            Code.ENDPOINT_REFUSED, f"{where} refuses connections: nothing listens there.", detail=names
        )
    if isinstance(error, OSError) and not isinstance(error, requests.RequestException):
        return CloudPushError(Code.NETWORK, f"{where} cannot be asked.", detail=names)
    return CloudPushError(Code.NETWORK, f"{where} gave no answer.", detail=names)


def _causes(error: BaseException) -> list[BaseException]:
    """``error`` and what led to it: requests and urllib3 hide it in arguments and in ``reason``."""
    found: list[BaseException] = []
    waiting: list[object] = [error]
    while waiting:
        one = waiting.pop()
        if isinstance(one, BaseException) and one not in found:
            found.append(one)
            waiting += [one.__cause__, one.__context__, getattr(one, "reason", None), *one.args]
    return found

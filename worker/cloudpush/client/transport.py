"""HTTP as the client speaks it: one origin, verified TLS, no redirects, and repeats only where a repeat does no harm.

The token goes to the origin that it was given for and nowhere else: no redirect is followed, no ``.netrc`` is read, no cookie
kept. Proxies of the environment (``HTTPS_PROXY``, ``NO_PROXY``) are used, as on a cluster without a way out of its own: TLS
runs through them, so they see the server's name and nothing else. Loopback is never asked for through a proxy.
"""

from __future__ import annotations

import ipaddress
import json
import random
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from typing import Any
from urllib.parse import urlencode, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    LocationParseError,
    NewConnectionError,
    ProxyError,
    SSLError,
)

from cloudpush.client.problems import error_of
from cloudpush.errors import AccessError, CloudPushError, Code, InputError, ServerError

#: Bytes of a request's body that the API takes.
LIMIT_BYTES = 8 * 1024**2
#: Statuses that say "not now". After 429 nothing was done; after the others nobody knows.
_NOT_NOW = frozenset({429, 502, 503, 504})
_PAUSE_SECONDS, _PAUSE_CAP_SECONDS = 0.25, 8.0
#: Bytes of a refusal that are read.
_PROBLEM_BYTES = 64 * 1024
#: Bytes of any other answer at once: a page of 1,000 files has less than one.
_ANSWER_BYTES = 64 * 1024**2
#: Connections kept for as many threads.
_CONNECTIONS = 8

Query = Mapping[str, str | int | bool | Sequence[str] | None]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the API said, where it did not refuse."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """Its document. Raises ServerError where it is none."""
        try:
            return json.loads(self.body) if self.body else None
        except (ValueError, RecursionError) as e:
            raise ServerError(
                Code.SERVER_UNREACHABLE, "The server answered with something else than JSON: is this CloudPush?"
            ) from e


class Transport:
    """Requests below ``URL/v1``. Threads may share one.

    ``timeout``: seconds until a connection stands, and between two pieces of an answer. ``patience``: seconds for which a
    request that may be repeated is.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        timeout: float = 30.0,
        patience: float = 60.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.url = checked_url(url)
        self._base = urlsplit(self.url).path.rstrip("/") + "/v1"
        self._headers = _Secret(
            {
                "authorization": f"Bearer {_checked_token(token)}",
                "user-agent": f"cloudpush-client/{version('cloudpush')}",
            }
        )
        self._timeout = timeout
        self._patience = patience
        self.sleep = sleep
        self._manager, self._pool = _pool_for(self.url)

    def __repr__(self) -> str:
        return f"<Transport {self.url}>"

    def close(self) -> None:
        """Close its connections."""
        self._manager.clear()

    def call(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        repeatable: bool | None = None,
        timeout: float | None = None,
    ) -> Answer:
        """What the API answers. ``repeatable``: whether asking twice does no more than once; by default as HTTP says.

        Raises CloudPushError as the API refused; ServerError SERVER_UNREACHABLE.
        """
        repeatable = method in ("GET", "DELETE") if repeatable is None else repeatable
        text = _encoded(body)
        deadline = time.monotonic() + self._patience
        pause = _PAUSE_SECONDS
        while True:
            error, again, wanted = self._once(method, path, query, text, headers, timeout)
            if isinstance(error, Answer):
                return error
            wait = max(wanted, pause * random.uniform(0.5, 1.0))  # noqa: S311 -- spreads repeats, guards nothing
            if not (again or (again is None and repeatable)) or time.monotonic() + wait > deadline:
                raise error
            self.sleep(wait)
            pause = min(pause * 2, _PAUSE_CAP_SECONDS)

    def _once(
        self,
        method: str,
        path: str,
        query: Query | None,
        text: bytes | None,
        headers: Mapping[str, str] | None,
        timeout: float | None,
    ) -> tuple[Answer | CloudPushError, bool | None, float]:
        """(the answer, …) or (what went wrong, whether a repeat is safe: None where that depends, seconds to wait)."""
        try:
            response = self._open(method, path, query, text, headers, timeout or self._timeout)
            try:
                status, answered = response.status, dict(response.headers.items())
                if 200 <= status < 300 or status == 304:
                    return Answer(status, _lower(answered), _read(response, _ANSWER_BYTES)), False, 0.0
                error = _refusal(response)
            finally:
                _release(response)
        except HTTPError as e:
            return self._unreachable(e), _never_sent(e), 0.0
        again = {429: True}.get(status, None if status in _NOT_NOW else False)
        return error, again, _retry_after(_lower(answered))

    @contextmanager
    def open(
        self, path: str, *, headers: Mapping[str, str] | None = None, timeout: float | None = None
    ) -> Iterator[Iterator[bytes]]:
        """The pieces of a long answer, as they come. Asked for once. Raises as :meth:`call`, also in its middle."""
        try:
            response = self._open("GET", path, None, None, headers, timeout or self._timeout)
        except HTTPError as e:
            raise self._unreachable(e) from e
        try:
            if response.status != 200:
                error = _refusal(response)
                error.retry_after = _retry_after(_lower(dict(response.headers.items())))  # type: ignore[attr-defined]
                raise error
            yield self._pieces(response)
        finally:
            response.close()  # its rest is not read: the connection is of no further use

    def _pieces(self, response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
        try:
            while piece := response.read1(64 * 1024):
                yield piece
        except (HTTPError, OSError) as e:
            raise self._unreachable(e) from e

    def _open(
        self,
        method: str,
        path: str,
        query: Query | None,
        text: bytes | None,
        headers: Mapping[str, str] | None,
        timeout: float,
    ) -> urllib3.BaseHTTPResponse:
        sent = {**self._headers.value, "accept": "application/json", **(headers or {})}
        if text is not None:
            sent["content-type"] = "application/json"
        return self._pool.urlopen(
            method,
            self._base + path + _query(query),
            body=text,
            headers=sent,
            redirect=False,
            retries=False,
            timeout=urllib3.Timeout(connect=min(timeout, self._timeout), read=timeout),
            preload_content=False,
        )

    def _unreachable(self, error: Exception) -> ServerError:
        if isinstance(error, SSLError) or isinstance(getattr(error, "original_error", None), ssl.SSLError):
            why = "no trusted TLS connection is possible"
        elif isinstance(error, ProxyError):
            why = "the proxy of the environment does not lead there"
        elif isinstance(error, NewConnectionError | ConnectTimeoutError):
            why = "no connection is possible"
        else:
            why = "the connection broke off, or nothing came in time"
        made = ServerError(
            Code.SERVER_UNREACHABLE, f"{self.url} gives no answer: {why}.", detail=f"{type(error).__name__}"
        )
        made.__cause__ = error
        return made


class _Secret:
    """Headers that no ``repr`` shows."""

    __slots__ = ("value",)

    def __init__(self, value: Mapping[str, str]) -> None:
        self.value = value

    def __repr__(self) -> str:
        return "****"

    def __reduce__(self) -> str:
        raise TypeError("a client's token is not pickled: make a client where it is used")


def checked_url(url: str) -> str:
    """The API's address without a trailing slash. Raises InputError: no https (but to loopback), more than an address."""
    try:
        parts = urlsplit(url.strip())
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        parts, host = urlsplit(""), ""
    if not host or parts.scheme not in ("https", "http") or parts.query or parts.fragment or "@" in parts.netloc:
        # What is no address may be a token in the wrong place: it is not repeated.
        raise InputError(
            Code.BAD_INPUT, "The API's address is not of the form https://HOST[:PORT][/PATH].", field="url"
        )
    if parts.scheme == "http" and not _is_loopback(host):
        raise InputError(
            Code.BAD_INPUT,
            f"{parts.scheme}://{parts.netloc} would send the token in the open: use https://, which only loopback may do without.",
            field="url",
        )
    path = parts.path.rstrip("/").removesuffix("/v1")
    return f"{parts.scheme}://{parts.netloc}{path}"


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _checked_token(token: str) -> str:
    text = token.strip()
    if not text:
        raise AccessError(
            Code.UNAUTHENTICATED, "There is no token for this server: run `cloudpush login`.", field="token"
        )
    if not all("!" <= c <= "~" for c in text):
        raise AccessError(Code.UNAUTHENTICATED, "The token holds blanks or characters beyond ASCII.", field="token")
    return text


def _pool_for(url: str) -> tuple[urllib3.PoolManager, urllib3.HTTPConnectionPool]:
    """The manager and, from it, the pool of the one origin that is ever asked."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    proxy = "" if _is_loopback(host) or proxy_bypass(host) else getproxies().get(parts.scheme, "")
    options: dict[str, Any] = {"maxsize": _CONNECTIONS, "block": False}
    try:
        manager = urllib3.ProxyManager(proxy, **options) if proxy else urllib3.PoolManager(**options)
        return manager, manager.connection_from_url(url)
    except (LocationParseError, HTTPError, ValueError):
        raise InputError(
            Code.BAD_INPUT, "The proxy of the environment is not of the form http://HOST:PORT.", field="https_proxy"
        ) from None  # it may hold a password


def _encoded(body: Any) -> bytes | None:
    if body is None:
        return None
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    if len(text) > LIMIT_BYTES:
        raise InputError(
            Code.TOO_MANY_BYTES,
            f"The request has {len(text)} bytes; the API takes {LIMIT_BYTES} at once.",
            field="body",
        )
    return text


def _query(query: Query | None) -> str:
    pairs: list[tuple[str, str]] = []
    for name, value in (query or {}).items():
        if value is None or value == "":
            continue
        if isinstance(value, bool):
            pairs.append((name, str(value).lower()))
        elif isinstance(value, str | int):
            pairs.append((name, str(value)))
        else:
            pairs += [(name, one) for one in value]
    return f"?{urlencode(pairs)}" if pairs else ""


def _refusal(response: urllib3.BaseHTTPResponse) -> CloudPushError:
    if 300 <= response.status < 400:
        return ServerError(
            Code.SERVER_UNREACHABLE,
            f"The server answered {response.status}, which leads elsewhere; it was not followed: correct the API's address.",
        )
    return error_of(response.status, _read(response, _PROBLEM_BYTES, strict=False))


def _read(response: urllib3.BaseHTTPResponse, limit: int, *, strict: bool = True) -> bytes:
    body = response.read(limit + 1)
    if strict and len(body) > limit:
        raise ServerError(Code.SERVER_UNREACHABLE, f"The server answered more than {limit} bytes: is this CloudPush?")
    return body[:limit]


def _release(response: urllib3.BaseHTTPResponse) -> None:
    """Keep the connection where all was read, else close it."""
    if getattr(response, "_fp", None) is not None and not response.closed:
        response.close()
    response.release_conn()


def _never_sent(error: HTTPError) -> bool | None:
    """True where no byte of a request can have arrived; False where a repeat is of no use; None where nobody knows."""
    if isinstance(error, SSLError):
        return False
    return True if isinstance(error, NewConnectionError | ConnectTimeoutError) else None


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds, from either form of the header; 0 where there is none."""
    text = headers.get("retry-after", "")
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError):
        return 0.0


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}

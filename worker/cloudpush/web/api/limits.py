"""How often somebody may ask: each principal by itself, and whoever is nobody by the address it comes from.

Counted in Redis, so that all processes of all machines count together; in this process only while the broker is away. A
request costs one, a batch one for each :data:`PUSHES_FOR_ONE`. Counted by GCRA: so many at once (the burst), and as many a
second in the long run as the rate says. Of whoever asks often a process takes several at once, ahead, so that it need not
ask Redis for each; those that are not used within a second are lost to them.
"""

from __future__ import annotations

import hashlib
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING, Protocol

from fastapi import Request

from cloudpush.errors import AccessError, BrokerError, Code
from cloudpush.logs import get_logger
from cloudpush.push.access.model import Principal

if TYPE_CHECKING:
    from cloudpush.wiring import WebServices

log = get_logger(__name__)

Network = IPv4Network | IPv6Network

#: Pushes of a batch that cost as much as one request.
PUSHES_FOR_ONE = 20
#: After a broker that did not answer, it is not asked again for so long.
PAUSE_SECONDS = 5.0
#: Such a part of the requests of the last second is taken at once, ahead; and no larger part of the burst than that.
AHEAD, AHEAD_OF_BURST = 4, 20
#: How long what was taken ahead is kept, and how long a time requests are counted for.
AHEAD_SECONDS = 1.0
#: Buckets that a process keeps: with a broker that is away, and of addresses that are to wait.
MOST = 20_000
#: Proxies in a row that are looked through.
MOST_PROXIES = 10


@dataclass(frozen=True, slots=True)
class Rate:
    """``rate`` a second in the long run, ``burst`` at once."""

    name: str
    rate: float
    burst: int


#: Of one address: tokens that nobody has, logins that begin, questions whether a login was confirmed, codes typed.
FAILURES = Rate("failures", 1.0, 60)
LOGINS = Rate("logins", 0.2, 20)
POLLS = Rate("polls", 5.0, 100)


class Buckets(Protocol):
    """Counts for all processes. See :class:`cloudpush.broker.Buckets`."""

    def take(self, key: str, rate: float, burst: int, cost: int) -> float:
        """0 where ``cost`` was taken; else seconds until it can be. Raises BrokerError."""


class Limited(AccessError):
    """Too often. ``seconds``: seconds until it may be asked again."""

    def __init__(self, who: str, seconds: float) -> None:
        whole = max(1, math.ceil(seconds))
        super().__init__(Code.RATE_LIMITED, f"{who} asks too often: wait {whole} s.")
        self.seconds = whole


class Limits:
    """Counts, for one process. Thread-safe."""

    def __init__(
        self,
        buckets: Buckets,
        rate: Rate,
        clock: Callable[[], float] = time.monotonic,
        proxies: Sequence[Network] = (),
    ) -> None:
        """``proxies``: whose word on where requests come from is taken."""
        self._buckets = buckets
        self._proxies = proxies
        self._rate = rate
        self._clock = clock
        self._own = OwnBuckets(clock)
        self._waiting: OrderedDict[str, float] = OrderedDict()
        self._ahead: OrderedDict[str, _Ahead] = OrderedDict()
        self._lock = threading.Lock()
        self._away_until = 0.0

    def count(self, principal: Principal, cost: int = 1) -> None:
        """``cost`` requests of theirs. Raises AccessError RATE_LIMITED: a ``Limited``."""
        self._take(_bucket(principal), self._rate, cost, repr(principal.name))

    def count_request(self, principal: Principal) -> None:
        """One request that was not paid for; of whoever asks often some more are taken ahead. Raises as ``count``."""
        with self._lock:
            ahead = self._ahead.pop(principal.name, None) or _Ahead(self._clock())
            self._ahead[principal.name] = ahead
            while len(self._ahead) > MOST:
                self._ahead.popitem(last=False)
            many = min(ahead.before(self._clock()) // AHEAD, self._rate.burst // AHEAD_OF_BURST)
        if many <= 1 or not self._paid_now(principal, ahead, many):
            self.count(principal)
            with self._lock:
                ahead.count(self._clock())

    def _paid_now(self, principal: Principal, ahead: _Ahead, many: int) -> bool:
        """Whether a request of theirs was paid for along with others. One takes for all that ask at the same time."""
        with ahead.lock:
            if self.paid(principal):
                return True
            if self._ask(_hashed(_bucket(principal)), self._rate, many) > 0:
                return False
            with self._lock:
                ahead.add(many, self._clock())
                return ahead.take(self._clock())

    def paid(self, principal: Principal) -> bool:
        """Whether one request of theirs was paid for ahead; it is used up by this. Asks nobody."""
        with self._lock:
            ahead = self._ahead.get(principal.name)
            return ahead is not None and ahead.take(self._clock())

    def count_batch(self, principal: Principal, pushes: int) -> None:
        """What a batch costs beyond the request that it is. Raises as ``count``."""
        if (more := math.ceil(pushes / PUSHES_FOR_ONE) - 1) > 0:
            self.count(principal, more)

    def count_for(self, name: str, rate: Rate) -> None:
        """One more of this kind by whoever is signed in under this name. Raises as ``count``."""
        self._take(f"{rate.name}:{name}", rate, 1, repr(name))

    def address(self, request: Request) -> str:
        """Where a request comes from, see :func:`address_of`."""
        return address_of(request, self._proxies)

    def count_address(self, request: Request, rate: Rate) -> None:
        """One more of this kind from this address; raises as ``count`` once they are too many."""
        address = self.address(request)
        try:
            self._take(f"{rate.name}:{address}", rate, 1, f"The address {address}")
        except Limited as e:
            if rate is FAILURES:
                with self._lock:
                    self._waiting[address] = self._clock() + e.seconds
                    while len(self._waiting) > MOST:
                        self._waiting.popitem(last=False)
            raise

    def check_address(self, request: Request) -> None:
        """Whether so many tokens from there were wrong that no more are looked at. Raises as ``count``."""
        if not self._waiting:
            return
        address = self.address(request)
        with self._lock:
            left = self._waiting.get(address, 0.0) - self._clock()
            if left <= 0:
                self._waiting.pop(address, None)
                return
        raise Limited(f"The address {address}", left)

    def _take(self, key: str, rate: Rate, cost: int, who: str) -> None:
        # Whoever asks for more than the burst at once has to wait for all of it, and gets it then.
        seconds = self._ask(_hashed(key), rate, min(cost, rate.burst))
        if seconds > 0:
            raise Limited(who, seconds)

    def _ask(self, key: str, rate: Rate, cost: int) -> float:
        if self._clock() >= self._away_until:
            try:
                return self._buckets.take(key, rate.rate, rate.burst, cost)
            except BrokerError as e:
                self._away_until = self._clock() + PAUSE_SECONDS
                log.warning("rates counted by this process alone", code=e.code, error=e.message)
        return self._own.take(key, rate.rate, rate.burst, cost)


class _Ahead:
    """One principal's requests of late, and how many of the next ones are paid for. Under its owner's lock."""

    def __init__(self, now: float) -> None:
        self.lock = threading.Lock()
        self._began, self._asked, self._before = now, 0, 0
        self._paid, self._until = 0, now

    def before(self, now: float) -> int:
        """How many there were in the second before this one."""
        if (passed := now - self._began) >= AHEAD_SECONDS:
            self._before = self._asked if passed < 2 * AHEAD_SECONDS else 0
            self._began, self._asked = now, 0
        return self._before

    def count(self, now: float) -> None:
        """One more."""
        self.before(now)
        self._asked += 1

    def add(self, many: int, now: float) -> None:
        """So many were paid for; what is left of earlier ones is lost."""
        self._paid, self._until = many, now + AHEAD_SECONDS

    def take(self, now: float) -> bool:
        """Whether one was left, and was taken."""
        if not self._paid or now >= self._until:
            return False
        self._paid -= 1
        self.count(now)
        return True


class OwnBuckets:
    """The same count, in this process. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def take(self, key: str, rate: float, burst: int, cost: int) -> float:
        """See :class:`Buckets`."""
        now = self._clock()
        with self._lock:
            full_at = max(self._full_at.pop(key, now), now)
            then = full_at + cost / rate
            wait = then - now - burst / rate
            self._full_at[key] = full_at if wait > _ROUNDING else then
            while len(self._full_at) > MOST:
                self._full_at.popitem(last=False)
        return wait if wait > _ROUNDING else 0.0


_ROUNDING = 1e-6


def _bucket(principal: Principal) -> str:
    return f"principal:{principal.name}"


def _hashed(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:32]


def limits_of(request: Request) -> Limits:
    """The limits of the application that a request is for."""
    services: WebServices = request.app.state.services
    found = getattr(request.app.state, "limits", None)
    if not isinstance(found, Limits):
        settings = services.settings
        found = Limits(
            services.buckets, Rate("api", settings.api_rate, settings.api_burst), proxies=settings.web_proxies
        )
        request.app.state.limits = found
    return found


def address_of(request: Request, proxies: Sequence[Network] = ()) -> str:
    """Where a request comes from. An IPv6 network of 64 bits is one address.

    The other end of the connection; where that is one of the ``proxies``, who the proxy says it is. Each proxy appends whom
    it was asked by, so the list is read from its end, and only as far as ours wrote it: what stands before is anybody's word.
    """
    found = _address(request.client.host if request.client else "")
    if found is None:
        return request.client.host if request.client else ""
    named = ",".join(request.headers.getlist("x-forwarded-for")).split(",")[-MOST_PROXIES:]
    while named and any(found in network for network in proxies):
        before = _address(named.pop())
        if before is None:
            break
        found = before
    return str(found) if found.version == 4 else str(IPv6Network((found, 64), strict=False).network_address)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """An address, maybe with a port; None where it is none."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        found = ip_address(text)
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found

"""How often somebody may ask."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest
from starlette.requests import Request

from cloudpush.errors import BrokerError, Code
from cloudpush.push.access.model import Principal, Via
from cloudpush.web.api.limits import FAILURES, PAUSE_SECONDS, Limited, Limits, OwnBuckets, Rate, address_of

ADA, BOB = (Principal(name, frozenset(), frozenset(), name, Via.TOKEN) for name in ("ada", "bob"))


class Time:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Away:
    """A broker that does not answer."""

    asked = 0

    def take(self, *_: Any) -> float:
        self.asked += 1
        raise BrokerError(Code.BROKER_UNREACHABLE, "away")


def asked_from(host: str, *forwarded: str) -> Request:
    headers = [(b"x-forwarded-for", value.encode("latin-1")) for value in forwarded]
    return Request({"type": "http", "client": (host, 1), "headers": headers})


def test_a_burst_is_let_through_and_then_as_many_as_the_rate_says() -> None:
    time = Time()
    limits = Limits(OwnBuckets(time), Rate("api", 2.0, 10), time)
    for _ in range(10):
        limits.count(ADA)
    with pytest.raises(Limited) as caught:
        limits.count(ADA)
    assert (caught.value.code, caught.value.seconds) == (Code.RATE_LIMITED, 1)
    limits.count(BOB)
    time.now += 0.5
    limits.count(ADA)
    with pytest.raises(Limited):
        limits.count(ADA)


def test_a_batch_costs_one_for_each_twenty() -> None:
    time = Time()
    limits = Limits(OwnBuckets(time), Rate("api", 1.0, 50), time)
    limits.count(ADA)
    limits.count_batch(ADA, 1000)  # 49 beyond the request itself
    with pytest.raises(Limited):
        limits.count(ADA)
    limits.count_batch(BOB, 20)
    limits.count(BOB, 50)


def test_a_broker_that_is_away_is_asked_once_in_a_while() -> None:
    time, away = Time(), Away()
    limits = Limits(away, Rate("api", 1.0, 3), time)
    for _ in range(3):
        limits.count(ADA)
    with pytest.raises(Limited):
        limits.count(ADA)
    assert away.asked == 1
    time.now += PAUSE_SECONDS
    limits.count(ADA)
    assert away.asked == 2


def test_an_address_with_too_many_wrong_tokens_has_to_wait() -> None:
    time = Time()
    limits = Limits(OwnBuckets(time), Rate("api", 1.0, 3), time)
    guesser = asked_from("192.0.2.7")
    for _ in range(FAILURES.burst):
        limits.count_address(guesser, FAILURES)
    with pytest.raises(Limited) as caught:
        limits.count_address(guesser, FAILURES)
    with pytest.raises(Limited):
        limits.check_address(guesser)
    limits.check_address(asked_from("192.0.2.8"))
    time.now += caught.value.seconds
    limits.check_address(guesser)


def test_a_network_of_ipv6_is_one_address() -> None:
    assert address_of(asked_from("2001:db8:1:2::7")) == address_of(asked_from("2001:db8:1:2:aaaa::9"))
    assert address_of(asked_from("2001:db8::7")) == address_of(asked_from("2001:db8::a:8"))
    assert address_of(asked_from("2001:db8:1:2::7")) != address_of(asked_from("2001:db8:1:3::7"))
    assert address_of(asked_from("192.0.2.7")) == address_of(asked_from("::ffff:192.0.2.7")) == "192.0.2.7"


PROXIES = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))


@pytest.mark.parametrize(
    ("peer", "forwarded", "found"),
    [
        ("198.51.100.1", ["192.0.2.7"], "198.51.100.1"),  # no proxy of ours: its word is not taken
        ("10.0.0.1", ["192.0.2.7"], "192.0.2.7"),
        ("10.0.0.1", ["203.0.113.9, 192.0.2.7"], "192.0.2.7"),  # what stands before is anybody's word
        ("10.0.0.1", ["192.0.2.7, 10.0.0.2"], "192.0.2.7"),  # through two of ours
        ("10.0.0.1", ["203.0.113.9", "192.0.2.7"], "192.0.2.7"),
        ("::ffff:10.0.0.1", [" 192.0.2.7:4711 "], "192.0.2.7"),
        ("fd00::1", ["[2001:db8::7]:4711"], "2001:db8::"),
        ("10.0.0.1", ["192.0.2.7, unknown"], "10.0.0.1"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1", ["\xff"], "10.0.0.1"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("", ["192.0.2.7"], ""),
    ],
)
def test_only_proxies_of_ours_say_who_asks_through_them(peer: str, forwarded: list[str], found: str) -> None:
    assert address_of(asked_from(peer, *forwarded), PROXIES) == found


def test_who_guesses_through_a_proxy_is_told_from_others_behind_it() -> None:
    time = Time()
    limits = Limits(OwnBuckets(time), Rate("api", 1.0, 3), time, PROXIES)
    guesser = asked_from("10.0.0.1", "192.0.2.7")
    for _ in range(FAILURES.burst):
        limits.count_address(guesser, FAILURES)
    with pytest.raises(Limited):
        limits.count_address(guesser, FAILURES)
    with pytest.raises(Limited):
        limits.check_address(guesser)
    limits.check_address(asked_from("10.0.0.1", "192.0.2.8"))


class Asked(OwnBuckets):
    """Buckets that note what they are asked for."""

    def __init__(self, time: Time) -> None:
        super().__init__(time)
        self.costs: list[int] = []

    def take(self, key: str, rate: float, burst: int, cost: int) -> float:
        self.costs.append(cost)
        return super().take(key, rate, burst, cost)


def request(limits: Limits) -> None:
    """As the API counts one."""
    if not limits.paid(ADA):
        limits.count_request(ADA)


def test_of_whoever_asks_often_several_are_taken_at_once() -> None:
    time = Time()
    buckets = Asked(time)
    limits = Limits(buckets, Rate("api", 40.0, 400), time)
    for _ in range(40):
        request(limits)
    assert buckets.costs == [1] * 40
    time.now += 1.0
    for _ in range(40):
        request(limits)
    assert buckets.costs[40:] == [10] * 4
    assert not limits.paid(BOB)


def test_what_was_taken_ahead_is_lost_after_a_second() -> None:
    time = Time()
    buckets = Asked(time)
    limits = Limits(buckets, Rate("api", 40.0, 400), time)
    for _ in range(40):
        request(limits)
    time.now += 1.0
    request(limits)
    time.now += 1.0
    assert not limits.paid(ADA)
    request(limits)
    assert buckets.costs[40:] == [10, 1]


def test_no_more_is_let_through_because_some_are_taken_ahead() -> None:
    time = Time()
    limits = Limits(Asked(time), Rate("api", 20.0, 100), time)
    for _ in range(90):
        request(limits)
    time.now += 1.0
    for _ in range(30):  # what was left of the burst, and what came back in that second
        request(limits)
    with pytest.raises(Limited):
        request(limits)

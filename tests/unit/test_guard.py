from __future__ import annotations

import socket
from typing import Any

import pytest

from cloudpush.errors import CloudPushError, Code
from cloudpush.push.guard import addresses, check_endpoint

F, B = Code.ENDPOINT_FORBIDDEN, Code.BAD_INPUT


def judged(url: str, *allowed: str) -> str | Code:
    try:
        return check_endpoint(url, allowed)
    except CloudPushError as e:
        return e.code


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        # what users really have
        ("https://s3.eu-west-1.amazonaws.com", "https://s3.eu-west-1.amazonaws.com"),
        ("https://S3.Example.ORG./", "https://s3.example.org"),
        ("https://s3.example.org:443", "https://s3.example.org"),
        ("https://s3.example.org:9000", "https://s3.example.org:9000"),
        ("https://bücher.example.org", "https://xn--bcher-kva.example.org"),
        ("https://8.8.8.8:9000", "https://8.8.8.8:9000"),
        ("https://[2606:4700:0:0::1111]", "https://[2606:4700::1111]"),
        ("https://my_store.example.org", "https://my_store.example.org"),
        # not encrypted, not a port of object stores
        ("http://s3.example.org", F),
        ("http://s3.example.org:9000", F),
        ("https://s3.example.org:22", F),
        ("https://s3.example.org:80", F),
        # no endpoint at all
        ("", B),
        ("s3.example.org", B),
        ("ftp://s3.example.org", B),
        ("file:///etc/passwd", B),
        ("gopher://127.0.0.1:6379/_FLUSHALL", B),
        ("https://", B),
        ("https://:443", B),
        ("https://s3.example.org:0", B),
        ("https://s3.example.org:99999", B),
        ("https://s3.example.org:x", B),
        ("https://s3.example.org/bucket", B),
        ("https://s3.example.org?x=1", B),
        ("https://s3.example.org#x", B),
        ("https://s3.example.org\\@127.0.0.1", B),
        ("https://s3.example.org\r\nHost: x", B),
        (" https://s3.example.org", B),
        ("https://s3.example.org ", B),
        ("https://s3..example.org", B),
        ("https://-s3.example.org", B),
        ("https://s3%2eexample.org", B),
        ("https://" + "a" * 64 + ".example.org", B),
        ("https://" + "a." * 130 + "org", B),
        # who somebody else is
        ("https://user:pw@s3.example.org", B),
        ("https://s3.example.org@127.0.0.1", B),
        # loopback and friends, in every spelling
        ("https://127.0.0.1", F),
        ("https://127.0.0.1.", F),
        ("https://127.255.255.254", F),
        ("https://127.1", B),
        ("https://2130706433", B),
        ("https://0x7f000001", B),
        ("https://0x7f.0.0.1", B),
        ("https://127.0.0.0x1", B),
        ("https://0177.0.0.1", B),
        ("https://017700000001", B),
        ("https://127.0.0.01", B),
        ("https://\uff11\uff12\uff17.0.0.1", F),
        ("https://127\u30020\u30020\u30021", F),
        ("https://\u2460\u2461\u2466.0.0.1", F),
        ("https://[::1]", F),
        ("https://[0:0:0:0:0:0:0:1]", F),
        ("https://[::]", F),
        ("https://0.0.0.0", F),
        ("https://[::ffff:127.0.0.1]", F),
        ("https://[::ffff:8.8.8.8]", F),
        ("https://[::127.0.0.1]", F),
        ("https://[fe80::1%25eth0]", B),
        ("https://[fe80::1%eth0]", B),
        ("https://[::1", B),
        # private, shared, link-local, metadata
        ("https://10.1.2.3", F),
        ("https://172.16.0.1", F),
        ("https://172.31.255.255", F),
        ("https://192.168.1.1", F),
        ("https://100.64.0.1", F),
        ("https://100.100.100.200", F),
        ("https://169.254.169.254", F),
        ("https://168.63.129.16", F),
        ("https://192.0.0.192", F),
        ("https://198.18.0.1", F),
        ("https://224.0.0.1", F),
        ("https://255.255.255.255", F),
        ("https://[fc00::1]", F),
        ("https://[fd00:ec2::254]", F),
        ("https://[fe80::1]", F),
        ("https://[fec0::1]", F),
        ("https://[ff02::1]", F),
        # IPv4 inside IPv6
        ("https://[64:ff9b::127.0.0.1]", F),
        ("https://[64:ff9b::169.254.169.254]", F),
        ("https://[64:ff9b::8.8.8.8]", "https://[64:ff9b::808:808]"),  # what DNS64 answers for a public host
        ("https://[64:ff9b:1::1]", F),
        ("https://[2002:7f00:1::]", F),
        ("https://[2002:808:808::]", F),
        ("https://[2001::1]", F),
        ("https://[2001:db8::1]", F),
        # names of private networks
        ("https://localhost", F),
        ("https://LOCALHOST.", F),
        ("https://x.localhost", F),
        ("https://metadata.google.internal", F),
        ("https://printer.local", F),
        ("https://minio", F),
    ],
)
def test_endpoints_that_users_may_name(url: str, expected: str | Code) -> None:
    """Public https endpoints come back in normal form; everything else is refused with its code."""
    assert judged(url) == expected


@pytest.mark.parametrize(
    ("url", "allowed", "expected"),
    [
        ("http://127.0.0.1:8333", ["127.0.0.1:8333"], "http://127.0.0.1:8333"),
        ("http://127.0.0.1:8334", ["127.0.0.1:8333"], F),
        ("http://127.0.0.1:8334", ["127.0.0.1"], "http://127.0.0.1:8334"),
        ("http://MinIO:80/", [" minio "], "http://minio"),
        ("http://[::1]:9000", ["[::1]:9000"], "http://[::1]:9000"),
        ("http://[::1]:9000", ["::1"], "http://[::1]:9000"),
        ("https://user@minio", ["minio"], B),
        ("http://evilminio", ["minio"], F),
    ],
)
def test_listed_hosts(url: str, allowed: list[str], expected: str | Code) -> None:
    """The operator's list opens exactly what it names."""
    assert judged(url, *allowed) == expected


def test_a_refusal_repeats_no_password() -> None:
    """The message of a refused URL names the fix and not what stood before the @."""
    with pytest.raises(CloudPushError) as caught:
        check_endpoint("https://user:canary@s3.example.org")

    assert "canary" not in str(caught.value)


def answering(monkeypatch: pytest.MonkeyPatch, *found: str) -> None:
    def getaddrinfo(host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def test_addresses_are_the_ones_to_connect_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """A public name gives its addresses in the resolver's order, each once."""
    answering(monkeypatch, "8.8.8.8", "2606:4700::1111", "8.8.8.8")

    assert addresses("s3.example.org", 443) == ["8.8.8.8", "2606:4700::1111"]


@pytest.mark.parametrize("bad", ["127.0.0.1", "169.254.169.254", "::1", "::ffff:10.0.0.1", "fe80::1%eth0", "fd00::1"])
def test_one_forbidden_answer_refuses_the_name(monkeypatch: pytest.MonkeyPatch, bad: str) -> None:
    """A name that also leads inside is refused as a whole, whichever answer comes first."""
    answering(monkeypatch, "8.8.8.8", bad)

    with pytest.raises(CloudPushError) as caught:
        addresses("rebind.example.org", 443)

    assert caught.value.code is F


def test_a_listed_name_may_lead_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator's own hosts resolve to whatever they resolve to."""
    answering(monkeypatch, "10.0.0.1")

    assert addresses("minio", 9000, ["minio:9000"]) == ["10.0.0.1"]


def test_a_name_without_address_is_unresolvable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resolver's failure has its own, retryable code."""

    def nothing(*_: Any, **__: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nothing)

    with pytest.raises(CloudPushError) as caught:
        addresses("nowhere.example.org", 443)

    assert caught.value.code is Code.ENDPOINT_UNRESOLVABLE

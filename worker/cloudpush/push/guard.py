"""Hosts that users name are hostile: which endpoints may be asked, and which addresses connected to.

Two gates. :func:`check_endpoint` runs at intake and judges the text. :func:`addresses` runs when a
connection is made: it resolves the name, judges every answer and returns those very addresses, which the
caller connects to, so a name that resolves differently a moment later (DNS rebinding) gains nothing.

``allowed`` are the operator's listed hosts: ``host`` (any port) or ``host:port``; IPv6 in brackets
before a port. A listed host may be http, on any port, at any address.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from urllib.parse import urlsplit

from cloudpush.errors import Code, DestinationError, InputError

_PORTS = {"http": 80, "https": 443}
_HTTPS_PORT = 443
#: Below are the ports of system services, which no object store listens on.
_FIRST_USER_PORT = 1024

_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
#: A last label like this makes resolvers read the whole name as a number: 0x7f.1, 017700000001, 2130706433.
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")

#: Names that only ever mean this machine or its own network.
_PRIVATE_SUFFIXES = ("localhost", "local", "internal", "localdomain", "home.arpa", "onion")

#: IPv4 that is not the public internet (IANA special-purpose registry), with the word for the message.
_NOT_PUBLIC_4: tuple[tuple[IPv4Network, str], ...] = tuple(
    (IPv4Network(network), word)
    for network, word in (
        ("0.0.0.0/8", "unspecified"),
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "carrier-grade NAT"),
        ("127.0.0.0/8", "loopback"),
        ("168.63.129.16/32", "cloud metadata"),  # Azure's host agent: a public address, yet local to each machine
        ("169.254.0.0/16", "link-local or cloud metadata"),
        ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "reserved"),
        ("192.0.2.0/24", "documentation"),
        ("192.31.196.0/24", "reserved"),
        ("192.52.193.0/24", "reserved"),
        ("192.88.99.0/24", "6to4 relay"),
        ("192.168.0.0/16", "private"),
        ("192.175.48.0/24", "reserved"),
        ("198.18.0.0/15", "benchmarking"),
        ("198.51.100.0/24", "documentation"),
        ("203.0.113.0/24", "documentation"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved or broadcast"),
    )
)

_GLOBAL_UNICAST = IPv6Network("2000::/3")
#: Exceptions inside 2000::/3; everything outside of it is refused as a whole, NAT64 aside.
_NOT_PUBLIC_6: tuple[tuple[IPv6Network, str], ...] = tuple(
    (IPv6Network(network), word)
    for network, word in (
        ("2001::/32", "Teredo"),
        ("2001::/23", "reserved"),
        ("2001:db8::/32", "documentation"),
        ("2002::/16", "6to4"),
        ("2620:4f:8000::/48", "reserved"),
        ("3fff::/20", "documentation"),
    )
)
#: DNS64 answers with these on IPv6-only networks: judged by the IPv4 address in the last 32 bits.
_NAT64 = IPv6Network("64:ff9b::/96")
_LOW_32_BITS = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Origin:
    """Scheme, host and port. ``host`` is lower-case ASCII without trailing dot; IPv6 without brackets."""

    scheme: str
    host: str
    port: int

    @property
    def url(self) -> str:
        """Without trailing slash; the port only where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" if self.port == _PORTS[self.scheme] else f"{self.scheme}://{host}:{self.port}"


class NoOriginError(ValueError):
    """A text is no origin. Its words say why, as a predicate ("has a zone id"), and repeat nothing of the text."""


def parse_endpoint(url: str) -> Origin:
    """``url`` in normal form. Raises InputError BAD_INPUT: not http(s), or more than scheme, host and port."""
    try:
        return parse_origin(url)
    except NoOriginError as e:
        raise _bad("https://…@…" if "@" in url else url, str(e)) from e


def parse_origin(url: str) -> Origin:
    """``url``, which is an origin and nothing more, in normal form. Raises NoOriginError."""
    if not url.isprintable() or " " in url or "\\" in url:
        raise NoOriginError("contains spaces, backslashes or control characters")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise NoOriginError("is not a URL") from None
    if parts.scheme not in _PORTS:
        raise NoOriginError("does not start with https://")
    if "@" in parts.netloc:
        raise NoOriginError("carries a user name or password: put keys into the credential")
    if parts.path not in {"", "/"} or "?" in url or "#" in url:
        raise NoOriginError("has a path, query or fragment: the bucket belongs into the destination")
    if port == 0:
        raise NoOriginError("has port 0")
    host = _normal_host(parts.hostname or "")
    return Origin(parts.scheme, host, port or _PORTS[parts.scheme])


def _normal_host(raw: str) -> str:
    """Lower case, IDNA, no trailing dot, addresses in canonical form; two spellings of one host become equal."""
    if ":" in raw:
        if "%" in raw:
            raise NoOriginError("has a zone id")
        try:
            return str(IPv6Address(raw))
        except ValueError:
            raise NoOriginError("has a malformed IPv6 address") from None
    try:
        # IDNA maps full-width digits and ideographic dots to ASCII, so it comes before every check.
        host = raw.encode("idna").decode("ascii").lower().removesuffix(".")
    except UnicodeError:
        raise NoOriginError("has a host name that is not valid") from None
    labels = host.split(".")
    if not host or len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise NoOriginError("has a host name that is not valid")
    if _NUMBER.fullmatch(labels[-1]):
        try:
            return str(IPv4Address(host))
        except ValueError:
            raise NoOriginError("spells an address as a number: write four decimal numbers with dots") from None
    return host


def listed(host: str, port: int, allowed: Collection[str]) -> bool:
    """Whether the operator listed ``host`` or ``host:port``. ``host`` is in normal form (see :class:`Origin`)."""
    bracketed = f"[{host}]" if ":" in host else host
    names = {host, bracketed, f"{bracketed}:{port}"}
    return any(entry.strip().lower() in names for entry in allowed)


def check_endpoint(url: str, allowed: Collection[str] = ()) -> str:
    """``url`` in normal form, if a user may name it. Judges the text only: no name is resolved.

    Raises InputError: BAD_INPUT for what is no endpoint, ENDPOINT_FORBIDDEN for one that is not listed and is
    http, on a port below 1024 other than 443, a name of a private network or a forbidden address.
    """
    origin = parse_endpoint(url)
    if listed(origin.host, origin.port, allowed):
        return origin.url
    if origin.scheme != "https":
        raise _forbidden(origin, "is not https")
    if origin.port != _HTTPS_PORT and origin.port < _FIRST_USER_PORT:
        raise _forbidden(origin, f"uses port {origin.port}, which belongs to another service")
    try:
        address = ip_address(origin.host)
    except ValueError:
        if "." not in origin.host or f".{origin.host}".endswith(tuple(f".{s}" for s in _PRIVATE_SUFFIXES)):
            raise _forbidden(origin, "is a name of a private network") from None
    else:
        if word := why_forbidden(address):
            raise _forbidden(origin, f"is a {word} address")
    return origin.url


def why_forbidden(address: IPv4Address | IPv6Address) -> str:
    """The kind of a non-public ``address`` in a word or two; empty for a public one."""
    if isinstance(address, IPv4Address):
        return next((word for network, word in _NOT_PUBLIC_4 if address in network), "")
    if address in _NAT64:
        return why_forbidden(IPv4Address(int(address) & _LOW_32_BITS))
    if address not in _GLOBAL_UNICAST:
        return "loopback" if address.is_loopback else "multicast" if address.is_multicast else "non-public"
    return next((word for network, word in _NOT_PUBLIC_6 if address in network), "")


def addresses(host: str, port: int, allowed: Collection[str] = ()) -> list[str]:
    """The addresses of ``host`` to connect to, in the resolver's order. Blocks while resolving.

    Refuses as a whole where any answer is forbidden: a name with one public and one private address is an
    attack or a mistake. Raises DestinationError ENDPOINT_UNRESOLVABLE or ENDPOINT_FORBIDDEN.
    """
    try:
        answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as e:
        raise DestinationError(
            Code.ENDPOINT_UNRESOLVABLE, f"The endpoint's host name {host!r} does not resolve.", detail=str(e)
        ) from e
    found = list(dict.fromkeys(str(answer[4][0]) for answer in answers))
    if not listed(host, port, allowed):
        for text in found:
            word = "scoped" if "%" in text else why_forbidden(ip_address(text))
            if word:
                raise DestinationError(
                    Code.ENDPOINT_FORBIDDEN, f"The endpoint {host!r} resolves to {text}, a {word} address."
                )
    return found


def _bad(url: str, why: str) -> InputError:
    return InputError(
        Code.BAD_INPUT, f"endpoint {url[:200]!r} {why}; write it as https://HOST[:PORT]", field="endpoint"
    )


def _forbidden(origin: Origin, why: str) -> InputError:
    return InputError(
        Code.ENDPOINT_FORBIDDEN,
        f"endpoint {origin.url!r} {why}; only public https endpoints may be named, unless the operator lists the host",
        field="endpoint",
    )

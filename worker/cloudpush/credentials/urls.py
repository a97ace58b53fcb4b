"""Which URLs tokens may be sent to: https, or http on this machine."""

from __future__ import annotations

import re
from ipaddress import ip_address
from urllib.parse import urlsplit

_PRINTABLE = re.compile(r"[!-~]+")
#: Host and port. Nothing that would mean something where origins are listed, as in a Content-Security-Policy.
_PLACE = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")


def check(url: str) -> str:
    """``url``, if tokens may go there. Raises ValueError that quotes nothing."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError("is not a URL") from None
    if not host or not _PRINTABLE.fullmatch(url) or not _PLACE.fullmatch(parts.netloc) or "\\" in url or "#" in url:
        raise ValueError("is not a URL: write https://HOST[:PORT]/PATH, without user name or fragment")
    if parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host)):
        return url
    raise ValueError("must begin with https:// (http:// is for this machine's own loopback only)")


def is_loopback(host: str) -> bool:
    """Whether ``host`` is this machine under a name that nobody else can take."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False

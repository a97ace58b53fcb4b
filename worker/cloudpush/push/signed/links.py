"""A signed URL taken apart: its host judged, its query by name. Nothing ambiguous passes."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import unquote

from cloudpush.errors import InputError
from cloudpush.push.guard import NoOriginError
from cloudpush.push.signed.hosts import Place, Styles, place_of
from cloudpush.push.signed.refusals import bad, shown, shown_head, unusable

#: Longer than any provider takes: a query of 8 KiB is refused by most.
URL_BYTES = 16 * 1024

_HEAD = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*")
_PLAIN = re.compile(r"https?://[!-~]+")
_STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_HIGH_PERCENT = re.compile(r"%[89A-Fa-f]")
#: Printable ASCII without space, ``#``, quotation marks, angle brackets and backslash: what follows a host.
_REST = re.compile(r"[!$-;=?-\[\]-~]*")

#: Parameters whose names a message may repeat: any other "name" may be somebody's token.
_KNOWN_PARAMETER = re.compile(
    r"x-(?:amz|goog)-(?:algorithm|credential|date|expires|signedheaders|signature|security-token|content-sha256)"
    r"|awsaccesskeyid|googleaccessid|signature|expires|partnumber|uploadid|upload_id|x-id"
    r"|s[egprtv]|sig|sip|spr|sdd|sks|skt|ske|skv|skoid|sktid|comp|restype"
)


@dataclass(slots=True)
class Link:
    """The parts of a URL. ``name``: what errors call it.

    ``path``: as it is written, with its slash. ``query``: likewise, without ``?``. ``params``: raw values by
    lower-case name.
    """

    name: str
    place: Place
    path: str = field(repr=False)
    query: str = field(repr=False)
    params: dict[str, str] = field(repr=False)

    @property
    def text(self) -> str:
        """The URL with its host in normal form."""
        return f"{self.place.origin.url}{self.path}?{self.query}" if self.query else self.place.origin.url + self.path

    def value(self, name: str) -> str:
        """Parameter ``name``, decoded; empty where there is none."""
        raw = self.params.get(name, "")
        return unquote(raw) if "%" in raw else raw

    def unusable(self, why: str, fix: str) -> InputError:
        """The error that says of this URL ``why`` it can never work, and the fix."""
        return unusable(self.name, shown(self.place.origin.url, self.path), why, fix)

    def bad(self, why: str, fix: str) -> InputError:
        """The error that says that this is no URL."""
        return bad(self.name, f"{shown(self.place.origin.url, self.path)} {why}", fix)


def is_plain(text: str) -> bool:
    """Whether ``text`` has the letters and the length of an absolute URL as it goes over the wire."""
    return len(text) <= URL_BYTES and _PLAIN.fullmatch(text) is not None


def take_apart(text: str, name: str, styles: Styles) -> Link:
    """``text`` as a Link that errors call ``name``. No network is touched.

    Raises InputError: BAD_INPUT for what is no URL or says one thing twice; ENDPOINT_FORBIDDEN as guard does.
    """
    if len(text) > URL_BYTES:
        raise bad(name, f"has {len(text)} characters", f"URLs have at most {URL_BYTES}: copy it again")
    head = _HEAD.match(text)
    if head is None:
        raise bad(name, "does not start with https://", "write the whole URL, as https://HOST/…")
    return _split(text, head.end(), name, _place(head.group(), name, styles))


def _split(text: str, start: int, name: str, place: Place) -> Link:
    """``text`` from its path on, which is at ``start``, as a Link at ``place``. Raises InputError."""
    path, _, query = text[start:].partition("?")
    link = Link(name, place, path or "/", query, {})
    if not _REST.fullmatch(text, start):
        if "#" in text:
            raise link.bad("has a fragment", "cut off the # and all after it")
        raise link.bad(
            "contains a space, a backslash, a quotation mark or a character that is not ASCII",
            "percent-encode the key and sign that, or copy the URL again",
        )
    if _STRAY_PERCENT.search(text, start):
        raise link.bad("has a % that begins no percent-encoding", "write %25 for a percent sign")
    if _HIGH_PERCENT.search(query):
        _utf8(query, link)
    params = link.params
    for pair in query.split("&"):
        parameter, _, value = pair.partition("=")
        parameter = (unquote(parameter) if "%" in parameter else parameter).lower()
        if parameter in params:
            shown_name = parameter if _KNOWN_PARAMETER.fullmatch(parameter) else "a parameter"
            raise link.unusable(
                f"has {shown_name} twice", "nobody can say which one counts: sign the URL again with each once"
            )
        if pair:
            params[parameter] = value
    return link


def decoded_path(link: Link, raw: str) -> str:
    """A part of the path without percent-encoding. Raises InputError BAD_INPUT where it is not UTF-8."""
    return _utf8(raw, link) if "%" in raw else raw


def _utf8(raw: str, link: Link) -> str:
    try:
        return unquote(raw, errors="strict")
    except UnicodeDecodeError:  # it holds the bytes, so it must not become the cause of what is raised
        pass
    raise link.bad("is not UTF-8 once decoded", "percent-encode the UTF-8 bytes of the key and sign that")


def _place(head: str, name: str, styles: Styles) -> Place:
    # What is caught holds the head, which may be a secret, so it must not become the cause of what is raised.
    try:
        return place_of(head, styles)
    except NoOriginError as e:
        refused = bad(name, f"{shown_head(head)} {e}", "write the whole URL, as https://HOST/…")
    except InputError as e:
        refused = InputError(e.code, f"{name}: {e.message}", field=name)
    raise refused

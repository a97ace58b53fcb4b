"""What each kind of signature says in a URL's query: since when, until when, and which headers and rights.

Sources: AWS SigV4 query authentication and SigV2; GCS V4 and V2 signed URLs; Azure "Create a service SAS", "account
SAS" and "user delegation SAS"; the project's provider facts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from functools import lru_cache
from hashlib import md5, sha1, sha256, sha512
from urllib.parse import unquote

from cloudpush.push.signed.headers import UNSENDABLE, b64
from cloudpush.push.signed.hosts import AWS
from cloudpush.push.signed.links import Link
from cloudpush.push.signed.roles import Role

#: AWS and GCS sign for 604,800 seconds at most.
LONGEST_SECONDS = 7 * 24 * 3600
#: A session of S3 Express ends five minutes after it was created, whatever was signed with it.
_EXPRESS_SESSION = timedelta(minutes=5)

_V4_DATE = re.compile(r"([0-9]{4})([0-9]{2})([0-9]{2})T([0-9]{2})([0-9]{2})([0-9]{2})Z")
_AZURE_DATE = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})(?:T([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:\.[0-9]{1,7})?)?(?:Z|([+-])([0-9]{2}):([0-9]{2})))?"
)
_AZURE_VERSION = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_HEADER = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")
_SECONDS = re.compile(r"-?[0-9]{1,12}")
#: Dates, scopes and lists of headers kept as read: the rows of one manifest share them.
_KEPT = 256
#: Years that a signature can mean; room on both sides, so that whoever adds to a time gets no overflow.
YEARS = range(1970, 9000)
#: The last second of them.
_LAST_EPOCH = 221_845_391_999

#: Services that a SigV4 scope may name: a URL signed for any other opens something that is no object.
_SERVICES = frozenset({"s3", "s3express", "s3-outposts", "s3-object-lambda", "storage"})

#: Digests of nothing, as aws-sdk-js 3.729 and newer hoist them into the query of a PUT that it knows no body of.
_EMPTY = {
    "x-amz-checksum-crc32": b64(bytes(4)),
    "x-amz-checksum-crc32c": b64(bytes(4)),
    "x-amz-checksum-crc64nvme": b64(bytes(8)),
    "x-amz-checksum-sha1": b64(sha1(usedforsecurity=False).digest()),
    "x-amz-checksum-sha256": b64(sha256().digest()),
    "x-amz-checksum-sha512": b64(sha512().digest()),
    "x-amz-checksum-md5": b64(md5(usedforsecurity=False).digest()),
    "content-md5": b64(md5(usedforsecurity=False).digest()),
}


@dataclass(frozen=True, slots=True)
class Said:
    """What a signature says; see ``model.SignedUrl``."""

    version: str
    starts_at: datetime | None = None
    expires_at: datetime | None = None
    signed_headers: frozenset[str] = frozenset()
    permissions: str = ""
    scope: str = ""
    temporary: bool = False


def read_v4(link: Link, prefix: str) -> Said:
    """SigV4 of S3 (``prefix`` x-amz-) and V4 of GCS (x-goog-). Raises InputError URL_UNUSABLE."""
    params = link.params
    for name in ("algorithm", "credential", "date", "expires", "signedheaders", "signature"):
        if not params.get(prefix + name):
            raise _missing(link, _V4_SPELLING[name].format("X-Amz" if prefix == "x-amz-" else "X-Goog"))
    starts = _v4_date(link, prefix)
    expires = starts + timedelta(seconds=_v4_seconds(link, prefix))
    if link.value(prefix + "content-sha256").upper().startswith("STREAMING"):
        raise link.unusable("is signed for a payload in signed chunks (STREAMING)", "sign it with UNSIGNED-PAYLOAD")
    headers = signed_headers(link, prefix + "signedheaders", ";")
    if "host" not in headers:
        raise link.unusable("does not sign the header host", "sign it with the provider's own SDK")
    for name in params.keys() & _EMPTY.keys():
        if link.place.flavour != AWS and link.value(name) == _EMPTY[name]:
            raise link.unusable(
                f"carries {name} of an empty body, so that every other body is refused here",
                "sign it with requestChecksumCalculation: WHEN_REQUIRED",
            )
    session = "x-amz-s3session-token" in params
    if session:
        expires = min(expires, starts + _EXPRESS_SESSION)
    return Said("v4", starts, expires, headers, temporary=session or "x-amz-security-token" in params)


_V4_SPELLING = {
    "algorithm": "{}-Algorithm",
    "credential": "{}-Credential",
    "date": "{}-Date",
    "expires": "{}-Expires",
    "signedheaders": "{}-SignedHeaders",
    "signature": "{}-Signature",
}


def _v4_date(link: Link, prefix: str) -> datetime:
    text = link.value(prefix + "date")
    starts = _v4_time(text)
    if starts is None:
        raise link.unusable(f"has a malformed {prefix}date", "sign it with the provider's own SDK")
    if _scope_day(link.params[prefix + "credential"]) != text[:8]:
        raise link.unusable(
            f"has an {prefix}credential that is not KEY/{text[:8]}/REGION/s3/…",
            "sign it for S3 with the provider's own SDK",
        )
    return starts


@lru_cache(maxsize=_KEPT)
def _v4_time(text: str) -> datetime | None:
    match = _V4_DATE.fullmatch(text)
    return _utc(match.groups()) if match else None


@lru_cache(maxsize=_KEPT)
def _scope_day(credential: str) -> str:
    """The day of a credential (raw): KEY/DAY/REGION/SERVICE/REQUEST; empty where it is none for objects."""
    scope = unquote(credential).rsplit("/", 4)
    return scope[1] if len(scope) == 5 and scope[3] in _SERVICES else ""


def _v4_seconds(link: Link, prefix: str) -> int:
    text = link.value(prefix + "expires")
    seconds = int(text) if _SECONDS.fullmatch(text) else 0
    if not 0 < seconds <= LONGEST_SECONDS:
        says = f"lives {seconds} seconds" if seconds else "has a lifetime that is no number of seconds above 0"
        raise link.unusable(says, f"sign it for 1 to {LONGEST_SECONDS} seconds (7 days)")
    return seconds


def read_v2(link: Link) -> Said:
    """The legacy signatures of S3 and GCS: an epoch; headers are signed, but not named. Raises URL_UNUSABLE."""
    for name in ("signature", "expires"):
        if not link.params.get(name):
            raise _missing(link, name.capitalize())
    text = link.value("expires")
    seconds = int(text) if _SECONDS.fullmatch(text) else 0
    if not 0 < seconds <= _LAST_EPOCH:
        raise link.unusable("has an Expires that is no time", "it is the number of seconds since 1970: sign it again")
    return Said("v2", expires_at=datetime.fromtimestamp(seconds, UTC), temporary="x-amz-security-token" in link.params)


def read_sas(link: Link, role: Role) -> Said:
    """An Azure SAS: service, account or user delegation. Raises InputError URL_UNUSABLE."""
    params = link.params
    for name in ("sv", "sig"):
        if not params.get(name):
            raise _missing(link, name)
    if not _AZURE_VERSION.fullmatch(link.value("sv")):
        raise link.unusable("has a malformed sv", "generate the SAS with the provider's own SDK")
    if "sduoid" in params:
        raise link.unusable(
            "is bound to a user's own token (sduoid), which is not handed over with it",
            "generate the SAS without a delegated user's object id",
        )
    if link.place.origin.scheme == "http" and link.value("spr") == "https":
        raise link.unusable("is valid over https only (spr)", "write https://, or generate it for both protocols")
    if params.keys() & {"comp", "restype", "snapshot", "versionid"}:
        raise link.unusable(
            "names an operation, snapshot or version beside the SAS",
            "hand over the blob's URL followed by the SAS alone",
        )
    scope = _sas_scope(link)
    permissions = link.value("sp")
    policy = bool(params.get("si"))
    if not permissions and not policy:
        raise _missing(link, "sp")
    _check_rights(link, role, permissions)
    starts = [_azure_date(link, name) for name in ("st", "skt") if params.get(name)]
    ends = [_azure_date(link, name) for name in ("se", "ske") if params.get(name)]
    if not ends and not policy:
        raise _missing(link, "se")
    if "skoid" in params and not params.get("ske"):
        raise _missing(link, "ske")
    _check_signed_parameters(link)
    return Said(
        "sas",
        max(starts, default=None),
        min(ends, default=None),
        signed_headers(link, "srh", ",") if params.get("srh") else frozenset(),
        permissions,
        scope,
    )


def _sas_scope(link: Link) -> str:
    """``sr``; ``account`` for an account SAS."""
    if "srt" in link.params:
        if "o" not in link.value("srt") or "b" not in link.value("ss"):
            raise link.unusable(
                "is an account SAS that does not open blobs (ss needs b, srt needs o)",
                "generate a SAS of the blob, container or directory",
            )
        return "account"
    scope = link.value("sr")
    if not scope:
        raise _missing(link, "sr")
    if scope in {"bs", "bv"}:
        raise link.unusable("opens a snapshot or version, which nothing can be uploaded to", "generate it with sr=b")
    if scope not in {"b", "c", "d"}:
        raise link.unusable("opens no blob, container or directory (sr)", "generate it for Blob Storage")
    return scope


def _check_rights(link: Link, role: Role, permissions: str) -> None:
    if not permissions:
        return  # a stored access policy holds them: only the provider knows
    if role is Role.VERIFY:
        if "r" not in permissions:
            raise link.unusable("has no read right (sp)", "generate the SAS with r")
    elif "w" not in permissions and "c" not in permissions:
        raise link.unusable("has neither write nor create right (sp)", "generate the SAS with c and w")


def _check_signed_parameters(link: Link) -> None:
    """``srq`` binds further parameters of the query: those that the URL does not carry, nobody can send."""
    names = {name.strip().lower() for name in link.value("srq").split(",")} - {""}
    if names - link.params.keys():
        raise link.unusable("signs query parameters that it does not carry (srq)", "generate the SAS without srq")


@lru_cache(maxsize=_KEPT)
def _names(raw: str, separator: str) -> frozenset[str] | None:
    names = unquote(raw).lower().split(separator)
    return frozenset(names) if all(_HEADER.fullmatch(name) for name in names) else None


def signed_headers(link: Link, parameter: str, separator: str) -> frozenset[str]:
    """The header names that ``parameter`` lists, in lower case. Raises InputError URL_UNUSABLE."""
    names = _names(link.params[parameter], separator)
    if names is None:
        raise link.unusable("lists signed headers that are none", "sign it with the provider's own SDK")
    if names & UNSENDABLE:
        raise link.unusable(
            f"signs the header {min(names & UNSENDABLE)}, which an upload cannot send as it was signed",
            "sign it without that header",
        )
    if "x-amz-decoded-content-length" in names:
        raise link.unusable("is signed for a payload in chunks (aws-chunked)", "sign it with UNSIGNED-PAYLOAD")
    if names & {"x-amz-copy-source", "x-goog-copy-source", "x-ms-copy-source"}:
        raise link.unusable("is signed to copy another object", "sign a PUT of the object")
    return names


def _azure_date(link: Link, name: str) -> datetime:
    match = _AZURE_DATE.fullmatch(link.value(name))
    at = _utc(match.groups("0")[:6]) if match else None
    if at is None or match is None:
        raise link.unusable(f"has a malformed {name}", "write it as 2026-01-31T12:00:00Z")
    sign, hours, minutes = match.groups()[6:]
    if sign:
        offset = timedelta(hours=int(hours), minutes=int(minutes))
        if offset >= timedelta(days=1):
            raise link.unusable(f"has a malformed {name}", "write it as 2026-01-31T12:00:00Z")
        at = at.replace(tzinfo=timezone(offset if sign == "+" else -offset)).astimezone(UTC)
    return at


def _utc(groups: tuple[str | None, ...]) -> datetime | None:
    year, month, day, hour, minute, second = (int(group or 0) for group in groups)
    if year not in YEARS:
        return None
    try:
        return datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError:
        return None


def _missing(link: Link, name: str) -> Exception:
    return link.unusable(f"lacks {name}", "it was cut off or changed: copy the whole URL, or sign it again")


def family(params: Mapping[str, str]) -> list[str]:
    """Which signatures a query has: ``amz4``, ``goog4``, ``amz2``, ``goog2``, ``sas``."""
    found = []
    if "x-amz-signature" in params or "x-amz-algorithm" in params:
        found.append("amz4")
    if "x-goog-signature" in params or "x-goog-algorithm" in params:
        found.append("goog4")
    if "awsaccesskeyid" in params:
        found.append("amz2")
    if "googleaccessid" in params:
        found.append("goog2")
    if "sig" in params:
        found.append("sas")
    return found

"""Destination URIs: ``SCHEME://BUCKET[/PREFIX]``, and which names of objects each provider can store.

The prefix always names a directory, with or without a trailing slash: what is pushed goes below it and
nothing is ever stored under the prefix itself. ``%``, ``?`` and ``#`` stand for themselves, as in every S3 tool.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from cloudpush.errors import Code, InputError
from cloudpush.push.job import Destination, Profile

#: Longest object key that S3 and GCS store, in UTF-8 bytes.
KEY_BYTES = 1024

#: Dialects that are not S3's.
GCS, AZURE = "gcs", "azure"
TITLES: Mapping[str, str] = {GCS: "Google Cloud Storage", AZURE: "Azure Blob Storage"}

#: What the schemes mean where the operator has no profile of that name. None but ``aws`` and, given a region,
#: ``b2`` has an endpoint of its own: the credential or an operator's profile names it.
BUILT_IN: Mapping[str, Profile] = {
    "aws": Profile("aws", dialect="aws", path_style=False),
    "r2": Profile("r2", dialect="cloudflare", region="auto"),
    "b2": Profile("b2", dialect="backblaze"),
    "minio": Profile("minio", dialect="minio"),
    "seaweedfs": Profile("seaweedfs", dialect="seaweedfs"),
    "gcs": Profile("gcs", dialect=GCS),
    "azure": Profile("azure", dialect=AZURE),
}
#: ``s3`` says which protocol is spoken, so it goes with every profile; on its own it means Amazon.
_PROTOCOL = "s3"

#: Schemes that are not named like their profile. A destination has one spelling only: shares are compared by it.
_SCHEMES = {"gs": "gcs", "az": "azure"}
_SPELT = {profile: scheme for scheme, profile in _SCHEMES.items()}
#: Other tools' schemes for Azure, which name the account in the URI; here the connection knows it.
_ELSEWHERE = frozenset({"abfs", "abfss", "wasb", "wasbs"})

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_ADDRESS = re.compile(r"\d+\.\d+\.\d+\.\d+")
_RESERVED_STARTS = ("xn--", "sthree-")
#: Buckets that need another protocol than plain S3: directory buckets want sessions and have no MD5 ETags.
_SPECIAL_ENDS = {
    "--x-s3": "a directory bucket (S3 Express One Zone)",
    "--ol-s3": "an Object Lambda access point",
    "--table-s3": "a table bucket",
    ".mrap": "a multi-region access point",
}


#: GCS: dots divide a name into parts. Names that hold "google" are refused by Google, as are those that begin so.
_GCS_PART = r"[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?"
_GCS_BUCKET = re.compile(rf"{_GCS_PART}(?:\.{_GCS_PART})*")
_GCS_LENGTHS = range(3, 223)
_GCS_UNDOTTED = 63
#: Azure: single dashes between letters and digits.
_CONTAINER = re.compile(r"(?=.{3,63}$)[a-z0-9]+(?:-[a-z0-9]+)*")
#: Parts of a blob's name between slashes.
_BLOB_SEGMENTS = 254
_ACME = ".well-known/acme-challenge/"


def schemes_of(profile: str) -> list[str]:
    """Schemes that lead to ``profile`` where no other is named."""
    if profile == "aws":
        return [_PROTOCOL]
    return [_SPELT.get(profile, profile)]


def parse_destination(uri: str, profiles: Mapping[str, Profile], profile_name: str = "") -> Destination:
    """``uri`` as a Destination. ``profiles``: the operator's, which come before the built-in ones of that name.

    Raises InputError: BAD_URI naming the URI and the fix; BAD_INPUT for a profile that does not exist or does
    not go with the URI's scheme.
    """
    scheme, separator, rest = uri.partition("://")
    scheme = scheme.lower()
    if not separator:
        raise _bad(uri, "has no scheme", "write s3://BUCKET/PREFIX")
    scheme = _SPELT.get(scheme, scheme)
    known = {**BUILT_IN, **profiles}
    _check_scheme(scheme, known, uri)
    own = _SCHEMES.get(scheme, scheme)
    profile = _named(profile_name, known, scheme, uri) if profile_name else known.get(own, known["aws"])
    bucket, _, prefix = rest.partition("/")
    _CHECKS.get(profile.dialect, _check_bucket)(bucket, uri)
    prefix = prefix.removesuffix("/")
    if prefix:
        _check_prefix(prefix, uri)
        why = unstorable(profile.dialect, f"{prefix}/")
        if why:
            raise _bad(uri, f"has a prefix that {why}", "choose another prefix")
    return Destination(scheme, bucket, prefix, profile)


def unstorable(dialect: str, key: str) -> str:
    """Why no object of this provider's can have ``key``, as a predicate; empty where it can.

    ``key`` may end with a slash: it is a directory then, and whatever is below it has this in its name. The length in
    bytes is no matter here: it is the same for all (Azure's 1,024 characters are at least as many bytes). GCS: cloud.google.com/storage/docs/objects#naming. Azure:
    learn.microsoft.com "Naming and referencing containers, blobs, and metadata"; what it would store under another name
    (a backslash, dots at a segment's end, control characters) is refused here, as rclone avoids it.
    """
    if dialect == GCS:
        if "\r" in key or "\n" in key:
            return "contains a line break, which Google Cloud Storage does not store"
        if key.startswith(_ACME):
            return f"begins with {_ACME}, which Google Cloud Storage keeps for itself"
    elif dialect == AZURE:
        return _unstorable_blob(key)
    return ""


def _unstorable_blob(key: str) -> str:
    segments = key.removesuffix("/").split("/")
    if len(segments) > _BLOB_SEGMENTS:
        return f"has {len(segments)} segments between slashes; Azure stores {_BLOB_SEGMENTS}"
    if any(segment.endswith(".") for segment in segments):
        return "has a segment that ends with a dot, which Azure does not keep"
    if "\\" in key:
        return "contains a backslash, which Azure takes for a slash"
    if any(ord(c) < ord(" ") or ord(c) == 0x7F for c in key):
        return "contains a control character, which Azure does not store"
    return ""


def key_below(destination: Destination, path: str) -> str:
    """The object key of ``path``, relative and with slashes, under the destination's prefix."""
    return f"{destination.prefix}/{path}" if destination.prefix else path


def _named(name: str, known: Mapping[str, Profile], scheme: str, uri: str) -> Profile:
    profile = known.get(name)
    if profile is None:
        raise InputError(
            Code.BAD_INPUT, f"profile {name!r} does not exist; choose one of {_list(known)}", field="profile"
        )
    same = known.get(_SCHEMES.get(scheme, scheme))
    own = _SPELT.get(profile.dialect, "")  # not S3's, so that s3:// does not lead there
    fits = not own if scheme == _PROTOCOL else same is None or same.dialect == profile.dialect
    if not fits:
        raise InputError(
            Code.BAD_INPUT,
            f"profile {name!r} does not go with {uri!r}; write {own or _PROTOCOL}:// or {_SPELT.get(name, name)}://",
            field="profile",
        )
    return profile


def _check_scheme(scheme: str, known: Mapping[str, Profile], uri: str) -> None:
    """Before any profile: it may be the credential's, and its user did not write that."""
    if scheme in known or scheme in _SCHEMES or scheme == _PROTOCOL:
        return
    if scheme in _ELSEWHERE:
        raise _bad(uri, f"has the scheme {scheme!r} of other tools", "write az://CONTAINER/PREFIX")
    schemes = {_PROTOCOL, *_SCHEMES, *known} - _SPELT.keys()
    raise _bad(uri, f"has the unknown scheme {scheme!r}", f"write one of {', '.join(sorted(schemes))}")


def _check_bucket(bucket: str, uri: str) -> None:
    if not bucket:
        raise _bad(uri, "names no bucket", "write s3://BUCKET/PREFIX")
    for end, what in _SPECIAL_ENDS.items():
        if bucket.endswith(end):
            raise _bad(uri, f"names {what}, which is not supported", "use a general-purpose bucket")
    if (
        not _BUCKET.fullmatch(bucket)
        or ".." in bucket
        or _ADDRESS.fullmatch(bucket)
        or bucket.startswith(_RESERVED_STARTS)
    ):
        raise _bad(
            uri,
            f"names {bucket!r}, which cannot be a bucket",
            "bucket names are 3 to 63 lower-case letters, digits, dots and dashes, and begin and end with a letter or digit",
        )


def _check_gcs_bucket(bucket: str, uri: str) -> None:
    if not bucket:
        raise _bad(uri, "names no bucket", "write gs://BUCKET/PREFIX")
    if (
        not _GCS_BUCKET.fullmatch(bucket)
        or len(bucket) not in _GCS_LENGTHS
        or ("." not in bucket and len(bucket) > _GCS_UNDOTTED)
        or _ADDRESS.fullmatch(bucket)
        or bucket.startswith("goog")
        or "google" in bucket
    ):
        raise _bad(
            uri,
            f"names {bucket!r}, which cannot be a bucket of Google's",
            "bucket names are 3 to 63 lower-case letters, digits, dashes and underscores (more with dots between), begin "
            "and end with a letter or digit, and do not hold the word google",
        )


def _check_container(container: str, uri: str) -> None:
    if not container:
        raise _bad(uri, "names no container", "write az://CONTAINER/PREFIX")
    if not _CONTAINER.fullmatch(container):
        raise _bad(
            uri,
            f"names {container!r}, which cannot be a container",
            "container names are 3 to 63 lower-case letters and digits with single dashes between them; the storage "
            "account is the connection's",
        )


#: By dialect; S3's rules hold for every other.
_CHECKS: Mapping[str, Callable[[str, str], None]] = {GCS: _check_gcs_bucket, AZURE: _check_container}


def _check_prefix(prefix: str, uri: str) -> None:
    try:
        length = len(prefix.encode())
    except UnicodeEncodeError as e:
        raise _bad(uri, "is not valid UTF-8", "use a prefix of valid characters") from e
    if length > KEY_BYTES - 2:
        raise _bad(uri, f"has a prefix of {length} bytes", f"{KEY_BYTES - 2} are the most that leave room for a name")
    if any(ord(c) < ord(" ") or ord(c) == 0x7F for c in prefix):
        raise _bad(uri, "has a control character in its prefix", "remove it")
    for segment in prefix.split("/"):
        if not segment:
            raise _bad(uri, "has an empty segment in its prefix", "write single slashes")
        if segment in {".", ".."}:
            raise _bad(uri, f"has the segment {segment!r} in its prefix", "write the whole prefix without . and ..")


def _list(names: Mapping[str, object]) -> str:
    return ", ".join(sorted(names))


def _bad(uri: str, why: str, fix: str) -> InputError:
    shown = uri if len(uri) <= 200 else uri[:200] + "…"
    return InputError(Code.BAD_URI, f"destination {shown!r} {why}; {fix}", field="destination")

"""Destination URIs: ``SCHEME://BUCKET[/PREFIX]``.

The prefix always names a directory, with or without a trailing slash: what is pushed goes below it and
nothing is ever stored under the prefix itself. ``%``, ``?`` and ``#`` stand for themselves, as in every S3 tool.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from cloudpush.errors import Code, InputError
from cloudpush.push.job import Destination, Profile

#: Longest object key that S3 stores, in UTF-8 bytes.
KEY_BYTES = 1024

#: What the schemes mean where the operator has no profile of that name. None but ``aws`` and, given a region,
#: ``b2`` has an endpoint of its own: the credential or an operator's profile names it.
BUILT_IN: Mapping[str, Profile] = {
    "aws": Profile("aws", dialect="aws", path_style=False),
    "r2": Profile("r2", dialect="cloudflare", region="auto"),
    "b2": Profile("b2", dialect="backblaze"),
    "minio": Profile("minio", dialect="minio"),
    "seaweedfs": Profile("seaweedfs", dialect="seaweedfs"),
}
#: ``s3`` says which protocol is spoken, so it goes with every profile; on its own it means Amazon.
_PROTOCOL = "s3"

_NOT_YET = {
    **dict.fromkeys(("gs", "gcs"), "Google Cloud Storage"),
    **dict.fromkeys(("az", "azure", "abfs", "abfss", "wasb", "wasbs"), "Azure Blob Storage"),
}

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


def parse_destination(uri: str, profiles: Mapping[str, Profile], profile_name: str = "") -> Destination:
    """``uri`` as a Destination. ``profiles``: the operator's, which come before the built-in ones of that name.

    Raises InputError: BAD_URI naming the URI and the fix; BAD_INPUT for a profile that does not exist or does
    not go with the URI's scheme.
    """
    scheme, separator, rest = uri.partition("://")
    scheme = scheme.lower()
    if not separator:
        raise _bad(uri, "has no scheme", "write s3://BUCKET/PREFIX")
    known = {**BUILT_IN, **profiles}
    _check_scheme(scheme, known, uri)
    profile = _named(profile_name, known, scheme, uri) if profile_name else known.get(scheme, known["aws"])
    bucket, _, prefix = rest.partition("/")
    _check_bucket(bucket, uri)
    prefix = prefix.removesuffix("/")
    if prefix:
        _check_prefix(prefix, uri)
    return Destination(scheme, bucket, prefix, profile)


def key_below(destination: Destination, path: str) -> str:
    """The object key of ``path``, relative and with slashes, under the destination's prefix."""
    return f"{destination.prefix}/{path}" if destination.prefix else path


def _named(name: str, known: Mapping[str, Profile], scheme: str, uri: str) -> Profile:
    profile = known.get(name)
    if profile is None:
        raise InputError(
            Code.BAD_INPUT, f"profile {name!r} does not exist; choose one of {_list(known)}", field="profile"
        )
    same = known.get(scheme)
    if same is not None and scheme != _PROTOCOL and same.dialect != profile.dialect:
        raise InputError(
            Code.BAD_INPUT,
            f"profile {name!r} does not go with {uri!r}; write s3:// or {name}://",
            field="profile",
        )
    return profile


def _check_scheme(scheme: str, known: Mapping[str, Profile], uri: str) -> None:
    """Before any profile: it may be the credential's, and its user did not write that."""
    if scheme in known or scheme == _PROTOCOL:
        return
    if scheme in _NOT_YET:
        raise _bad(uri, f"is on {_NOT_YET[scheme]}, which is not supported yet", "push to an S3-compatible bucket")
    raise _bad(uri, f"has the unknown scheme {scheme!r}", f"write one of {_list({_PROTOCOL: None, **known})}")


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

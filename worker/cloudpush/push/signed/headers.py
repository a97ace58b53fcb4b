"""Headers by what may be done with them: which nobody may hand over, which an upload fills in by itself."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable, Mapping

from cloudpush.errors import InputError
from cloudpush.push.signed.model import Provider, SignedUrl
from cloudpush.push.signed.refusals import bad_row

#: Belong to one connection, or carry somebody's identity: neither sent as handed over nor as signed.
UNSENDABLE = frozenset(
    {
        *("authorization", "connection", "cookie", "expect", "keep-alive", "proxy-authenticate", "proxy-authorization"),
        *("proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"),
    }
)
#: Written by the upload itself, which knows the request's size and place.
_OURS = frozenset({"host", "content-length", "content-range", "range", "date", "x-ms-date", "x-ms-version"})
_COPIES = ("x-amz-copy-source", "x-goog-copy-source", "x-ms-copy-source", "x-ms-source-")
#: Never to be smuggled past a proxy.
_OVERRIDES = frozenset({"x-http-method", "x-http-method-override", "x-method-override", "forwarded", "via"})

#: Digests of the body that the upload computes where they are signed and not handed over; of a part, all but one.
_COMPUTED = frozenset(
    {
        *("content-md5", "x-goog-hash"),
        *("x-amz-checksum-crc32c", "x-amz-checksum-crc64nvme", "x-amz-checksum-sha256"),
    }
)
_COMPUTED_OF_PART = _COMPUTED - {"x-goog-hash"}
#: How an object is described. S3 and GCS take these unsigned; GCS wants content-type signed.
_DESCRIBING = frozenset({"cache-control", "content-disposition", "content-encoding", "content-language", "expires"})
#: What Azure takes beside x-ms-*: a SAS signs no headers, unless it says so.
_AZURE = _DESCRIBING | {
    *("content-type", "content-md5", "if-match", "if-none-match", "if-modified-since", "if-unmodified-since")
}
#: What HEAD and GET of a companion may have signed: what is sent with them anyway, and the token in the query.
_COMPANION = frozenset({"host", "x-amz-checksum-mode", "x-amz-content-sha256", "x-amz-security-token"})

_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
_VALUE = re.compile(r"[\t -~]{0,8192}")
#: Metadata is limited to 2 KiB (S3) or 8 KiB (GCS, Azure): a hundred headers are a mistake.
_MOST_HEADERS = 100


def b64(digest: bytes) -> str:
    """``digest`` as headers write it."""
    return b64encode(digest).decode()


def headers_of(value: Mapping[str, object]) -> dict[str, str]:
    """The column ``headers``: names in lower case, values as they are. Raises InputError BAD_MANIFEST."""
    if len(value) > _MOST_HEADERS:
        raise _bad(f"has {len(value)} headers", f"{_MOST_HEADERS} are the most")
    found: dict[str, str] = {}
    for written, text in value.items():
        if not _NAME.fullmatch(written):
            raise _bad("has a name that no header can have", "write names such as content-type")
        name = written.lower()
        if name in found:
            raise _bad(f"has {name} twice", "write each header once, in whatever case")
        if name in UNSENDABLE or name in _OURS or name in _OVERRIDES or name.startswith(("proxy-", "x-forwarded-")):
            raise _bad(f"has {name}, which is not for users to set", "leave it out")
        if name.startswith(_COPIES):
            raise _bad(f"has {name}, which copies another object", "leave it out")
        if not isinstance(text, str) or not _VALUE.fullmatch(text):
            raise _bad(
                f"has a value of {name} that is not text of printable ASCII characters",
                "write a string of at most 8192 characters, without line breaks",
            )
        if name == "x-amz-content-sha256" and text.upper().startswith("STREAMING"):
            raise _bad("asks for a payload in signed chunks (STREAMING)", "sign the URL with UNSIGNED-PAYLOAD")
        if name == "x-ms-blob-type" and text != "BlockBlob":
            raise _bad("asks for another blob type than BlockBlob", "leave x-ms-blob-type out")
        if name == "x-goog-resumable" and text != "start":
            raise _bad("has an x-goog-resumable that is not start", "leave it out")
        found[name] = text
    return found


def check_sendable(headers: Mapping[str, str], urls: Iterable[SignedUrl]) -> None:
    """That each of ``headers`` may go with at least one of ``urls``: it is signed, or the provider takes it unsigned.

    Raises InputError BAD_MANIFEST: real AWS and GCS refuse a request for one such header too many.
    """
    known = list(urls)
    for name in headers:
        if not any(name in url.signed_headers or _taken_unsigned(name, url) for url in known):
            raise _bad(
                f"has {name}, which the URL does not sign and the provider then refuses", "sign it, or leave it out"
            )


def _taken_unsigned(name: str, url: SignedUrl) -> bool:
    if url.version == "sas":
        return name in _AZURE or name.startswith("x-ms-")
    if url.version == "v2":  # signs headers without naming them
        own = "x-goog-" if url.provider is Provider.GCS else "x-amz-"
        return name.startswith(own) or name in _DESCRIBING or name in {"content-type", "content-md5"}
    if url.version == "v4" and url.part is None:
        return name in _DESCRIBING or (name == "content-type" and url.provider is Provider.S3)
    return False


def with_demanded(headers: dict[str, str], url: SignedUrl, column: str) -> dict[str, str]:
    """``headers`` with those that ``url`` demands and that have but one value. Raises InputError BAD_MANIFEST.

    A digest of the body may be missing: the upload computes it. ``column``: whose URL it is.
    """
    computed = _COMPUTED if url.part is None else _COMPUTED_OF_PART
    for name in url.signed_headers - headers.keys():
        if name in {"host", "content-length"} or name in computed:
            continue
        if name == "x-amz-security-token" and url.temporary:
            continue  # the token is in the query
        only = _ONLY_VALUES.get(name)
        if only is None:
            raise _bad(f"lacks {name}, which {column} signs", "add it with the value that was signed")
        headers[name] = only
    return headers


_ONLY_VALUES = {
    "x-amz-content-sha256": "UNSIGNED-PAYLOAD",
    "x-goog-content-sha256": "UNSIGNED-PAYLOAD",
    "x-goog-resumable": "start",
    "x-ms-blob-type": "BlockBlob",
}


def check_companion(url: SignedUrl, column: str) -> None:
    """That HEAD or GET of ``url`` can be sent as it was signed. Raises InputError BAD_MANIFEST."""
    others = url.signed_headers - _COMPANION
    if others:
        raise bad_row(column, f"signs the header {min(others)}, which cannot be given for it", "sign host alone")


def _bad(why: str, fix: str) -> InputError:
    return bad_row("headers", why, fix)

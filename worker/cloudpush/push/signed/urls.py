"""Signed URLs read: whose they are, what they open, since when and until when. Never guessed, never repeated.

::

    x-goog-signature             GCS V4            awsaccesskeyid + signature    S3 SigV2
    googleaccessid + signature   GCS V2            sig + sv                      Azure SAS
    x-amz-signature              S3 SigV4; on Google's hosts its XML API with HMAC keys
    upload_id                    on Google's hosts: the URI of a resumable upload under way

Which parameters there are decides, the host comes second. A URL that can never do what it is handed over for is
refused with what to change.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

from cloudpush.errors import Code, InputError
from cloudpush.push.signed.hosts import AZURE, GCS, OTHER, R2, Styles
from cloudpush.push.signed.links import Link, decoded_path, take_apart
from cloudpush.push.signed.model import Provider, SignedUrl
from cloudpush.push.signed.refusals import shown
from cloudpush.push.signed.roles import Role, check_operation, check_role, part_number
from cloudpush.push.signed.signatures import Said, family, read_sas, read_v2, read_v4
from cloudpush.push.uris import KEY_BYTES

__all__ = ["Role", "Styles", "at_key", "opens_tree", "read_url", "starts_upload", "usable_at"]

#: How far in the future AWS and GCS let the date of a V4 signature be.
FUTURE_ALLOWED = timedelta(minutes=15)

#: Names of buckets and containers, generously; ``$root`` and ``$web`` are Azure's own.
_BUCKET = re.compile(r"\$?[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,253}[A-Za-z0-9_])?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_DOTS = re.compile(r"(?:^|/)\.{1,2}(?:/|$)")
#: Sessions of GCS's JSON API: the bucket is in the path, the object in the parameter ``name``.
_JSON_SESSION = re.compile(r"/(?:resumable/)?upload/storage/v1/b/([^/]+)/o")

_OBJECT_ROLES = frozenset({Role.UPLOAD, Role.PART, Role.COMPLETE, Role.ABORT, Role.START, Role.VERIFY})
_SAS_ROLES = frozenset({Role.UPLOAD, Role.VERIFY, Role.TREE})
_SESSION_ROLES = frozenset({Role.UPLOAD, Role.SESSION})


def read_url(
    text: str, *, field: str, styles: Styles, role: Role = Role.UPLOAD, now: datetime | None = None
) -> SignedUrl:
    """What ``text`` says of itself. ``field``: what errors call it. Where ``now`` is given it must be usable then.

    The URL's host comes back in normal form; Azure's ``dfs`` host as the account's ``blob`` one, where the same SAS
    is valid. A TREE's path ends without slash. A FORM's key and times are in its fields: see ``forms``.

    Raises InputError: BAD_INPUT for what is no URL, ENDPOINT_FORBIDDEN, URL_UNUSABLE, and with ``now`` URL_EXPIRED
    and URL_NOT_YET_VALID. None of them shows any of the query.
    """
    link = take_apart(text, field, styles)
    url = _read(link, role)
    if now is not None:
        usable_at(url, now, field=field)
    return url


def opens_tree(text: str, *, field: str, styles: Styles) -> bool:
    """Whether ``text`` is an Azure SAS of a container or directory; any other text may still be no URL at all.

    An account SAS opens everything: it is a TREE where the path ends at the container or with a slash. Raises
    InputError BAD_INPUT, ENDPOINT_FORBIDDEN, URL_UNUSABLE.
    """
    link = take_apart(text, field, styles)
    if family(link.params) != ["sas"]:
        return False
    if "srt" in link.params:
        return link.path.endswith("/") or "/" not in _below_account(link)
    return link.value("sr") in {"c", "d"}


def starts_upload(url: SignedUrl) -> bool:
    """Whether ``url`` begins a resumable upload: that header is signed for nothing else."""
    return "x-goog-resumable" in url.signed_headers


def at_key(tree: SignedUrl, key: str) -> str:
    """The URL of the blob ``key``, a whole key, under the SAS of ``tree``. Raises ValueError outside of it."""
    below = f"{tree.key}/" if tree.key else ""
    if not key.startswith(below) or key == below:
        raise ValueError(f"{key!r} is not below the directory of the SAS")
    path, _, query = tree.text.partition("?")
    return f"{path}/{quote(key[len(below) :], safe='/~')}?{query}"


def usable_at(url: SignedUrl, now: datetime, skew: timedelta = timedelta(0), *, field: str = "url") -> None:
    """That the provider takes ``url`` at ``now``, our time; ``skew``: how far its clock is ahead of ours.

    Raises InputError URL_EXPIRED or URL_NOT_YET_VALID with the time. Tolerates what providers do: a V4 date may
    be up to 15 minutes in the future.
    """
    there = now + skew
    if url.expires_at is not None and url.expires_at <= there:
        raise InputError(
            Code.URL_EXPIRED, f"{field} {_called(url)} expired at {_when(url.expires_at)}; sign it again", field=field
        )
    allowed = FUTURE_ALLOWED if url.version == "v4" else timedelta(0)
    if url.starts_at is not None and url.starts_at > there + allowed:
        raise InputError(
            Code.URL_NOT_YET_VALID,
            f"{field} {_called(url)} is not valid before {_when(url.starts_at)}; sign it again without a start time, "
            "or set the clock of the machine that signs",
            field=field,
        )


def _called(url: SignedUrl) -> str:
    return shown(url.origin.url, url.text[len(url.origin.url) :].partition("?")[0])


def _when(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _read(link: Link, role: Role) -> SignedUrl:
    if role is Role.FORM:
        return _form(link)
    place = link.place
    params = link.params
    if "upload_id" in params and (place.flavour == GCS or (place.listed and "x-amz-signature" not in params)):
        return _session(link, role)
    provider, said = _signature(link, role)
    if provider is Provider.AZURE:
        check_role(link, role, _SAS_ROLES)
        bucket, key = _blob(link, role, said)
        return _signed(link, provider, said, bucket, key)
    check_role(link, role, _OBJECT_ROLES)
    check_operation(link, role)
    if role is Role.START and said.version == "v4" and "x-goog-resumable" not in said.signed_headers:
        raise link.unusable(
            "does not sign the header x-goog-resumable", "sign a POST of the object with x-goog-resumable: start"
        )
    bucket, key = _object(link, link.path)
    return _signed(link, provider, said, bucket, key)


def _signed(link: Link, provider: Provider, said: Said, bucket: str, key: str) -> SignedUrl:
    # Google and Microsoft alone speak their protocols, under whatever name.
    flavour = link.place.flavour if provider is Provider.S3 else provider.value
    return SignedUrl(
        text=link.text,
        provider=provider,
        flavour=flavour,
        version=said.version,
        origin=link.place.origin,
        bucket=bucket,
        key=key,
        starts_at=said.starts_at,
        expires_at=said.expires_at,
        signed_headers=said.signed_headers,
        permissions=said.permissions,
        scope=said.scope,
        part=part_number(link) if "partnumber" in link.params else None,
        upload=link.value("uploadid"),
        temporary=said.temporary,
        vouched=link.place.vouched,
    )


def _signature(link: Link, role: Role) -> tuple[Provider, Said]:
    """Whose signature the query has, and what it says. Raises InputError URL_UNUSABLE."""
    families = family(link.params)
    if len(families) != 1:
        raise link.unusable(
            "carries signatures of more than one kind" if families else "carries no signature that is known",
            "hand over a presigned URL of S3 or GCS, or an Azure SAS, whole",
        )
    found = families[0]
    flavour = link.place.flavour
    if found == "sas":
        _check_host(link, flavour in {AZURE, OTHER}, "an Azure SAS")
        return Provider.AZURE, read_sas(link, role)
    if found in {"goog4", "goog2"}:
        _check_host(link, flavour in {GCS, OTHER}, "a Google signature")
        return Provider.GCS, read_v4(link, "x-goog-") if found == "goog4" else read_v2(link)
    _check_host(link, flavour != AZURE, "an S3 signature")
    if flavour == R2 and link.place.origin.host.endswith(".r2.dev"):
        raise link.unusable(
            "is on a public R2 host, where signatures mean nothing",
            "sign it for https://ACCOUNT.r2.cloudflarestorage.com",
        )
    return Provider.S3, read_v4(link, "x-amz-") if found == "amz4" else read_v2(link)


def _check_host(link: Link, goes: bool, what: str) -> None:
    if not goes:
        raise link.unusable(f"carries {what} on another provider's host", "copy host and query from the same URL")


def _session(link: Link, role: Role) -> SignedUrl:
    check_role(link, role, _SESSION_ROLES)
    if not link.params["upload_id"]:
        raise link.unusable("lacks the value of upload_id", "copy the whole URL")
    if match := _JSON_SESSION.fullmatch(link.path):
        bucket, key = decoded_path(link, match[1]), link.value("name")
        if not key:
            raise link.unusable(
                "does not tell which object it makes", "begin the upload with the name in the URL, or use the XML API"
            )
        if not _BUCKET.fullmatch(bucket):
            raise link.unusable("names no bucket", "copy the whole URL")
        _check_object(link, key)
    else:
        bucket, key = _object(link, link.path)
    return SignedUrl(
        text=link.text,
        provider=Provider.GCS,
        flavour=GCS,
        version="session",
        origin=link.place.origin,
        bucket=bucket,
        key=key,
        session=True,
        vouched=link.place.vouched,
    )


def _form(link: Link) -> SignedUrl:
    """The address of a POST policy form: a bucket, without query. ``key``: a path that the host does not explain."""
    place = link.place
    if link.query:
        raise link.unusable("has a query, where a form has its signature in fields", "hand over url and fields apart")
    if place.flavour in {R2, AZURE}:
        raise link.unusable("is on a provider that takes no POST policy forms", "sign a PUT of the object")
    if place.flavour == GCS:
        raise link.unusable(
            "is a Google form, which is not supported", "sign a PUT of the object, or a resumable start"
        )
    bucket, key = place.bucket, decoded_path(link, link.path).strip("/")
    if place.path_style:
        bucket, key = key, ""
    if (bucket and not _BUCKET.fullmatch(bucket)) or (key and place.bucket):
        raise link.unusable("is not the address of a bucket", "copy the form's url again")
    _check_key(link, key)
    return SignedUrl(
        text=link.text,
        provider=Provider.S3,
        flavour=place.flavour,
        version="",
        origin=place.origin,
        bucket=bucket,
        key=key,
        vouched=place.vouched,
    )


def _object(link: Link, path: str) -> tuple[str, str]:
    """Bucket and key that ``path`` (raw, with its slash) tells; the bucket is empty where the host does not tell."""
    bucket, raw = link.place.bucket, path[1:]
    if link.place.path_style:
        first, _, raw = raw.partition("/")
        bucket = decoded_path(link, first)
        if not _BUCKET.fullmatch(bucket):
            raise link.unusable("does not begin its path with a bucket", "copy the whole URL")
    key = decoded_path(link, raw)
    _check_object(link, key)
    return bucket, key


def _blob(link: Link, role: Role, said: Said) -> tuple[str, str]:
    """Container and blob, or directory for a TREE, whose path loses its last slash. Raises InputError."""
    first, _, raw = _below_account(link).partition("/")
    container = decoded_path(link, first)
    if not _BUCKET.fullmatch(container):
        raise link.unusable("does not begin its path with a container", "write https://ACCOUNT.blob.…/CONTAINER/…?SAS")
    if role is not Role.TREE:
        key = decoded_path(link, raw)
        _check_object(link, key)
        _check_slashes(link, key)
        return container, key
    if said.scope == "b":
        raise link.unusable("opens one blob (sr=b)", "generate a SAS of the container or directory, or use url")
    raw = raw.rstrip("/")
    link.path = link.path.rstrip("/")
    directory = decoded_path(link, raw)
    if directory:
        _check_object(link, directory)
        _check_slashes(link, directory)
        if "//" in directory:
            raise link.unusable("has an empty segment in its directory", "write single slashes")
    if said.scope == "d":
        depth = link.value("sdd")
        if not (depth.isascii() and depth.isdigit()):
            raise link.unusable("lacks sdd, the depth of its directory", "generate the SAS again")
        if len(directory.split("/") if directory else []) < int(depth[:4]):
            raise link.unusable("is cut above the directory that it opens (sdd)", "write the whole directory")
    return container, directory


def _check_slashes(link: Link, key: str) -> None:
    """Azure's clients and servers may take a backslash for a slash: then the blob is another one than was signed."""
    if "\\" in key:
        raise link.unusable("has a backslash (%5C) in its key", "name the blob with slashes, or without, and sign that")


def _below_account(link: Link) -> str:
    """The raw path from the container on. An operator's own server, such as Azurite, has the account before it."""
    path = link.path[1:]
    if link.place.flavour == AZURE or not link.place.listed:
        return path
    account, _, path = path.partition("/")
    if not _BUCKET.fullmatch(account):
        raise link.unusable("does not begin its path with an account", "write http://HOST:PORT/ACCOUNT/CONTAINER/…")
    return path


def _check_object(link: Link, key: str) -> None:
    """That ``key`` names an object and nothing outside of its bucket. Raises InputError."""
    if not key or key.endswith("/"):
        raise link.unusable("names no object", "write the key after the host and the bucket")
    _check_key(link, key)


def _check_key(link: Link, key: str) -> None:
    if _CONTROL.search(key):
        raise link.bad("has a control character in its key", "rename the object and sign that")
    if "." in key and _DOTS.search(key):
        raise link.unusable(
            "has . or .. as a segment of its key, which clients and proxies rewrite", "rename the object and sign that"
        )
    if len(key) * 4 > KEY_BYTES and len(key.encode()) > KEY_BYTES:
        raise link.unusable(f"has a key of {len(key.encode())} bytes", f"keys have at most {KEY_BYTES}")

"""A manifest's rows: one row, one file, one ticket.

One row says how one file is sent. CSV has the same columns as JSON; what is an object or a list there is JSON text
in CSV (``part_urls`` may also be texts with spaces between). An empty cell or null means: not given.

==============  =====================================================================================================
path            the file, relative to the source, with slashes. May be missing only if the source is one file
url             PUT of the object: S3, GCS, an Azure SAS of the blob. Also a signed start or session of GCS
head_url        to verify with: HEAD of the same object. Azure needs none if the SAS may read
get_url         to verify with: GET of the same object. One of the two
headers         object: headers that go with the upload, exactly so. Every signed one, but those that an upload fills
                in: host, content-length, content-md5, x-amz-checksum-crc32c, -crc64nvme and -sha256, x-goog-hash,
                x-amz-content-sha256 and x-goog-content-sha256 (UNSIGNED-PAYLOAD), x-goog-resumable, x-ms-blob-type
sha256 md5      what the file must be: hex or base64. A file that is something else is not sent
crc32c          likewise
crc64nvme       likewise
part_urls       multipart: URLs of part 1, 2, 3, …, all of one upload
complete_url    multipart: POST that completes it. ``headers`` go with each request whose URL signs them
abort_url       multipart: DELETE that aborts it, if it is given up
part_size       multipart: bytes, or text such as 64MiB; 5 MiB to 5 GiB
start_url       resumable upload of GCS: the signed POST with x-goog-resumable: start
session_url     resumable upload of GCS: the URI of a session
form_url        POST policy form of S3: where to send it, with
fields          object: its fields
tree_sas_url    Azure container or directory SAS, for every file of the source: the only column of the only row
==============  =====================================================================================================

Exactly one of url, part_urls with complete_url, start_url, session_url, form_url with fields, tree_sas_url.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from difflib import get_close_matches

from cloudpush.errors import InputError
from cloudpush.push.signed.columns import (
    DIGESTS,
    digest_of,
    list_of,
    object_of,
    parse_json,
    part_size_of,
    path_of,
    text_of,
)
from cloudpush.push.signed.forms import fields_of, with_form
from cloudpush.push.signed.headers import check_companion, check_sendable, headers_of, with_demanded
from cloudpush.push.signed.hosts import AWS, GCS, Styles
from cloudpush.push.signed.model import Kind, SignedUrl, Ticket
from cloudpush.push.signed.refusals import bad_row
from cloudpush.push.signed.urls import Role, opens_tree, read_url, starts_upload, usable_at

_WAYS = ("url", "part_urls", "start_url", "session_url", "form_url", "tree_sas_url")
#: Columns that go with some ways only.
_ONLY_WITH = {
    "complete_url": "part_urls",
    "abort_url": "part_urls",
    "part_size": "part_urls",
    "fields": "form_url",
}
COLUMNS = frozenset({"path", "head_url", "get_url", "headers", *DIGESTS, *_WAYS, *_ONLY_WITH})

#: A column's name that a message may repeat: a manifest without header row has URLs in its place.
_COLUMN = re.compile(r"[A-Za-z][A-Za-z0-9_ -]{0,31}")


@dataclass(frozen=True, slots=True)
class Rules:
    """How rows are read. ``now``: URLs must be usable then; None: not asked. ``single``: the source is one file."""

    styles: Styles
    now: datetime | None = None
    single: bool = False


def read_row(row: Mapping[str, object], rules: Rules) -> Ticket:
    """``row`` as a ticket; its URLs in normal form, names of its headers in lower case.

    Raises InputError, whose field is the column: BAD_MANIFEST, or what ``read_url`` raises. Never shows a value.
    """
    if not row.keys() <= COLUMNS:
        raise _unknown(row)
    ways = [way for way in _WAYS if row.get(way)]
    if len(ways) != 1:
        raise bad_row(
            ways[1] if ways else "url",
            "goes not together with another way to send the file" if ways else "is missing",
            f"write exactly one of {', '.join(_WAYS)}",
        )
    way = ways[0]
    for column, needed in _ONLY_WITH.items():
        if row.get(column) and way != needed:
            raise bad_row(column, f"goes with {needed} only", "leave it out")
    if way == "tree_sas_url":
        return _tree(row, rules)
    path = path_of(row.get("path"))
    if not path and not rules.single:
        raise bad_row("path", "is missing", "write the file's path, relative to the source")
    ticket = _READERS[way](row, rules, path)
    checksums = {name: digest_of(name, row[name]) for name in DIGESTS if row.get(name)}
    return _with_companion(replace(ticket, checksums=checksums) if checksums else ticket, row, rules)


def ticket_from_url(text: str, rules: Rules) -> Ticket:
    """The ticket of one URL that was given alone, or of one row as a JSON object; surrounding white space aside.

    PUT, start or session of a resumable upload, blob SAS and TREE are told apart by the URL itself. An account SAS
    opens a TREE where its path ends at the container or with a slash, and one blob otherwise. Raises as ``read_row``.
    """
    text = text.strip()
    if text.startswith("{"):
        row = parse_json("url", text)
        return read_row(row if isinstance(row, dict) else {}, rules)
    if opens_tree(text, field="url", styles=rules.styles):
        return _tree({"tree_sas_url": text}, rules)
    return _put({"url": text}, rules, "")


def _put(row: Mapping[str, object], rules: Rules, path: str) -> Ticket:
    url = _url("url", row, rules, Role.UPLOAD)
    if url.session:
        return _session(url, row, path)
    headers = _headers(row, url, "url")
    # The legacy signature signs the header of a start too, but does not name it: then only the row tells.
    kind = Kind.RESUMABLE if starts_upload(url) or "x-goog-resumable" in headers else Kind.PUT
    return Ticket(path, kind, url, headers=headers, expires_at=url.expires_at)


def _start(row: Mapping[str, object], rules: Rules, path: str) -> Ticket:
    url = _url("start_url", row, rules, Role.START)
    headers = _headers(row, url, "start_url")
    headers.setdefault("x-goog-resumable", "start")
    return Ticket(path, Kind.RESUMABLE, url, headers=headers, expires_at=url.expires_at)


def _given_session(row: Mapping[str, object], rules: Rules, path: str) -> Ticket:
    return _session(_url("session_url", row, rules, Role.SESSION), row, path)


def _session(url: SignedUrl, row: Mapping[str, object], path: str) -> Ticket:
    if row.get("headers"):
        raise bad_row("headers", "goes not with a session, which was begun with its headers", "leave it out")
    return Ticket(path, Kind.RESUMABLE, url)


def _form(row: Mapping[str, object], rules: Rules, path: str) -> Ticket:
    if row.get("headers"):
        raise bad_row("headers", "goes not with a form", "sign what they say as fields")
    fields = fields_of(object_of("fields", row.get("fields")))
    url = with_form(_url("form_url", row, rules, Role.FORM), fields)
    if rules.now is not None:
        usable_at(url, rules.now, field="fields")
    return Ticket(path, Kind.FORM, url, fields=fields, expires_at=url.expires_at)


def _multipart(row: Mapping[str, object], rules: Rules, path: str) -> Ticket:
    if not row.get("complete_url"):
        raise bad_row("complete_url", "is missing", "sign complete_multipart_upload and hand it over")
    complete = _url("complete_url", row, rules, Role.COMPLETE)
    texts = list_of("part_urls", row.get("part_urls"))
    parts = [
        read_url(text, field=f"part_urls[{number}]", styles=rules.styles, role=Role.PART, now=rules.now)
        for number, text in enumerate(texts, 1)
    ]
    if not parts:
        raise bad_row("part_urls", "is empty", "hand over a URL for each part")
    for number, part in enumerate(parts, 1):
        _check_part(part, number, parts[0], complete)
    abort = _url("abort_url", row, rules, Role.ABORT) if row.get("abort_url") else None
    if abort is not None and (not _same_object(abort, complete) or abort.upload != complete.upload):
        raise bad_row("abort_url", "is of another upload than complete_url", "sign it for the same upload")
    headers = headers_of(object_of("headers", row.get("headers")))
    check_sendable(headers, (complete, *parts[:1]))
    return Ticket(
        path,
        Kind.MULTIPART,
        complete,
        headers=with_demanded(with_demanded(headers, complete, "complete_url"), parts[0], "part_urls"),
        parts=tuple(part.text for part in parts),
        abort=abort.text if abort else "",
        part_size=part_size_of(row.get("part_size")),
        expires_at=_earliest((complete, *parts)),
    )


def _check_part(part: SignedUrl, number: int, first: SignedUrl, complete: SignedUrl) -> None:
    column = f"part_urls[{number}]"
    if part.part != number:
        raise bad_row(column, f"is signed for part {part.part}", "write the URLs of parts 1, 2, 3, … in this order")
    if not _same_object(part, complete) or part.origin != complete.origin or part.upload != complete.upload:
        raise bad_row(column, "is of another upload than complete_url", "sign every part for the same upload")
    if part.signed_headers != first.signed_headers:
        raise bad_row(column, "signs other headers than part 1", "sign every part alike")


def _tree(row: Mapping[str, object], rules: Rules) -> Ticket:
    others = [column for column in row if column != "tree_sas_url" and row[column]]
    if others:
        raise bad_row(others[0], "goes not with tree_sas_url", "leave it out: the SAS is for every file")
    url = _url("tree_sas_url", row, rules, Role.TREE)
    headers = with_demanded({}, url, "tree_sas_url")
    return Ticket("", Kind.TREE, url, headers=headers, expires_at=url.expires_at)


_READERS = {
    "url": _put,
    "part_urls": _multipart,
    "start_url": _start,
    "session_url": _given_session,
    "form_url": _form,
}


def _with_companion(ticket: Ticket, row: Mapping[str, object], rules: Rules) -> Ticket:
    head, get = row.get("head_url"), row.get("get_url")
    if not head and not get:
        return ticket
    if head and get:
        raise bad_row("get_url", "goes not together with head_url", "write one of them")
    column = "head_url" if head else "get_url"
    verify = _url(column, row, rules, Role.VERIFY)
    if not _same_object(verify, ticket.url):
        raise bad_row(column, "is of another object than the upload", "sign it for the same bucket and key")
    check_companion(verify, column)
    return replace(ticket, verify=verify, verify_method="HEAD" if head else "GET")


def _same_object(one: SignedUrl, other: SignedUrl) -> bool:
    """Amazon and Google have one bucket of a name, on whichever of their hosts; elsewhere the host is part of it."""
    same_store = one.origin == other.origin or (
        one.flavour == other.flavour and one.flavour in {AWS, GCS} and one.bucket
    )
    return bool(same_store) and one.provider is other.provider and one.bucket == other.bucket and one.key == other.key


def _url(column: str, row: Mapping[str, object], rules: Rules, role: Role) -> SignedUrl:
    return read_url(text_of(column, row[column]), field=column, styles=rules.styles, role=role, now=rules.now)


def _headers(row: Mapping[str, object], url: SignedUrl, column: str) -> dict[str, str]:
    given = row.get("headers")
    headers: dict[str, str] = {}
    if given:
        headers = headers_of(object_of("headers", given))
        check_sendable(headers, (url,))
    return with_demanded(headers, url, column)


def _earliest(urls: Iterable[SignedUrl]) -> datetime | None:
    return min((url.expires_at for url in urls if url.expires_at), default=None)


def _unknown(row: Mapping[str, object]) -> InputError:
    name = min(str(column) for column in row.keys() - COLUMNS)
    if not _COLUMN.fullmatch(name):
        return bad_row("columns", "have a name that is none", "write the names of the columns into the first line")
    near = get_close_matches(name.lower(), COLUMNS, 1)
    return bad_row(name, "is not a column", f"did you mean {near[0]}?" if near else "see docs/signed-urls.md")

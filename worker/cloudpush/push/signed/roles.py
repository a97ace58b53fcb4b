"""What a URL is handed over for, and what its query must say, and must not, to be good for that."""

from __future__ import annotations

from enum import StrEnum

from cloudpush.push.signed.links import Link

#: Most parts of a multipart upload, at every provider.
MOST_PARTS = 10_000


class Role(StrEnum):
    """The one request that a URL is handed over for. A FORM's fields carry its signature; the others are signed."""

    UPLOAD = "upload"  # PUT of the object; also a resumable upload's start or session, which the URL itself tells
    PART = "part"  # PUT of one part
    COMPLETE = "complete"  # POST that makes an object of the parts
    ABORT = "abort"  # DELETE of an unfinished upload
    START = "start"  # POST that begins a resumable upload
    SESSION = "session"  # a resumable upload under way
    FORM = "form"  # POST with a policy
    VERIFY = "verify"  # HEAD or GET of the object
    TREE = "tree"  # Azure: any blob below a container or directory


#: Requests on something else than an object's bytes, or on a version that exists already.
_SUBRESOURCES = frozenset(
    {
        *("accelerate", "acl", "analytics", "append", "attributes", "billing", "compose", "cors", "defaultobjectacl"),
        *("delete", "encryption", "generation", "intelligent-tiering", "inventory", "legal-hold", "lifecycle"),
        *("list-type", "location", "logging", "metrics", "notification", "object-lock", "ownershipcontrols", "policy"),
        *("policystatus", "publicaccessblock", "renameobject", "replication", "requestpayment", "restore"),
        *("retention", "select", "select-type", "session", "storageclass", "tagging", "torrent", "updateobject"),
        *("versionid", "versioning", "versions", "website", "x-amz-copy-source", "x-goog-copy-source"),
    }
)
#: What SDKs call the operation that they signed, in lower case.
_OPERATIONS = {
    Role.UPLOAD: {"putobject"},
    Role.PART: {"uploadpart"},
    Role.COMPLETE: {"completemultipartupload"},
    Role.ABORT: {"abortmultipartupload"},
    Role.VERIFY: {"headobject", "getobject"},
}
#: By role: whether partNumber and uploadId must be there.
_MULTIPART = {Role.PART: (True, True), Role.COMPLETE: (False, True), Role.ABORT: (False, True)}
_NEITHER = (False, False)

_FOR = {
    Role.UPLOAD: "sign a PUT of the object",
    Role.PART: "sign upload_part with its uploadId and partNumber",
    Role.COMPLETE: "sign complete_multipart_upload with its uploadId",
    Role.ABORT: "sign abort_multipart_upload with its uploadId",
    Role.START: "sign a POST of the object with the header x-goog-resumable: start",
    Role.SESSION: "hand over the Location that the start of the resumable upload answered with",
    Role.VERIFY: "sign a HEAD or GET of the object",
}


def check_operation(link: Link, role: Role) -> None:
    """That an S3 or GCS URL is signed for the request of ``role``, as far as its query tells.

    Raises InputError URL_UNUSABLE. The method is part of the signature, yet not in the URL: a wrong one is known
    only to the provider, unless the SDK names the operation (``x-id``).
    """
    params = link.params
    if "uploads" in params:
        raise link.unusable(
            "begins a multipart upload",
            "begin it yourself and hand over part_urls and complete_url, or sign a PUT of the object",
        )
    if params.keys() & _SUBRESOURCES:
        raise link.unusable("is not for the object's bytes but for a property, copy or version of it", _fix(role))
    operation = link.value("x-id").lower()
    if operation and operation not in _OPERATIONS.get(role, ()):
        raise link.unusable("is signed for another operation than the one needed (x-id)", _fix(role))
    part, upload = _MULTIPART.get(role, _NEITHER)
    if ("partnumber" in params) is not part:
        raise link.unusable("lacks partNumber" if part else "is for a part of a multipart upload", _fix(role))
    if ("uploadid" in params) is not upload:
        raise link.unusable("lacks uploadId" if upload else "belongs to a multipart upload", _fix(role))


def check_role(link: Link, role: Role, wanted: frozenset[Role]) -> None:
    """That a URL of this kind can have ``role`` at all. Raises InputError URL_UNUSABLE."""
    if role not in wanted:
        raise link.unusable("is of a kind that cannot be used here", _fix(role))


def part_number(link: Link) -> int | None:
    """``partNumber``; None where there is none. Raises InputError URL_UNUSABLE."""
    text = link.value("partnumber")
    if not text:
        return None
    if len(text) > 5 or not (text.isascii() and text.isdigit()) or not 1 <= int(text) <= MOST_PARTS:
        raise link.unusable("has a partNumber that is none", f"parts are numbered from 1 to {MOST_PARTS}")
    return int(text)


def _fix(role: Role) -> str:
    return _FOR.get(role, "see docs/signed-urls.md for the kinds of URLs that go here")

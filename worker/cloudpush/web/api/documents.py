"""What OpenAPI says of errors: which statuses an operation may answer with, and the codes behind each."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from cloudpush.errors import Code
from cloudpush.web.api.problems import MEDIA_TYPE, STATUS

Responses = dict[int | str, dict[str, Any]]

#: Statuses that any operation may answer with, and some of the codes that go with each.
ANYWHERE = (400, 401, 403, 413, 422, 429, 500, 503)
_UNLISTED: Mapping[int, tuple[Code, ...]] = {
    400: (Code.BAD_INPUT,),
    403: (Code.NOT_OWNER,),
    422: (
        *(Code.BAD_INPUT, Code.BAD_URI, Code.ENDPOINT_FORBIDDEN, Code.SOURCE_OUTSIDE_ROOTS, Code.SOURCE_MISSING),
        *(Code.SOURCE_UNREADABLE, Code.SOURCE_NOT_A_FILE, Code.NAME_NOT_A_KEY, Code.CREDENTIAL_EXPIRED),
        *(Code.CREDENTIAL_PURGED, Code.CONSENT_REVOKED, Code.BAD_MANIFEST, Code.URL_UNUSABLE, Code.URL_EXPIRED),
        *(Code.URL_NOT_YET_VALID, Code.PACKAGE_INCOMPLETE),
    ),
    503: (
        *(Code.DATABASE_UNREACHABLE, Code.DATABASE_SCHEMA, Code.VAULT_SEALED, Code.VAULT_UNREACHABLE),
        *(Code.VAULT_DENIED, Code.BROKER_UNREACHABLE),
    ),
}


def codes_of(status: int) -> tuple[Code, ...]:
    """The codes that come with ``status``."""
    listed = tuple(code for code, its in STATUS.items() if its == status)
    return (*listed, *(code for code in _UNLISTED.get(status, ()) if code not in listed))


def problems(*statuses: int) -> Responses:
    """What an operation may answer with beside what any may: for its ``responses``."""
    return {status: _response(status) for status in statuses}


def _response(status: int) -> dict[str, Any]:
    codes = ", ".join(codes_of(status))
    headers: dict[str, Any] = {}
    if status in (429, 503):
        headers = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds to wait."}}
    if status == 401:
        headers = {"WWW-Authenticate": {"schema": {"type": "string"}}}
    return {
        "description": f"{HTTPStatus(status).phrase}: {codes}",
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        **({"headers": headers} if headers else {}),
    }


#: For operations that answer 304 to If-None-Match.
NOT_MODIFIED: Responses = {304: {"description": "Nothing has changed since the answer that had this ETag."}}


def status_table() -> Mapping[Code, int]:
    """Every code that an operation may be refused with, and the status that it comes with, in the order of statuses."""
    found = dict(STATUS)
    for status, codes in _UNLISTED.items():
        found |= {code: status for code in codes if code not in found and (status != 400 or code is not Code.BAD_INPUT)}
    found[Code.BAD_INPUT] = 422
    return dict(sorted(found.items(), key=lambda item: (item[1], item[0])))

"""Submissions as they arrive, and as the story of a push takes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from fastapi import Header
from pydantic import AfterValidator, Field

from cloudpush.errors import Code, InputError
from cloudpush.push.access.model import Principal, Right
from cloudpush.push.intake import MAX_KEY, MAX_LABELS, MAX_PATTERNS, Accepted, Preview
from cloudpush.push.job import Request
from cloudpush.push.states import Overwrite, Package, Strength
from cloudpush.web.api.paging import Strict

#: Pushes of one batch.
MOST_PUSHES = 1000
#: Characters of a path, a URI, a pattern.
_LONG = 8192


def is_text(value: str) -> str:
    """Refuse what Postgres cannot store. Raises ValueError."""
    if "\0" in value or any("\ud800" <= c <= "\udfff" for c in value):
        raise ValueError("is no text: it holds a NUL character or half a surrogate pair")
    return value


Name = Annotated[str, Field(max_length=500), AfterValidator(is_text)]
Long = Annotated[str, Field(max_length=_LONG), AfterValidator(is_text)]
#: Without a URL of it in any error: rows are read, and refused, by the story of signed URLs.
UrlRow = Annotated[dict[str, Any], Field(description="A row of docs/signed-urls.md, as JSON.")]
Key = Annotated[
    str,
    Header(
        alias="Idempotency-Key",
        max_length=MAX_KEY,
        description="The same key is the same push, however often it is submitted. With another request: 409.",
    ),
]


class Submission(Strict):
    """What is pushed where: with a credential, or with signed URLs."""

    model_config = Strict.model_config | {
        "json_schema_extra": {
            "examples": [
                {
                    "source": "/data/run-17",
                    "destination": "s3://lab-archive/run-17",
                    "credential": "lab",
                    "labels": {"run": "17"},
                }
            ]
        }
    }

    source: Annotated[Long, Field(description="An absolute path below a source root, as the workers see it.")]
    destination: Annotated[Long, Field(description="s3://BUCKET/PREFIX, gs://, az://, …; not with `urls`.")] = ""
    credential: Annotated[Name, Field(description="Id or name, or OWNER/NAME of a shared one; not with `urls`.")] = ""
    profile: Name = ""
    min_strength: Annotated[
        Literal["", "response", "size", "ingest", "checksum", "reread"],
        Field(description="Proof demanded of every file."),
    ] = ""
    overwrite: Literal["if-different", "never", "always"] = "if-different"
    include: Annotated[list[Long], Field(default_factory=list, max_length=MAX_PATTERNS)]
    exclude: Annotated[list[Long], Field(default_factory=list, max_length=MAX_PATTERNS)]
    labels: Annotated[dict[str, Name], Field(default_factory=dict, max_length=MAX_LABELS)]
    package: Literal["", "bagit", "ro-crate"] = ""
    owner: Annotated[Name, Field(description="On whose behalf; another than yourself takes the role admin.")] = ""
    urls: Annotated[list[UrlRow] | None, Field(description="Signed URLs: sealed at once, never shown again.")] = None
    resign_hook: Annotated[Name, Field(description="With `urls`: a credential of kind resign_hook.")] = ""


class BatchItem(Submission):
    """One push of a batch."""

    idempotency_key: Annotated[str, Field(max_length=MAX_KEY), AfterValidator(is_text)] = ""


class Fresh(Strict):
    """Fresh signed URLs."""

    urls: Annotated[list[UrlRow], Field(min_length=1)]


def request_of(asked: Submission, principal: Principal, key: str = "") -> Request:
    """The request, on behalf of whom the principal may act for. Raises AccessError, InputError."""
    principal.need(Right.SUBMIT)
    if asked.urls is None:
        for field in ("destination", "credential"):
            if not getattr(asked, field):
                raise InputError(Code.BAD_INPUT, f"{field} is missing; without it, give urls.", field=field)
        if asked.resign_hook:
            raise InputError(Code.BAD_INPUT, "resign_hook goes with urls only.", field="resign_hook")
    default = Strength.INGEST if asked.urls is not None else None
    return Request(
        owner=principal.owner_to_act_for(asked.owner),
        actor=principal.actor,
        source=asked.source,
        destination=asked.destination,
        credential=asked.credential,
        profile=asked.profile,
        min_strength=Strength.of(asked.min_strength) if asked.min_strength else default,
        overwrite=Overwrite(asked.overwrite),
        include=tuple(asked.include),
        exclude=tuple(asked.exclude),
        labels=asked.labels,
        idempotency_key=key,
        package=Package(asked.package) if asked.package else None,
    )


def rows_of(urls: list[dict[str, Any]]) -> Iterator[tuple[int, Mapping[str, object]]]:
    """Rows with their numbers, from 1."""
    yield from enumerate(urls, 1)


def accepted_view(accepted: Accepted) -> dict[str, Any]:
    """The answer to a submission."""
    return {
        "push": accepted.push_id,
        "created": accepted.created,
        "announced": accepted.announced,
        "warnings": accepted.warnings,
    }


def preview_view(preview: Preview) -> dict[str, Any]:
    """The answer to a dry run."""
    return {
        "destination": preview.destination,
        "files": preview.files,
        "bytes": preview.bytes,
        "refusals": preview.refusals,
        "warnings": preview.warnings,
        "refused": [{"path": r.path, "code": r.error.code, "message": r.error.message} for r in preview.refused],
        "first": [{"path": f.path, "key": f.key, "size": f.size} for f in preview.first],
    }

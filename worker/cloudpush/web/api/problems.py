"""Errors as ``application/problem+json`` (RFC 9457): one object for whatever goes wrong, with one of our codes.

::

    {"type": "https://push.example/v1/problems/BAD_INPUT", "title": "…", "status": 422, "detail": "…",
     "instance": "/v1/pushes", "code": "BAD_INPUT", "field": "destination", "actor": "user", "fix": "…",
     "retryable": false, "request_id": "…"}

No value that was sent is repeated by what checks a request's shape: it may be a signed URL or a key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Annotated, Any

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from cloudpush.errors import (
    AccessError,
    BrokerError,
    CloudPushError,
    Code,
    CredentialError,
    InputError,
    SourceError,
    StoreError,
    VaultError,
)
from cloudpush.logs import get_logger, redact, traceback_of

log = get_logger(__name__)

MEDIA_TYPE = "application/problem+json"
#: Seconds after which what is away just now may be asked again.
RETRY_AFTER = 5

STATUS: Mapping[Code, int] = {
    Code.UNAUTHENTICATED: 401,
    Code.FORBIDDEN: 403,
    Code.UNKNOWN_PUSH: 404,
    Code.UNKNOWN_CREDENTIAL: 404,
    Code.UNKNOWN_GRANT: 404,
    Code.UNKNOWN_TOKEN: 404,
    Code.UNKNOWN_PREFLIGHT: 404,
    Code.UNKNOWN_PROVIDER: 404,
    Code.NOT_FOUND: 404,
    Code.RECEIPT_PENDING: 404,
    Code.IDEMPOTENCY_CONFLICT: 409,
    Code.TOO_MANY_BYTES: 413,
    Code.RATE_LIMITED: 429,
    Code.LOGIN_PENDING: 400,
    Code.LOGIN_EXPIRED: 400,
    Code.SUBMISSION_REFUSED: 403,
    Code.INTERNAL: 500,
}
#: Errors that say what they are by their sort, whatever their code.
SORTS: tuple[tuple[type[CloudPushError], int], ...] = (
    (StoreError, 503),
    (VaultError, 503),
    (BrokerError, 503),
    (InputError, 422),
    (SourceError, 422),
    (CredentialError, 422),
    (AccessError, 403),
)
#: What is told of another owner's row is what is told of none: which of the two it was is nobody's business.
_HIDDEN: Mapping[str, Code] = {
    "push": Code.UNKNOWN_PUSH,
    "credential": Code.UNKNOWN_CREDENTIAL,
    "owner": Code.UNKNOWN_CREDENTIAL,
    "resign_hook": Code.UNKNOWN_CREDENTIAL,
    "grant": Code.UNKNOWN_GRANT,
    "token": Code.UNKNOWN_TOKEN,
    "preflight": Code.UNKNOWN_PREFLIGHT,
}
_WHAT = {
    Code.UNKNOWN_PUSH: "There is no such push, or it is not yours.",
    Code.UNKNOWN_CREDENTIAL: "There is no such credential, or it is not yours.",
    Code.UNKNOWN_GRANT: "There is no such connection, or it is not yours.",
    Code.UNKNOWN_TOKEN: "There is no such token, or it is not yours.",
    Code.UNKNOWN_PREFLIGHT: "There is no such preflight, or it is not yours.",
}


class Problem(BaseModel):
    """What went wrong, who must act, and what to do."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "https://push.example/v1/problems/BAD_URI",
                    "title": "Unprocessable Content",
                    "status": 422,
                    "detail": "destination 's3//lab': write s3://BUCKET/PREFIX.",
                    "instance": "/v1/pushes",
                    "code": "BAD_URI",
                    "field": "destination",
                    "actor": "user",
                    "fix": "Write the destination as s3://BUCKET/PREFIX.",
                    "retryable": False,
                    "request_id": "6c1e0b0d3f5d4f0fb5f1a3a4a4a1e5b2",
                }
            ]
        }
    )

    type: Annotated[str, Field(description="A page that says what the code means.")]
    title: Annotated[str, Field(description="The status in words.")]
    status: Annotated[int, Field(ge=400, le=599)]
    detail: Annotated[str, Field(description="What happened, in words for people. Not for programs to read.")]
    instance: Annotated[str, Field(description="The path that was asked for.")]
    code: Annotated[Code, Field(description="Stable: for programs to read.")]
    field: Annotated[str | None, Field(description="Which field was wrong, where it was one.")]
    actor: Annotated[str, Field(description="Who must act: user, operator, provider or nobody.")]
    fix: str
    retryable: Annotated[bool, Field(description="Whether the same request may succeed later with nobody acting.")]
    request_id: Annotated[str, Field(description="The number under which the server logged this request.")]


def status_of(error: CloudPushError) -> int:
    """The HTTP status that goes with ``error``."""
    if (status := STATUS.get(error.code)) is not None:
        return status
    for sort, status in SORTS:
        if isinstance(error, sort):
            return status
    return 503 if error.code.retryable else 422


def hidden(error: CloudPushError) -> CloudPushError:
    """``error``, or what is said in its place where it would tell that another owner has such a row.

    A share that does not cover a destination is told as it is: the asker knows of the connection already.
    """
    unknown = error.code.startswith("UNKNOWN_") and error.code in _WHAT
    if not unknown and error.code is not Code.NOT_OWNER:
        return error
    if error.code is Code.NOT_OWNER and error.field == "destination":
        return AccessError(Code.NOT_OWNER, error.message, field=error.field)
    code = error.code if unknown else _HIDDEN.get(error.field, Code.UNKNOWN_PUSH)
    return InputError(code, _WHAT[code], field="credential" if error.field == "owner" else error.field)


def problem_of(request: Request, error: CloudPushError) -> dict[str, Any]:
    """``error`` as the object that is sent."""
    error = hidden(error)
    return _problem(request, status_of(error), error.code, error.message, error.field)


def respond(problem: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    """The response that carries ``problem``."""
    more = dict(headers or {})
    if problem["status"] == 401:
        more.setdefault("www-authenticate", "Bearer")
    if problem["status"] in (429, 503) or problem["code"] == Code.RECEIPT_PENDING:
        more.setdefault("retry-after", str(RETRY_AFTER))
    return Response(to_json(problem), problem["status"], more, media_type=MEDIA_TYPE)


async def on_error(request: Request, error: Exception) -> Response:
    """Whatever is raised on purpose, for the application: Starlette sends what is not async through a thread."""
    if isinstance(error, RequestValidationError):
        return of_shape(request, error)
    return of_http(request, error) if isinstance(error, HTTPException) else of_error(request, error)


def of_error(request: Request, error: Exception) -> Response:
    """Any error of ours. ``error.seconds``, where it has them, is how long to wait."""
    if not isinstance(error, CloudPushError):
        raise TypeError(type(error))
    problem = problem_of(request, error)
    if problem["status"] >= 500:
        log.warning(
            "request not served", path=redact(request.url.path, limit=200), code=error.code, error=error.message
        )
    wait = getattr(error, "seconds", None)
    return respond(problem, {"retry-after": str(max(1, round(wait)))} if wait is not None else None)


def of_http(request: Request, error: Exception) -> Response:
    """No such route, no such method, a body that cannot be read or is too long."""
    if not isinstance(error, HTTPException):
        raise TypeError(type(error))
    match error.status_code:
        case 401:
            code, words = Code.UNAUTHENTICATED, "Nobody knows who asks."
        case 403:
            code, words = Code.FORBIDDEN, "This is not allowed."
        case 404:
            code, words = Code.NOT_FOUND, "There is no such address."
        case 405:
            code, words = Code.NOT_FOUND, f"This address takes no {request.method}."
        case 413:
            code, words = Code.TOO_MANY_BYTES, "The body is longer than 8 MiB."
        case 429:
            code, words = Code.RATE_LIMITED, "Too many tokens that nobody has came from this address."
        case status if status < 500:
            code, words = Code.BAD_INPUT, "The request cannot be read."
        case _:
            code, words = Code.INTERNAL, "The request failed."
    return respond(_problem(request, error.status_code, code, words, ""), error.headers)


def of_shape(request: Request, error: Exception) -> Response:
    """A body or a query that has not the shape it should have: the first thing that is wrong with it."""
    if not isinstance(error, RequestValidationError):
        raise TypeError(type(error))
    errors: Sequence[Mapping[str, Any]] = error.errors()
    first = errors[0]
    if first["type"] == "json_invalid":
        return respond(_problem(request, 400, Code.BAD_INPUT, "The body is no JSON.", "body"))
    code, words, field = shape(first, len(errors))
    status = 422
    if first["loc"][:1] == ("path",) and first["type"].startswith("uuid"):
        # What is no id names nothing: as good as one that nobody has.
        status, code = 404, _HIDDEN.get(field.removesuffix("_id"), Code.NOT_FOUND)
        words = _WHAT.get(code, "There is no such thing.")
    return respond(_problem(request, status, code, words, field))


def of_defect(request: Request, error: Exception) -> Response:
    """A defect of ours, which is logged; nothing of it is told."""
    log.error("request failed", path=redact(request.url.path, limit=200), exception=traceback_of(error))
    words = "This is a defect in CloudPush, and it has been logged."
    return respond(_problem(request, 500, Code.INTERNAL, words, ""))


def shape(first: Mapping[str, Any], count: int = 1) -> tuple[Code, str, str]:
    """Code, words and field of one of pydantic's errors. Its input, and what quotes it, stays out."""
    loc = [str(part) for part in first["loc"]]
    field = ".".join(loc[1:] if loc[:1] in (["body"], ["query"], ["path"], ["header"]) else loc)
    kind = first["type"]
    words = _SHAPES.get(kind) or (str(first["msg"]) if kind in _QUOTES_NOTHING else "has not the form it should have")
    if kind == "value_error":
        words = str(first["ctx"]["error"])  # our own validators' words, which quote nothing
    more = f" {count - 1} more are wrong." if count > 1 else ""
    return Code.BAD_INPUT, f"{field or 'The body'} {words[:1].lower()}{words[1:]}.{more}", field


_SHAPES = {
    "missing": "is missing",
    "extra_forbidden": "is not known here",
    "model_attributes_type": "should be an object",
    "dict_type": "should be an object",
}
#: Sorts of errors whose words are about the field's type and bounds only.
_QUOTES_NOTHING = frozenset(
    {
        *(f"{kind}_type" for kind in ("string", "int", "float", "bool", "list", "datetime", "tuple")),
        *("int_parsing", "float_parsing", "bool_parsing", "datetime_parsing", "datetime_from_date_parsing"),
        *("string_too_long", "string_too_short", "too_long", "too_short", "enum", "literal_error", "timezone_aware"),
        *("greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number", "uuid_parsing"),
    }
)


def _problem(request: Request, status: int, code: Code, detail: str, field: str) -> dict[str, Any]:
    return {
        "type": f"{base_url(request)}/problems/{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "instance": request.url.path,
        "code": code.value,
        "field": field or None,
        "actor": code.actor.value,
        "fix": code.fix,
        "retryable": code.retryable,
        "request_id": request.scope.get("state", {}).get("request_id", ""),
    }


def base_url(request: Request) -> str:
    """Where the API is, as the world knows it."""
    url: str = request.app.state.services.settings.web_url
    return f"{url.rstrip('/')}/v1"

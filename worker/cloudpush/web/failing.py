"""Errors as pages: what happened, who must act, what to do. Never a traceback."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from cloudpush.errors import Actor, CloudPushError, Code
from cloudpush.logs import get_logger, redact, traceback_of

if TYPE_CHECKING:
    from cloudpush.web.pages import Visit

log = get_logger(__name__)

#: What is not there and what is somebody else's look the same.
HIDDEN = frozenset(
    {
        Code.UNKNOWN_PUSH,
        Code.UNKNOWN_GRANT,
        Code.UNKNOWN_CREDENTIAL,
        Code.UNKNOWN_PROVIDER,
        Code.UNKNOWN_TOKEN,
        Code.NOT_OWNER,
    }
)
STATUS = {
    Code.SIGN_IN_REFUSED: 403,
    Code.CONSENT_FAILED: 400,
    Code.SCOPE_TOO_NARROW: 400,
    Code.CONSENT_REVOKED: 409,
    Code.FORBIDDEN: 403,
    Code.RATE_LIMITED: 429,
    Code.INTERNAL: 500,
}
WHO = {
    Actor.USER: "You can put this right.",
    Actor.OPERATOR: "The operator of this CloudPush has to act.",
    Actor.PROVIDER: "This is for the provider to put right.",
    Actor.NOBODY: "Nobody has to act.",
}
HTTP = {
    400: ("This request cannot be read", "The form did not arrive as it should. Go back and try again."),
    403: ("Not done", "This request was refused; nothing was changed."),
    404: ("Nothing here", "There is no such page, or it is not yours to see."),
    405: ("Not in this way", "This address takes no such request."),
    413: ("Too much", "The form is longer than any of ours."),
    415: ("This request cannot be read", "The form did not arrive as it should. Go back and try again."),
}


def error_response(visit: Visit, error: Exception) -> Response:
    """The page for ``error``; a defect of ours is logged."""
    match error:
        case CloudPushError(code=code) if code in HIDDEN:
            return _http(visit, 404, "")
        case CloudPushError():
            return _ours(visit, error)
        case HTTPException():
            return _http(visit, error.status_code, error.detail)
        case _:
            log.error("page failed", path=redact(visit.path, limit=200), exception=traceback_of(error))
            return _page(
                visit,
                500,
                "Something went wrong",
                [
                    "This is a defect in CloudPush, and it has been logged.",
                    "Pushes that are under way are not touched by it. Try again; if it stays, tell the operator the number below.",
                ],
            )


def _ours(visit: Visit, error: CloudPushError) -> Response:
    status = STATUS.get(error.code) or (503 if error.code.retryable else 400)
    if status >= 500:
        log.warning("page not available", path=redact(visit.path, limit=200), code=error.code, error=error.message)
    return _page(
        visit,
        status,
        "Not available just now" if status == 503 else "That did not work",
        [error.message],
        code=error.code.value,
        who=WHO[error.code.actor],
        fix=error.code.fix,
    )


def _http(visit: Visit, status: int, detail: str) -> Response:
    title, words = HTTP.get(status, ("That did not work", ""))
    standard = HTTPStatus(status).phrase
    return _page(visit, status, title, [detail if detail and detail != standard else words])


def _page(
    visit: Visit, status: int, title: str, paragraphs: list[str], *, code: str = "", who: str = "", fix: str = ""
) -> Response:
    context = {"title": title, "paragraphs": paragraphs, "code": code, "who": who, "fix": fix}
    number = visit.request.scope.get("state", {}).get("request_id", "") if status >= 500 else ""
    return visit.render("error.html", status=status, request_id=number, **context)


async def http_error(request: Request, error: Exception) -> Response:
    """For errors outside of any page: no such route, no such method."""
    response = await run_in_threadpool(_answer, request, error)
    if isinstance(error, HTTPException) and error.headers:
        response.headers.update(error.headers)
    return response


def _answer(request: Request, error: Exception) -> Response:
    from cloudpush.web.pages import visit_of  # noqa: PLC0415 -- pages are above: they hand their errors to us

    return error_response(visit_of(request, touch=False), error)

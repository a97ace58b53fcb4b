"""Who asks: the bearer token of a request, and nothing else of it.

No cookie is looked at, so that no other site can make a browser ask; no query parameter, so that no token stands in a log.

::

    @api.get("/me")
    def me(asked_by: Annotated[Principal, Depends(asker)]) -> …     # or: asked_by: Asker
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, Request
from starlette.concurrency import run_in_threadpool

from cloudpush.errors import AccessError, Code
from cloudpush.push.access.identity import unauthenticated
from cloudpush.push.access.model import Principal
from cloudpush.web.api.limits import FAILURES, Limited, Limits, limits_of

if TYPE_CHECKING:
    from cloudpush.wiring import WebServices

NO_TOKEN = "Send a token in the header `Authorization: Bearer TOKEN`."  # noqa: S105 -- words


async def asker(request: Request) -> Principal:
    """Whom the request's bearer token stands for; the request counts against their rate.

    A dependency of every endpoint that is not public. Raises AccessError UNAUTHENTICATED, RATE_LIMITED; StoreError.
    """
    limits = limits_of(request)
    # Of whoever asks often both are known, most of the time: then no thread is needed to find them out.
    known = _known(request, limits)
    if known is not None:
        return known
    check_address(request, limits)
    return await run_in_threadpool(_ask, request, limits)


def _known(request: Request, limits: Limits) -> Principal | None:
    services: WebServices = request.app.state.services
    try:
        principal = services.access.kept(bearer_of(request))
    except AccessError:
        return None
    return principal if principal is not None and limits.paid(principal) else None


def check_address(request: Request, limits: Limits) -> None:
    """Refuse a token from where too many wrong ones came, unless it was good before. Raises AccessError RATE_LIMITED.

    Many may share an address: who guesses from there must not shut the others out. Asks nobody.
    """
    services: WebServices = request.app.state.services
    try:
        limits.check_address(request)
    except Limited:
        try:
            if services.access.knew(bearer_of(request)):
                return
        except AccessError:
            pass
        raise


def _ask(request: Request, limits: Limits) -> Principal:
    principal = identified(request, limits)
    limits.count_request(principal)
    return principal


def identified(request: Request, limits: Limits) -> Principal:
    """Whom the token stands for. One that nobody has counts against its address.

    Raises AccessError UNAUTHENTICATED, RATE_LIMITED; StoreError.
    """
    services: WebServices = request.app.state.services
    try:
        return services.access.identify(bearer_of(request))
    except AccessError as e:
        if e.code is Code.UNAUTHENTICATED:
            limits.count_address(request, FAILURES)
        raise


Asker = Annotated[Principal, Depends(asker)]


def bearer_of(request: Request) -> str:
    """The token of the one Authorization header. Raises AccessError UNAUTHENTICATED."""
    headers = request.headers.getlist("authorization")
    if len(headers) != 1:
        raise unauthenticated(NO_TOKEN)
    scheme, _, token = headers[0].partition(" ")
    token = token.strip(" ")
    if scheme.lower() != "bearer" or not token or any(not "!" <= c <= "~" for c in token):
        raise unauthenticated(NO_TOKEN)
    return token

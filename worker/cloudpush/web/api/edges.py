"""What surrounds every operation: bodies of a bounded size, defects that tell nothing, no unknown query parameters."""

from __future__ import annotations

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cloudpush.errors import AccessError, CloudPushError, Code, InputError
from cloudpush.web.api.auth import check_address, identified
from cloudpush.web.api.limits import Limited, limits_of
from cloudpush.web.api.problems import of_defect, of_http

BODY_BYTES = 8 * 1024 * 1024
#: A body is read before anybody looks who asks: of nobody no more than this is kept in memory.
STRANGERS_BYTES = 64 * 1024


class Edges:
    """Wraps the API. Plain ASGI."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = known = False
        read = 0

        async def bounded() -> Message:
            nonlocal read, known
            message = await receive()
            read += len(message.get("body", b""))
            if read > BODY_BYTES:
                raise HTTPException(413)
            if read > STRANGERS_BYTES and not known:
                known = await run_in_threadpool(_is_somebody, Request(scope))
                if not known:
                    raise HTTPException(401, headers={"connection": "close"})
            return message

        async def watched(message: Message) -> None:
            nonlocal began
            began = True
            await send(message)

        length = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        try:
            if length.isdigit() and int(length) > BODY_BYTES:
                # Not read at all: what is left of it ends with the connection.
                response = of_http(Request(scope), HTTPException(413, headers={"connection": "close"}))
                await response(scope, receive, send)
                return
            await self._app(scope, bounded, watched)
        except Exception as e:
            if began:
                raise
            await of_defect(Request(scope), e)(scope, receive, send)


def _is_somebody(request: Request) -> bool:
    """Whether a token is shown that is good; where nobody can say just now, it passes for one. Raises HTTPException 429."""
    limits = limits_of(request)
    try:
        check_address(request, limits)
        identified(request, limits)
    except Limited as e:
        raise HTTPException(429, headers={"retry-after": str(e.seconds), "connection": "close"}) from None
    except AccessError:
        return False
    except CloudPushError:
        pass
    return True


async def known_query(request: Request) -> None:
    """Raise InputError for a query parameter that the operation does not have: it is a typing error, or of another version."""
    if not request.scope["query_string"]:
        return
    known = request.app.state.queries.get((request.scope["route"].path, request.method), ())
    if any("\0" in value for _, value in request.query_params.multi_items()):
        raise InputError(Code.BAD_INPUT, "A query parameter holds a NUL character.", field="query")
    for name in request.query_params:
        if name not in known:
            shown = name if name.isascii() and name.isidentifier() and len(name) <= 40 else "of that name"
            raise InputError(
                Code.BAD_INPUT,
                f"There is no query parameter {shown} here; there are: {', '.join(known) or 'none'}.",
                field="query",
            )

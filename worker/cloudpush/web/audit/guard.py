"""Who may read the auditors' pages. Whoever may not is told what is told about a page that is not there."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

from cloudpush.push.access.model import Right
from cloudpush.web.pages import Handler, Visit, get, post


def reading(path: str, handler: Handler) -> Route:
    """A page for whoever may read everybody's rows."""
    return get(path, _guarded(handler, Right.READ_ALL))


def asking(path: str, handler: Handler) -> Route:
    """A form's target for the same people."""
    return post(path, _guarded(handler, Right.READ_ALL))


def exporting(path: str, handler: Handler) -> Route:
    """Whole tables, for whoever may take copies of them."""
    return get(path, _guarded(handler, Right.EXPORT))


def _guarded(handler: Handler, right: Right) -> Handler:
    def guarded(visit: Visit) -> Response:
        if not visit.principal.may(right):
            raise HTTPException(404)
        return handler(visit)

    return guarded

"""A push's receipt, as it was signed."""

from __future__ import annotations

from uuid import UUID

from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from cloudpush.push.trust.receipts import MEDIA_TYPE
from cloudpush.web.api.auth import Asker
from cloudpush.web.api.documents import NOT_MODIFIED, problems
from cloudpush.web.api.paging import IfNoneMatch, known


def router() -> APIRouter:
    """Routes."""
    made = APIRouter(tags=["pushes"])

    @made.get(
        "/pushes/{push_id}/receipt",
        operation_id="getReceipt",
        summary="The signed receipt of a push that is over",
        description="Its bytes are fixed: keep them as they are. `cloudpush receipt verify` checks them offline.",
        response_class=Response,
        responses={200: {"content": {MEDIA_TYPE: {}}, "description": "The receipt."}, **NOT_MODIFIED, **problems(404)},
        openapi_extra=IfNoneMatch,
    )
    def receipt(request: Request, push_id: UUID, asked_by: Asker) -> Response:
        found = request.app.state.services.receipts.open(push_id, asked_by.sees)
        tag = f'"{found.tag}"'
        sent = {**headers(push_id), "etag": tag}
        if known(request, tag):
            return Response(None, 304, sent)
        return StreamingResponse(found.chunks, headers=sent, media_type=MEDIA_TYPE)

    return made


def headers(push_id: UUID) -> dict[str, str]:
    """Of a response that is a receipt."""
    return {
        "content-disposition": f'attachment; filename="receipt-{push_id}.json"',
        "cache-control": "private, no-cache",
        "x-content-type-options": "nosniff",
    }

"""Submission tokens: for pipelines that share the broker and send `cloudpush.submit`."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Request
from pydantic import AfterValidator, BaseModel, Field
from starlette.responses import Response

from cloudpush.errors import Code, InputError
from cloudpush.push.access.submission import read_request, request_digest
from cloudpush.push.intake import MAX_KEY
from cloudpush.web.api.auth import Asker
from cloudpush.web.api.paging import Strict, answer
from cloudpush.web.api.submissions import Submission, is_text

if TYPE_CHECKING:
    from cloudpush.wiring import WebServices


class Sealed(Strict):
    """What the message will hold, exactly."""

    request: Annotated[Submission, Field(description="As for POST /v1/pushes; no signed URLs.")]
    idempotency_key: Annotated[str, Field(min_length=1, max_length=MAX_KEY), AfterValidator(is_text)]


class SubmissionToken(BaseModel):
    """For this request alone, for minutes."""

    token: str
    expires_at: datetime


def router() -> APIRouter:
    """Routes."""
    made = APIRouter(tags=["access"])

    @made.post(
        "/submission-tokens",
        operation_id="createSubmissionToken",
        summary="A token that lets one message submit one push",
        description="For the Celery task `cloudpush.submit`. What it asks for is checked when the message is executed.",
        status_code=201,
        response_model=SubmissionToken,
    )
    def create(request: Request, asked_by: Asker, body: Sealed) -> Response:
        services: WebServices = request.app.state.services
        if body.request.urls is not None or body.request.resign_hook:
            raise InputError(
                Code.BAD_INPUT, "Signed URLs do not go through the broker: use POST /v1/pushes.", field="request.urls"
            )
        given = body.request.model_dump(exclude_unset=True)
        read_request(given, asked_by, body.idempotency_key)
        token, expires_at = services.submission_signer.sign(asked_by, request_digest(given, body.idempotency_key))
        return answer(request, {"token": token, "expires_at": expires_at}, 201)

    return made

"""What the API says of itself: its description, and what each code of an error means. Both are public."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from cloudpush.errors import Code, InputError
from cloudpush.web.api.documents import NOT_MODIFIED, problems
from cloudpush.web.api.paging import IfNoneMatch, answer
from cloudpush.web.api.problems import STATUS

PUBLIC: dict[str, Any] = {"security": []}


class Meant(BaseModel):
    """What a code means."""

    code: str
    status: Annotated[int | None, Field(description="The status that it comes with, where it is always the same.")]
    actor: Annotated[str, Field(description="Who must act.")]
    fix: str
    retryable: bool


def router() -> APIRouter:
    """Routes."""
    made = APIRouter(tags=["meta"])

    @made.get(
        "/openapi.json",
        operation_id="describeApi",
        summary="This description",
        response_model=dict[str, Any],
        openapi_extra=PUBLIC | IfNoneMatch,
        responses=NOT_MODIFIED,
    )
    def openapi_json(request: Request) -> Response:
        return answer(request, request.app.openapi())

    @made.get(
        "/problems/{code}",
        operation_id="explainProblem",
        summary="What the code of an error means",
        response_model=Meant,
        openapi_extra=PUBLIC | IfNoneMatch,
        responses=NOT_MODIFIED | problems(404),
    )
    def explain(request: Request, code: str) -> Response:
        if code not in set(Code):
            raise InputError(Code.NOT_FOUND, "There is no such code.", field="code")
        found = Code(code)
        said = {"actor": found.actor, "fix": found.fix, "retryable": found.retryable}
        return answer(request, {"code": found, "status": STATUS.get(found), **said})

    return made

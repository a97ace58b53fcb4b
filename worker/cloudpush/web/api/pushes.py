"""Pushes: submit, list, cancel, retry, hand over fresh URLs."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request
from pydantic import AwareDatetime, BaseModel, Field
from starlette.responses import Response

from cloudpush.errors import CloudPushError, Code, InputError
from cloudpush.push.access.model import Principal, Right
from cloudpush.push.intake import Accepted as Stored
from cloudpush.push.states import State, Strength
from cloudpush.web.api import views
from cloudpush.web.api.auth import Asker
from cloudpush.web.api.documents import NOT_MODIFIED, problems
from cloudpush.web.api.limits import limits_of
from cloudpush.web.api.listing import find, which
from cloudpush.web.api.paging import Cursor, IfNoneMatch, Limit, Strict, answer, page
from cloudpush.web.api.problems import Problem, problem_of
from cloudpush.web.api.submissions import (
    MOST_PUSHES,
    BatchItem,
    Fresh,
    Key,
    Submission,
    accepted_view,
    preview_view,
    request_of,
    rows_of,
)
from cloudpush.web.api.turns import turns_of

if TYPE_CHECKING:
    from cloudpush.wiring import WebServices


#: Signed URLs of one batch: each set is sealed by itself, and whoever asks waits for all of them.
MOST_URLS = 2000


class Batch(Strict):
    """Many pushes, each of which stands alone."""

    pushes: Annotated[list[BatchItem], Field(min_length=1, max_length=MOST_PUSHES)]


class Outcome(BaseModel):
    """What became of one push of a batch: ``problem``, or the others."""

    push: UUID | None = None
    created: bool | None = None
    announced: bool | None = None
    warnings: list[str] | None = None
    problem: Annotated[Problem | None, Field(description="Why this one was refused.")] = None


class Outcomes(BaseModel):
    """In the order of the batch."""

    results: list[Outcome]


def router() -> APIRouter:
    """Routes."""
    made = APIRouter(tags=["pushes"])
    made.add_api_route(
        "/pushes",
        submit,
        methods=["POST"],
        operation_id="submitPush",
        summary="Submit a push",
        status_code=201,
        response_model=views.Accepted,
        responses={
            200: {"model": views.Accepted | views.Preview, "description": "Known already; or what a dry run found."},
            **problems(404, 409),
        },
    )
    made.add_api_route(
        "/pushes/batch",
        submit_batch,
        methods=["POST"],
        operation_id="submitBatch",
        summary="Submit up to 1,000 pushes",
        response_model=Outcomes,
    )
    made.add_api_route(
        "/pushes",
        index,
        methods=["GET"],
        operation_id="listPushes",
        summary="Pushes, newest first",
        response_model=views.PushPage,
        openapi_extra=IfNoneMatch,
        responses=NOT_MODIFIED,
    )
    made.add_api_route(
        "/pushes/{push_id}/cancel",
        cancel,
        methods=["POST"],
        operation_id="cancelPush",
        summary="Stop a push, within seconds",
        status_code=202,
        response_model=views.Standing,
        responses=problems(404),
    )
    made.add_api_route(
        "/pushes/{push_id}/retry",
        retry,
        methods=["POST"],
        operation_id="retryPush",
        summary="Try a push again",
        status_code=201,
        response_model=views.Accepted,
        responses={
            200: {"model": views.Accepted, "description": "It was tried again already: by this push."},
            202: {"model": views.Standing, "description": "Its next attempt is due now."},
            **problems(404, 409),
        },
    )
    made.add_api_route(
        "/pushes/{push_id}/resign",
        resign,
        methods=["POST"],
        operation_id="resignPush",
        summary="Hand over fresh signed URLs",
        response_model=views.Resigned,
        responses=problems(404),
    )
    return made


def submit(
    request: Request,
    asked_by: Asker,
    body: Submission,
    idempotency_key: Key = "",
    dry_run: Annotated[bool, Query(description="Walk the source, say what would be pushed, store nothing.")] = False,
) -> Response:
    """Stored and announced: a worker takes it up. Nothing is stored of a request that is refused."""
    services: WebServices = request.app.state.services
    asked = request_of(body, asked_by, idempotency_key)
    if dry_run:
        with turns_of(request).one(asked_by):
            preview = (
                services.intake.preview(asked)
                if body.urls is None
                else services.signed.preview(asked, rows_of(body.urls), body.resign_hook)
            )
        return answer(request, preview_view(preview))
    accepted = (
        services.intake.submit(asked)
        if body.urls is None
        else services.signed.submit(asked, rows_of(body.urls), body.resign_hook)
    )
    return _accepted(request, accepted)


def submit_batch(request: Request, asked_by: Asker, body: Batch) -> Response:
    """Each stands alone: one that is refused keeps none of the others back."""
    services: WebServices = request.app.state.services
    asked_by.need(Right.SUBMIT)
    limits_of(request).count_batch(asked_by, len(body.pushes))
    if sum(len(item.urls or ()) for item in body.pushes) > MOST_URLS:
        raise InputError(
            Code.BAD_INPUT,
            f"pushes: at most {MOST_URLS:,} signed URLs in one batch; submit them singly.",
            field="pushes",
        )
    outcomes: list[Stored | CloudPushError | None] = [None] * len(body.pushes)
    plain: list[tuple[int, Any]] = []
    for number, item in enumerate(body.pushes):
        try:
            asked = request_of(item, asked_by, item.idempotency_key)
            if item.urls is None:
                plain.append((number, asked))
            else:
                outcomes[number] = services.signed.submit(asked, rows_of(item.urls), item.resign_hook)
        except CloudPushError as e:
            outcomes[number] = e
    for (number, _), outcome in zip(plain, services.intake.submit_many([r for _, r in plain]), strict=True):
        outcomes[number] = outcome
    return answer(request, {"results": [_outcome(request, outcome) for outcome in outcomes]})


def _outcome(request: Request, outcome: Stored | CloudPushError | None) -> dict[str, Any]:
    if isinstance(outcome, Stored):
        return accepted_view(outcome)
    return {"problem": problem_of(request, outcome or CloudPushError(Code.INTERNAL, "It has no outcome."))}


def index(
    request: Request,
    asked_by: Asker,
    owner: Annotated[str, Query(max_length=500)] = "",
    bucket: Annotated[str, Query(max_length=500)] = "",
    prefix: Annotated[str, Query(max_length=2000, description="Whose keys begin like this.")] = "",
    state: State | None = None,
    strength: Annotated[str, Query(pattern=f"^({'|'.join(['', *(s.word for s in Strength)])})$")] = "",
    kind: Annotated[str, Query(max_length=100, description="Kind of credential.")] = "",
    code: Annotated[str, Query(max_length=100, description="Error code.")] = "",
    since: Annotated[AwareDatetime | None, Query(description="Submitted then or later.")] = None,
    until: Annotated[AwareDatetime | None, Query(description="Submitted before.")] = None,
    label: Annotated[list[str], Query(max_length=32, description="KEY=VALUE; all of several.")] = [],  # noqa: B006 -- FastAPI copies it
    q: Annotated[
        str,
        Query(
            max_length=500, description="Words of the source, the destination and the paths; word* for how one begins."
        ),
    ] = "",
    credential: UUID | None = None,
    limit: Limit = 50,
    cursor: Cursor = "",
) -> Response:
    """What you may see of them; several conditions hold all at once."""
    services: WebServices = request.app.state.services
    sees = asked_by.sees
    if sees is not None and owner and owner != sees:
        return page(request, [], None)
    wanted = which(
        owner=sees or owner,
        bucket=bucket,
        prefix=prefix,
        state=state,
        strength=strength,
        credential_kind=kind,
        error_code=code,
        since=_utc(since),
        until=_utc(until),
        labels=label,
        text=q,
        credential_id=credential,
    )
    rows, following = find(services.history, wanted, limit, cursor)
    return page(request, [views.push_view(row) for row in rows], following)


def _utc(moment: datetime | None) -> datetime | None:
    if moment is not None and not 1 < moment.year < 9999:
        raise InputError(Code.BAD_INPUT, "A time is out of range.", field="since")
    return moment


def cancel(request: Request, asked_by: Asker, push_id: UUID) -> Response:
    """In mid-file, too. What was verified stays at the destination. Repeatable."""
    services: WebServices = request.app.state.services
    state = services.intake.cancel(push_id, acting(asked_by), asked_by.actor)
    return answer(request, {"push": push_id, "state": state}, 202)


def retry(request: Request, asked_by: Asker, push_id: UUID) -> Response:
    """One that ended without success becomes a new push; of one that waits, the next attempt is due now."""
    services: WebServices = request.app.state.services
    again = services.intake.retry(push_id, acting(asked_by), asked_by.actor)
    if isinstance(again, State):
        return answer(request, {"push": push_id, "state": again}, 202)
    return _accepted(request, again)


def resign(request: Request, asked_by: Asker, push_id: UUID, body: Fresh) -> Response:
    """It goes on where it stopped. They must lead to the same objects."""
    services: WebServices = request.app.state.services
    done = services.signed.resign(push_id, acting(asked_by), asked_by.actor, rows_of(body.urls))
    counts = {"accepted": done.accepted, "ignored": done.ignored, "missing": done.missing}
    return answer(request, {"push": push_id, "state": done.state, **counts})


def acting(principal: Principal) -> str | None:
    """Whose pushes a principal acts on: their own, or None for anybody's. Raises AccessError."""
    principal.need(Right.SUBMIT)
    return None if principal.may(Right.ACT_ALL) else principal.name


def _accepted(request: Request, accepted: Stored) -> Response:
    where = {"location": f"/v1/pushes/{accepted.push_id}"}
    return answer(request, accepted_view(accepted), 201 if accepted.created else 200, where)

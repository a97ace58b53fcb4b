"""The history of everybody's pushes: a filter, what it lets through, and how much that is over time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from starlette.responses import Response

from cloudpush.audit.charts import Step
from cloudpush.errors import InputError
from cloudpush.web.audit import asking, chart, record
from cloudpush.web.pages import Visit

#: Rows of a page.
PAGE = 50


def index(visit: Visit) -> Response:
    """A page of pushes, newest first."""
    asked, which = asking.pushes("/audit", visit.request.query_params)
    cursor = visit.query("cursor")
    page = record.Rows(())
    if not asked.wrong:
        try:
            page = record.pushes(visit.services, which, PAGE, cursor)
        except InputError as e:
            if e.field != "cursor":
                raise
            return visit.see(asked.address())  # a link of long ago, or one that was cut off: begin with the newest
    return visit.render(
        "audit_history.html",
        status=400 if asked.wrong else 200,
        asked=asked,
        pushes=page.rows,
        cursor=cursor,
        next=page.next,
    )


def summary(visit: Visit) -> Response:
    """How many, how much, and when; a script puts it into the history's page."""
    asked, which = asking.pushes("/audit/summary", visit.request.query_params)
    if asked.wrong:
        return visit.render("audit_summary.html", status=400, asked=asked)
    totals = record.totals(visit.services, which)
    states = {state.value: n for state, n in totals.by_state.items()}
    shown: dict[str, Any] = {
        "asked": asked,
        "totals": totals,
        "least": "" if totals.exact else "at least ",
        "trouble": sum(states.get(word, 0) for word in ("failed", "unverified", "cancelled")),
        "going": sum(n for state, n in totals.by_state.items() if not state.final),
    }
    since = which.since or totals.first
    until = which.until or (totals.last + timedelta(microseconds=1) if totals.last else None)
    if not totals.pushes or since is None or until is None:
        return visit.render("audit_summary.html", points=(), drawings=(), step="", left_out=False, **shown)
    # Days that are still to come have no bars; without a last day the chart goes on to today.
    until = min(until, datetime.now(UTC))
    step = Step.of(since, until)
    points = chart.filled(record.series(visit.services, which, step), step, since, until)
    return visit.render(
        "audit_summary.html",
        **shown,
        step=step.value,
        points=points,
        left_out=step is Step.MONTH and len(points) == chart.MONTHS,
        drawings=[chart.pushes_over_time(points, step), chart.bytes_over_time(points, step)],
    )

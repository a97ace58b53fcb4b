"""What the auditors' pages draw and read, without any page."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from cloudpush.audit.charts import Step
from cloudpush.push.states import Event
from cloudpush.web import words
from cloudpush.web.audit import asking, chart
from cloudpush.web.audit.chart import Point

MONDAY = datetime(2026, 11, 23, tzinfo=UTC)


@pytest.mark.parametrize(
    ("days", "step"), [(0, "day"), (62, "day"), (63, "week"), (400, "week"), (401, "month"), (4000, "month")]
)
def test_a_bar_stands_for_what_makes_some_dozens_of_them(days: int, step: str) -> None:
    assert Step.of(MONDAY, MONDAY + timedelta(days=days)) == step


@pytest.mark.parametrize("step", list(Step))
def test_every_step_of_a_span_has_a_point_in_order(step: Step) -> None:
    """Also those in which nothing happened; each begins where the one before ends."""
    since, until = MONDAY + timedelta(hours=5), MONDAY + timedelta(days=100)
    known = Point(step.floor(MONDAY + timedelta(days=50)), pushes=3)
    points = chart.filled([known], step, since, until)
    assert points[0].at == step.floor(since)
    assert [step.next(p.at) for p in points[:-1]] == [p.at for p in points[1:]]
    assert points[-1].at < until <= step.next(points[-1].at)
    assert [p for p in points if p.pushes] == [known]


@pytest.mark.parametrize(
    ("top", "binary", "ticks"),
    [
        (0, False, [0, 1]),
        (1, False, [0, 1]),
        (3, False, [0, 1, 2, 3]),
        (120, False, [0, 50, 100, 150]),
        (1_000_000, False, [0, 250_000, 500_000, 750_000, 1_000_000]),
        (3 * 2**30, True, [0, 2**30, 2 * 2**30, 3 * 2**30]),
        (700, True, [0, 200, 400, 600, 800]),
    ],
)
def test_an_axis_has_a_few_round_values(top: int, binary: bool, ticks: list[float]) -> None:
    assert chart.nice(top, binary=binary) == ticks


@pytest.mark.parametrize("top", [1, 2, 7, 999, 10**6, 10**12, 2**50])
def test_an_axis_reaches_what_it_measures_and_not_much_more(top: int) -> None:
    for binary in (False, True):
        ticks = chart.nice(top, binary=binary)
        assert (ticks[0], top <= ticks[-1] <= 2 * top + 1, 2 <= len(ticks) <= 7) == (0, True, True)


def test_bars_stand_on_the_axis_and_stay_on_the_paper() -> None:
    """Trouble on top of what went well; what is there is seen, however small."""
    points = [
        Point(MONDAY, 10, 4, 2**30),
        Point(MONDAY + timedelta(days=1)),
        Point(MONDAY + timedelta(days=2), 9999, 1),
    ]
    drawn = chart.pushes_over_time(points, Step.DAY)
    good, bad = drawn.bars[:2]
    assert [b.tone for b in drawn.bars] == ["good", "bad", "good", "bad"]
    assert good.y + good.height == drawn.floor
    assert bad.y + bad.height == pytest.approx(good.y)
    assert bad.height >= 1
    assert all(b.y > 0 and b.x >= drawn.left and b.x + b.width <= drawn.right for b in drawn.bars)
    assert bad.words == "23 Nov 2026: 10 pushes, 4 without success"
    assert drawn.description.startswith("10,009 pushes, 5 of them without success.")


def test_an_empty_span_is_drawn_without_bars() -> None:
    drawn = chart.bytes_over_time([Point(MONDAY)], Step.DAY)
    assert (drawn.bars, drawn.rows[0].words) == ([], "0")


def test_a_last_day_counts_and_a_moment_is_taken_as_it_is() -> None:
    assert asking.last_moment("2026-11-23") == MONDAY + timedelta(days=1)
    assert asking.first_moment("2026-11-23") == MONDAY
    assert asking.last_moment("2026-11-23T01:00:00+01:00") == MONDAY


@pytest.mark.parametrize(
    "text", ["2026-13-01", "23.11.2026", "9999-12-31", "x" * 500, "\u0662\u0660\u0662\u0666-01-01"]
)
def test_a_day_that_is_none_is_refused_with_how_to_write_it(text: str) -> None:
    with pytest.raises(ValueError, match="write it as 2027-01-31"):
        asking.last_moment(text)


def test_what_nobody_sees_is_shown_by_its_number() -> None:
    """It could make a name look like another; the neighbours are not turned round with it."""
    assert words.visible("a\u202eb<") == '<bdi>a<span class="unseen">U+202E</span>b&lt;</bdi>'
    assert words.spelled("a\u200bb") == "a[U+200B]b"
    assert words.visible("مرحبا") == "<bdi>مرحبا</bdi>"


def test_every_event_of_auditors_has_words() -> None:
    """Those of tokens, roles, preflights, exports, sessions and keys as well."""
    assert not {e.value for e in Event} - set(words.SENTENCES)
    told = words.sentence("audit.exported", {"table": "pushes", "format": "csv", "rows": 2300})
    assert told == "A copy of pushes was taken as csv, 2,300 rows."
    assert words.sentence("role.granted", {"role": "auditor", "principal": "ada"}) == (
        "The role auditor was given to ada."
    )

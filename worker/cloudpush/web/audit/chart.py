"""Counts and bytes over time as bars: where each stands on the paper. Templates draw them; nothing here knows SVG's words.

The paper is 760 × 200 units and is drawn as wide as the page. Colours are classes: a policy without inline styles, and two
palettes, ask for that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from cloudpush.audit.charts import Step
from cloudpush.web import words

WIDTH, HEIGHT = 760.0, 200.0
LEFT, RIGHT, TOP, BOTTOM = 88.0, 8.0, 12.0, 28.0
#: Of a bar's place, so much is the bar.
FILL = 0.74
#: A bar is no wider than this: three bars should not look like walls.
WIDEST = 44.0
#: Labels below the axis at the most.
LABELS = 7
#: Months at the most: the newest.
MONTHS = 120


@dataclass(frozen=True, slots=True)
class Point:
    """What happened in one step."""

    at: datetime  # its beginning
    pushes: int = 0
    trouble: int = 0  # of them: failed, cancelled or not proved
    bytes: int = 0

    def name(self, step: Step) -> str:
        """The step in words."""
        if step is Step.MONTH:
            return f"{self.at:%B %Y}"
        return f"{'week of ' if step is Step.WEEK else ''}{self.at:%-d %b %Y}"


@dataclass(frozen=True, slots=True)
class Bar:
    """A rectangle of one colour."""

    x: float
    y: float
    width: float
    height: float
    tone: str
    words: str


@dataclass(frozen=True, slots=True)
class Mark:
    """A label, and how far along its axis."""

    at: float
    words: str


@dataclass(frozen=True, slots=True)
class Drawing:
    """One chart."""

    id: str
    title: str
    description: str
    bars: Sequence[Bar]
    rows: Sequence[Mark]  # up the left side
    columns: Sequence[Mark]  # along the bottom
    legend: Sequence[tuple[str, str]] = ()  # tone and words, where there are several
    width: float = WIDTH
    height: float = HEIGHT
    left: float = LEFT
    right: float = WIDTH - RIGHT
    floor: float = HEIGHT - BOTTOM


def filled(points: Iterable[Point], step: Step, since: datetime, until: datetime) -> list[Point]:
    """A point for each step from ``since`` to before ``until``, in order: a step in which nothing happened is one, too."""
    known = {p.at: p for p in points}
    every: list[Point] = []
    at = step.floor(since)
    while at < until:
        every.append(known.get(at, Point(at)))
        at = step.next(at)
    return every[-MONTHS:]


def pushes_over_time(points: Sequence[Point], step: Step) -> Drawing:
    """How many pushes began, those that came to nothing on top."""

    def pieces(p: Point) -> Iterator[tuple[int, str, str]]:
        told = f"{p.name(step)}: {words.count(p.pushes, 'push', 'pushes')}"
        told += f", {p.trouble:,} without success" if p.trouble else ""
        yield p.pushes - p.trouble, "good", told
        yield p.trouble, "bad", told

    total, trouble = sum(p.pushes for p in points), sum(p.trouble for p in points)
    most = max(points, key=lambda p: p.pushes, default=None)
    text = f"{words.count(total, 'push', 'pushes')}, {trouble:,} of them without success."
    if most and most.pushes:
        text += f" The most in one {step}: {most.pushes:,} ({most.name(step)})."
    drawn = _draw("chart-pushes", f"Pushes by {step}", text, points, step, pieces, lambda n: f"{n:,.0f}", binary=False)
    return replace(drawn, legend=(("good", "succeeded, or not over yet"), ("bad", "without success")))


def bytes_over_time(points: Sequence[Point], step: Step) -> Drawing:
    """How many bytes these pushes held."""

    def pieces(p: Point) -> Iterator[tuple[int, str, str]]:
        yield p.bytes, "run", f"{p.name(step)}: {words.size(p.bytes)}"

    most = max(points, key=lambda p: p.bytes, default=None)
    text = f"{words.size(sum(p.bytes for p in points))} in all."
    if most and most.bytes:
        text += f" The most in one {step}: {words.size(most.bytes)} ({most.name(step)})."
    return _draw("chart-bytes", f"Bytes by {step}", text, points, step, pieces, _round_size, binary=True)


def _round_size(count: float) -> str:
    """``600 GiB``: what stands along the axis is round in its unit."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:g} {unit}" if count else "0"
        count /= 1024
    return f"{count:g} TiB"


Pieces = Callable[[Point], Iterator[tuple[int, str, str]]]


def _draw(
    name: str,
    title: str,
    text: str,
    points: Sequence[Point],
    step: Step,
    pieces: Pieces,
    say: Callable[[float], str],
    *,
    binary: bool,
) -> Drawing:
    stacks = [list(pieces(p)) for p in points]
    top = max((sum(n for n, _, _ in stack) for stack in stacks), default=0)
    ticks = nice(top, binary=binary)
    room, scale = WIDTH - LEFT - RIGHT, (HEIGHT - TOP - BOTTOM) / (ticks[-1] or 1)
    slot = room / max(1, len(points))
    width = min(WIDEST, slot * FILL)
    bars: list[Bar] = []
    for i, stack in enumerate(stacks):
        x, y = LEFT + i * slot + (slot - width) / 2, HEIGHT - BOTTOM
        for value, tone, told in stack:
            if value:
                # What is there is seen, however small beside the others.
                height = max(1.0, value * scale)
                y -= height
                bars.append(Bar(round(x, 2), round(y, 2), round(width, 2), round(height, 2), tone, told))
    rows = [Mark(round(HEIGHT - BOTTOM - t * scale, 2), say(t)) for t in ticks]
    return Drawing(name, title, text, bars, rows, _columns(points, step, slot))


def _columns(points: Sequence[Point], step: Step, slot: float) -> list[Mark]:
    every = max(1, math.ceil(len(points) / LABELS))
    form = "%b %Y" if step is Step.MONTH else "%-d %b"
    return [
        Mark(round(LEFT + (i + 0.5) * slot, 2), f"{p.at:{form}}")
        for i, p in enumerate(points)
        if i % every == every // 2
    ]


def nice(top: float, *, binary: bool) -> list[float]:
    """Some round values from 0 to ``top`` or a little more; of bytes, round in their unit. Always two at the least."""
    if top <= 0:
        return [0.0, 1.0]
    unit = 1024.0 ** max(0, min(4, math.floor(math.log(top, 1024)))) if binary else 1.0
    rough = top / unit / 4
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude >= rough)
    if unit == 1.0:  # there is no half push, and no half byte
        step = max(1.0, math.ceil(step))
    return [n * step * unit for n in range(math.ceil(top / unit / step - 1e-9) + 1)]

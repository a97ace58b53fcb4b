"""What auditors ask of a large history: how long each answer takes, at the database and over HTTP; and what else there are goals for.

::

    make bench-audit                                   # 1,000,000 pushes, 10,000,000 files
    make bench-audit SCALE=0.1 ARGS="--only pages"
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

import servers
from benchmarks import checkpoint, exports, history_data, submit
from cloudpush.audit.access import AccessBook
from cloudpush.audit.database import make_engine
from cloudpush.audit.history import Filter, History, LedgerFilter, Step
from cloudpush.audit.migrate import upgrade
from cloudpush.client import Client
from cloudpush.push.access.model import ALL_SCOPES, Role
from cloudpush.push.access.tokens import digest, new_token
from cloudpush.push.states import FileState, State, Strength
from cloudpush.settings import Settings
from cloudpush.stack.postgres import APP, OWNER, SUPERUSER, Postgres

DICE = random.Random(11)
TIMES = 40
DEPTH = 30
#: Milliseconds within which 95 % of the answers are to be there.
DATABASE, HTTP, CHART = 50.0, 150.0, 1_000.0
PARTS = ("pages", "http", "others", "exports", "submit", "checkpoint")
SETTINGS = {
    "effective_cache_size": "8GB",
    "work_mem": "16MB",
    "max_wal_size": "8GB",
    "random_page_cost": "1.1",
}


def say(text: str) -> None:
    """Progress, and the table."""
    print(text, flush=True)  # noqa: T201 -- a benchmark's output


@contextmanager
def database(directory: Path) -> Iterator[Postgres]:
    """A durable server with sensible settings, as an operator would give it."""
    server = Postgres(directory / "pg", directory / "run", directory / "pg.log")
    server.start()
    server.ready()
    try:
        with server.connect() as c:
            for name, value in SETTINGS.items():
                c.execute(f"ALTER SYSTEM SET {name} = '{value}'")
        server.stop()
        server.start()
        server.ready()
        yield server
    finally:
        server.stop()


def an_owner() -> str:
    return f"owner-{int(1000 * DICE.random() ** 2.5)}"


WORDS = ("genome", "climate", "neutron", "photon", "atlas", "cohort", "enzyme", "river")


def questions(pushes: int) -> dict[str, Callable[[], Filter]]:
    """Each with other values every time."""

    def bucket() -> str:
        return f"bucket-{int(200 * DICE.random() ** 2)}"

    def moment() -> datetime:
        return datetime(2024, 12, 1, tzinfo=UTC) + timedelta(days=DICE.random() * history_data.SPAN_DAYS)

    def run() -> str:
        return str(DICE.randrange(min(5000, pushes)))

    def sample() -> str:
        return f"sample-{DICE.randrange(2**20)}"

    return {
        "no filter": Filter,
        "owner": lambda: Filter(owner=an_owner()),
        "bucket": lambda: Filter(bucket=bucket()),
        "prefix": lambda: Filter(prefix=f"{DICE.choice(WORDS)}/{DICE.randrange(256):02x}"),
        "beginning of a prefix": lambda: Filter(prefix=f"{DICE.choice(WORDS)}/{DICE.randrange(16):x}"),
        "state": lambda: Filter(
            state=DICE.choice([State.SUCCEEDED, State.FAILED, State.UNVERIFIED, State.CANCELLED, State.QUEUED])
        ),
        "strength": lambda: Filter(strength=DICE.choice(list(Strength)[1:])),
        "strength at most": lambda: Filter(at_most=DICE.choice(list(Strength)[1:])),
        "credential kind": lambda: Filter(credential_kind=DICE.choice(["access_key", "oauth_grant", "sas"])),
        "error code": lambda: Filter(error_code=DICE.choice(["TOO_LARGE", "ACCESS_DENIED", "THROTTLED", "CORRUPTED"])),
        "time": lambda: Filter(until=moment()),
        "label, common": lambda: Filter(label=("project", f"p{DICE.randrange(300)}")),
        "label, rare": lambda: Filter(label=("run", run())),
        "label, common long ago": lambda: Filter(label=("stage", "pilot")),
        "word, common": lambda: Filter(text=DICE.choice(["bam", *WORDS])),
        "word, rare": lambda: Filter(text=sample()),
        "word, unknown": lambda: Filter(text=f"zz{DICE.random()}"),
        "beginning, rare": lambda: Filter(text=f"run-{run()[:3]}* {DICE.choice(WORDS)}"),
        "beginning, common": lambda: Filter(text=DICE.choice(["sam*", "geno*", "l*"])),
        "owner, state": lambda: Filter(owner=an_owner(), state=DICE.choice([State.FAILED, State.UNVERIFIED])),
        "owner, bucket": lambda: Filter(owner=an_owner(), bucket=bucket()),
        "owner, word": lambda: Filter(owner=an_owner(), text=DICE.choice(WORDS)),
        "bucket, code, time": lambda: Filter(bucket=bucket(), error_code="ACCESS_DENIED", until=moment()),
        "kind, state, strength": lambda: Filter(
            credential_kind="sas", state=State.UNVERIFIED, strength=Strength.REREAD
        ),
        "label long ago, word, state": lambda: Filter(
            label=("stage", "pilot"), text=DICE.choice(WORDS), state=State.FAILED
        ),
        "owner, label, word, time": lambda: Filter(
            owner=an_owner(), label=("stage", "main"), text=DICE.choice(WORDS), until=moment()
        ),
    }


@dataclass
class Line:
    """A row of the table. ``met``: None where there is no goal."""

    what: str
    figures: Sequence[str]  # p50, p95, max, or what there is instead
    goal: str = ""
    met: bool | None = None

    def __str__(self) -> str:
        verdict = {None: "", True: "yes", False: "**no**"}[self.met]
        return f"| {self.what} | {' | '.join(self.figures)} | {self.goal} | {verdict} |"


HEADER = "\n| what | p50 | p95 | max | goal | met |\n| --- | --- | --- | --- | --- | --- |"


def timed(what: str, found: list[float], goal: float) -> Line:
    """Of milliseconds; the goal is for p95."""
    found = sorted(found)
    p95 = found[min(len(found) - 1, int(len(found) * 0.95))]
    figures = [f"{ms:.1f} ms" for ms in (statistics.median(found), p95, found[-1])]
    return Line(what, figures, f"p95 ≤ {goal:,.0f} ms", p95 <= goal)


def measured(act: Callable[[], Any], times: int) -> list[float]:
    """Milliseconds of each."""
    found = []
    for _ in range(times):
        begun = time.perf_counter()
        act()
        found.append((time.perf_counter() - begun) * 1000)
    return found


Ask = Callable[[Filter, str | None], str | None]


def pages(ask: Ask, pushes: int, times: int, where: str, goal: float) -> Iterator[Line]:
    """First pages, and deep ones, page after page. ``ask`` answers with the next page's cursor."""
    all_first: list[float] = []
    all_deep: list[float] = []
    for name, question in questions(pushes).items():
        if where == "HTTP" and question().at_most is not None:
            continue  # the API has no such filter
        first = measured(lambda q=question: ask(q(), None), times)  # type: ignore[misc]
        deep: list[float] = []
        for _ in range(times):
            which, cursor = question(), None
            for _ in range(DEPTH):
                begun = time.perf_counter()
                following = ask(which, cursor)
                if cursor is not None:
                    deep.append((time.perf_counter() - begun) * 1000)
                cursor = following
                if cursor is None:
                    break
            if len(deep) >= times:
                break
        yield timed(f"{where}: {name}, first page", first, goal)
        if deep:  # a rare thing fits on one page
            yield timed(f"{where}: {name}, deep page", deep, goal)
        all_first += first
        all_deep += deep
    yield timed(f"**{where}: all filters, first page**", all_first, goal)
    yield timed(f"**{where}: all filters, deep page**", all_deep, goal)


def others(history: History, engine: sa.Engine, times: int) -> Iterator[Line]:
    """Charts, files of the largest push, ledger."""
    few = max(3, times // 4)
    for name, which in (
        ("no filter", Filter),
        ("owner", lambda: Filter(owner=an_owner())),
        ("90 days", lambda: Filter(since=datetime(2026, 8, 1, tzinfo=UTC))),
        ("word", lambda: Filter(text="genome")),
        ("label", lambda: Filter(label=("run", str(DICE.randrange(5000))))),
    ):
        yield timed(f"totals, {name}", measured(lambda w=which: history.totals(w()), few), CHART)  # type: ignore[misc]
        yield timed(f"chart, {name}", measured(lambda w=which: history.series(w(), Step.WEEK), few), CHART)  # type: ignore[misc]
    big, many = largest(engine)
    files = f"files of a push with {many:,}"

    def somewhere() -> int:
        return DICE.randrange(many)

    found = measured(lambda: history.file_page(big, after=somewhere()), times)
    yield timed(f"{files}, any page", found, DATABASE)
    found = measured(lambda: history.file_page(big, text=str(somewhere()), after=somewhere()), times)
    yield timed(f"{files}, by text", found, DATABASE)
    found = measured(lambda: history.file_page(big, states=[FileState.FAILED]), times)
    yield timed(f"{files}, that failed", found, DATABASE)
    yield timed("ledger, newest", measured(lambda: history.ledger_all(LedgerFilter()), times), DATABASE)
    found = measured(lambda: history.ledger_all(LedgerFilter(owner=f"owner-{DICE.randrange(100)}")), times)
    yield timed("ledger, of an owner", found, DATABASE)
    yield timed("integrity", measured(history.integrity, few), DATABASE)


def largest(engine: sa.Engine) -> tuple[Any, int]:
    """The push with the most files."""
    with engine.connect() as c:
        row = c.execute(sa.text("SELECT id, files_total FROM push ORDER BY files_total DESC LIMIT 1")).one()
        return row.id, row.files_total


@contextmanager
def asking_over_http(server: Postgres, engine: sa.Engine) -> Iterator[Ask]:
    """An auditor's client of a web server over this database, over one connection that is kept."""
    token = new_token()
    book = AccessBook(engine)
    book.grant_role("auditor", Role.AUDITOR, "bench")
    book.add_token(
        digest(token),
        owner="auditor",
        name=token[-8:],
        role=Role.AUDITOR,
        scopes=ALL_SCOPES,
        seconds=7200,
        actor="bench",
    )
    with (
        servers.scratch() as base,
        servers.running(servers.make_valkey(base)) as valkey,
        submit.serving(base, server.url(APP), valkey.url(), 2) as port,
        Client(f"http://127.0.0.1:{port}", token) as client,
    ):

        def ask(which: Filter, cursor: str | None) -> str | None:
            asked = {
                "owner": which.owner,
                "bucket": which.bucket,
                "prefix": which.prefix,
                "state": which.state,
                "strength": which.strength.word if which.strength else None,
                "kind": which.credential_kind,
                "code": which.error_code,
                "since": which.since.isoformat() if which.since else None,
                "until": which.until.isoformat() if which.until else None,
                "label": "=".join(which.label) if which.label else None,
                "q": which.text,
                "limit": 50,
                "cursor": cursor,
            }
            query = {name: str(value) for name, value in asked.items() if value is not None}
            found: str | None = client._transport.call("GET", "/pushes", query=query).json["next"]
            return found

        ask(Filter(), None)
        yield ask


def submissions() -> Iterator[Line]:
    """Pushes a second."""
    for m in submit.run():
        goal = submit.GOALS[m.name]
        figures = [f"{m.median:,.0f} pushes/s", f"{min(m.values):,.0f}", f"{max(m.values):,.0f}"]
        yield Line(f"submitted {m.name} (median, least, most)", figures, f"≥ {goal:,.0f}/s", m.median >= goal)


def checkpoints(events: int) -> Iterator[Line]:
    """Sealing and verifying so many events, in a database of their own."""
    for name, value in checkpoint.run(events=events).items():
        yield Line(f"checkpoint: {name.replace('_', ' ')}", [f"{value:,}", "", ""])


def main() -> None:
    """Make, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--times", type=int, default=TIMES)
    parser.add_argument("--keep", type=Path, help="a directory for the data, used again if it is there")
    parser.add_argument("--only", nargs="*", default=PARTS, choices=PARTS)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cp-bench-") as scratch:
        directory = asked.keep or Path(scratch)
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o711)
        old = (directory / "pg" / "data").exists()
        with database(directory) as server:
            if not old:
                upgrade(Settings(database_admin_url=server.url(OWNER)))
                maker = make_engine(server.url(SUPERUSER))
                history_data.make(maker, asked.scale, say)
                maker.dispose()
            engine = make_engine(server.url(APP))
            with engine.connect() as c:
                pushes, files = c.execute(sa.text("SELECT count(*), sum(files_total) FROM push")).one()
            cores, version = os.cpu_count(), sys.version.split()[0]
            say(f"{pushes:,} pushes, {files:,} files; {cores} cores, Python {version}, load {os.getloadavg()[0]:.1f}")
            lines: list[Line] = []
            say(HEADER)
            for line in _lines(asked.only, asked.times, server, engine, pushes):
                lines.append(line)
                say(str(line))
            engine.dispose()
    missed = [line.what for line in lines if line.met is False]
    say(f"\nload {os.getloadavg()[0]:.1f}; goals missed: {', '.join(missed) or 'none'}")


def _lines(only: Sequence[str], times: int, server: Postgres, engine: sa.Engine, pushes: int) -> Iterator[Line]:
    history = History(engine)
    if "pages" in only:
        yield from pages(
            lambda which, cursor: history.page(which, cursor=cursor).next, pushes, times, "database", DATABASE
        )
    if "http" in only:
        with asking_over_http(server, engine) as ask:
            yield from pages(ask, pushes, max(3, times // 2), "HTTP", HTTP)
    if "others" in only:
        yield from others(history, engine, times)
    if "exports" in only:
        for taken in exports.measure(server.url(APP), *largest(engine)):
            met = taken.rows < exports.ENOUGH or taken.rows / taken.seconds >= exports.GOAL
            goal = f"≥ {exports.GOAL:,} rows/s" if taken.rows >= exports.ENOUGH else ""
            figures = [
                f"{taken.rows / taken.seconds:,.0f} rows/s",
                f"{taken.size / 2**20:,.0f} MiB",
                f"RSS {taken.peak:.0f} MiB",
            ]
            yield Line(
                f"export {taken.what}, {taken.rows:,} rows (rate, size, peak)", figures, goal, met if goal else None
            )
    if "submit" in only:
        yield from submissions()
    if "checkpoint" in only:
        yield from checkpoints(min(checkpoint.EVENTS, pushes))


if __name__ == "__main__":
    main()

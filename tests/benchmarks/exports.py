"""Exports, each in a process of its own: rows a second, and the most memory that it had."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from cloudpush.audit.database import make_engine
from cloudpush.audit.export import Exporter, Format, Wanted

#: Rows a second, of tables of which there are so many.
GOAL = 100_000
ENOUGH = 100_000


@dataclass(frozen=True)
class Taken:
    """How it went. ``peak``: MiB."""

    what: str
    rows: int
    seconds: float
    size: int
    peak: float


def measure(url: str, push: UUID, files: int) -> Iterator[Taken]:
    """Pushes, events, the files of the largest push in every format; all files in one: memory is not to grow with them."""
    each = [(table, form, "") for table in ("pushes", "events") for form in Format]
    each += [("files", form, str(push)) for form in Format]
    for table, form, one in [*each, ("files", Format.PARQUET, "")]:
        code = "import sys; from benchmarks.exports import take; take(*sys.argv[1:])"
        done = subprocess.run(
            [sys.executable, "-c", code, url, table, form, one], stdout=subprocess.PIPE, check=True, text=True
        )
        yield Taken(**json.loads(done.stdout))


def take(url: str, table: str, form: str, push: str) -> None:
    """Take one, and print how it went."""
    import pyarrow.csv
    import pyarrow.parquet  # noqa: F401 -- likewise

    engine = make_engine(url)
    begun, size = time.perf_counter(), 0
    for chunk in Exporter(engine).stream(Wanted(table, Format(form), push_id=UUID(push) if push else None), "bench"):
        size += len(chunk)
    took = time.perf_counter() - begun
    last = "SELECT (data->>'rows')::bigint FROM event WHERE kind = 'audit.exported' ORDER BY id DESC LIMIT 1"
    with engine.connect() as c:
        rows: Any = c.execute(sa.text(last)).scalar_one()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    of = "files of one push" if push else table
    sys.stdout.write(json.dumps(asdict(Taken(f"{of} as {form}", rows, took, size, peak))))

"""What it takes to archive, check and drop a month: rows a second, and the peak of memory, for a small month and a large one."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from cloudpush.audit import archives, months
from cloudpush.audit.archive_check import Checked, check_archive
from cloudpush.audit.retired import bound, first_of, following
from past import Past
from records import Record
from servers import Databases, make_postgres, running, scratch

#: Pushes of each month, with so many files and events each.
PUSHES = (20_000, 80_000)
EACH = 5

FILES = """
    INSERT INTO file (push_id, seq, path, key, size, mtime_ns, state, strength, sha256, etag, uploaded_at)
    SELECT CAST(lpad(to_hex(CAST(:low AS bigint) + n), 12, '0') || '7' || left(md5(n::text), 3) || '8' || right(md5(n::text), 15) AS uuid),
        s, 'lane-' || s || '/sample-' || n || '.bam', 'runs/lane-' || s || '/sample-' || n || '.bam', 1000000, 1700000000000000000,
        'verified', 'checksum', sha256(convert_to(n || '-' || s, 'UTF8')), md5(n || '-' || s), now()
    FROM generate_series(1, :pushes) n, generate_series(1, :each) s
""".replace("::", "\\:\\:")

# Through the application's own function, so that each event has its hash; committed a thousand streams at a time.
EVENTS = """
DO $$ DECLARE push uuid; i int := 0; BEGIN
    FOR push IN SELECT DISTINCT push_id FROM file WHERE push_id >= '{low}' AND push_id < '{high}' LOOP
        PERFORM cloudpush_append(push, 'benchmark', ARRAY['push.claimed', 'push.planned', 'part.started', 'part.finished',
            'push.notified'], array_fill(NULL::uuid, ARRAY[5]), ARRAY['{{}}', '{{}}', '{{"part": 1}}', json_build_object('part', 1,
            'first', 1, 'last', {each}, 'files_sha256', encode(cloudpush_files_digest(push, 1, {each}), 'hex'))::text, '{{}}']);
        i := i + 1;
        IF i % 1000 = 0 THEN COMMIT; END IF;
    END LOOP;
END $$
"""


def run(pushes: tuple[int, int] = PUSHES) -> list[dict[str, Any]]:
    """Figures of each step, month by month, the small one first."""
    with scratch() as directory, running(make_postgres(directory)) as postgres:
        record = Record(Databases(postgres).migrated())
        past = Past(record)
        for month, count in zip((past.older, past.newer), pushes, strict=True):
            with past.at(first_of(month) + timedelta(days=10)):
                _fill(record, month, count)
        while past.notary.seal():
            pass
        found = [figures for month in (past.older, past.newer) for figures in _steps(past, month, directory)]
        record.close()
        return found


def _fill(record: Record, month: Any, pushes: int) -> None:
    low, high = bound(month), bound(following(month))
    with record.intruder.begin() as c:
        c.execute(sa.text("SET LOCAL session_replication_role = replica"))  # there are no rows of pushes
        c.execute(sa.text(FILES), {"low": low.int >> 80, "pushes": pushes, "each": EACH})
    with record.owner.connect().execution_options(isolation_level="AUTOCOMMIT") as c:
        c.execute(sa.text("SET statement_timeout = 0"))
        c.execute(sa.text("ANALYZE file"))  # the statement below keeps one plan for all pushes
        c.exec_driver_sql(EVENTS.format(low=low, high=high, each=EACH).replace("%", "%%"))
        c.execute(sa.text("VACUUM (ANALYZE) event, file, chain"))


def _steps(past: Past, month: Any, directory: Path) -> list[dict[str, Any]]:
    witness = past.notary.witness()
    (place, manifest), wrote = _measured(
        lambda: archives.write_archive(past.record.app, month, directory, "keys", "ada")
    )
    checked, looked = _measured(lambda: check_archive(place, witness))
    if not isinstance(checked, Checked) or not checked.report.sound:
        raise RuntimeError("the archive is not sound")
    _, dropped = _measured(lambda: months.drop(past.record.owner, month, place, checked, "ada"))
    rows = manifest["events"] + manifest["files"]
    return [
        {"step": name, "events": manifest["events"], "files": manifest["files"], "seconds": round(seconds, 1)}
        | {"rows_per_second": round(rows / seconds), "peak_mib": round(peak / 1024)}
        for name, (seconds, peak) in (("archive", wrote), ("verify --archive", looked), ("drop", dropped))
    ]


def _measured(step: Callable[[], Any]) -> tuple[Any, tuple[float, int]]:
    """What it returns; seconds, and the peak of this process' memory meanwhile in KiB."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    start = time.perf_counter()
    made = step()
    seconds = time.perf_counter() - start
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return made, (seconds, int(peak.split()[1]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pushes", type=int, nargs=2, default=PUSHES, help="of the small month and of the large one")
    for figures in run(tuple(parser.parse_args().pushes)):
        sys.stdout.write("  ".join(f"{name} {value}" for name, value in figures.items()) + "\n")

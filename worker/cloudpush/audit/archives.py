"""Writes a month of the record to files: its rows as Parquet, and whatever proves them.

::

    cloudpush-2026-01/
        events.parquet       every column, in the order of streams and numbers
        files.parquet        file rows of the pushes that were submitted in the month
        pushes.parquet       the rows of those pushes, as they are when the archive is written
        checkpoints.jsonl    the checkpoints that cover the events, as `cloudpush audit checkpoint` prints them, a line each
        leaves.bin           the leaves of those checkpoints, 60 bytes each
        keys.pem             the public keys, for whoever kept none
        manifest.json        SHA-256 of each of these, and what they have; canonical JSON

Written under another name and renamed when it is whole: what has its name is complete.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from cloudpush.audit.archive_tables import TABLES, batches, counted
from cloudpush.audit.database import append_event, transaction
from cloudpush.audit.parquet import groups
from cloudpush.audit.retired import RETENTION_STREAM, first_of, following
from cloudpush.errors import Code, InputError
from cloudpush.push.states import Event
from cloudpush.push.trust.canonical import canonical, read_canonical
from cloudpush.push.trust.checkpoints import document

VERSION = 1
MANIFEST, CHECKPOINTS, LEAVES, KEYS = "manifest.json", "checkpoints.jsonl", "leaves.bin", "keys.pem"
SAYS = (
    *("month", "made_at", "events", "files", "pushes", "first_id", "last_id", "checkpoints", "streams", "cuts_sha256"),
    "sha256",
)
FILES = (*(f"{table.name}.parquet" for table in TABLES), CHECKPOINTS, LEAVES, KEYS)


def name_of(month: date) -> str:
    """An archive's directory."""
    return f"cloudpush-{month:%Y-%m}"


def write_archive(engine: sa.Engine, month: date, to: Path, keys: str, actor: str) -> tuple[Path, Mapping[str, Any]]:
    """Archive the month below ``to``; where it is and what its manifest says. Repeatable: a whole one is kept.

    ``keys``: public keys, PEM. Raises InputError for a month that is not over, not wholly sealed, empty or dropped, and
    for a place that cannot be written; StoreError.
    """
    place = to / name_of(month)
    if not place.exists():
        with _beside(place) as made, transaction(engine.execution_options(isolation_level="REPEATABLE READ")) as c:
            c.execute(sa.text("SET TRANSACTION READ ONLY"))
            c.execute(sa.text("SET LOCAL statement_timeout = 0"))
            _write(c, month, made, keys)
    text, manifest = read_manifest(place)
    if manifest["month"] != f"{month:%Y-%m}":
        raise InputError(Code.BAD_INPUT, f"{place} is an archive of {manifest['month']}.", field="to")
    told = {name: manifest[name] for name in ("month", "events", "files", "pushes", "cuts_sha256", "checkpoints")}
    told["archive_sha256"] = hashlib.sha256(text).hexdigest()
    with transaction(engine) as c:
        asked = {"stream": RETENTION_STREAM, "kind": Event.AUDIT_ARCHIVED.value, "sha256": told["archive_sha256"]}
        if not c.execute(TOLD, asked).scalar_one():  # else a crash came between the renaming and this, or it is known
            append_event(c, RETENTION_STREAM, Event.AUDIT_ARCHIVED, actor, told)
    return place, manifest


def read_manifest(place: Path) -> tuple[bytes, Mapping[str, Any]]:
    """A manifest's text, and what it says. Raises InputError where there is none."""
    try:
        text = (place / MANIFEST).read_bytes()
        found = read_canonical(text)
        datetime.strptime(found["month"], "%Y-%m").replace(tzinfo=UTC)
        manifest = {name: found[name] for name in SAYS}
        known = found["cloudpush_archive"] == VERSION and set(found["sha256"]) == set(FILES)
    except OSError as e:
        raise InputError(Code.BAD_INPUT, f"{place} is no archive: {e.strerror}.", field="archive") from e
    except (ValueError, KeyError, TypeError) as e:
        raise InputError(Code.BAD_INPUT, f"{place} is no archive: its manifest was edited.", field="archive") from e
    if not known:
        raise InputError(Code.BAD_INPUT, f"{place} is an archive of another version.", field="archive")
    return text, manifest


def sha256_of(path: Path) -> str:
    """Of a file, hex. Raises OSError."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


@contextmanager
def _beside(place: Path) -> Iterator[Path]:
    """A directory that becomes ``place`` when all is written; nothing stays of it otherwise."""
    made = place.with_name(f".{place.name}.{os.getpid()}.part")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir(mode=0o700)
        yield made
        for path in (*made.iterdir(), made):
            _sync(path)
        made.rename(place)
        _sync(place.parent)
    except OSError as e:
        raise InputError(Code.BAD_INPUT, f"{place} cannot be written: {e.strerror}.", field="to") from e
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _sync(path: Path) -> None:
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _write(c: sa.Connection, month: date, made: Path, keys: str) -> None:
    counts = counted(c, month)
    _refuse(c, month, counts)
    ends = Ends()
    for table in TABLES:
        _write_table(c, month, made / f"{table.name}.parquet", table, ends)
    checkpoints = _write_checkpoints(c, made, counts)
    (made / KEYS).write_text(keys)
    manifest = {
        "cloudpush_archive": VERSION,
        "month": f"{month:%Y-%m}",
        "made_at": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        **{name: counts[name] for name in ("events", "files", "pushes", "first_id", "last_id")},
        "checkpoints": checkpoints,
        "cuts_sha256": ends.digest(),
        "streams": ends.streams,
        "sha256": {name: sha256_of(made / name) for name in FILES},
    }
    (made / MANIFEST).write_bytes(canonical(manifest))


def _refuse(c: sa.Connection, month: date, counts: Mapping[str, Any]) -> None:
    name = f"{month:%Y-%m}"
    state = c.execute(STATE, {"month": month, "until": first_of(following(month))}).one()
    if state.retired:
        raise InputError(Code.BAD_INPUT, f"{name} was dropped: its archive is all there is.", field="month")
    if not state.over:
        raise InputError(Code.BAD_INPUT, f"{name} is not over yet.", field="month")
    if not counts["events"]:
        raise InputError(Code.BAD_INPUT, f"there are no events of {name}.", field="month")
    if counts["last_id"] > state.sealed:
        what = f"{name} is not wholly sealed yet: `cloudpush audit seal` does it, or the sweeper within a minute."
        raise InputError(Code.BAD_INPUT, what, field="month")


class Ends:
    """Each stream's last event of a month, from events in the order of streams and numbers; as ``cuts_digest`` has them."""

    def __init__(self) -> None:
        self.streams = 0
        self._digest = hashlib.sha256()
        self._last: tuple[str, int, str] | None = None

    def add(self, stream: str, seq: int, event_hash: str) -> None:
        """The next event. ``event_hash``: hex."""
        if self._last is not None and self._last[0] != stream:
            self._take()
        self._last = stream, seq, event_hash

    def digest(self) -> str:
        """Hex, once all were added."""
        if self._last is not None:
            self._take()
            self._last = None
        return self._digest.hexdigest()

    def _take(self) -> None:
        assert self._last is not None  # noqa: S101 -- its callers looked
        stream, seq, event_hash = self._last
        self.streams += 1
        self._digest.update(bytes.fromhex(stream.replace("-", "")) + seq.to_bytes(4, "big") + bytes.fromhex(event_hash))


def _write_table(c: sa.Connection, month: date, path: Path, table: Any, ends: Ends) -> None:
    import pyarrow as pa  # noqa: PLC0415 -- slow to import, and few commands need it
    import pyarrow.parquet as pq  # noqa: PLC0415 -- likewise

    with pq.ParquetWriter(path, table.schema(), compression="zstd") as writer:
        for group in groups(batches(c, table, month)):
            written = pa.Table.from_batches(group)
            writer.write_table(written)
            if table.name == "events":
                names = (written.column(name).to_pylist() for name in ("stream", "seq", "hash"))
                for stream, seq, event_hash in zip(*names, strict=True):
                    ends.add(stream, seq, event_hash)


def _write_checkpoints(c: sa.Connection, made: Path, counts: Mapping[str, Any]) -> list[int]:
    """The covering checkpoints with their leaves; the first one's number and the last one's."""
    numbers = []
    with (made / CHECKPOINTS).open("wb") as statements, (made / LEAVES).open("wb") as leaves:
        for row in c.execute(COVERING, {"first": counts["first_id"], "last": counts["last_id"]}).all():
            statements.write(document(row.statement.encode(), bytes(row.signature)) + b"\n")
            numbers.append(row.number)
            after = 0
            while chunk := c.execute(CHUNK, {"checkpoint": row.number, "after": after}).one_or_none():
                leaves.write(bytes(chunk.entries))
                after = chunk.number
    return [numbers[0], numbers[-1]]


TOLD = sa.text("""
    SELECT EXISTS (SELECT FROM event WHERE stream = :stream AND kind = :kind AND data->>'archive_sha256' = :sha256)
""")

STATE = sa.text("""
    SELECT EXISTS (SELECT FROM retired WHERE month = :month) AS retired, now() >= :until AS over,
        coalesce((SELECT max(last_id) FROM checkpoint), 0) AS sealed
""")

COVERING = sa.text("""
    SELECT number, statement, signature FROM checkpoint WHERE last_id >= :first AND first_id <= :last ORDER BY number
""")

CHUNK = sa.text("""
    SELECT number, entries FROM checkpoint_chunk WHERE checkpoint = :checkpoint AND number > :after
    ORDER BY number LIMIT 1
""")

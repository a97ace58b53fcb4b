"""Replaces a person's name wherever the record has it, so that chains, checkpoints and comparisons hold.

A pseudonym is random: nobody finds the name by trying names. Each event that had the name loses its salt, and a later event
of its stream tells by what it was replaced, signed by Vault (``push.trust.erasures``): a superuser who says so of an edit of
his own is found. One transaction changes a stream's rows and events together, and is signed before it ends; whoever is
interrupted goes on with the same pseudonym. What has its digest in an event stays: paths and keys of files. Done as the owner
of the tables: the application has no right to any of it.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from cloudpush.audit.chains import verify_chains
from cloudpush.audit.database import append_event, event_text, transaction
from cloudpush.audit.findings import Report
from cloudpush.audit.months import RETENTION_LOCK
from cloudpush.audit.names import ACTOR, HAS, Names, refuse
from cloudpush.audit.retired import RETENTION_STREAM, RETIRED, Retirement, verify_retired
from cloudpush.errors import Code, StoreError
from cloudpush.push.access.ports import stream_of
from cloudpush.push.states import Event
from cloudpush.push.trust.chain import content_hash, event_hash
from cloudpush.push.trust.erasures import Erased, Erasure
from cloudpush.push.trust.signing import Signer

#: Streams that one transaction changes; events that one event tells of.
STREAMS, TOLD = 100, 500


@dataclass(frozen=True, slots=True)
class Kept:
    """A table that may have the name. ``stream``: the column that names the stream whose events tell of a row."""

    table: str
    stream: str
    key: tuple[str, ...]
    texts: tuple[str, ...]
    structured: tuple[str, ...] = ()


# In the order in which everybody locks: parts, grants, pushes.
TABLES = (
    Kept("part", "push_id", ("push_id", "number"), ("error_message",)),
    Kept("file", "push_id", ("push_id", "seq"), ("error_message",)),
    Kept(
        "oauth_grant",
        "credential_id",
        ("credential_id",),
        ("subject", "trouble_message", "check_message"),
        ("settings",),
    ),
    Kept("credential", "id", ("id",), ("owner", "name", "created_by")),
    Kept("share", "credential_id", ("id",), ("principal", "uri", "created_by")),
    Kept("chore", "credential_id", ("credential_id", "kind"), ("actor",)),
    Kept("renewal", "push_id", ("push_id", "number"), ("actor",)),
    Kept(
        "push",
        "id",
        ("id",),
        ("owner", "actor", "source", "uri", "bucket", "prefix", "error_message", "idempotency_key"),
        ("labels", "include", "exclude"),
    ),
    Kept("preflight", "id", ("id",), ("owner", "actor", "uri", "bucket", "prefix", "error_message"), ("checks",)),
    Kept("api_token", "id", ("id",), ("owner", "name", "created_by")),
    Kept("delivery", "push_id", ("push_id", "hook_id"), ("error_message",)),
)
ARRAYS = frozenset({"include", "exclude"})


class Pseudonyms:
    """The replacement of one person's names by one pseudonym, signed by whoever may sign checkpoints."""

    def __init__(self, owner: sa.Engine, names: Names, signer: Signer, signed: Callable[[bytes, bytes], bool]) -> None:
        """``signed``: (signature, text) → whether an audit key made it."""
        self._engine = owner
        self._names = names
        self._signer = signer
        self._signed = signed
        self._asked = {"needles": names.needles}

    def run(self) -> Mapping[str, int]:
        """Replace; how many rows of what were changed.

        Raises InputError as :func:`names.refuse`; StoreError, VaultError: go on later with the same pseudonym; StoreError
        RECORD_UNSOUND for a chain with the name in it that is not as it was written: an edit would pass for a replacement.
        """
        refuse(self._engine, self._names)
        self._done: Counter[str] = Counter()
        self._end()
        streams = self._streams()
        for at in range(0, len(streams), STREAMS):
            self._replace(streams[at : at + STREAMS])
        self._rest()
        if self._done["events"]:
            with self._begin() as c:
                told = {"pseudonym": self._names.pseudonym, "streams": len(streams), "replaced": self._done["events"]}
                append_event(c, RETENTION_STREAM, Event.AUDIT_PSEUDONYMISED, ACTOR, told)
        return dict(self._done)

    # -- what ends -------------------------------------------------------------------------------

    def _end(self) -> None:
        """Sessions, links, logins and roles go; tokens are revoked."""
        asked = {"names": list(self._names.all)}
        with self._begin() as c:
            for row in c.execute(SESSIONS, asked).all():
                append_event(c, row.id, Event.SESSION_ENDED, ACTOR, {"why": "their name was replaced"})
            for row in c.execute(TOKENS, asked).all():
                told = {"owner": self._names.pseudonym, "name": self._names.text(row.name)}
                append_event(c, row.id, Event.TOKEN_REVOKED, ACTOR, told)
            for row in c.execute(ROLES, asked).all():
                told = {"principal": self._names.pseudonym, "role": row.role}
                append_event(c, stream_of(row.principal), Event.ROLE_REVOKED, ACTOR, told)
            for table in ("web_session", "sign_in_link", "consent_attempt", "device_login"):
                # A row that has not expired is kept, whoever deletes.
                c.execute(sa.text(f"UPDATE {table} SET expires_at = '-infinity' WHERE owner = ANY (:names)"), asked)  # noqa: S608 -- constants
                c.execute(sa.text(f"DELETE FROM {table} WHERE owner = ANY (:names)"), asked)  # noqa: S608 -- likewise

    # -- streams ---------------------------------------------------------------------------------

    def _streams(self) -> list[UUID]:
        """Streams that have the name in an event or in a row, in order. As many as the person had to do with."""
        found: set[UUID] = set()
        with self._begin() as c:
            found.update(c.execute(IN_EVENTS, self._asked).scalars())
            for kept in TABLES:
                query = f"SELECT DISTINCT {kept.stream} FROM {kept.table} WHERE {_has(kept)}"  # noqa: S608 -- constants
                found.update(c.execute(sa.text(query), self._asked).scalars())
            found.update(c.execute(IN_RECEIPTS, self._asked).scalars())
        return sorted(found)

    def _replace(self, streams: Sequence[UUID]) -> None:
        """The rows and the events of these, in one transaction."""
        asked = {"streams": list(streams), **self._asked}
        with self._begin() as c:
            changed: set[UUID] = set()
            for kept in TABLES:
                changed.update(self._replace_rows(c, kept, asked))
            for row in c.execute(IN_RECEIPTS_OF, asked).all():
                stated = json.loads(row.statement)
                if self._names.value(stated) != stated:
                    changed.add(row.push_id)
            taken = self._take_receipts_back(c, changed)
            pushes = {"pushes": list(changed), "needles": [n.lower() for n in self._asked["needles"]]}
            c.execute(SEARCH, pushes | {"terms": f"o={self._names.pseudonym}"})
            c.execute(FORGET_LABELS, pushes)
            c.execute(LABELS, pushes)
            self._tell(c, self._replace_events(c, asked), taken)

    def _replace_rows(self, c: sa.Connection, kept: Kept, asked: Mapping[str, Any]) -> set[UUID]:
        """Returns the pushes that were changed."""
        columns = ", ".join(dict.fromkeys((*kept.key, *kept.texts, *kept.structured)))
        query = f"SELECT {columns} FROM {kept.table} WHERE {kept.stream} = ANY (:streams) AND {_has(kept)} ORDER BY {', '.join(kept.key)}"  # noqa: S608 -- constants
        changed: set[UUID] = set()
        for row in c.execute(sa.text(query), asked).mappings().all():
            values = {name: self._names.value(row[name]) for name in (*kept.texts, *kept.structured)}
            values = {name: value for name, value in values.items() if value != row[name]}
            if not values:
                continue
            if kept.table == "push":
                changed.add(row["id"])
                if "owner" in values:
                    # Whoever knows the request could find the name by hashing it again.
                    values |= {"idempotency_key": None, "request_sha256": secrets.token_bytes(32)}
            self._update(c, kept, row, values)
            self._done[f"{kept.table} rows"] += 1
        return changed

    def _update(self, c: sa.Connection, kept: Kept, row: Any, values: Mapping[str, Any]) -> None:
        casts = {n: f"CAST(:{n} AS jsonb)" for n in kept.structured if n not in ARRAYS}
        sets = ", ".join(f"{name} = {casts.get(name, ':' + name)}" for name in values)
        where = " AND ".join(f"{name} = :key_{name}" for name in kept.key)
        given = {n: json.dumps(v, ensure_ascii=False) if n in casts else v for n, v in values.items()}
        keys = {f"key_{name}": row[name] for name in kept.key}
        c.execute(sa.text(f"UPDATE {kept.table} SET {sets} WHERE {where}"), given | keys)  # noqa: S608 -- constants

    def _take_receipts_back(self, c: sa.Connection, pushes: set[UUID]) -> dict[UUID, bytes]:
        """They are issued anew, but for those whose files are archived: a new one could not list them. Their digests."""
        gone = Retirement(tuple(row.month for row in c.execute(RETIRED)))
        rows = c.execute(TAKE_BACK, {"pushes": list(pushes)}).all()
        taken = {row.push_id: hashlib.sha256(row.statement.encode()).digest() for row in rows}
        c.execute(OWE, {"pushes": [push_id for push_id in taken if not gone.has_files_of(push_id)]})
        self._done.update({"receipts": len(taken)} if taken else {})
        return taken

    def _replace_events(self, c: sa.Connection, asked: Mapping[str, Any]) -> dict[UUID, list[Erased]]:
        """Stream by stream: what is to be told."""
        c.execute(HOLD, asked)  # nobody appends to these chains meanwhile
        found = [(row, *self._replaced(row)) for row in c.execute(EVENTS, asked).all()]
        found = [(row, actor, text) for row, actor, text in found if (actor, text) != (row.actor, row.data)]
        self._refuse_edited(c, sorted({row.stream for row, _, _ in found}))
        erased: dict[UUID, list[Erased]] = {}
        for row, actor, text in found:
            if row.content is None:
                args = (row.stream, row.seq, row.at, row.kind, actor, row.credential_id, text)
                sha256 = event_hash(bytes(row.prev), *args)
            else:
                sha256 = content_hash(b"", actor, text)
            c.execute(REPLACE, {"stream": row.stream, "seq": row.seq, "at": row.at, "actor": actor, "data": text})
            erased.setdefault(row.stream, []).append(Erased(row.seq, bytes(row.hash), sha256))
            self._done["events"] += 1
        return erased

    def _replaced(self, row: Any) -> tuple[str, str]:
        """Actor and data of an event without the name."""
        value = json.loads(row.data)
        data = self._names.value(value)
        return self._names.text(row.actor), row.data if data == value else event_text(data)

    def _refuse_edited(self, c: sa.Connection, streams: Sequence[UUID]) -> None:
        """What is about to be signed must be what was written."""
        for stream in streams:
            report = Report()
            retirement = verify_retired(c, report, stream)
            verify_chains(c, report, stream, retirement, self._signed, with_files=False)
            if report.faults:
                what = f"{stream}: {report.faults[0].what}. No name is replaced in it: the edit would pass for that."
                raise StoreError(Code.RECORD_UNSOUND, what)

    def _tell(self, c: sa.Connection, erased: Mapping[UUID, list[Erased]], taken: Mapping[UUID, bytes]) -> None:
        """An event in each stream that lost something, signed."""
        now, pseudonym, erasures = datetime.now(UTC), self._names.pseudonym, list[Erasure]()
        for stream in sorted({*erased, *taken}):
            events, receipt = erased.get(stream, []), taken.get(stream)
            for at in range(0, max(len(events), 1), TOLD):
                erasures.append(Erasure.of(stream, pseudonym, now, events[at : at + TOLD], receipt))
                receipt = None
        if not erasures:
            return
        signatures = self._signer.sign([erasure.to_sign() for erasure in erasures]).signatures
        for erasure, signature in zip(erasures, signatures, strict=True):
            append_event(c, erasure.stream, Event.AUDIT_PSEUDONYMISED, ACTOR, erasure.data(signature))

    # -- what no stream tells of -----------------------------------------------------------------

    def _rest(self) -> None:
        with self._begin() as c:
            asked = {"names": list(self._names.all), "pseudonym": self._names.pseudonym}
            c.execute(
                sa.text("UPDATE principal_role SET granted_by = :pseudonym WHERE granted_by = ANY (:names)"), asked
            )
            c.execute(sa.text("UPDATE inspection SET by = :pseudonym WHERE by = ANY (:names)"), asked)

    def _begin(self) -> Any:
        return _replacing(self._engine)


class _replacing:  # noqa: N801 -- used as a function
    """A transaction of the tables' owner that may replace names, and in which no other command changes what is kept."""

    def __init__(self, engine: sa.Engine) -> None:
        self._inner = transaction(engine)

    def __enter__(self) -> sa.Connection:
        c = self._inner.__enter__()
        c.execute(sa.text("SET LOCAL statement_timeout = 0"))
        c.execute(sa.text("SET LOCAL cloudpush.pseudonymising = 'on'"))
        c.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": RETENTION_LOCK})
        return c

    def __exit__(self, *error: object) -> bool | None:
        return self._inner.__exit__(*error)  # type: ignore[arg-type]


def _has(kept: Kept) -> str:
    columns = (*kept.texts, *kept.structured)
    if len(columns) == 1:
        return f"{columns[0]} IS NOT NULL AND {HAS.format(columns[0])}"
    return HAS.format(f"concat_ws(' ', {', '.join(f'{name}::text' for name in columns)})")


SESSIONS = sa.text("""
    SELECT id FROM web_session WHERE owner = ANY (:names) AND ended_at IS NULL AND expires_at > now() ORDER BY id
""")

TOKENS = sa.text("""
    UPDATE api_token SET revoked_at = now() WHERE owner = ANY (:names) AND revoked_at IS NULL RETURNING id, name
""")

ROLES = sa.text("DELETE FROM principal_role WHERE principal = ANY (:names) RETURNING principal, role")

_EVENT_HAS = f"kind <> 'audit.pseudonymised' AND ({HAS.format('actor')} OR {HAS.format('data::text')})"

IN_EVENTS = sa.text(f"SELECT DISTINCT stream FROM event WHERE {_EVENT_HAS}")  # noqa: S608 -- constants

EVENTS = sa.text(f"""
    SELECT stream, seq, at, kind, actor, credential_id, data::text AS data, prev, hash, content FROM event
    WHERE stream = ANY (:streams) AND {_EVENT_HAS} ORDER BY stream, seq
""")  # noqa: S608 -- likewise

HOLD = sa.text("SELECT FROM chain WHERE stream = ANY (:streams) ORDER BY stream FOR UPDATE")

REPLACE = sa.text("""
    UPDATE event SET actor = :actor, data = CAST(:data AS json), salt = CASE WHEN content IS NULL THEN ''::bytea END
    WHERE stream = :stream AND seq = :seq AND at = :at
""")

IN_RECEIPTS = sa.text(f"SELECT push_id FROM receipt WHERE statement IS NOT NULL AND {HAS.format('statement')}")  # noqa: S608 -- likewise

IN_RECEIPTS_OF = sa.text(f"""
    SELECT push_id, statement FROM receipt
    WHERE push_id = ANY (:streams) AND statement IS NOT NULL AND {HAS.format("statement")}
""")  # noqa: S608 -- likewise

TAKE_BACK = sa.text(
    "DELETE FROM receipt WHERE push_id = ANY (:pushes) AND statement IS NOT NULL RETURNING push_id, statement"
)

OWE = sa.text("INSERT INTO receipt (push_id) SELECT unnest(CAST(:pushes AS uuid[]))")

# Words of paths are found anew; of a push whose files are archived, those terms are kept that have no name in them.
SEARCH = sa.text("""
    UPDATE push_search s SET owner = p.owner, bucket = p.bucket, terms = CASE
        WHEN p.files_total = 0 OR EXISTS (SELECT FROM file f WHERE f.push_id = p.id) THEN cloudpush_search_terms(p)
        ELSE array_to_tsvector(ARRAY(
            SELECT term FROM unnest(tsvector_to_array(s.terms)) AS term WHERE NOT EXISTS (
                SELECT FROM unnest(CAST(:needles AS text[])) AS n WHERE strpos(lower(term), n) > 0)
            UNION SELECT :terms WHERE p.owner = substr(:terms, 3))) END
    FROM push p WHERE p.id = s.push_id AND p.id = ANY (:pushes)
""")

FORGET_LABELS = sa.text("DELETE FROM push_label WHERE push_id = ANY (:pushes)")

LABELS = sa.text("""
    INSERT INTO push_label (push_id, label, created_at)
    SELECT id, key || '=' || value, created_at FROM push, jsonb_each_text(labels)
    WHERE id = ANY (:pushes) AND finished_at IS NOT NULL
""")

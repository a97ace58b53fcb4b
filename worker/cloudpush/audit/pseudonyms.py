"""Replaces a person's name wherever the record has it, so that chains, checkpoints and comparisons hold.

A pseudonym is random: nobody finds the name by trying names. Each event that had the name loses its salt, and a later event
of its stream tells by what it was replaced (``chains`` has the rule). One transaction changes a stream's rows and events
together; whoever is interrupted goes on with the same pseudonym. What has its digest in an event stays: paths and keys of
files. Done as the owner of the tables: the application has no right to any of it.
"""

from __future__ import annotations

import json
import re
import secrets
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from cloudpush.audit.database import append_event, event_text, transaction
from cloudpush.audit.months import RETENTION_LOCK
from cloudpush.audit.retired import RETENTION_STREAM, RETIRED, Retirement
from cloudpush.errors import Code, InputError
from cloudpush.push.access.ports import stream_of
from cloudpush.push.states import Event
from cloudpush.push.trust.chain import content_hash, event_hash

#: Who appends the events about it: no person, since nothing could ever replace that name.
ACTOR = "operator"
#: Names of parts of CloudPush, which act, too.
RESERVED = frozenset({ACTOR, "sweeper", "notary", "cloudpush"})
#: Streams that one transaction changes; events that one event tells of.
STREAMS, TOLD = 100, 500

_PSEUDONYM = re.compile(r"[a-z0-9][a-z0-9-]{2,62}")


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
    """The replacement of one person's ``names`` by one ``pseudonym``."""

    def __init__(self, owner: sa.Engine, name: str, also: Sequence[str] = (), pseudonym: str | None = None) -> None:
        """Raises InputError for a name that cannot be replaced, and for a pseudonym that is none."""
        self.names = (name, *also)
        self.pseudonym = pseudonym or f"person-{secrets.token_hex(6)}"
        self._engine = owner
        for one in self.names:
            if len(one) < 2 or one in RESERVED or any(ord(c) < 32 for c in one):
                raise InputError(Code.BAD_INPUT, f"{one!r} cannot be replaced.", field="name")
            if one.lower() in self.pseudonym:
                raise InputError(Code.BAD_INPUT, "the pseudonym has the name in it.", field="pseudonym")
        if not _PSEUDONYM.fullmatch(self.pseudonym):
            what = "a pseudonym is 3 to 63 lower-case letters, digits and hyphens."
            raise InputError(Code.BAD_INPUT, what, field="pseudonym")
        # A whole word: neither bob in bobby, nor in bob@example.org, which may be somebody else.
        words = "|".join(re.escape(one) for one in sorted(self.names, key=len, reverse=True))
        self._pattern = re.compile(rf"(?<![\w@+-])(?<!\w\.)(?:{words})(?![\w@+-]|\.\w)")
        self._asked = {"needles": needles(self.names)}

    def refuse(self) -> None:
        """Raises InputError while the person still has something: it is to be purged, revoked or ended first."""
        with self._begin() as c:
            found = [f"{row.what} {row.id}" for row in c.execute(LIVE, {"names": list(self.names)})]
        if found:
            more = f" and {len(found) - 20} more" if len(found) > 20 else ""
            what = f"they still have {', '.join(found[:20])}{more}: purge, revoke or end these first."
            raise InputError(Code.BAD_INPUT, what, field="name")

    def run(self) -> Mapping[str, int]:
        """Replace; how many rows of what were changed. Raises InputError as :meth:`refuse`; StoreError: go on later."""
        self.refuse()
        self._done: Counter[str] = Counter()
        self._end()
        streams = self._streams()
        for at in range(0, len(streams), STREAMS):
            self._replace(streams[at : at + STREAMS])
        self._rest()
        if self._done["events"]:
            with self._begin() as c:
                told = {"pseudonym": self.pseudonym, "streams": len(streams), "replaced": self._done["events"]}
                append_event(c, RETENTION_STREAM, Event.AUDIT_PSEUDONYMISED, ACTOR, told)
        return dict(self._done)

    # -- what ends -------------------------------------------------------------------------------

    def _end(self) -> None:
        """Sessions, links, logins and roles go; tokens are revoked."""
        asked = {"names": list(self.names)}
        with self._begin() as c:
            for row in c.execute(SESSIONS, asked).all():
                append_event(c, row.id, Event.SESSION_ENDED, ACTOR, {"why": "their name was replaced"})
            for row in c.execute(TOKENS, asked).all():
                told = {"owner": self.pseudonym, "name": self._text(row.name)}
                append_event(c, row.id, Event.TOKEN_REVOKED, ACTOR, told)
            for row in c.execute(ROLES, asked).all():
                told = {"principal": self.pseudonym, "role": row.role}
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
                if self._value(stated) != stated:
                    changed.add(row.push_id)
            self._take_receipts_back(c, changed)
            pushes = {"pushes": list(changed), "needles": [n.lower() for n in self._asked["needles"]]}
            c.execute(SEARCH, pushes | {"terms": f"o={self.pseudonym}"})
            for stream, told in self._replace_events(c, asked):
                for at in range(0, len(told), TOLD):
                    data = {"pseudonym": self.pseudonym, "events": told[at : at + TOLD]}
                    append_event(c, stream, Event.AUDIT_PSEUDONYMISED, ACTOR, data)

    def _replace_rows(self, c: sa.Connection, kept: Kept, asked: Mapping[str, Any]) -> set[UUID]:
        """Returns the pushes that were changed."""
        columns = ", ".join(dict.fromkeys((*kept.key, *kept.texts, *kept.structured)))
        query = f"SELECT {columns} FROM {kept.table} WHERE {kept.stream} = ANY (:streams) AND {_has(kept)} ORDER BY {', '.join(kept.key)}"  # noqa: S608 -- constants
        changed: set[UUID] = set()
        for row in c.execute(sa.text(query), asked).mappings().all():
            values = {name: self._value(row[name]) for name in (*kept.texts, *kept.structured)}
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

    def _take_receipts_back(self, c: sa.Connection, pushes: set[UUID]) -> None:
        """They are issued anew, but for those whose files are archived: a new one could not list them."""
        gone = Retirement(tuple(row.month for row in c.execute(RETIRED)))
        taken = list(c.execute(TAKE_BACK, {"pushes": list(pushes)}).scalars())
        again = [push_id for push_id in taken if not gone.has_files_of(push_id)]
        c.execute(OWE, {"pushes": again})
        self._done.update({"receipts": len(taken)} if taken else {})

    def _replace_events(
        self, c: sa.Connection, asked: Mapping[str, Any]
    ) -> Iterator[tuple[UUID, list[dict[str, Any]]]]:
        """Stream by stream: what is to be told."""
        told: dict[UUID, list[dict[str, Any]]] = {}
        for row in c.execute(EVENTS, asked).all():
            actor = self._text(row.actor)
            value = json.loads(row.data)
            data = self._value(value)
            text = row.data if data == value else event_text(data)
            if (actor, text) == (row.actor, row.data):
                continue
            if row.content is None:
                args = (row.stream, row.seq, row.at, row.kind, actor, row.credential_id, text)
                sha256 = event_hash(bytes(row.prev), *args)
            else:
                sha256 = content_hash(b"", actor, text)
            given = {"stream": row.stream, "seq": row.seq, "at": row.at, "actor": actor, "data": text}
            c.execute(REPLACE, given)
            told.setdefault(row.stream, []).append({"seq": row.seq, "sha256": sha256.hex()})
            self._done["events"] += 1
        yield from told.items()

    # -- what no stream tells of -----------------------------------------------------------------

    def _rest(self) -> None:
        with self._begin() as c:
            asked = {"names": list(self.names), "pseudonym": self.pseudonym}
            c.execute(
                sa.text("UPDATE principal_role SET granted_by = :pseudonym WHERE granted_by = ANY (:names)"), asked
            )
            c.execute(sa.text("UPDATE inspection SET by = :pseudonym WHERE by = ANY (:names)"), asked)

    # -- words -----------------------------------------------------------------------------------

    def _text(self, text: str) -> str:
        return self._pattern.sub(self.pseudonym, text)

    def _value(self, value: Any) -> Any:
        match value:
            case str():
                return self._text(value)
            case list():
                return [self._value(item) for item in value]
            case dict():
                return {self._text(key): self._value(item) for key, item in value.items()}
            case _:
                return value

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


def needles(names: Sequence[str]) -> list[str]:
    """How the names may stand in a text, and within JSON or an array."""
    return list({form for name in names for form in (name, json.dumps(name, ensure_ascii=False)[1:-1])})


def remains(owner: sa.Engine, names: Sequence[str]) -> dict[str, int]:
    """Table and column → rows that have a name in them, in whatever way. A look at every row of every table."""
    found: dict[str, int] = {}
    asked = {"needles": [needle.lower() for needle in needles(names)]}
    with transaction(owner) as c:
        c.execute(sa.text("SET LOCAL statement_timeout = 0"))
        for row in c.execute(COLUMNS).all():
            query = f"SELECT count(*) FROM {row.table} WHERE {HAS.format(f'lower({row.column}::text)')}"  # noqa: S608 -- the catalogue's own names
            count = c.execute(sa.text(query), asked).scalar_one()
            if count:
                found[f"{row.table}.{row.column}"] = count
    return found


HAS = "EXISTS (SELECT FROM unnest(CAST(:needles AS text[])) AS n WHERE strpos({}, n) > 0)"


def _has(kept: Kept) -> str:
    columns = (*kept.texts, *kept.structured)
    if len(columns) == 1:
        return f"{columns[0]} IS NOT NULL AND {HAS.format(columns[0])}"
    return HAS.format(f"concat_ws(' ', {', '.join(f'{name}::text' for name in columns)})")


LIVE = sa.text("""
    SELECT 'credential' AS what, id FROM credential WHERE owner = ANY (:names) AND state <> 'purged'
    UNION ALL SELECT 'grant', credential_id FROM oauth_grant g JOIN credential c ON c.id = g.credential_id
        WHERE c.owner = ANY (:names) AND c.state = 'purged' AND g.state <> 'revoked' AND g.granted_at IS NOT NULL
    UNION ALL SELECT 'push', id FROM push WHERE owner = ANY (:names) AND finished_at IS NULL
    UNION ALL SELECT 'share', id FROM share WHERE principal = ANY (:names) AND ended_at IS NULL AND until > now()
    UNION ALL SELECT 'preflight', id FROM preflight WHERE owner = ANY (:names) AND finished_at IS NULL
    ORDER BY 1, 2
""")

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
    SELECT stream, seq, at, kind, actor, credential_id, data::text AS data, prev, content FROM event
    WHERE stream = ANY (:streams) AND {_EVENT_HAS} ORDER BY stream, seq
""")  # noqa: S608 -- likewise

REPLACE = sa.text("""
    UPDATE event SET actor = :actor, data = CAST(:data AS json), salt = CASE WHEN content IS NULL THEN ''::bytea END
    WHERE stream = :stream AND seq = :seq AND at = :at
""")

IN_RECEIPTS = sa.text(f"SELECT push_id FROM receipt WHERE statement IS NOT NULL AND {HAS.format('statement')}")  # noqa: S608 -- likewise

IN_RECEIPTS_OF = sa.text(f"""
    SELECT push_id, statement FROM receipt
    WHERE push_id = ANY (:streams) AND statement IS NOT NULL AND {HAS.format("statement")}
""")  # noqa: S608 -- likewise

TAKE_BACK = sa.text("DELETE FROM receipt WHERE push_id = ANY (:pushes) AND statement IS NOT NULL RETURNING push_id")

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

COLUMNS = sa.text("""
    SELECT c.oid::regclass::text AS table, quote_ident(a.attname) AS column
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
    WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
        AND a.attnum > 0 AND NOT a.attisdropped
        AND a.atttypid IN ('text'::regtype, 'json'::regtype, 'jsonb'::regtype, 'text[]'::regtype, 'tsvector'::regtype)
    ORDER BY 1, a.attnum
""")

"""A person's names, what takes their place, and where in the record they still stand."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from cloudpush.audit.database import transaction
from cloudpush.errors import Code, InputError
from cloudpush.push.access.names import OPERATOR, RESERVED

#: Who appends the events about it: no person, since nothing could ever replace that name.
ACTOR = OPERATOR

_PSEUDONYM = re.compile(r"[a-z0-9][a-z0-9-]{2,62}")


class Names:
    """One person's names and the pseudonym that takes their place."""

    def __init__(self, name: str, also: Sequence[str] = (), pseudonym: str | None = None) -> None:
        """Raises InputError for a name that cannot be replaced, and for a pseudonym that is none."""
        self.all = (name, *also)
        self.pseudonym = pseudonym or f"person-{secrets.token_hex(6)}"
        for one in self.all:
            if len(one) < 2 or one in RESERVED or any(ord(c) < 32 for c in one):
                raise InputError(Code.BAD_INPUT, f"{one!r} cannot be replaced.", field="name")
            if one.lower() in self.pseudonym:
                raise InputError(Code.BAD_INPUT, "the pseudonym has the name in it.", field="pseudonym")
        if not _PSEUDONYM.fullmatch(self.pseudonym):
            what = "a pseudonym is 3 to 63 lower-case letters, digits and hyphens."
            raise InputError(Code.BAD_INPUT, what, field="pseudonym")
        # A whole word: neither bob in bobby, nor in bob@example.org, which may be somebody else.
        words = "|".join(re.escape(one) for one in sorted(self.all, key=len, reverse=True))
        self._pattern = re.compile(rf"(?<![\w@+-])(?<!\w\.)(?:{words})(?![\w@+-]|\.\w)")

    @property
    def needles(self) -> list[str]:
        """How the names may stand in a text, and within JSON or an array."""
        return list({form for name in self.all for form in (name, json.dumps(name, ensure_ascii=False)[1:-1])})

    def text(self, text: str) -> str:
        """The same with the pseudonym in their place."""
        return self._pattern.sub(self.pseudonym, text)

    def value(self, value: Any) -> Any:
        """The same of a value of JSON, keys included."""
        match value:
            case str():
                return self.text(value)
            case list():
                return [self.value(item) for item in value]
            case dict():
                return {self.text(key): self.value(item) for key, item in value.items()}
            case _:
                return value


def refuse(owner: sa.Engine, names: Names) -> None:
    """Raises InputError while the person still has something: it is to be purged, revoked or ended first."""
    with transaction(owner) as c:
        c.execute(sa.text("SET LOCAL statement_timeout = 0"))
        found = [f"{row.what} {row.id}" for row in c.execute(LIVE, {"names": list(names.all)})]
    if found:
        more = f" and {len(found) - 20} more" if len(found) > 20 else ""
        what = f"they still have {', '.join(found[:20])}{more}: purge, revoke or end these first."
        raise InputError(Code.BAD_INPUT, what, field="name")


def remains(owner: sa.Engine, names: Names) -> dict[str, int]:
    """Table and column → rows that have a name in them, in whatever way. A look at every row of every table."""
    found: dict[str, int] = {}
    asked = {"needles": [needle.lower() for needle in names.needles]}
    with transaction(owner) as c:
        c.execute(sa.text("SET LOCAL statement_timeout = 0"))
        for row in c.execute(COLUMNS).all():
            query = f"SELECT count(*) FROM {row.table} WHERE {HAS.format(f'lower({row.column}::text)')}"  # noqa: S608 -- the catalogue's own names
            count = c.execute(sa.text(query), asked).scalar_one()
            if count:
                found[f"{row.table}.{row.column}"] = count
    return found


HAS = "EXISTS (SELECT FROM unnest(CAST(:needles AS text[])) AS n WHERE strpos({}, n) > 0)"

LIVE = sa.text("""
    SELECT 'credential' AS what, id FROM credential WHERE owner = ANY (:names) AND state <> 'purged'
    UNION ALL SELECT 'grant', credential_id FROM oauth_grant g JOIN credential c ON c.id = g.credential_id
        WHERE c.owner = ANY (:names) AND c.state = 'purged' AND g.state <> 'revoked' AND g.granted_at IS NOT NULL
    UNION ALL SELECT 'push', id FROM push WHERE owner = ANY (:names) AND finished_at IS NULL
    UNION ALL SELECT 'share', id FROM share WHERE principal = ANY (:names) AND ended_at IS NULL AND until > now()
    UNION ALL SELECT 'preflight', id FROM preflight WHERE owner = ANY (:names) AND finished_at IS NULL
    ORDER BY 1, 2
""")

COLUMNS = sa.text("""
    SELECT c.oid::regclass::text AS table, quote_ident(a.attname) AS column
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
    WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
        AND a.attnum > 0 AND NOT a.attisdropped
        AND a.atttypid IN ('text'::regtype, 'json'::regtype, 'jsonb'::regtype, 'text[]'::regtype, 'tsvector'::regtype)
    ORDER BY 1, a.attnum
""")

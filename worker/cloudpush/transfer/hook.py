"""Asks a pipeline's callback for fresh URLs: a signed question, a bounded answer.

The question is a POST of JSON, signed as ``transfer.webhook`` says::

    {"version": 1, "push": "…", "owner": "…", "destination": "s3://…",
     "files": [{"seq": 7, "path": "a/b.csv", "key": "run/a/b.csv", "kind": "multipart", "parts": [3, 4]}]}

and the answer ``{"files": [rows as a manifest has them]}``.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from uuid import uuid4

from cloudpush.errors import Code, DestinationError
from cloudpush.net import Pool, watched
from cloudpush.push.guard import Origin
from cloudpush.push.job import Push
from cloudpush.push.ports import Control
from cloudpush.push.signed.model import RESIGN_HOOK, Kind, Need
from cloudpush.push.signed.roles import MOST_PARTS
from cloudpush.transfer.webhook import PAUSE_SECONDS, TRY_SECONDS, Webhook, Words, named

#: Of the question; a callback may refuse one that it does not know.
VERSION = 1
#: Bytes of an answer: besides the rows, for each file's row, for each part's URL; at most.
BASE_BYTES = FILE_BYTES = 64 * 1024
PART_BYTES = 16 * 1024
ANSWER_BYTES = 16 * 1024 * 1024
#: Values in an answer, likewise: a row has a dozen columns, and objects of headers and fields. What takes three bytes there
#: takes a hundred in memory.
BASE_VALUES, FILE_VALUES, PART_VALUES = 64, 512, 8

WORDS = Words("The callback", RESIGN_HOOK, "200 and the fresh URLs")


class HttpHook:
    """``push.signed.ports.Hook`` over HTTPS. Thread-safe."""

    def __init__(
        self,
        pool: Pool,
        allowed: Collection[str],
        *,
        seconds: float = TRY_SECONDS,
        pause: float = PAUSE_SECONDS,
    ) -> None:
        """``allowed``: the operator's listed hosts, see ``push.guard``."""
        self._pool = pool
        self._webhook = Webhook(pool, allowed, WORDS, seconds=seconds, pause=pause)

    def ask(self, fields: Mapping[str, str], push: Push, needs: Sequence[Need], control: Control) -> Iterable[object]:
        """See the port. DestinationError names the callback's host and nothing else of its URL."""
        control.check()
        message = self._webhook.message(fields, str(uuid4()), _body(push, needs))
        limit = _most(needs, BASE_BYTES, FILE_BYTES, PART_BYTES)
        body = self._pool.run(watched(self._webhook.answer(message, limit), control))
        return _rows(body, needs, message.origin)


def _body(push: Push, needs: Sequence[Need]) -> bytes:
    files = [
        {"seq": need.seq, "path": need.path, "key": need.key, "kind": need.kind.value, "parts": list(need.parts)}
        for need in needs
    ]
    question = {
        "version": VERSION,
        "push": str(push.id),
        "owner": push.owner,
        "destination": push.destination.uri,
        "files": files,
    }
    return json.dumps(question, separators=(",", ":")).encode()


def _rows(body: bytes, needs: Sequence[Need], origin: Origin) -> list[object]:
    """The answer's rows: objects for files that were asked for, each at most once."""
    host = named(origin)
    # Each value but the first has one of these before it; texts have a few, too.
    values = sum(map(body.count, (b",", b"[", b"{", b":")))
    most = _most(needs, BASE_VALUES, FILE_VALUES, PART_VALUES)
    if values > most:
        raise DestinationError(
            Code.PROVIDER_REFUSED, f"The callback at {host} answers with {values:,} values, and {most:,} are the most."
        )
    try:
        answer = json.loads(body, object_pairs_hook=_object)
    except (ValueError, RecursionError):
        answer = None  # the error quotes what it read
    rows = answer.get("files") if isinstance(answer, dict) else None
    if not isinstance(rows, list):
        raise DestinationError(
            Code.PROVIDER_REFUSED, f'The callback at {host} answers with something else than {{"files": […]}} in JSON.'
        )
    if len(rows) > len(needs):
        raise DestinationError(
            Code.PROVIDER_REFUSED,
            f"The callback at {host} answers for {len(rows)} files; it was asked for {len(needs)}.",
        )
    asked = {need.path for need in needs}
    if len(needs) == 1 or all(need.kind is Kind.TREE for need in needs):
        asked.add("")  # a SAS for the whole tree, or the only file there is, needs no path
    for number, row in enumerate(rows, 1):
        path = row.get("path", "") if isinstance(row, dict) else None
        if not isinstance(path, str) or path not in asked:
            raise DestinationError(
                Code.PROVIDER_REFUSED,
                f"The callback at {host} answers in row {number} for a file that it was not asked for, or twice.",
            )
        asked.remove(path)
    return rows


def _most(needs: Sequence[Need], base: int, per_file: int, per_part: int) -> int:
    """How much of something an answer may have; of bytes never more than ANSWER_BYTES."""
    parts = sum(len(need.parts) or MOST_PARTS for need in needs if need.kind is Kind.MULTIPART)
    return min(base + per_file * len(needs) + per_part * parts, ANSWER_BYTES)


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object whose names are all different: of two values nobody knows which one counts."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")
    return found
